"""How much memory arrays take that lie beside one another: the live bytes at the peak, and the gaps between.

XLA places temporaries one after the other, each in the smallest gap that is free as long as it exists, and at the end where
there is none: once the largest first, once those that live longest first, and keeps the smaller result
(`GlobalDecreasingSizeBestFitHeap` and `ChooseBestHeapAlgorithm` in xla/service/heap_simulator/heap_simulator.cc).
"""

from bisect import insort
from collections.abc import Callable, Sequence
from dataclasses import dataclass

ALIGNMENT = 256
"""Of temporaries on a GPU (`kXlaAllocatedBufferAlignBytes`)."""

SMALL = 2000
"""An array of less than that part of the largest finds room in some gap; leaving it out keeps the placing fast."""


_OUTLASTS = 4
"""Stretches, each of the average length; what reaches over more is looked at every time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """An array, or several in one place after one another: bytes, first and last position, both included."""

    size_bytes: int
    start: int
    end: int


def gap_bytes(intervals: Sequence[Interval]) -> int:
    """What arrays take beyond those that exist at the same time. Each large one is compared with those that exist beside it."""
    largest = max((interval.size_bytes for interval in intervals), default=0)
    large = [
        Interval(size_bytes=-(-interval.size_bytes // ALIGNMENT) * ALIGNMENT, start=interval.start, end=interval.end)
        for interval in intervals
        if interval.size_bytes * SMALL >= largest > 0
    ]
    orders: tuple[Callable[[Interval], tuple[int, int, int]], ...] = (
        lambda interval: (-interval.size_bytes, interval.start - interval.end, interval.start),
        lambda interval: (interval.start - interval.end, -interval.size_bytes, interval.start),
    )
    packed = min(_place(sorted(large, key=order)) for order in orders)
    return packed - _most_at_once(large)


def _place(intervals: Sequence[Interval]) -> int:
    """Bytes that intervals take when they are placed in this order."""
    placed, most = _Placed(intervals), 0
    for interval in intervals:
        best, best_size, reached = -1, 0, 0
        for offset, behind in placed.beside(interval):
            gap = offset - reached
            if gap >= interval.size_bytes and (best < 0 or gap < best_size):
                best, best_size = reached, gap
            reached = max(reached, behind)
        offset = best if best >= 0 else reached
        placed.add(interval, offset)
        most = max(most, offset + interval.size_bytes)
    return most


class _Placed:
    """Intervals with their places, from below; found again by the stretch of positions in which they begin."""

    def __init__(self, intervals: Sequence[Interval]) -> None:
        self._stretch = 1 + sum(each.end - each.start for each in intervals) // max(len(intervals), 1)
        self._beginning: dict[int, list[tuple[int, int, int, int]]] = {}
        self._lasting: list[tuple[int, int, int, int]] = []

    def add(self, interval: Interval, offset: int) -> None:
        first, last = interval.start // self._stretch, interval.end // self._stretch
        known = self._lasting if last - first > _OUTLASTS else self._beginning.setdefault(first, [])
        insort(known, (offset, offset + interval.size_bytes, interval.start, interval.end))

    def beside(self, interval: Interval) -> list[tuple[int, int]]:
        """First byte and end of what exists at the same time, from below."""
        first, last = interval.start // self._stretch, interval.end // self._stretch
        parts = [self._beginning.get(stretch, []) for stretch in range(first - _OUTLASTS, last + 1)]
        return sorted(
            (offset, behind)
            for part in (self._lasting, *parts)
            for offset, behind, start, end in part
            if start <= interval.end and end >= interval.start
        )


def _most_at_once(intervals: Sequence[Interval]) -> int:
    changes: dict[int, int] = {}
    for interval in intervals:
        changes[interval.start] = changes.get(interval.start, 0) + interval.size_bytes
        changes[interval.end + 1] = changes.get(interval.end + 1, 0) - interval.size_bytes
    live = most = 0
    for position in sorted(changes):
        live += changes[position]
        most = max(most, live)
    return most
