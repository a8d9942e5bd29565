"""Replaying the heap simulator's traces: what is live when, and the live peak of a memory space.

The arithmetic is XLA's own (`ComputePeakMemoryImpl` in xla/service/buffer_assignment.cc), with one difference: XLA adds
up all memory spaces, while here a memory space is an account of its own. The live peak counts the buffers that are live
at one moment; what XLA reserves is the size of the allocations, and larger by fragmentation and alignment.
"""

from collections.abc import Collection, Mapping
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
        self.bytes = 0
        # The holders of each canonical buffer's memory, in the order in which they came.
        self.holders: dict[int, dict[int, None]] = {}
        self.canonical: dict[int, int] = {}

    def step(self, position: int, event: TraceEvent) -> None:
        buffer_id = event.buffer_id
        if event.kind == "free":
            if buffer_id not in self.canonical:
                raise _broken(position, event, "frees a buffer that is not live")
            root = self.canonical.pop(buffer_id)
            holders = self.holders[root]
            del holders[buffer_id]
            if not holders:
                del self.holders[root]
                self.bytes -= self.buffers[root].size
            return
        if buffer_id in self.canonical:
            raise _broken(position, event, "takes memory for a buffer that is live already")
        shared = buffer_id if event.share_with_id is None else event.share_with_id
        root = self.canonical.get(shared, shared)
        if root not in self.holders:
            self.holders[root] = {}
            self.bytes += self.buffers[root].size
        self.holders[root][buffer_id] = None
        self.canonical[buffer_id] = root


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
    heap, live_bytes, peak_bytes, peak_event = _Heap(buffers), [], 0, None
    for position, event in enumerate(trace.events):
        heap.step(position, event)
        live_bytes.append(heap.bytes)
        if heap.bytes > peak_bytes:
            peak_bytes, peak_event = heap.bytes, position
    if heap.bytes:
        raise InputError(
            f"The heap trace is broken: {heap.bytes} bytes are live after its last event. "
            "Compile again and take a new dump."
        )
    # Who is live at the peak is known only now: once more up to there, instead of a copy of the state at every rise.
    heap = _Heap(buffers)
    for position, event in enumerate(trace.events[: 0 if peak_event is None else peak_event + 1]):
        heap.step(position, event)
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


def live_peak_bytes(assignment: BufferAssignment, colors: Collection[int]) -> int:
    """The live peak of an account: `static_bytes` and the highest peak of its traces, which run one after the other.

    Args:
        assignment: of the module.
        colors: the memory spaces that are one physical memory: ``(0,)``, or ``(0, 1, 2)`` on CUDA.
    """
    return static_bytes(assignment, colors) + max(
        (replay.peak_bytes for _, replay in replays(assignment, colors)), default=0
    )


def reported_peak_bytes(assignment: BufferAssignment) -> int:
    """XLA's own definition of peak memory, over all memory spaces, for comparison with ``peak_memory_in_bytes``.

    A backend that drops the traces before it counts (CPU since jaxlib 0.7.2) reports `static_bytes` instead.
    """
    return static_bytes(assignment) + max(
        (replay_trace(trace, assignment.buffers).peak_bytes for trace in assignment.traces), default=0
    )
