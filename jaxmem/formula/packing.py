"""How much memory arrays take that lie beside one another: the live bytes at the peak, and the gaps between.

XLA places temporaries one after the other, each in the smallest gap that is free as long as it exists, and at the end where
there is none: once the largest first, once those that live longest first, and keeps the smaller result
(`GlobalDecreasingSizeBestFitHeap` and `ChooseBestHeapAlgorithm` in xla/service/heap_simulator/heap_simulator.cc).
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

ALIGNMENT = 256
"""Of temporaries on a GPU (`kXlaAllocatedBufferAlignBytes`)."""

SMALL = 2000
"""An array of less than that part of the largest finds room in some gap; leaving it out keeps the placing fast."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """An array, or several in one place after one another: bytes, first and last position, both included."""

    size_bytes: int
    start: int
    end: int


def gap_bytes(intervals: Sequence[Interval]) -> int:
    """What arrays take beyond those that exist at the same time."""
    largest = max((interval.size_bytes for interval in intervals), default=0)
    large = [
        Interval(size_bytes=-(-interval.size_bytes // ALIGNMENT) * ALIGNMENT, start=interval.start, end=interval.end)
        for interval in intervals
        if interval.size_bytes * SMALL >= largest > 0
    ]
    live = _most_at_once(large)
    packed = _place(sorted(large, key=_largest_first))
    if packed > live:  # less than that is impossible
        packed = min(packed, _place(sorted(large, key=_longest_first)))
    return packed - live


def _largest_first(interval: Interval) -> tuple[int, int, int]:
    return -interval.size_bytes, interval.start - interval.end, interval.start


def _longest_first(interval: Interval) -> tuple[int, int, int]:
    return interval.start - interval.end, -interval.size_bytes, interval.start


def _place(intervals: Sequence[Interval]) -> int:
    """Bytes that intervals take when they are placed in this order."""
    placed, most = _Placed(intervals), 0
    for interval in intervals:
        best, best_size, reached = -1, 0, 0
        nodes = placed.nodes(interval)
        for offset, behind in placed.beside(nodes):
            gap = offset - reached
            if gap >= interval.size_bytes and (best < 0 or gap < best_size):
                best, best_size = reached, gap
            reached = max(reached, behind)
        offset = best if best >= 0 else reached
        placed.take(nodes, offset, offset + interval.size_bytes)
        most = max(most, offset + interval.size_bytes)
    return most


_Runs = list[tuple[int, int]]
"""First byte and end of what is taken without a gap, from below."""

_Nodes = tuple[list[int], set[int]]
"""Of an interval: the nodes that make up its positions, and all above them."""


class _Placed:
    """What is taken, by time: a tree whose lowest nodes are the positions, each other node as long as the two below it.

    Few intervals reach over the same positions, and many lie side by side without a gap. So a node keeps runs of bytes: those
    of all intervals that exist at some position of it, and those of the ones that have been put there because they exist at
    all of them. Placing an interval asks for as many nodes as the tree is high, however many intervals exist beside it.
    """

    def __init__(self, intervals: Sequence[Interval]) -> None:
        positions = sorted({position for each in intervals for position in (each.start, each.end)})
        self._place = {position: place for place, position in enumerate(positions)}
        self._width = 1 << max(len(positions) - 1, 0).bit_length()
        self._at_some: dict[int, _Runs] = {}
        self._at_all: dict[int, _Runs] = {}

    def take(self, nodes: _Nodes, offset: int, behind: int) -> None:
        """Put an interval there."""
        own, above = nodes
        for node in own:
            _take(self._at_all.setdefault(node, []), offset, behind)
        for node in (*own, *above):
            _take(self._at_some.setdefault(node, []), offset, behind)

    def beside(self, nodes: _Nodes) -> _Runs:
        """What is taken at the same time as an interval exists; runs of different nodes may overlap."""
        own, above = nodes
        runs: _Runs = []
        for node in own:
            runs += self._at_some.get(node, ())
        for node in above:
            runs += self._at_all.get(node, ())
        return sorted(runs)

    def nodes(self, interval: Interval) -> _Nodes:
        """The largest nodes that make up the positions of an interval, and all above them."""
        low, high = self._place[interval.start] + self._width, self._place[interval.end] + self._width + 1
        nodes: list[int] = []
        above: set[int] = set()
        while low < high:
            if low & 1:
                nodes.append(low)
                low += 1
            if high & 1:
                high -= 1
                nodes.append(high)
            low, high = low >> 1, high >> 1
        for node in nodes:
            while (node := node >> 1) and node not in above:
                above.add(node)
        return nodes, above


def _take(runs: _Runs, offset: int, behind: int) -> None:
    """Add bytes to runs that neither touch nor overlap."""
    first = bisect_left(runs, (offset,))
    if first and runs[first - 1][1] >= offset:
        first -= 1
        offset, behind = runs[first][0], max(behind, runs[first][1])
    last = first
    while last < len(runs) and runs[last][0] <= behind:
        behind = max(behind, runs[last][1])
        last += 1
    runs[first:last] = [(offset, behind)]


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
