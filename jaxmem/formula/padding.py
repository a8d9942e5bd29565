"""What tiles add to the arrays of a program on a TPU, as leaves of their own."""

from collections.abc import Sequence

from jaxmem.formula.backends.tpu import feature_maps, padding_bytes
from jaxmem.formula.leaves import Leaf
from jaxmem.formula.ranges import LiveRanges
from jaxmem.layer_table import LayerTable
from jaxmem.lowering import Argument, Output
from jaxmem.roles import Role


def padding_leaves(
    table: LayerTable,
    arguments: Sequence[Argument],
    outputs: Sequence[Output],
    ranges: LiveRanges,
    *,
    used: frozenset[int],
) -> list[Leaf]:
    """The padding of arguments, of results that replace none of them, and of what else exists at the peak.

    Args:
        table, arguments, outputs: the traced program.
        ranges: when each value exists.
        used: indices of the arguments that the program receives.
    """
    leaves = [
        _leaf(argument.layer, argument.path, padding_bytes(table.values[table.arguments[index]]))
        for index, argument in enumerate(arguments)
        if index in used
    ]
    for value, output in zip(table.outputs, outputs, strict=True):
        replaced = output.argument_index
        in_place = replaced is not None and replaced in used and arguments[replaced].donated
        if value is not None and not in_place:
            leaves.append(_leaf(output.layer, output.path, padding_bytes(table.values[value])))
    maps = feature_maps(table)
    for operation in table.operations:
        for result in operation.results:
            if ranges.origin[result] == result and not ranges.constant[result] and ranges.at_peak(result):
                leaves.append(_leaf(operation.layer, operation.primitive, padding_bytes(table.values[result], maps)))
    return [leaf for leaf in leaves if leaf.bytes]


def _leaf(layer: str, name: str, size_bytes: int) -> Leaf:
    return Leaf(
        role=Role.PADDING,
        layer=layer,
        name=f"padding of {name}",
        elements=0,
        bytes=size_bytes,
        counted=True,
        why="tiles are filled up",
        of_backend=True,
    )
