"""The formula's faster ways give what the definitions give: places of temporaries, and which kernels wait for which."""

from types import SimpleNamespace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from jaxmem.formula.backends.cpu_library import nearest_before, turned_round, waits_for
from jaxmem.formula.kernels import Kernel
from jaxmem.formula.packing import ALIGNMENT, Interval, gap_bytes

INTERVALS = st.lists(
    st.builds(
        lambda units, start, length: Interval(size_bytes=units * ALIGNMENT, start=start, end=start + length),
        st.integers(1, 9),
        st.integers(0, 60),
        st.one_of(st.integers(0, 3), st.integers(0, 60)),
    ),
    max_size=25,
)


def placed_by_definition(intervals):
    """Each in the smallest gap between those that exist beside it, at the end where there is none; the bytes of all."""
    placed = []
    for interval in intervals:
        beside = sorted(
            (offset, offset + other.size_bytes)
            for other, offset in placed
            if other.start <= interval.end and other.end >= interval.start
        )
        gaps, reached = [], 0
        for low, high in beside:
            if low - reached >= interval.size_bytes:
                gaps.append((low - reached, reached))
            reached = max(reached, high)
        placed.append((interval, min(gaps)[1] if gaps else reached))
    return max((offset + interval.size_bytes for interval, offset in placed), default=0)


@settings(max_examples=50)
@given(INTERVALS)
def test_gaps_are_those_of_the_definition(intervals):
    orders = (
        lambda one: (-one.size_bytes, one.start - one.end, one.start),
        lambda one: (one.start - one.end, -one.size_bytes, one.start),
    )
    live = max((sum(one.size_bytes for one in intervals if one.start <= at <= one.end) for at in range(130)), default=0)
    packed = min(placed_by_definition(sorted(intervals, key=order)) for order in orders)
    assert gap_bytes(intervals) == packed - live


@settings(max_examples=50)
@given(st.data())
def test_a_kernel_waits_for_what_it_is_reached_from(data):
    """Kernel n writes array n and reads arrays of other kernels, whose numbers come in any order."""
    count = data.draw(st.integers(1, 9))
    rank = data.draw(st.permutations(range(count)))
    reads = [
        data.draw(st.lists(st.sampled_from([one for one in range(count) if rank[one] < rank[n]] or [n]), max_size=3))
        for n in range(count)
    ]
    kernels = [Kernel(operation=n, reads=tuple(reads[n]), writes=(n,)) for n in range(count)]
    wanted = data.draw(st.lists(st.integers(0, count - 1), min_size=1, max_size=6))

    def before(kernel):
        return {one for read in reads[kernel] if read != kernel for one in (read, *before(read))}

    plan: Any = SimpleNamespace(kernels=kernels)
    nearest = nearest_before(plan)
    found, behind = waits_for(nearest, wanted), waits_for(turned_round(nearest), wanted)
    for kernel in wanted:
        assert found[kernel] == sum(1 << n for n, one in enumerate(wanted) if one in before(kernel))
        assert behind[kernel] == sum(1 << n for n, one in enumerate(wanted) if kernel in before(one))
