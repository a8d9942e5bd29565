"""Replaying the heap simulator's traces: what is live when, and the live peak of a memory space.

The arithmetic is XLA's own (`ComputePeakMemoryImpl` in xla/service/buffer_assignment.cc), with one difference: XLA adds
up all memory spaces, while here a memory space is an account of its own. The live peak counts the buffers that are live
at one moment; what XLA reserves is the size of the allocations, and larger by fragmentation and alignment.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from jaxmem.errors import InputError
from jaxmem.xla.buffers import Allocation, BufferAssignment, HeapTrace, LogicalBuffer, TraceEvent


class LiveBuffer(NamedTuple):
    """Memory that is taken at the peak: whose it is, and whose value is in it.

    Attributes:
        canonical_id: the buffer that the memory was taken for.
        occupant_id: the latest buffer that shares it and is still live.
    """

    canonical_id: int
    occupant_id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """One trace, replayed.

    Attributes:
        peak_bytes: the most that is live at once.
        peak_event: index of the event that reaches the peak (the last one that raises it); None if nothing is ever
            live.
        live_at_peak: what is live after that event, in the order in which the memory was taken.
        live_bytes: the bytes live after each event.
    """

    peak_bytes: int
    peak_event: int | None
    live_at_peak: tuple[LiveBuffer, ...] = field(repr=False)
    live_bytes: tuple[int, ...] = field(repr=False)

    @property
    def final_bytes(self) -> int:
        """Bytes live after the last event: always 0, `replay_trace` refuses any other trace."""
        return self.live_bytes[-1] if self.live_bytes else 0


class _Heap:
    """The simulator's state: who holds which memory."""

    def __init__(self, buffers: Mapping[int, LogicalBuffer]) -> None:
        self.buffers = buffers
        # The holders of each canonical buffer's memory, in the order in which they came.
        self.holders: dict[int, dict[int, None]] = {}
        self.canonical: dict[int, int] = {}

    def run(self, events: Iterable[TraceEvent]) -> list[int]:
        """The bytes live after each of some events, which are the first of a trace."""
        buffers, holders, canonical = self.buffers, self.holders, self.canonical
        live, live_bytes = 0, []
        for event in events:
            kind, buffer_id, _, _, share_with_id = event
            if kind == "free":
                root = canonical.pop(buffer_id, None)
                if root is None:
                    raise _broken(len(live_bytes), event, "frees a buffer that is not live")
                left = holders[root]
                del left[buffer_id]
                if not left:
                    del holders[root]
                    live -= buffers[root].size
            else:
                if buffer_id in canonical:
                    raise _broken(len(live_bytes), event, "takes memory for a buffer that is live already")
                root = buffer_id if share_with_id is None else canonical.get(share_with_id, share_with_id)
                if root in holders:
                    holders[root][buffer_id] = None
                else:
                    holders[root] = {buffer_id: None}
                    live += buffers[root].size
                canonical[buffer_id] = root
            live_bytes.append(live)
        return live_bytes


def _broken(position: int, event: TraceEvent, what: str) -> InputError:
    return InputError(
        f"The heap trace is broken: event {position} ({event.kind} of buffer {event.buffer_id} at "
        f"{event.instruction_name or 'an unnamed instruction'}) {what}. Compile again and take a new dump."
    )


def replay_trace(trace: HeapTrace, buffers: Mapping[int, LogicalBuffer]) -> Replay:
    """Replay one trace. Time and memory are linear in its events.

    Raises:
        InputError: the trace frees what is not live, takes what is, or does not end with nothing live.
    """
    live_bytes = _Heap(buffers).run(trace.events)
    if live_bytes and live_bytes[-1]:
        raise InputError(
            f"The heap trace is broken: {live_bytes[-1]} bytes are live after its last event. "
            "Compile again and take a new dump."
        )
    # Who is live at the peak is known only now: once more up to there, instead of a copy of the state at every rise.
    peak_bytes = max(live_bytes, default=0)
    peak_event = live_bytes.index(peak_bytes) if peak_bytes else None
    heap = _Heap(buffers)
    heap.run(trace.events[: 0 if peak_event is None else peak_event + 1])
    return Replay(
        peak_bytes=peak_bytes,
        peak_event=peak_event,
        live_at_peak=tuple(
            LiveBuffer(canonical_id=root, occupant_id=next(reversed(holders))) for root, holders in heap.holders.items()
        ),
        live_bytes=tuple(live_bytes),
    )


def trace_allocations(trace: HeapTrace, assignment: BufferAssignment) -> tuple[Allocation, ...]:
    """The allocations that hold the trace's buffers, matched by buffer ids: one, or more with several heaps."""
    named = {event.buffer_id for event in trace.events}
    return tuple(
        allocation
        for allocation in assignment.allocations
        if any(entry.buffer_id in named for entry in allocation.assigned)
    )


def trace_color(trace: HeapTrace, assignment: BufferAssignment) -> int | None:
    """The memory space that the trace simulates; None for a trace without events, which takes no memory in any.

    Raises:
        InputError: its buffers are in several memory spaces.
    """
    colors = {assignment.buffers[event.buffer_id].color for event in trace.events}
    if len(colors) > 1:
        raise InputError(f"A heap trace mixes the memory spaces {sorted(colors)}. Compile again and take a new dump.")
    return next(iter(colors), None)


def replays(assignment: BufferAssignment, colors: Collection[int]) -> tuple[tuple[HeapTrace, Replay], ...]:
    """Every trace of the memory spaces ``colors``, replayed, in XLA's order."""
    return tuple(
        (trace, replay_trace(trace, assignment.buffers))
        for trace in assignment.traces
        if trace_color(trace, assignment) in colors
    )


def static_bytes(assignment: BufferAssignment, colors: Collection[int] | None = None) -> int:
    """Bytes that are live all through the program: parameters, constants and what may be an output.

    Each such allocation counts with its largest buffer; thread-local ones do not count. ``colors`` are the memory
    spaces to count, None for all.
    """
    return sum(
        max((assignment.buffers[entry.buffer_id].size for entry in allocation.assigned), default=0)
        for allocation in assignment.allocations
        if not allocation.is_thread_local
        and (allocation.is_entry_computation_parameter or allocation.is_constant or allocation.maybe_live_out)
        and (colors is None or allocation.color in colors)
    )


def live_peak_bytes(
    assignment: BufferAssignment,
    colors: Collection[int],
    replayed: Iterable[tuple[HeapTrace, Replay]] | None = None,
) -> int:
    """The live peak of an account: `static_bytes` and the highest peak of its traces, which run one after the other.

    Args:
        assignment: of the module.
        colors: the memory spaces that are one physical memory: ``(0,)``, or ``(0, 1, 2)`` on CUDA.
        replayed: their `replays`, where they are known.
    """
    if replayed is None:
        replayed = replays(assignment, colors)
    return static_bytes(assignment, colors) + max((replay.peak_bytes for _, replay in replayed), default=0)


def reported_peak_bytes(assignment: BufferAssignment) -> int:
    """XLA's own definition of peak memory, over all memory spaces, for comparison with ``peak_memory_in_bytes``.

    A backend that drops the traces before it counts (CPU since jaxlib 0.7.2) reports `static_bytes` instead.
    """
    return static_bytes(assignment) + max(
        (replay_trace(trace, assignment.buffers).peak_bytes for trace in assignment.traces), default=0
    )
