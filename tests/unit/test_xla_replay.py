"""Heap traces small enough to add up by hand."""

import pytest

from jaxmem.errors import InputError
from jaxmem.xla import (
    Allocation,
    Assigned,
    BufferAssignment,
    HeapTrace,
    LogicalBuffer,
    TraceEvent,
    live_peak_bytes,
    replay_trace,
    reported_peak_bytes,
    static_bytes,
    trace_allocations,
    trace_color,
)

SIZES = {1: 100, 2: 30, 3: 100, 4: 7}


def buffers(color=0):
    return {i: LogicalBuffer(id=i, size=size, instruction_id=i, color=color) for i, size in SIZES.items()}


def trace(*events):
    kinds = {"+": "alloc", "-": "free"}
    return HeapTrace(
        events=tuple(
            TraceEvent(kind="share_with", buffer_id=event[0], share_with_id=event[1])
            if isinstance(event, tuple)
            else TraceEvent(kind=kinds[event[0]], buffer_id=int(event[1:]))
            for event in events
        )
    )


def test_what_is_live_at_the_peak():
    replay = replay_trace(trace("+1", "+2", "-1", "+4", "-2", "-4"), buffers())
    assert replay.live_bytes == (100, 130, 30, 37, 7, 0)
    assert (replay.peak_bytes, replay.peak_event, replay.final_bytes) == (130, 1, 0)
    assert replay.live_at_peak == ((1, 1), (2, 2))


def test_a_peak_reached_twice_is_the_first_that_rose_to_it():
    replay = replay_trace(trace("+1", "-1", "+3", "-3"), buffers())
    assert (replay.peak_bytes, replay.peak_event) == (100, 0)


def test_sharing_takes_no_memory_and_the_last_holder_frees_it():
    replay = replay_trace(trace("+1", (3, 1), "-1", "+2", "-3", "-2"), buffers())
    assert replay.live_bytes == (100, 100, 100, 130, 30, 0)
    # The memory was taken for 1; the value in it at the peak is 3.
    assert replay.live_at_peak == ((1, 3), (2, 2))


def test_of_two_live_holders_the_later_is_the_occupant():
    replay = replay_trace(trace("+1", (3, 1), "+2", "-1", "-3", "-2"), buffers())
    assert replay.peak_event == 2
    assert replay.live_at_peak == ((1, 3), (2, 2))


def test_sharing_with_what_was_freed_takes_its_memory_anew():
    replay = replay_trace(trace("+1", "-1", (3, 1), "+2", "-2", "-3"), buffers())
    assert replay.live_bytes == (100, 0, 100, 130, 100, 0)
    assert replay.live_at_peak == ((1, 3), (2, 2))


def test_an_occupant_that_left_gives_way_to_the_one_before():
    replay = replay_trace(trace("+1", (3, 1), "-3", "+2", "-2", "-1"), buffers())
    assert replay.live_at_peak == ((1, 1), (2, 2))


def test_a_trace_of_nothing():
    replay = replay_trace(HeapTrace(events=()), buffers())
    assert (replay.peak_bytes, replay.peak_event, replay.live_at_peak, replay.final_bytes) == (0, None, (), 0)


@pytest.mark.parametrize(
    ("events", "message"),
    [
        (("-1",), "event 0 .* frees a buffer that is not live"),
        (("+1", "+1"), "event 1 .* takes memory for a buffer that is live already"),
        (("+1", "+2", (2, 1)), "event 2 .* live already"),
        (("+1",), "100 bytes are live after its last event"),
    ],
)
def test_broken_traces(events, message):
    with pytest.raises(InputError, match=message):
        replay_trace(trace(*events), buffers())


def assignment():
    """Parameter, output, constant, thread-local and temporary memory in space 0; a temporary one in space 1."""
    main, fast = buffers(), {i + 10: b for i, b in buffers(color=1).items()}
    everything = main | {i: LogicalBuffer(id=i, size=b.size, instruction_id=i, color=1) for i, b in fast.items()}
    for identifier, size in ((21, 1000), (22, 600), (23, 50), (24, 5), (25, 9)):
        everything[identifier] = LogicalBuffer(id=identifier, size=size, instruction_id=identifier)

    def place(*identifiers):
        return tuple(Assigned(buffer_id=i, offset=0, size=everything[i].size) for i in identifiers)

    return BufferAssignment(
        buffers=everything,
        aliases={},
        allocations=(
            # 1024 with alignment; its largest buffer has 1000.
            Allocation(index=0, size=1024, is_entry_computation_parameter=True, assigned=place(21, 22)),
            Allocation(index=1, size=50, maybe_live_out=True, assigned=place(23)),
            Allocation(index=2, size=5, is_constant=True, assigned=place(24)),
            Allocation(index=3, size=9, is_constant=True, is_thread_local=True, assigned=place(25)),
            Allocation(index=4, size=300, assigned=place(1, 2, 3, 4)),
            Allocation(index=5, size=300, color=1, assigned=place(11, 12)),
        ),
        # XLA's own index of the first trace is stale: it must not matter.
        traces=(
            HeapTrace(events=trace("+1", "+4", "-1", "-4").events, buffer_allocation_index=2),
            HeapTrace(events=trace("+11", "+12", "-11", "-12").events, buffer_allocation_index=4),
        ),
    )


def test_a_memory_space_is_an_account_of_its_own():
    given = assignment()
    assert static_bytes(given, (0,)) == 1000 + 50 + 5
    assert static_bytes(given, (1,)) == 0
    assert live_peak_bytes(given, (0,)) == 1055 + 107
    assert live_peak_bytes(given, (1,)) == 130
    # One physical memory with two colours: the traces run one after the other.
    assert live_peak_bytes(given, (0, 1)) == 1055 + 130
    # XLA adds memory spaces that are not one memory.
    assert reported_peak_bytes(given) == 1055 + 130


def test_traces_find_their_allocation_by_buffers():
    given = assignment()
    assert [a.index for a in trace_allocations(given.traces[0], given)] == [4]
    assert [trace_color(t, given) for t in given.traces] == [0, 1]
    mixed = HeapTrace(events=trace("+1", "+11", "-1", "-11").events)
    with pytest.raises(InputError, match=r"mixes the memory spaces \[0, 1\]"):
        trace_color(mixed, given)
