"""When does each array of the program exist? The formula's own compiler, without a compile.

1. What is computed twice is computed once, what nothing reads is left out (`jaxmem.formula.equal`).
2. What element-by-element operations compute is fused into its readers unless writing it is faster (`jaxmem.formula.fusion`).
3. The backend adds what it needs for itself: copies, index maps, zeros (`jaxmem.formula.backends`).
4. The kernels run in the order that XLA's schedulers give them (`jaxmem.formula.schedule`).

A program on several devices runs in the order of its trace (`jaxmem.formula.trace_order`).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from jaxmem.formula.backends import ADDITIONS
from jaxmem.formula.backends.cpu_fused import fused_bytes
from jaxmem.formula.backends.cpu_library import hidden_bytes
from jaxmem.formula.backends.tpu import ON_CHIP_BYTES, feature_maps, padding_bytes
from jaxmem.formula.cpu_fusion import CpuFusion
from jaxmem.formula.equal import moved, with_outer_products_multiplied
from jaxmem.formula.fusion import CONTRACTIONS
from jaxmem.formula.kernels import Addition, like
from jaxmem.formula.loops import carried_in_place
from jaxmem.formula.number_formats import Widened, unchanged, widened
from jaxmem.formula.orders import first_in_first_out
from jaxmem.formula.packing import gap_bytes
from jaxmem.formula.plan import Plan
from jaxmem.formula.ranges import LiveRanges
from jaxmem.formula.schedule import Schedule, best_schedule, follow
from jaxmem.formula.trace_order import live_ranges_in_trace_order
from jaxmem.layer_table import LayerTable
from jaxmem.roles import Phase, Role


def find_live_ranges(
    table: LayerTable,
    *,
    platform: str,
    replaced: Mapping[int, int] | None = None,
    threads: int | None = None,
    features: Iterable[str] = (),
) -> LiveRanges:
    """Derive the formula's schedule from the traced program. Linear in its size but for sorting.

    Args:
        table: the program.
        platform: whose backend compiles it.
        replaced: value of a donated argument → the result that is written over it.
        threads: of the pool that a CPU program runs on; None where that is not known, and not needed elsewhere.
        features: extensions of that CPU, as Linux names them.
    """
    table = with_outer_products_multiplied(table)
    if any(value.divided_over > 1 for value in table.values):
        in_order = live_ranges_in_trace_order(table, merges_remat=platform == "cpu")
        return _on_chip_where_it_fits(table, in_order) if platform == "tpu" else in_order
    program = widened(table) if platform == "cpu" else unchanged(table)
    plan = Plan(program.table, platform=platform, replaced=replaced or {})
    if platform in ADDITIONS:
        ADDITIONS[platform](plan)
    if platform == "cpu":
        library = {plan.kernel_of[plan.array_of[value]] for value in plan.fusion.ends if value in plan.array_of}
        searches = {
            index
            for index, kernel in enumerate(plan.kernels)
            if program.table.operations[kernel.operation].primitive == "select_and_scatter_add"
        }
        order = first_in_first_out(plan.kernels, library, searches)
        schedule = follow(plan.kernels, plan.arrays, order, plan.slots)
    else:
        schedule = best_schedule(plan.kernels, plan.arrays, plan.results, plan.slots, donated=plan.donated())
    on_chip = platform == "tpu" and schedule.peak_bytes <= ON_CHIP_BYTES
    if on_chip:
        schedule = replace(schedule, lent=frozenset(range(len(plan.arrays))))
    count = len(program.table.values)
    exists, start, end = [False] * count, [0] * count, [-1] * count
    for index, array in enumerate(plan.arrays):
        if array.value is not None:
            exists[array.value] = array.same_as is None and array.size_bytes > 0 and index not in schedule.lent
            start[array.value], end[array.value] = schedule.start[index], schedule.end[index]
    origin, residual = _origins_and_residuals(table, plan.equals.constant)

    def at_peak(value: int) -> bool:
        return exists[value] and start[value] <= schedule.peak <= end[value]

    in_float32, beside = _in_float32(program, plan, origin, frozenset(table.outputs), at_peak)
    for wide, value in in_float32.items():
        exists[value], start[value], end[value] = exists[wide], start[wide], end[wide]
    return LiveRanges(
        order=tuple(program.traced[plan.kernels[index].operation] for index in schedule.order),
        origin=origin,
        exists=tuple(exists),
        start=tuple(start),
        end=tuple(end),
        residual=residual,
        constant=plan.equals.constant,
        peak=schedule.peak,
        additions=(
            *_additions(plan, schedule),
            *((copy, at_peak(wide)) for wide, copy in beside.items()),
        ),
        in_float32=frozenset(in_float32.values()),
        gap_bytes=gap_bytes(schedule.intervals) if platform in ("cuda", "cpu") else 0,
        hidden_bytes=_hidden_bytes(plan, threads, frozenset(features)) if platform == "cpu" and threads else 0,
        on_chip=on_chip,
    )


def _in_float32(
    program: Widened,
    plan: Plan,
    origin: Sequence[int],
    outputs: frozenset[int | None],
    at_peak: Callable[[int], bool],
) -> tuple[dict[int, int], dict[int, Addition]]:
    """Of what is in memory in float32, the traced value that is there so alone, or before it is a result, or at the peak; the
    copies beside.

    Of two for one value, the second is what is read in float32, and stays longer than what was computed so.
    """
    alone: dict[int, int] = {}
    beside: dict[int, Addition] = {}
    taken: set[int] = set()
    for wide, narrow in reversed(tuple(program.narrow.items())):
        if wide not in plan.array_of:
            continue
        value, made = origin[narrow], program.table.values[wide].operation
        held = program.table.values[value]
        assert made is not None
        operation = program.table.operations[made]
        outlives = operation.primitive in CONTRACTIONS if value in outputs else at_peak(wide) and not at_peak(value)
        is_alone = value not in plan.array_of or outlives
        if held.argument is None and value not in taken and is_alone:
            alone[wide] = value
            taken.add(value)
            continue
        beside[wide] = like(
            program.table.values[wide],
            operation,
            role=Role.WORKSPACE if held.argument is not None else Role.TRANSIENT,
            name="in float32",
            why="the processor computes in float32",
        )
    return alone, beside


def _hidden_bytes(plan: Plan, threads: int, features: frozenset[str]) -> int:
    fusion = plan.fusion
    assert isinstance(fusion, CpuFusion)
    fused = fused_bytes(plan.table, plan.equals, fusion.library.fusions, threads=threads, features=features)
    return hidden_bytes(plan, fused, threads=threads, features=features)


def _on_chip_where_it_fits(table: LayerTable, ranges: LiveRanges) -> LiveRanges:
    maps = feature_maps(table)
    at_peak = [value for index, value in enumerate(table.values) if ranges.at_peak(index)]
    if sum(value.logical_bytes + padding_bytes(value, maps) for value in at_peak) > ON_CHIP_BYTES:
        return ranges
    return replace(ranges, exists=(False,) * len(table.values), on_chip=True)


def _additions(plan: Plan, schedule: Schedule) -> list[tuple[Addition, bool]]:
    return [
        (
            array.addition,
            schedule.start[index] <= schedule.peak <= schedule.end[index] and index not in schedule.lent,
        )
        for index, array in enumerate(plan.arrays)
        if array.addition is not None and array.same_as is None
    ]


def _origins_and_residuals(table: LayerTable, constant: Sequence[bool]) -> tuple[tuple[int, ...], tuple[bool, ...]]:
    origin = carried_in_place(table)
    residual = [False] * len(table.values)
    for operation in table.operations:
        for result, operand in moved(operation, table.values):
            origin[result] = origin[operand]
        if operation.phase is Phase.BACKWARD:
            for operand in operation.operands:
                source = origin[operand]
                made = table.values[source].operation
                if made is not None and not constant[source] and table.operations[made].phase is Phase.FORWARD:
                    residual[source] = True
    return tuple(origin), tuple(residual)
