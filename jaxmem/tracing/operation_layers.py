"""The layer of every operation: the scope that names one, else the parameters that flow in, else its neighbours."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from jaxmem.layer_paths import ScopeLayers
from jaxmem.layer_table import LayerTable, Operation
from jaxmem.lowering import Argument
from jaxmem.roles import STATE_ROLES, Phase, Role
from jaxmem.tracing.divisions import DATA_MOVEMENT

_MOVES_OR_CASTS = DATA_MOVEMENT | {"convert_element_type", "broadcast_in_dim"}
_KEEPS_THE_LAYER = _MOVES_OR_CASTS | {"reduce_sum", "add_any"}


def with_layers(table: LayerTable, arguments: Sequence[Argument]) -> LayerTable:
    """The same table, with the layer of every operation that has one."""
    finder = ScopeLayers({argument.layer for argument in arguments if argument.layer})
    finder.learn(operation.scope for operation in table.operations)

    # Which state argument's numbers a value holds, through casts and data movement.
    holds: dict[int, Argument] = {
        value: argument
        for value, argument in zip(table.arguments, arguments, strict=True)
        if argument.layer and argument.role in STATE_ROLES
    }
    for operation in table.operations:
        if (operation.primitive in _MOVES_OR_CASTS or operation.hands_on) and operation.operands:
            held = holds.get(operation.operands[0])
            if held is not None:
                holds[operation.results[0]] = held

    gradient_layer = _gradient_layers(table, arguments)
    layers: list[str] = []
    layer_of: dict[int, str] = {}
    phase_of = {result: operation.phase for operation in table.operations for result in operation.results}
    for operation in table.operations:
        layer = finder.layer(operation.scope)
        if not layer:
            flowing = [holds[operand] for operand in operation.operands if operand in holds]
            if flowing:
                layer = max(flowing, key=lambda argument: argument.elements).layer
        if not layer and operation.phase is Phase.BACKWARD:
            layer = next((gradient_layer[result] for result in operation.results if result in gradient_layer), "")
            if not layer:
                # A transposed operation reads what its own forward operation left for it.
                layer = _largest_layer(
                    table,
                    (operand for operand in operation.operands if phase_of.get(operand) is Phase.FORWARD),
                    layer_of,
                )
        if not layer:
            layer = _largest_layer(table, operation.operands[: operation.hands_on or None], layer_of)
        layers.append(layer)
        for result in operation.results:
            layer_of[result] = layer
    consumer_layer: dict[int, str] = {}
    for index in range(len(layers) - 1, -1, -1):
        operation = table.operations[index]
        if not layers[index] and operation.phase is not Phase.UPDATE:
            layers[index] = next((consumer_layer[r] for r in operation.results if r in consumer_layer), "")
        if layers[index]:
            for operand in operation.operands:
                consumer_layer[operand] = layers[index]
    operations = tuple(map(_in_layer, layers, table.operations))
    return replace(table, operations=operations)


def _largest_layer(table: LayerTable, values: Iterable[int], layer_of: dict[int, str]) -> str:
    candidates = [value for value in values if layer_of.get(value)]
    return layer_of[max(candidates, key=lambda value: table.values[value].elements)] if candidates else ""


def _gradient_layers(table: LayerTable, arguments: Sequence[Argument]) -> dict[int, str]:
    """Value → layer, for every backward value that becomes the new value of a parameter or moment by elementwise steps.

    Walks back from the outputs that replace state, as long as the number of elements stays that of the parameter.
    """
    found: dict[int, str] = {}
    by_shape: dict[int, list[Argument]] = {}
    for argument in arguments:
        if argument.role is Role.PARAMETERS and argument.layer:
            by_shape.setdefault(argument.elements, []).append(argument)
    state = {
        value: argument
        for value, argument in zip(table.arguments, arguments, strict=True)
        if argument.role in STATE_ROLES and argument.layer
    }
    # Forward over the update: an operation that reads a parameter or its moments elementwise names its gradient.
    owner: dict[int, str] = {}
    for value, argument in state.items():
        owner[value] = argument.layer
    for operation in table.operations:
        if operation.phase is not Phase.UPDATE:
            continue
        named = [owner[operand] for operand in operation.operands if operand in owner]
        if named:
            for result in operation.results:
                owner[result] = named[0]
    # Backward over the update: what is combined with it, element by element, belongs to the same parameter.
    for operation in reversed(table.operations):
        named = next((owner[result] for result in operation.results if result in owner), None)
        if named is None or operation.phase is Phase.FORWARD:
            continue
        size = table.values[operation.results[0]].elements
        elementwise = operation.phase is Phase.UPDATE or operation.primitive in _KEEPS_THE_LAYER
        if operation.phase is Phase.BACKWARD:
            for result in operation.results:
                found.setdefault(result, named)
        if operation.phase is Phase.UPDATE and operation.primitive == "reduce_sum":
            owner.setdefault(operation.operands[0], named)  # the gradients of single examples, added up by the user
        if not elementwise:
            continue
        for operand in operation.operands:
            if table.values[operand].elements == size and size > 1 and table.values[operand].argument is None:
                owner.setdefault(operand, named)
    return found


def _in_layer(layer: str, operation: Operation) -> Operation:
    # Field by field, as in `layers`: `dataclasses.replace` takes three times as long.
    return Operation(
        primitive=operation.primitive,
        scope=operation.scope,
        layer=layer,
        phase=operation.phase,
        operands=operation.operands,
        results=operation.results,
        repeat=operation.repeat,
        source=operation.source,
        sizes=operation.sizes,
        same=operation.same,
        hands_on=operation.hands_on,
    )
