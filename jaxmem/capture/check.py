"""Whether the tables of a capture fit together: every index in them points at something.

What jaxmem writes does; a damaged file may not, and everything after the reader follows these indices.
"""

from collections.abc import Iterable, Sequence

from jaxmem.capture.data import Capture
from jaxmem.codec import Mismatch
from jaxmem.layer_table import LayerTable, Operation, Value
from jaxmem.lowering import Argument, Output


def check_tables(capture: Capture) -> None:
    """Check every index and size of a capture that came from a file.

    Raises:
        Mismatch: one points nowhere; ``path`` leads to it.
    """
    for name, table in (("arguments", capture.arguments), ("outputs", capture.outputs)):
        for index, row in enumerate(table):
            _check_array(row, f"{name}[{index}]")
    for index, output in enumerate(capture.outputs):
        _check_index(output.argument_index, len(capture.arguments), f"outputs[{index}].argument_index")
    numbers = sorted(one.parameter_number for one in capture.arguments if one.parameter_number is not None)
    if numbers != list(range(len(numbers))):
        raise Mismatch("the parameters are not numbered from 0 on", "arguments")
    for path, number in (("device_count", capture.device_count), ("host.threads", capture.host.threads)):
        if number < 1:
            raise Mismatch(f"expected at least 1, found {number}", path)
    if capture.layer_table is not None:
        _check_layer_table(capture.layer_table, len(capture.arguments), len(capture.outputs))


def _check_layer_table(table: LayerTable, arguments: int, outputs: int) -> None:
    path, values, operations = "layer_table", len(table.values), len(table.operations)
    if (len(table.arguments), len(table.outputs)) != (arguments, outputs):
        raise Mismatch(f"expected {arguments} arguments and {outputs} outputs", path)
    _check_indices(table.arguments, values, f"{path}.arguments")
    _check_indices(table.outputs, values, f"{path}.outputs")
    for index, value in enumerate(table.values):
        place = f"{path}.values[{index}]"
        _check_array(value, place)
        _check_index(value.operation, operations, f"{place}.operation")
        _check_index(value.argument, arguments, f"{place}.argument")
        _check_index(value.continues, values, f"{place}.continues")
        if value.divided_over < 1:
            raise Mismatch(f"divided over {value.divided_over} devices", place)
    for index, operation in enumerate(table.operations):
        place = f"{path}.operations[{index}]"
        _check_indices(operation.operands, values, f"{place}.operands")
        _check_indices(operation.results, values, f"{place}.results")
        made = [table.values[operand].operation for operand in operation.operands]
        if any(maker is not None and maker >= index for maker in made):
            raise Mismatch("an operand is made by a later operation", place)
        if any(table.values[result].operation != index for result in operation.results):
            raise Mismatch("a result is said to be made by another operation", place)
        if not 0 <= operation.hands_on <= len(operation.operands):
            raise Mismatch(f"expected 0 to {len(operation.operands)}, found {operation.hands_on}", f"{place}.hands_on")
        if operation.repeat is not None and operation.repeat < 0:
            raise Mismatch(f"runs {operation.repeat} times", place)
        _check_dimensions(operation, table.values, place)


_OF_SIDES = (("lhs_batch", 0), ("lhs_contracting", 0), ("rhs_batch", 1), ("rhs_contracting", 1))


def _check_dimensions(operation: Operation, values: Sequence[Value], path: str) -> None:
    """The dimensions that a transposition exchanges and a product sums over are some that its operands have."""
    ranks = [len(values[operand].shape) for operand in operation.operands]
    if operation.primitive == "transpose" and ranks and (order := operation.size("permutation")):
        made = {len(values[result].shape) for result in operation.results}
        if sorted(order) != list(range(ranks[0])) or made != {ranks[0]}:
            raise Mismatch(f"no order of {ranks[0]} dimensions", f"{path}.permutation")
    if operation.primitive != "dot_general":
        return
    if len(ranks) > 2:
        raise Mismatch(f"a product of {len(ranks)} arrays", path)
    for name, side in _OF_SIDES[: 2 * len(ranks)]:
        for position, axis in enumerate(operation.size(name)):
            _check_index(axis, ranks[side], f"{path}.{name}[{position}]")


def _check_array(array: Argument | Output | Value, path: str) -> None:
    """Anything with a shape and a width."""
    shape, bits = array.shape, array.itemsize_bits
    if any(size < 0 for size in shape) or bits < 0:
        raise Mismatch(f"an array of shape {shape[:8]} and {bits} bits an element", path)


def _check_index(index: int | None, count: int, path: str) -> None:
    if index is not None and not 0 <= index < count:
        raise Mismatch(f"points at {index} of {count}", path)


def _check_indices(indices: Iterable[int | None], count: int, path: str) -> None:
    for position, index in enumerate(indices):
        _check_index(index, count, f"{path}[{position}]")
