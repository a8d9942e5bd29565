"""When does each array of the traced program exist? The formula's own schedule, derived without a compiler.

1. Operations run in the order of the trace, but an update runs as soon as its gradient exists: nothing else waits for it,
   and the gradient is free to go.
2. An array exists if something that cannot be fused makes or reads it: convolutions, matrix products, reductions, windows,
   gathers and scatters write their result to memory and read their operands from it; what autodiff keeps is kept. All other
   element-by-element results are computed where they are needed (virtual).
3. It exists from the operation that makes it to the last operation that reads it, directly or through virtual arrays.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from jaxmem.formula.loops import carried_in_place
from jaxmem.layer_table import LayerTable, Operation
from jaxmem.roles import Phase

CONTRACTIONS = frozenset({"conv_general_dilated", "dot_general", "ragged_dot", "ragged_dot_general"})
"""Operations of a library or a tensor core: results and operands lie in memory."""

REDUCTIONS = frozenset(
    """reduce_sum reduce_max reduce_min reduce_prod reduce_and reduce_or argmax argmin reduce_window reduce_window_max
    reduce_window_sum reduce_window_min select_and_scatter_add select_and_gather_add cumsum cumprod cummax cummin cumlogsumexp
    sort top_k gather scatter scatter-add scatter_add scatter_mul dynamic_update_slice fft cholesky triangular_solve
    lu qr eigh svd while scan cond custom_call""".split()
)
"""Operations that many compilers cannot fuse into their consumers: results lie in memory."""

MOVEMENT = frozenset(
    {"reshape", "squeeze", "expand_dims", "transpose", "copy", "rev", "stop_gradient", "copy_p", "reshard"}
)
"""Operations whose result holds the same numbers as their operand."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveRanges:
    """The formula's schedule.

    Attributes:
        order: operation indices in the order in which they run.
        origin: for each value the value that first made its numbers (back through reshapes and transposes).
        exists: for each value whether its bytes exist; only ever true of origins.
        start, end: positions in ``order`` between which a value exists, both included.
        residual: autodiff keeps the value for the backward pass; only ever true of origins.
        constant: the value depends on no argument.
        peak: position at which the most bytes exist.
    """

    order: tuple[int, ...]
    origin: tuple[int, ...]
    exists: tuple[bool, ...]
    start: tuple[int, ...]
    end: tuple[int, ...]
    residual: tuple[bool, ...]
    constant: tuple[bool, ...]
    peak: int

    def at_peak(self, value: int) -> bool:
        """Whether a value's bytes exist at the peak."""
        return self.exists[value] and self.start[value] <= self.peak <= self.end[value]


def run_order(operations: Sequence[Operation]) -> tuple[int, ...]:
    """Trace order, with every update moved up to right behind the operation that it waits for."""
    ready: dict[int, int] = {}
    keys = []
    for index, operation in enumerate(operations):
        waits_for = max((ready.get(operand, 0) for operand in operation.operands), default=0)
        key = waits_for if operation.phase is Phase.UPDATE else index
        for result in operation.results:
            ready[result] = key
        keys.append((key, index))
    return tuple(index for _, index in sorted(keys))


def find_live_ranges(table: LayerTable) -> LiveRanges:
    """Derive the formula's schedule from the traced program. Linear in its size."""
    operations, values = table.operations, table.values
    order = run_order(operations)
    position = {index: place for place, index in enumerate(order)}
    origin = carried_in_place(table)
    constant = [value.operation is None and value.argument is None for value in values]
    for operation in operations:
        depends = [operand for operand in operation.operands if not constant[operand]]
        for result in operation.results:
            constant[result] = not depends
        if operation.primitive in MOVEMENT and len(operation.operands) == 1:
            origin[operation.results[0]] = origin[operation.operands[0]]

    residual = [False] * len(values)
    exists = [False] * len(values)
    outputs = {origin[value] for value in table.outputs if value is not None}
    for operation in operations:
        for operand in operation.operands:
            source = origin[operand]
            made_by = values[source].operation
            if made_by is None or constant[source]:
                continue
            if operation.phase is Phase.BACKWARD and operations[made_by].phase is Phase.FORWARD:
                residual[source] = exists[source] = True
            if operation.primitive in CONTRACTIONS:
                exists[source] = True
        if operation.primitive in CONTRACTIONS | REDUCTIONS:
            for result in operation.results:
                exists[origin[result]] |= not constant[result] and values[origin[result]].operation is not None
    for value in outputs:
        exists[value] = False  # an output has a place of its own, counted as such

    start = [position.get(value.operation, 0) if value.operation is not None else 0 for value in values]
    end = list(start)
    for index in reversed(order):
        operation = operations[index]
        # Whoever reads a virtual result reads through it what it is made of.
        needed = max(
            [position[index]] + [end[origin[result]] for result in operation.results if not exists[origin[result]]]
        )
        for operand in operation.operands:
            end[origin[operand]] = max(end[origin[operand]], needed)
    peak = _peak(values, exists, start, end, len(order))
    return LiveRanges(
        order=order,
        origin=tuple(origin),
        exists=tuple(exists),
        start=tuple(start),
        end=tuple(end),
        residual=tuple(residual),
        constant=tuple(constant),
        peak=peak,
    )


def _peak(values: Sequence, exists: Sequence[bool], start: Sequence[int], end: Sequence[int], length: int) -> int:
    change = [0] * (length + 2)
    for index, value in enumerate(values):
        if exists[index]:
            change[start[index]] += value.logical_bytes
            change[end[index] + 1] -= value.logical_bytes
    live, most, peak = 0, -1, 0
    for place in range(max(length, 1)):
        live += change[place]
        if live > most:
            most, peak = live, place
    return peak
