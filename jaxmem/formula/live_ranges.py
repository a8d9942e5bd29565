"""When does each array of the program exist? The formula's own compiler, without a compile.

1. What is computed twice is computed once, what nothing reads is left out (`jaxmem.formula.equal`).
2. What element-by-element operations compute is fused into its readers unless writing it is faster (`jaxmem.formula.fusion`).
3. The backend adds what it needs for itself: copies, index maps, zeros (`jaxmem.formula.backends`).
4. The kernels run in the order that XLA's schedulers give them (`jaxmem.formula.schedule`).

A program with loops, or on several devices, runs in the order of its trace (`jaxmem.formula.trace_order`).
"""

from collections.abc import Sequence

from jaxmem.formula.backends import ADDITIONS
from jaxmem.formula.equal import MOVEMENT
from jaxmem.formula.loops import carried_in_place
from jaxmem.formula.plan import Plan
from jaxmem.formula.ranges import LiveRanges
from jaxmem.formula.schedule import Addition, Schedule, best_schedule
from jaxmem.formula.trace_order import live_ranges_in_trace_order
from jaxmem.layer_table import LayerTable
from jaxmem.roles import Phase


def find_live_ranges(table: LayerTable, *, platform: str) -> LiveRanges:
    """Derive the formula's schedule from the traced program. Linear in its size but for a heap."""
    loops = any(operation.hands_on for operation in table.operations)
    if loops or any(value.divided_over > 1 for value in table.values):
        return live_ranges_in_trace_order(table)
    plan = Plan(table, platform=platform)
    if platform in ADDITIONS:
        ADDITIONS[platform](plan)
    schedule = best_schedule(plan.kernels, plan.arrays, plan.results)
    count = len(table.values)
    exists, start, end = [False] * count, [0] * count, [-1] * count
    for index, array in enumerate(plan.arrays):
        if array.value is not None:
            exists[array.value] = array.same_as is None and array.size_bytes > 0
            start[array.value], end[array.value] = schedule.start[index], schedule.end[index]
    origin, residual = _origins_and_residuals(table, plan.equals.constant)
    return LiveRanges(
        order=tuple(plan.kernels[index].operation for index in schedule.order),
        origin=origin,
        exists=tuple(exists),
        start=tuple(start),
        end=tuple(end),
        residual=residual,
        constant=plan.equals.constant,
        peak=schedule.peak,
        additions=tuple(_additions(plan, schedule)),
    )


def _additions(plan: Plan, schedule: Schedule) -> list[tuple[Addition, bool]]:
    return [
        (array.addition, schedule.start[index] <= schedule.peak <= schedule.end[index])
        for index, array in enumerate(plan.arrays)
        if array.addition is not None and array.same_as is None
    ]


def _origins_and_residuals(table: LayerTable, constant: Sequence[bool]) -> tuple[tuple[int, ...], tuple[bool, ...]]:
    origin = carried_in_place(table)
    residual = [False] * len(table.values)
    for operation in table.operations:
        if operation.primitive in MOVEMENT and len(operation.operands) == 1:
            origin[operation.results[0]] = origin[operation.operands[0]]
        if operation.phase is Phase.BACKWARD:
            for operand in operation.operands:
                source = origin[operand]
                made = table.values[source].operation
                if made is not None and not constant[source] and table.operations[made].phase is Phase.FORWARD:
                    residual[source] = True
    return tuple(origin), tuple(residual)
