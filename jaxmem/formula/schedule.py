"""Which arrays are alive when, in the order that XLA takes.

XLA makes several orders and takes the one that needs the least memory (`DefaultMemoryScheduler` in
xla/hlo/transforms/simplifiers/hlo_memory_scheduler.cc).
"""

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from jaxmem.formula.kernels import Array, Kernel, Slot
from jaxmem.formula.orders import depth_first_order, list_order, post_order
from jaxmem.formula.packing import Interval


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """An order and what follows from it.

    Attributes:
        order: indices of kernels.
        start, end: of each array, positions in ``order``, both included; one that never exists ends before it starts.
        lent: indices of the arrays that lie in slots, or where an argument lies.
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Donated:
    """An argument whose memory a result is written to: its size, and the array that is the result."""

    size_bytes: int
    result: int


def best_schedule(
    kernels: Sequence[Kernel],
    arrays: Sequence[Array],
    results: Sequence[int],
    slots: Sequence[Slot],
    *,
    donated: Mapping[int, Donated],
) -> Schedule:
    """The order that XLA takes: the one that needs the least memory, the list where they are equal.

    Args:
        kernels, arrays: the program.
        results: the arrays that are results of the program, in its order.
        slots: idle memory.
        donated: argument → what is written over it.
    """
    orders = (
        list_order(kernels, arrays),
        depth_first_order(kernels, arrays, results),
        post_order(kernels, results),
    )
    counted = _with_state(kernels, arrays, donated)
    chosen = min(orders, key=lambda order: follow(*counted, [len(kernels), *order]).peak_bytes)
    needless = _needless_copies(kernels, arrays, chosen, donated)
    without = [replace(array, same_as=-1) if index in needless else array for index, array in enumerate(arrays)]
    idle = _idle_arguments(kernels, arrays, needless, donated)
    schedule = follow(kernels, without, chosen, (*slots, *idle))
    return replace(schedule, lent=schedule.lent | needless)


def _with_state(
    kernels: Sequence[Kernel], arrays: Sequence[Array], donated: Mapping[int, Donated]
) -> tuple[list[Kernel], list[Array]]:
    """The program as the heap has it that XLA compares orders on: with its state, which a kernel behind all others writes.

    A donated argument ends where it is read last, and the result that goes into its memory is an array of its own from
    where it is made: what shares memory with an argument is written over no operand (`HeapSimulator::RunComputation`).
    """
    over = {one.result for one in donated.values()}
    counted = [
        replace(
            array,
            size_bytes=array.size_bytes or array.result_bytes,
            takes_over=array.takes_over and index not in over,
        )
        for index, array in enumerate(arrays)
    ]
    state = {argument: len(counted) + number for number, argument in enumerate(donated)}
    counted.extend(Array(size_bytes=one.size_bytes, lends=False) for one in donated.values())
    reading = [
        replace(kernel, reads=(*kernel.reads, *(state[argument] for argument in kernel.arguments if argument in state)))
        for kernel in kernels
    ]
    return [*reading, Kernel(operation=-1, reads=(), writes=tuple(state.values()))], counted


def _needless_copies(
    kernels: Sequence[Kernel], arrays: Sequence[Array], order: Sequence[int], donated: Mapping[int, Donated]
) -> frozenset[int]:
    """Copies of arguments that nobody reads after the update: they are the arguments themselves."""
    place = {index: position for position, index in enumerate(order)}
    last: dict[int, int] = {}
    written: dict[int, int] = {}
    for index, kernel in enumerate(kernels):
        for array in kernel.reads:
            last[array] = max(last.get(array, -1), place[index])
        for array in kernel.writes:
            written[array] = place[index]
    return frozenset(
        index
        for index, array in enumerate(arrays)
        if array.copy_of is not None and last[index] <= written[donated[array.copy_of].result]
    )


def _idle_arguments(
    kernels: Sequence[Kernel], arrays: Sequence[Array], needless: frozenset[int], donated: Mapping[int, Donated]
) -> list[Slot]:
    """The memory of donated arguments that the update does not read, from who reads them last to the update.

    It is one allocation with the result, which XLA lets others lie in meanwhile (`BufferAssigner::MaybeAssignBuffer`).
    """
    readers: dict[int, list[int]] = {}
    writer: dict[int, int] = {}
    for index, kernel in enumerate(kernels):
        read_through = (arrays[array].copy_of for array in kernel.reads if array in needless)
        for argument in (*kernel.arguments, *read_through):
            if argument is not None:
                readers.setdefault(argument, []).append(index)
        for array in kernel.writes:
            writer[array] = index
    return [
        Slot(size_bytes=one.size_bytes, after=tuple(readers.get(argument, ())), before=writer[one.result])
        for argument, one in donated.items()
        if one.result in writer and writer[one.result] not in readers.get(argument, ())
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
            max((place[index] for index in slot.after), default=-1) + 1,
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
