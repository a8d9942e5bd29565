"""Buffer assignment and schedule → the account of main memory, and what holds each of its bytes at the peak."""

from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise

from jaxmem.errors import InvariantError
from jaxmem.profile.damage import of_wrong_size, without_memory
from jaxmem.profile.data import MAIN_COLORS, POINTER_BYTES, Buffer, MemoryProfile, Segment
from jaxmem.profile.live_ranges import LiveRanges
from jaxmem.profile.schedule import flatten_schedule
from jaxmem.xla.buffers import Allocation, BufferAssignment, HeapTrace
from jaxmem.xla.hlo import Module
from jaxmem.xla.replay import Replay, live_peak_bytes, replays


def profile_memory(module: Module, assignment: BufferAssignment, *, platform: str) -> MemoryProfile:
    """Read the account of main memory out of a buffer assignment.

    Args:
        module: the compiled and scheduled module.
        assignment: its buffer assignment, with heap traces.
        platform: ``cpu``, ``cuda`` or ``tpu``; decides which memory spaces are main memory.

    Raises:
        InvariantError: segments do not add up to the allocations.
    """
    colors = MAIN_COLORS[platform]
    schedule = flatten_schedule(module)
    allocations = tuple(
        allocation
        for allocation in assignment.allocations
        if allocation.color in colors and not allocation.is_thread_local
    )
    pointers = POINTER_BYTES[platform]
    ranges = LiveRanges(module, assignment, schedule)
    buffers = {buffer.id: buffer for buffer in _place(module, assignment, allocations, ranges, schedule, pointers)}
    others = [
        allocation
        for allocation in assignment.allocations
        if allocation.color not in colors and not allocation.is_thread_local
    ]
    replayed = replays(assignment, colors)
    traced, peak_position = _traced_at_peak(module, replayed, buffers, schedule)
    live = frozenset(
        traced[0] | {b.id for b in buffers.values() if b.id not in traced[1] and b.start <= peak_position <= b.end}
    )
    by_allocation: dict[int, list[Buffer]] = {}
    for identifier in live:
        by_allocation.setdefault(buffers[identifier].allocation, []).append(buffers[identifier])
    segments = tuple(
        segment
        for allocation in allocations
        for segment in _segments(allocation, by_allocation.get(allocation.index, []))
    )
    reserved = sum(allocation.size for allocation in allocations)
    if sum(segment.size_bytes for segment in segments) != reserved:
        raise InvariantError("the segments at the peak do not add up to the allocations.")
    return MemoryProfile(
        module=module,
        schedule=schedule,
        allocations=allocations,
        buffers=tuple(buffers.values()),
        elsewhere=tuple(_place(module, assignment, others, ranges, schedule, pointers)),
        peak_position=peak_position,
        live_at_peak=frozenset(segment.buffer_id for segment in segments if segment.buffer_id is not None),
        segments=segments,
        live_peak_bytes=live_peak_bytes(assignment, colors, replayed),
        reserved_bytes=reserved,
        damage=(
            *without_memory(module, assignment, schedule, ranges),
            *of_wrong_size(module, assignment, pointers, platform),
        ),
    )


def _place(
    module: Module,
    assignment: BufferAssignment,
    allocations: Iterable[Allocation],
    ranges: LiveRanges,
    schedule: tuple[int, ...],
    pointer_bytes: int,
) -> Iterator[Buffer]:
    """The values assigned to some allocations, with their live ranges."""
    always, instructions = (0, max(len(schedule) - 1, 0)), module.instructions
    for allocation in allocations:
        held_by_caller = (
            allocation.is_entry_computation_parameter and not allocation.is_parameter_aliased_with_output
        ) or allocation.is_constant
        for assigned in allocation.assigned:
            logical = assignment.buffers[assigned.buffer_id]
            leaf = (logical.instruction_id, logical.shape_index)
            start, end = always if held_by_caller else ranges.of(leaf)
            shape = instructions[logical.instruction_id].shape.subshape(logical.shape_index)
            yield Buffer(
                assigned.buffer_id,
                leaf,
                assigned.size,
                len(shape.tuple_shapes) * pointer_bytes if shape.is_tuple else shape.logical_bytes,
                start,
                end,
                allocation.index,
                assigned.offset,
                allocation.color,
            )


def _traced_at_peak(
    module: Module,
    replayed: Iterable[tuple[HeapTrace, Replay]],
    buffers: Mapping[int, Buffer],
    schedule: tuple[int, ...],
) -> tuple[tuple[frozenset[int], frozenset[int]], int]:
    """((live at the peak, all) of the buffers that the largest heap trace of main memory speaks of, position of the peak)."""
    best = None
    for trace, replay in replayed:
        mentioned = frozenset([event.buffer_id for event in trace.events])
        if mentioned <= buffers.keys() and (best is None or replay.peak_bytes > best[0].peak_bytes):
            best = (replay, trace, mentioned)
    if best is None or best[0].peak_event is None:
        return (frozenset(), frozenset()), max(len(schedule) - 1, 0)
    replay, trace, mentioned = best
    assert replay.peak_event is not None
    event = trace.events[replay.peak_event]
    named = (place for place, i in enumerate(schedule) if module.instructions[i].name == event.instruction_name)
    peak = next(named, buffers[event.buffer_id].start)
    return (frozenset(occupant for _, occupant in replay.live_at_peak), mentioned), peak


def _segments(allocation: Allocation, live: list[Buffer]) -> Iterator[Segment]:
    """Cut an allocation at the peak into runs of one holder each.

    Where two live buffers share bytes, one was written over the other in place: the later one holds them.
    """
    borders = sorted(
        {0, allocation.size}
        | {min(buffer.offset, allocation.size) for buffer in live}
        | {min(buffer.offset + buffer.size_bytes, allocation.size) for buffer in live}
    )
    starting = sorted(live, key=lambda buffer: buffer.offset)
    open_buffers: list[Buffer] = []
    taken = 0
    previous: Segment | None = None
    for low, high in pairwise(borders):
        open_buffers = [buffer for buffer in open_buffers if buffer.offset + buffer.size_bytes > low]
        while taken < len(starting) and starting[taken].offset <= low:
            if starting[taken].offset + starting[taken].size_bytes > low:
                open_buffers.append(starting[taken])
            taken += 1
        holder = max(open_buffers, key=lambda buffer: (buffer.start, buffer.id), default=None)
        segment = Segment(
            allocation=allocation.index,
            offset=low,
            size_bytes=high - low,
            buffer_id=holder.id if holder is not None else None,
        )
        if previous is not None and previous.buffer_id == segment.buffer_id:
            segment = Segment(
                allocation=allocation.index,
                offset=previous.offset,
                size_bytes=previous.size_bytes + segment.size_bytes,
                buffer_id=segment.buffer_id,
            )
        elif previous is not None:
            yield previous
        previous = segment
    if previous is not None:
        yield previous
