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
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from jaxmem.formula.packing import Interval
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
        result_bytes: of a result of the program, what it takes beside the temporaries.
        value: the value of the layer table that it is; None for what the backend adds.
        addition: what the backend adds; None for a value.
        stays: nothing frees it.
        takes_over: it may be written over an operand of its size that ends there.
        lends: it may be written over. One of several results never is: in XLA's simulated heap only who reads an instruction
            itself may write over what it makes, not who reads one element of a tuple (`HeapSimulator::RunComputation`).
        over: the array that a library adds to, and writes over if nothing else reads it.
        same_as: the array whose memory it is, under another name and perhaps in another shape; -1 where that is an argument's.
            Schedulers count it as an array nevertheless.
    """

    size_bytes: int
    result_bytes: int = 0
    value: int | None = None
    addition: Addition | None = None
    stays: bool = False
    takes_over: bool = False
    lends: bool = True
    over: int | None = None
    same_as: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernel:
    """What the device runs at once.

    Attributes:
        operation: index of the operation of the layer table that it is named after.
        reads, writes: indices of arrays.
        copies: it copies the one array that it reads, and was put in after the kernels had their order.
        arguments: values that it reads and that are arguments of the program.
    """

    operation: int
    reads: tuple[int, ...]
    writes: tuple[int, ...]
    copies: bool = False
    arguments: tuple[int, ...] = ()


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
        intervals: what has to be placed: arrays that lie in no slot, those written over one another as one.
    """

    order: tuple[int, ...]
    start: tuple[int, ...]
    end: tuple[int, ...]
    lent: frozenset[int]
    peak: int
    peak_bytes: int
    intervals: tuple[Interval, ...]


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
    orders = (
        list_order(kernels, arrays),
        depth_first_order(kernels, arrays, results),
        post_order(kernels, results),
    )
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


def depth_first_order(kernels: Sequence[Kernel], arrays: Sequence[Array], results: Sequence[int]) -> list[int]:
    """Each kernel right behind what it reads, from the results of the program back.

    What has more readers besides the one that is being made ready comes first, all that it is made from included; equals by
    the bytes of all that (`DFSMemoryScheduler`).
    """
    weigh = _weights(kernels, arrays)
    writer = _writers(kernels)
    return _depth_first(kernels, results, lambda found: sorted(found, key=lambda array: weigh[writer[array]]))


def post_order(kernels: Sequence[Kernel], results: Sequence[int]) -> list[int]:
    """Each kernel right behind what it reads, in the order in which it reads (`PostOrderScheduler`)."""
    return _depth_first(kernels, results, list)


def _depth_first(
    kernels: Sequence[Kernel], results: Sequence[int], arrange: Callable[[Iterable[int]], Iterable[int]]
) -> list[int]:
    writer = _writers(kernels)
    order: list[int] = []
    entered, left = [False] * len(kernels), [False] * len(kernels)

    def in_turn(found: Iterable[int]) -> list[int]:
        return list(dict.fromkeys(writer[array] for array in arrange([one for one in found if one in writer])))

    for root in [*in_turn(results), *range(len(kernels))]:
        stack = [root]
        while stack:
            index = stack[-1]
            if not entered[index]:
                entered[index] = True
                stack.extend(one for one in reversed(in_turn(kernels[index].reads)) if not entered[one])
                continue
            stack.pop()
            if not left[index]:
                left[index] = True
                order.append(index)
    return order


def _writers(kernels: Sequence[Kernel]) -> dict[int, int]:
    return {array: index for index, kernel in enumerate(kernels) for array in kernel.writes}


def _weights(kernels: Sequence[Kernel], arrays: Sequence[Array]) -> list[tuple[int, int]]:
    """Of each kernel, below 0: readers more than one, and bytes; its own and those of all that it is made from.

    What is reached on two ways is counted twice, up to the number of all kernels and arguments and the bytes of all. One of
    several results counts as an instruction of its own that takes its kernel's place: its readers do not count, but the
    results do.
    """
    writer = _writers(kernels)
    readers: dict[int, int] = {}
    argument_readers: dict[int, int] = {}
    for kernel in kernels:
        for array in dict.fromkeys(kernel.reads):
            readers[array] = readers.get(array, 0) + 1
        for argument in dict.fromkeys(kernel.arguments):
            argument_readers[argument] = argument_readers.get(argument, 0) + 1
    most = len(kernels) + len(argument_readers)
    extra, size = [0] * len(kernels), [0] * len(kernels)
    total = 0
    for index in _depth_first(kernels, (), list):
        kernel = kernels[index]
        read = [array for array in kernel.writes if readers.get(array) or arrays[array].stays]
        if len(kernel.writes) > 1 or not all(arrays[array].lends for array in kernel.writes):
            own = len(read) - 1
        else:
            own = sum(readers.get(array, 0) + arrays[array].stays for array in read) - 1
        made = sum(arrays[array].size_bytes or arrays[array].result_bytes for array in kernel.writes)
        total += made
        below = [writer[array] for array in dict.fromkeys(kernel.reads) if array in writer]
        others = [argument_readers[argument] - 1 for argument in dict.fromkeys(kernel.arguments)]
        extra[index] = min(max(own, 0) + sum(extra[one] for one in below) + sum(others), most)
        size[index] = min(made + sum(size[one] for one in below), total)
    return [(-users, -size_bytes) for users, size_bytes in zip(extra, size, strict=True)]


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
    place: dict[int, int] = {}
    for position, index in enumerate(order):
        for array in kernels[index].writes:
            over = arrays[array].over
            if over is not None and end[over] == position and not arrays[over].stays:
                end[over] = position - 1
                place[array] = place.get(over, over)
            if not arrays[array].takes_over:
                continue
            for operand in kernels[index].reads:
                held = arrays[operand]
                fits = end[operand] == position and held.size_bytes == arrays[array].size_bytes
                if fits and held.lends and not held.stays and held.same_as is None and operand not in taken:
                    taken.add(operand)
                    end[operand] = position - 1
                    place[array] = place.get(operand, operand)
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
    return Schedule(
        order=tuple(order),
        start=tuple(start),
        end=tuple(end),
        lent=lent,
        peak=peak,
        peak_bytes=most,
        intervals=_intervals(kernels, arrays, order, end, lent, place),
    )


def _intervals(
    kernels: Sequence[Kernel],
    arrays: Sequence[Array],
    order: Sequence[int],
    end: Sequence[int],
    lent: frozenset[int],
    place: Mapping[int, int],
) -> tuple[Interval, ...]:
    """When each place among the temporaries is taken, counted in the events of XLA's simulated heap.

    An event is an array that begins or one that ends. What a kernel writes begins before what it reads for the last time ends.

    Args:
        end: of each array.
        lent: arrays that lie elsewhere.
        place: array → the one whose place it has taken over.
    """
    dying: dict[int, list[int]] = {}
    first: dict[int, int] = {}
    last: dict[int, int] = {}
    clock = 0
    for position, index in enumerate(order):
        for array in kernels[index].writes:
            if arrays[array].size_bytes and arrays[array].same_as is None and array not in lent:
                first.setdefault(place.get(array, array), clock)
                dying.setdefault(max(end[array], position), []).append(array)
                clock += 1
        for array in dying.get(position, ()):
            last[place.get(array, array)] = clock
            clock += 1
    return tuple(
        Interval(size_bytes=arrays[array].size_bytes, start=begun, end=last[array]) for array, begun in first.items()
    )


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
