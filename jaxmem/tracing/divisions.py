"""Which arrays of the traced program are divided among the devices, and along which dimension.

XLA's partitioner decides this for the compiled program; here the division is derived from the shardings of the arguments
alone, by these rules:

1. An argument is divided as its sharding says.
2. Forward and backward, parameters and other state are whole wherever they are used: a device that holds a part gathers the
   rest. Only the division of the inputs is handed on, along the dimension that it came with, the batch.
3. An operation hands a division on where the dimension survives: element by element, through data movement, as a batch or
   free dimension of a product. Where it is summed over or contracted, every device has the whole result.
4. What meets divided arrays element by element, a mask, a random draw, is needed only in part and made so.
5. A gradient is divided as the state that it updates, and so is everything between the two, and the sum that a loop carries.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import prod
from typing import Any

from jaxmem.layer_table import EXCHANGING, LayerTable, Operation, Value
from jaxmem.lowering import Argument
from jaxmem.roles import STATE_ROLES, Phase

DATA_MOVEMENT = frozenset(
    """reshape squeeze expand_dims transpose copy copy_p rev optimization_barrier stop_gradient reshard""".split()
)
"""Primitives whose result holds the same numbers as their operand, in another order or shape."""

Division = tuple[int, int]
"""(dimension, devices): a dimension is divided among so many devices."""

_PRODUCTS = frozenset({"dot_general", "conv_general_dilated"})


def divide(
    table: LayerTable,
    arguments: Sequence[Argument],
    equations: Sequence[Any],
    passed: Mapping[int, tuple[int, int]],
) -> LayerTable:
    """The table with ``divided_over`` set in every value.

    Args:
        table: with phases.
        arguments: the shape of each is that of the part one device holds.
        equations: the equation of each operation.
        passed: what a loop or branch receives or returns → the value on its other side, and how many leading dimensions it
            has lost on the way.
    """
    values = table.values
    division: dict[int, Division] = {}
    state: dict[int, Division] = {}
    over: dict[int, int] = {}
    for value, argument in zip(table.arguments, arguments, strict=True):
        own = _division_of(values[value].shape, argument.shape)
        if own is None:
            continue
        over[value] = prod(values[value].shape) // max(argument.elements, 1)
        (state if argument.role in STATE_ROLES else division)[value] = own
    if not over:
        return table
    for operation, equation in zip(table.operations, equations, strict=True):
        if operation.phase is Phase.UPDATE:
            _hand_on_state(operation, values, state)
            continue
        for result in operation.results:
            found = _handed_on(operation, equation, result, values, division, passed)
            if found is not None:
                division[result] = found
    _walk_back_to_masks(table, division)
    _walk_back_to_gradients(table, equations, state)
    for value, (_, devices) in (division | state).items():
        over.setdefault(value, devices)
    return replace(
        table,
        values=tuple(replace(value, divided_over=over.get(index, 1)) for index, value in enumerate(values)),
    )


def _division_of(whole: tuple[int, ...], part: tuple[int, ...]) -> Division | None:
    """The first dimension in which a part is smaller than the whole. A typed PRNG key has fewer dimensions than its words."""
    for dimension, (size, own) in enumerate(zip(whole, part, strict=False)):
        if own and own < size:
            return dimension, size // own
    return None


def _handed_on(
    operation: Operation,
    equation: Any,
    result: int,
    values: Sequence[Value],
    division: Mapping[int, Division],
    passed: Mapping[int, tuple[int, int]],
) -> Division | None:
    """The division of a result, from the operands that are divided."""
    if values[result].dtype == "token":
        return None  # where a loop or a branch begins and ends; its operands are not those of the equation
    if operation.primitive in EXCHANGING:
        return None  # inside a program for one device: its shapes are those of what each device has
    shape = values[result].shape
    if operation.hands_on or result in passed:
        outer, lost = passed.get(result, (result, 0))
        if outer not in division:
            return None
        dimension, devices = division[outer]
        return (dimension - lost, devices) if 0 <= dimension - lost < len(shape) else None
    # Literals are no operands of the operation, but keep their places in the equation.
    places = [place for place, atom in enumerate(equation.invars) if not hasattr(atom, "val")]
    for place, operand in zip(places, operation.operands, strict=True):
        if operand not in division:
            continue
        dimension, devices = division[operand]
        kept = _dimension_after(equation, place, dimension, values[operand].shape, shape, devices)
        if kept is not None:
            return kept, devices
    return None


def _dimension_after(
    equation: Any, place: int, dimension: int, before: tuple[int, ...], after: tuple[int, ...], devices: int
) -> int | None:
    """Where a dimension of the operand at ``place`` is found in the result; None where it is gone."""
    name, parameters = equation.primitive.name, equation.params
    if name == "dot_general":
        return _after_product(parameters["dimension_numbers"], place, dimension, len(before), equation)
    if name == "conv_general_dilated":
        numbers = parameters["dimension_numbers"]
        if place == 0 and dimension == numbers.lhs_spec[0] and parameters["batch_group_count"] == 1:
            return numbers.out_spec[0]
        return None
    if name == "broadcast_in_dim":
        return parameters["broadcast_dimensions"][dimension]
    if name == "transpose":
        return parameters["permutation"].index(dimension)
    if name in ("reshape", "squeeze", "expand_dims"):
        return _after_reshape(dimension, before, after, devices)
    if "axes" in parameters and (name.startswith(("reduce_", "arg")) and len(after) < len(before)):
        axes = parameters["axes"]
        return None if dimension in axes else dimension - sum(axis < dimension for axis in axes)
    # Element by element, windows, gathers, slices: a dimension that survives keeps its place and its size.
    survives = dimension < len(after) and after[dimension] == before[dimension]
    return dimension if survives else None


def _after_product(numbers: Any, place: int, dimension: int, rank: int, equation: Any) -> int | None:
    """Results of a product: batch dimensions, the first operand's free ones, the second one's."""
    contracting, batch = numbers[0][place], numbers[1][place]
    if dimension in contracting:
        return None
    if dimension in batch:
        return list(batch).index(dimension)
    free = [other for other in range(rank) if other not in contracting and other not in batch]
    before = 0
    if place == 1:
        first = len(equation.invars[0].aval.shape)
        before = first - len(numbers[0][0]) - len(numbers[1][0])
    return len(batch) + before + free.index(dimension)


def _after_reshape(dimension: int, before: tuple[int, ...], after: tuple[int, ...], devices: int) -> int | None:
    """The dimension that begins at the same stride from the front and can still be divided."""
    front = prod(before[:dimension])
    for place, size in enumerate(after):
        if prod(after[:place]) == front and size > 1:
            return place if size % devices == 0 else None
    return None


def _hand_on_state(operation: Operation, values: Sequence[Value], state: dict[int, Division]) -> None:
    """In the update, whatever has the shape of divided state and is computed from it is divided the same way."""
    for operand in operation.operands:
        if operand not in state:
            continue
        for result in operation.results:
            if values[result].shape == values[operand].shape:
                state.setdefault(result, state[operand])


def _walk_back_to_masks(table: LayerTable, division: dict[int, Division]) -> None:
    values = table.values
    for operation in reversed(table.operations):
        found = next((result for result in operation.results if result in division), None)
        if found is None or operation.primitive in _PRODUCTS or operation.phase is Phase.UPDATE:
            continue
        for operand in operation.operands:
            if values[operand].shape == values[found].shape and values[operand].argument is None:
                division.setdefault(operand, division[found])


def _walk_back_to_gradients(table: LayerTable, equations: Sequence[Any], state: dict[int, Division]) -> None:
    """From divided new state back, element by element and through data movement, to the operation that makes the gradient."""
    values, made_by = table.values, {}
    for operation in table.operations:
        for result in operation.results:
            made_by[result] = operation
    for operation, equation in zip(reversed(table.operations), reversed(equations), strict=True):
        found = next((result for result in operation.results if result in state), None)
        if found is None:
            continue
        dimension, devices = state[found]
        if (carried := values[found].continues) is not None:
            state.setdefault(carried, state[found])  # a loop has one place for what it returns and what it carries
        for operand in operation.operands:
            maker = made_by.get(operand)
            if operand in state or maker is None or maker.phase is Phase.FORWARD:
                continue
            before, after = values[operand].shape, values[found].shape
            if operation.primitive == "transpose":
                state[operand] = (equation.params["permutation"][dimension], devices)
            elif before == after and (operation.phase is Phase.UPDATE or operation.primitive in DATA_MOVEMENT):
                state[operand] = (dimension, devices)
            elif operation.primitive in DATA_MOVEMENT:
                place = _after_reshape(dimension, after, before, devices)
                if place is not None:
                    state[operand] = (place, devices)
