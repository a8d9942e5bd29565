"""When does each array of the program exist? The formula's own compiler, without a compile.

1. What is computed twice is computed once, what nothing reads is left out (`jaxmem.formula.equal`).
2. What element-by-element operations compute is fused into its readers unless writing it is faster (`jaxmem.formula.fusion`).
3. The backend adds what it needs for itself: copies, index maps, zeros (`jaxmem.formula.backends`).
4. The kernels run in the order that XLA's schedulers give them (`jaxmem.formula.schedule`); a program with loops runs in the
   order of the trace, an update as soon as its gradient exists.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from jaxmem.formula.backends import ADDITIONS
from jaxmem.formula.equal import MOVEMENT
from jaxmem.formula.loops import carried_in_place
from jaxmem.formula.plan import Plan
from jaxmem.formula.schedule import Addition, Kernel, Schedule, best_schedule, follow
from jaxmem.layer_table import LayerTable, Operation
from jaxmem.roles import Phase


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveRanges:
    """The formula's schedule.

    Attributes:
        origin: for each value the value that first made its numbers (back through reshapes and transposes).
        exists: for each value whether its bytes exist in a place of their own.
        start, end: positions in the order of the kernels between which a value exists, both included.
        residual: autodiff keeps the value for the backward pass; only ever true of origins.
        constant: the value depends on no argument.
        peak: position at which the most bytes exist.
        peak_operation: the operation that runs then; None in a program that computes nothing.
        additions: what the backend adds, and whether it exists at the peak.
    """

    origin: tuple[int, ...]
    exists: tuple[bool, ...]
    start: tuple[int, ...]
    end: tuple[int, ...]
    residual: tuple[bool, ...]
    constant: tuple[bool, ...]
    peak: int
    peak_operation: int | None
    additions: tuple[tuple[Addition, bool], ...]

    def at_peak(self, value: int) -> bool:
        """Whether a value's bytes exist at the peak."""
        return self.exists[value] and self.start[value] <= self.peak <= self.end[value]


def find_live_ranges(table: LayerTable, *, platform: str) -> LiveRanges:
    """Derive the formula's schedule from the traced program. Linear in its size but for a heap."""
    plan = Plan(table, platform=platform)
    if platform in ADDITIONS:
        ADDITIONS[platform](plan)
    if any(operation.hands_on for operation in table.operations):
        schedule = follow(plan.kernels, plan.arrays, trace_order(plan.kernels, table.operations))
    else:
        schedule = best_schedule(plan.kernels, plan.arrays, plan.results)
    count = len(table.values)
    exists, start, end = [False] * count, [0] * count, [-1] * count
    for index, array in enumerate(plan.arrays):
        if array.value is not None:
            exists[array.value] = array.same_as is None and array.size_bytes > 0
            start[array.value], end[array.value] = schedule.start[index], schedule.end[index]
    origin, residual = _origins_and_residuals(table, plan.equals.constant)
    return LiveRanges(
        origin=origin,
        exists=tuple(exists),
        start=tuple(start),
        end=tuple(end),
        residual=residual,
        constant=plan.equals.constant,
        peak=schedule.peak,
        peak_operation=plan.kernels[schedule.order[schedule.peak]].operation if schedule.order else None,
        additions=tuple(_additions(plan, schedule)),
    )


def trace_order(kernels: Sequence[Kernel], operations: Sequence[Operation]) -> list[int]:
    """The order of the trace, with every update moved up to right behind what it waits for."""
    writer = {array: index for index, kernel in enumerate(kernels) for array in kernel.writes}
    runs: dict[int, tuple[int, int]] = {}
    # What the backend makes for an operation stands behind it in the list of kernels, and runs before it.
    for index in sorted(range(len(kernels)), key=lambda index: (kernels[index].operation, bool(kernels[index].reads))):
        operation = kernels[index].operation
        if operations[operation].phase is Phase.UPDATE:
            waits_for = [runs[writer[array]] for array in kernels[index].reads if writer[array] in runs]
            runs[index] = (max((place for place, _ in waits_for), default=0), operation)
        else:
            runs[index] = (operation, operation)
    order: list[int] = []
    done: set[int] = set()

    def run(index: int) -> None:
        stack = [index]
        while stack:
            one = stack[-1]
            waiting = [w for array in kernels[one].reads if (w := writer[array]) not in done and w != one]
            if waiting and one not in done:
                stack.extend(waiting)
                continue
            stack.pop()
            if one not in done:
                done.add(one)
                order.append(one)

    for index in sorted(runs, key=lambda index: (runs[index], index)):
        run(index)
    return order


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
