"""When does each array of a program on several devices exist? In the order of the trace.

A turn of a loop ends before the next begins, and collectives wait for what they exchange. Operations run in the order of the
trace, but an update runs as soon as its gradient exists. An array exists if something that is not fused makes or reads it, and
what autodiff keeps is kept; it exists until the last operation that reads it, directly or through what is computed where it is
read.
"""

from collections.abc import Sequence

from jaxmem.formula.equal import equal_values, moved
from jaxmem.formula.fusion import CONTRACTIONS, IN_MEMORY
from jaxmem.formula.loops import carried_in_place
from jaxmem.formula.ranges import LiveRanges
from jaxmem.layer_table import LayerTable, Operation, Value
from jaxmem.roles import Phase

_DROPS_UNREAD = frozenset({"sort", "top_k"})
"""Operations with several results, of which XLA does not make those that nothing reads."""


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


def live_ranges_in_trace_order(table: LayerTable, *, merges_remat: bool) -> LiveRanges:
    """The live ranges of a program that runs in the order of its trace. Linear in its size.

    Args:
        table: the program.
        merges_remat: as for `find_equals`.
    """
    operations, values = table.operations, table.values
    of, constant, kept = equal_values(table, merges_remat=merges_remat)
    left = frozenset(kept)
    order = tuple(index for index in run_order(operations) if index in left)
    position = {index: place for place, index in enumerate(order)}
    carried = carried_in_place(table)
    origin = [carried[value] for value in of]
    read = {origin[operand] for index in kept for operand in operations[index].operands}
    read.update(origin[value] for value in table.outputs if value is not None)

    residual = [False] * len(values)
    exists = [False] * len(values)
    outputs = {origin[value] for value in table.outputs if value is not None}
    for operation in (operations[index] for index in kept):
        for operand in operation.operands:
            source = origin[operand]
            made_by = values[source].operation
            if made_by is None or constant[source]:
                continue
            if operation.phase is Phase.BACKWARD and operations[made_by].phase is Phase.FORWARD:
                residual[source] = exists[source] = True
            if operation.primitive in CONTRACTIONS:
                exists[source] = True
        if operation.primitive in IN_MEMORY:
            for result in operation.results:
                source = origin[result]
                unread = operation.primitive in _DROPS_UNREAD and source not in read
                exists[source] |= not constant[result] and values[source].operation is not None and not unread
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
        additions=(),
        again=frozenset(
            result
            for index, operation in enumerate(operations)
            if index not in left and not moved(operation, values)
            for result in operation.results
        ),
    )


def _peak(
    values: Sequence[Value], exists: Sequence[bool], start: Sequence[int], end: Sequence[int], length: int
) -> int:
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
