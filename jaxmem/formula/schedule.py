"""In which order the kernels run, and which arrays are alive when: XLA's schedulers on the formula's own kernels.

XLA makes several orders and takes the one that needs the least memory (`DefaultMemoryScheduler` in
xla/hlo/transforms/simplifiers/hlo_memory_scheduler.cc):

- The list: of the kernels that are ready, the one after which the least memory is in use, by the bytes of the operands that
  it reads last, less the bytes that it writes. Equals go to the one with more readers, then to the one that became ready last.
- Depth first: each kernel right behind what it reads, from the results of the program back.

XLA's compiler for CPU runs what is ready first in, first out (`BFScheduler`), so that its threads have much to do at a time.

Arguments cost nothing, and neither do results: they have memory of their own beside the temporaries.
Copies are put in when the kernels have their order, each as early as possible.
"""

import heapq
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace

from jaxmem.roles import Phase, Role


@dataclass(frozen=True, slots=True, kw_only=True)
class Addition:
    """What the backend makes for its own sake.

    Attributes:
        role, layer, phase: as in a leaf of the formula.
        name: what a person calls it.
        why: the backend's habit, in a sentence.
        elements, itemsize_bits: its size.
    """

    role: Role
    layer: str
    phase: Phase
    name: str
    why: str
    elements: int
    itemsize_bits: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Array:
    """What a kernel writes.

    Attributes:
        size_bytes: what it takes; 0 for a result of the program.
        value: the value of the layer table that it is; None for what the backend adds.
        addition: what the backend adds; None for a value.
        stays: nothing frees it.
        takes_over: it may be written over an operand of its size that ends there.
        lends: it may be written over. What a convolution writes never is: it is one of two results of a library call.
        same_as: the array whose memory it is, under another name and perhaps in another shape; -1 where that is an argument's.
            Schedulers count it as an array nevertheless.
    """

    size_bytes: int
    value: int | None = None
    addition: Addition | None = None
    stays: bool = False
    takes_over: bool = False
    lends: bool = True
    same_as: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernel:
    """What the device runs at once.

    Attributes:
        operation: index of the operation of the layer table that it is named after.
        reads, writes: indices of arrays.
        copies: it copies the one array that it reads, and was put in after the kernels had their order.
    """

    operation: int
    reads: tuple[int, ...]
    writes: tuple[int, ...]
    copies: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """Memory that the program has anyway and that stands idle for a while: arrays are put into it.

    Attributes:
        size_bytes: how much.
        after, before: kernels by index; it is idle behind the one and until the other runs; None for the program's ends.
    """

    size_bytes: int
    after: int | None = None
    before: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """An order and what follows from it.

    Attributes:
        order: indices of kernels.
        start, end: of each array, positions in ``order``, both included; one that never exists ends before it starts.
        lent: indices of the arrays that lie in slots.
        peak: position at which the most bytes exist.
        peak_bytes: how many.
    """

    order: tuple[int, ...]
    start: tuple[int, ...]
    end: tuple[int, ...]
    lent: frozenset[int]
    peak: int
    peak_bytes: int


def best_schedule(
    kernels: Sequence[Kernel], arrays: Sequence[Array], results: Sequence[int], slots: Sequence[Slot]
) -> Schedule:
    """The order that XLA takes: the one of least memory before copies are put in, the list where they are equal.

    Args:
        kernels, arrays: the program.
        results: the arrays that are results of the program, in its order.
        slots: idle memory.
    """
    copied = {array for kernel in kernels if kernel.copies for array in kernel.writes}
    without = [replace(array, size_bytes=0) if index in copied else array for index, array in enumerate(arrays)]
    orders = (list_order(kernels, arrays), depth_first_order(kernels, results))
    chosen = min(orders, key=lambda order: follow(kernels, without, order).peak_bytes)
    return follow(kernels, arrays, _with_copies_early(kernels, chosen), slots)


def list_order(kernels: Sequence[Kernel], arrays: Sequence[Array]) -> list[int]:
    """The kernels by how much memory each frees. Linear in the graph but for a heap.

    What a kernel frees is reckoned when it becomes ready.
    """
    writer = {array: index for index, kernel in enumerate(kernels) for array in kernel.writes}
    reads = [tuple(dict.fromkeys(array for array in kernel.reads if array in writer)) for kernel in kernels]
    readers: dict[int, list[int]] = {}
    for index, arrays_read in enumerate(reads):
        for array in arrays_read:
            readers.setdefault(array, []).append(index)
    left = {array: len(found) + arrays[array].stays for array, found in readers.items()}
    waits_for = [len({writer[array] for array in arrays_read}) for arrays_read in reads]
    unblocks = [
        tuple(dict.fromkeys(reader for array in kernel.writes for reader in readers.get(array, ())))
        for kernel in kernels
    ]
    written = [sum(arrays[array].size_bytes for array in kernel.writes) for kernel in kernels]
    ready: list[tuple[bool, int, int, int, int]] = []
    count = 0

    def add(index: int) -> None:
        nonlocal count
        count += 1
        freed = sum(arrays[array].size_bytes for array in reads[index] if left[array] == 1)
        key = (not kernels[index].copies, written[index] - freed, -len(unblocks[index]), -count, index)
        heapq.heappush(ready, key)

    for index, waiting in enumerate(waits_for):
        if not waiting:
            add(index)
    order = []
    while ready:
        index = heapq.heappop(ready)[-1]
        order.append(index)
        for array in reads[index]:
            left[array] -= 1
        for reader in unblocks[index]:
            waits_for[reader] -= 1
            if not waits_for[reader]:
                add(reader)
    return order


def depth_first_order(kernels: Sequence[Kernel], results: Sequence[int]) -> list[int]:
    """Each kernel right behind what it reads, from the results of the program back."""
    writer = {array: index for index, kernel in enumerate(kernels) for array in kernel.writes}
    order: list[int] = []
    entered, left = [False] * len(kernels), [False] * len(kernels)
    for root in [*(writer[array] for array in results if array in writer), *range(len(kernels))]:
        stack = [root]
        while stack:
            index = stack[-1]
            if not entered[index]:
                entered[index] = True
                below = dict.fromkeys(writer[array] for array in kernels[index].reads if array in writer)
                stack.extend(one for one in reversed(below) if not entered[one])
                continue
            stack.pop()
            if not left[index]:
                left[index] = True
                order.append(index)
    return order


def first_in_first_out(kernels: Sequence[Kernel]) -> list[int]:
    """Each kernel in the order in which it became ready."""
    writer = {array: index for index, kernel in enumerate(kernels) for array in kernel.writes}
    below = [{writer[array] for array in kernel.reads if array in writer} for kernel in kernels]
    above: dict[int, list[int]] = {}
    for index, needed in enumerate(below):
        for one in needed:
            above.setdefault(one, []).append(index)
    left = [len(needed) for needed in below]
    order = [index for index, waiting in enumerate(left) if not waiting]
    for index in order:  # grows while it is read
        for reader in above.get(index, ()):
            left[reader] -= 1
            if not left[reader]:
                order.append(reader)
    return order


def _with_copies_early(kernels: Sequence[Kernel], order: Sequence[int]) -> list[int]:
    copying: dict[int, list[int]] = {}
    for index, kernel in enumerate(kernels):
        if kernel.copies:
            copying.setdefault(kernel.reads[0], []).append(index)
    return [
        one
        for index in order
        if not kernels[index].copies
        for one in (index, *(copy for array in kernels[index].writes for copy in copying.get(array, ())))
    ]


def follow(
    kernels: Sequence[Kernel], arrays: Sequence[Array], order: Sequence[int], slots: Sequence[Slot] = ()
) -> Schedule:
    """When each array exists in an order: from its kernel to the last that reads it, under whichever name.

    What is written over an operand begins where that operand ends. What fits into a slot while it is idle lies there.
    """
    start, end = [0] * len(arrays), [-1] * len(arrays)
    for position, index in enumerate(order):
        for array in kernels[index].writes:
            start[array] = end[array] = position
        for read in kernels[index].reads:
            array = read
            end[array] = max(end[array], position)
            while (base := arrays[array].same_as) is not None and base >= 0:
                array = base
                end[array] = max(end[array], position)
    for index, array in enumerate(arrays):
        if array.stays:
            end[index] = len(order) - 1
    taken: set[int] = set()
    for position, index in enumerate(order):
        for array in kernels[index].writes:
            if not arrays[array].takes_over:
                continue
            for operand in kernels[index].reads:
                held = arrays[operand]
                fits = end[operand] == position and held.size_bytes == arrays[array].size_bytes
                if fits and held.lends and not held.stays and held.same_as is None and operand not in taken:
                    taken.add(operand)
                    end[operand] = position - 1
                    break
    lent = _lend(arrays, start, end, order, slots)
    change = [0] * (len(order) + 2)
    for index, array in enumerate(arrays):
        if end[index] >= start[index] and array.same_as is None and index not in lent:
            change[start[index]] += array.size_bytes
            change[end[index] + 1] -= array.size_bytes
    live, most, peak = 0, -1, 0
    for position in range(max(len(order), 1)):
        live += change[position]
        if live > most:
            most, peak = live, position
    return Schedule(order=tuple(order), start=tuple(start), end=tuple(end), lent=lent, peak=peak, peak_bytes=most)


def _lend(
    arrays: Sequence[Array], start: Sequence[int], end: Sequence[int], order: Sequence[int], slots: Sequence[Slot]
) -> frozenset[int]:
    """The arrays that lie in slots: the largest first, each in the smallest slot that is free as long as it exists.

    XLA assigns buffers in that order, and looks for room in what is allocated already before it asks for more
    (`BufferAssigner::AssignSingleHloBuffer` in xla/service/buffer_assignment.cc).
    """
    place = {index: position for position, index in enumerate(order)}
    free = [
        (
            slot.size_bytes,
            place[slot.after] + 1 if slot.after is not None else 0,
            (place[slot.before] if slot.before is not None else len(order)) - 1,
            list[tuple[int, int]](),
        )
        for slot in sorted(slots, key=lambda slot: slot.size_bytes)
    ]
    sizes = [size_bytes for size_bytes, *_ in free]
    movable = [
        index
        for index, array in enumerate(arrays)
        if array.size_bytes and array.same_as is None and not array.stays and end[index] >= start[index]
    ]
    lent = set()
    for index in sorted(movable, key=lambda index: -arrays[index].size_bytes):
        for _, first, last, taken in free[bisect_left(sizes, arrays[index].size_bytes) :]:
            if first > start[index] or end[index] > last:
                continue
            at = bisect_left(taken, (start[index], 0))
            if (at and taken[at - 1][1] >= start[index]) or (at < len(taken) and taken[at][0] <= end[index]):
                continue
            taken.insert(at, (start[index], end[index]))
            lent.add(index)
            break
    return frozenset(lent)
