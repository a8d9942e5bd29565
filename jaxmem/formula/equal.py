"""Which values of the traced program hold the same numbers: moved about in memory, or computed twice.

Compilers compute equal expressions once (common subexpression elimination) and drop what nothing reads (dead code). Autodiff
writes many an expression twice, once for the forward and once for the backward pass.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from jaxmem.layer_table import LayerTable, Operation, Value
from jaxmem.roles import Phase

MOVEMENT = frozenset(
    {"reshape", "squeeze", "expand_dims", "transpose", "copy", "rev", "stop_gradient", "copy_p", "reshard"}
)
"""Operations whose result holds the same numbers as their operand."""


_REDUCTIONS = frozenset({"reduce_sum", "reduce_max", "reduce_min", "reduce_prod", "reduce_and", "reduce_or"})

_ALONG_ONE_DIMENSION = {"cumsum": "axis", "cummax": "axis", "cummin": "axis", "sort": "dimension"}
"""Operations along one dimension, of which an element alone is itself, and XLA's simplifier knows → JAX's name of the
dimension. A running product of one element it computes.
"""

_MAY_MOVE = MOVEMENT.union(
    _REDUCTIONS, _ALONG_ONE_DIMENSION, ("broadcast_in_dim", "pad", "slice", "dynamic_update_slice")
)
"""Operations that may hold the numbers of their operand: few of a program are among them."""


def with_outer_products_multiplied(table: LayerTable) -> LayerTable:
    """The same table, in which a product that sums over nothing is a multiplication, element by element.

    XLA takes such a product apart into two broadcasts and a multiplication (`AlgebraicSimplifierVisitor::HandleDot`), which
    fuse like any other. The gradient of a dense layer for each example by itself is one.
    """
    if not any(map(_is_outer_product, table.operations)):
        return table
    operations = (
        replace(operation, primitive="mul") if _is_outer_product(operation) else operation
        for operation in table.operations
    )
    return replace(table, operations=tuple(operations))


def _is_outer_product(operation: Operation) -> bool:
    return operation.primitive == "dot_general" and not operation.size("lhs_contracting") and bool(operation.sizes)


def moved(operation: Operation, values: Sequence[Value] = ()) -> tuple[tuple[int, int], ...]:
    """(result, operand) for each result that holds the numbers of an operand, and nothing else; none for what computes.

    A border of nothing around an array is the array, and so is a broadcast that adds dimensions of one element, a slice that is
    the whole, what is written over the whole, and what is done along a dimension of one element: XLA's algebraic simplifier
    drops them all.
    """
    if operation.primitive not in _MAY_MOVE or not operation.results or not operation.operands:
        return ()
    if operation.primitive == "dynamic_update_slice":
        if operation.hands_on or not values or len(operation.operands) == 1:
            return ()  # a literal number that is written over another is no operand
        result, update = operation.results[0], operation.operands[1]
        return ((result, update),) if _are_as_many(values[result], values[update]) else ()
    if values and _is_trivial(operation, values):
        return tuple(zip(operation.results, operation.operands, strict=True))
    if operation.primitive == "broadcast_in_dim" and values:
        result, operand = operation.results[0], operation.operands[0]
        return ((result, operand),) if _are_as_many(values[result], values[operand]) else ()
    if operation.primitive == "pad" and not any(operation.size("padding_config") or (1,)):
        return ((operation.results[0], operation.operands[0]),)
    if operation.primitive in MOVEMENT and len(operation.operands) == len(operation.results):
        return tuple(zip(operation.results, operation.operands, strict=True))
    return ()


def _is_trivial(operation: Operation, values: Sequence[Value]) -> bool:
    """Whether an operation that computes something for other sizes computes nothing for these."""
    if operation.hands_on or not operation.operands or len(operation.operands) != len(operation.results):
        return False
    operand = values[operation.operands[0]]
    if operation.primitive == "slice":
        return values[operation.results[0]].shape == operand.shape
    if operation.primitive in _REDUCTIONS:
        return _are_as_many(values[operation.results[0]], operand)
    if operation.primitive not in _ALONG_ONE_DIMENSION:
        return False
    dimension = operation.size(_ALONG_ONE_DIMENSION[operation.primitive])
    # Of what XLA for CPU computes in 32 bits, between casts, only a sort is simplified.
    known = operation.primitive == "sort" or operand.dtype != "bfloat16"
    return known and len(dimension) == 1 and operand.shape[dimension[0]] == 1


def _are_as_many(one: Value, other: Value) -> bool:
    """Whether two arrays have as many elements as one another, on a device and in all: where a device has one element of a
    sum, the devices still add up theirs, and where one array is divided and the other is whole, they gather it."""
    return one.elements == other.elements and one.divided_over == other.divided_over


@dataclass(frozen=True, slots=True, kw_only=True)
class Equals:
    """The traced program without what is computed twice.

    Attributes:
        of: for each value the first one that holds the same numbers.
        constant: for each value whether it depends on no argument.
        operations: indices of the operations that are left, in an order in which they can run.
        scattered_into: result of a scatter into zeros, to which a value is added → that value: the scatter adds to it at once.
    """

    of: tuple[int, ...]
    constant: tuple[bool, ...]
    operations: tuple[int, ...]
    scattered_into: Mapping[int, int]


def find_equals(table: LayerTable, *, merges_remat: bool, scatters_pools: bool = False) -> Equals:
    """Find what is computed once. Linear in the size of the program.

    Args:
        table: the program.
        merges_remat: the compiler merges what ``jax.checkpoint`` computes again with the first time, as XLA's for CPU does;
            elsewhere the barriers that JAX puts in its way hold.
        scatters_pools: the gradient of a max-pool is a scatter into zeros like any other, as XLA's compiler for GPUs has it
            (`SelectAndScatterExpander`), unless a border stands in front of the map, which is sliced off behind the scatter.
    """
    of, constant, kept = equal_values(table, merges_remat=merges_remat)
    scattered_into = _join_scatters(table, of, constant, kept, pools=scatters_pools)
    needed = {of[value] for value in table.outputs if value is not None}
    live = []
    for index in reversed(kept):
        operation = table.operations[index]
        if not needed.isdisjoint(operation.results):
            needed.update(map(of.__getitem__, operation.operands))
            if scattered_into:
                needed.update(scattered_into[result] for result in operation.results if result in scattered_into)
            live.append(index)
    return Equals(
        of=tuple(of), constant=tuple(constant), operations=tuple(reversed(live)), scattered_into=scattered_into
    )


def equal_values(table: LayerTable, *, merges_remat: bool) -> tuple[list[int], list[bool], list[int]]:
    """As `find_equals`, without dead code: ``of``, ``constant`` and the operations that are left, in the order of the trace."""
    of = list(range(len(table.values)))
    constant = find_constants(table)
    known: dict[tuple[str, str, str, tuple[int, ...], int], Sequence[int]] = {}
    kept = []
    for index, operation in enumerate(table.operations):
        operands = tuple(map(of.__getitem__, operation.operands))
        if same := moved(operation, table.values):
            for result, operand in same:
                of[result] = of[operand]
            continue
        if operation.hands_on:
            kept.append(index)
            continue
        # A loop and a branch are computations of their own.
        region = operation.scope.rpartition("/body")[0] + ("" if merges_remat else computed_again_in(operation))
        # In a damaged table two that are said to be the same may make more or fewer results.
        key = (operation.primitive, operation.same, region, operands, len(operation.results))
        if operation.same and key in known:
            for result, twin in zip(operation.results, known[key], strict=True):
                of[result] = twin
            continue
        if operation.same:
            known[key] = operation.results
        kept.append(index)
    return of, constant, kept


def find_constants(table: LayerTable) -> list[bool]:
    """For each value whether it depends on no argument: a literal, and what is made of such values alone.

    What a loop carries begins as a constant often, as zeros, and stays one only if what a turn leaves is one too, as a
    counter. So a number that is carried is taken for what it begins as, until a turn is found to leave something else. Larger
    arrays that go round have memory of their own in any case.
    """
    values, changing = table.values, set[int]()
    while True:
        constant = [value.operation is None and value.argument is None for value in values]
        for operation in table.operations:
            sources = operation.operands[: operation.hands_on or None]
            made = all(constant[source] for source in sources)
            for result in operation.results:
                goes_round = operation.hands_on and (values[result].elements > 1 or result in changing)
                constant[result] = made and not goes_round
        left = {
            value.continues
            for value, is_constant in zip(values, constant, strict=True)
            if value.continues is not None and constant[value.continues] and not is_constant
        }
        if not left:
            return constant
        changing |= left


def _join_scatters(
    table: LayerTable, of: list[int], constant: Sequence[bool], kept: list[int], *, pools: bool
) -> dict[int, int]:
    """x + scatter(zeros, ...) is scatter(x, ...): the scatter moves to the place of the sum, and is the sum."""
    if not any(_scatters_into_zeros(table, index, of, constant, pools) for index in kept):
        return {}
    readers: dict[int, int] = {}
    for index in kept:
        for operand in dict.fromkeys(of[operand] for operand in table.operations[index].operands):
            readers[operand] = readers.get(operand, 0) + 1
    joined: dict[int, int] = {}
    is_now: dict[int, int] = {}
    moved: dict[int, int] = {}
    for index in kept:
        summed = table.operations[index]
        if summed.primitive not in ("add", "add_any") or len(summed.operands) != 2:
            continue
        first, second = (of[operand] for operand in summed.operands)
        for scattered, other in ((first, second), (second, first)):
            made = table.values[scattered].operation
            if made is None:
                continue
            if (
                _scatters_into_zeros(table, made, of, constant, pools)
                and readers[scattered] == 1
                and other != scattered
            ):
                joined[scattered] = is_now.get(other, other)
                is_now[summed.results[0]] = scattered
                moved[index] = made
                break
    of[:] = [is_now.get(value, value) for value in of]
    gone = set(moved.values())
    kept[:] = [moved.get(index, index) for index in kept if index not in gone]
    return joined


def _scatters_into_zeros(
    table: LayerTable, index: int, of: Sequence[int], constant: Sequence[bool], pools: bool
) -> bool:
    operation = table.operations[index]
    if operation.primitive in ("scatter-add", "scatter_add"):
        return constant[of[operation.operands[0]]]
    return pools and operation.primitive == "select_and_scatter_add" and not any(operation.size("padding")[::2])


def computed_again_in(operation: Operation) -> str:
    """The part of the backward pass that computes an operation again, by its scope; empty for any other operation."""
    inside = operation.phase is Phase.BACKWARD and "checkpoint" in operation.scope
    return operation.scope[: operation.scope.rindex("checkpoint")] if inside else ""


def recomputed_regions(table: LayerTable) -> tuple[tuple[int, ...], ...]:
    """The operations of each region that ``jax.checkpoint`` computes again, with its backward pass, in the order of the trace.

    A region is traced in one piece and begins with what is computed again.
    """
    regions: list[list[int]] = []
    before, again_before = "", False
    for index, operation in enumerate(table.operations):
        inside, again = computed_again_in(operation), "rematted_computation" in operation.scope
        if inside and (inside != before or (again and not again_before)):
            regions.append([])
        if inside:
            regions[-1].append(index)
        before, again_before = inside, again
    return tuple(tuple(region) for region in regions)
