"""In which order the kernels run: XLA's schedulers on the formula's own kernels.

- The list: of the instructions that are ready, the one after which the least memory is in use, by the bytes of the operands
  that it reads last, less the bytes that it writes. Equals go to the one with more readers, then to the one that became ready
  last (`ListScheduler` in xla/hlo/transforms/simplifiers/hlo_memory_scheduler.cc).
- Depth first: each kernel right behind what it reads, from the results of the program back (`DFSMemoryScheduler`,
  `PostOrderScheduler`).
- First in, first out: what is ready first, so that the threads of a CPU have much to do at a time (`BFScheduler`).

Arguments cost nothing here. A result costs what it takes, although it is written over an argument in the end: an update that
writes three arrays for a gradient that it frees is put off, unless something else costs more.
"""

import heapq
from collections.abc import Callable, Collection, Iterable, Sequence
from math import inf

from jaxmem.formula.kernels import Array, Kernel

POINTER_BYTES = 8
"""Of an entry of a table of results."""


def list_order(kernels: Sequence[Kernel], arrays: Sequence[Array]) -> list[int]:
    """The kernels by how much memory each frees. Linear in the graph but for a heap.

    A kernel with several results, or one that is a call of a library, writes a table of their addresses as well, and each
    result is taken out of the table by an instruction of its own: until then nobody who reads it is ready, and until all are
    taken out none of them can be the last that is read. What frees memory once others have run is reckoned again when an
    array that it reads has one reader left.
    """
    return _List(kernels, arrays).order()


class _List:
    """The instructions of the list: the kernels by index, and behind them those that take a result out of a table."""

    def __init__(self, kernels: Sequence[Kernel], arrays: Sequence[Array]) -> None:
        self.size = [array.size_bytes or array.result_bytes for array in arrays]
        self.kernels = len(kernels)
        self.written: list[int] = [sum(self.size[array] for array in kernel.writes) for kernel in kernels]
        self.is_number = [
            len(kernel.writes) == 1 and arrays[kernel.writes[0]].is_number and not is_table(kernel, arrays)
            for kernel in kernels
        ]
        maker = writers(kernels)
        read = {array for kernel in kernels for array in kernel.reads}
        self.uses: list[tuple[int, ...]] = [
            tuple(dict.fromkeys(array for array in kernel.reads if array in maker)) for kernel in kernels
        ]
        below: list[list[int]] = []
        handed_out: dict[int, int] = {}
        for index, kernel in enumerate(kernels):
            if not is_table(kernel, arrays):
                continue
            table = len(self.size)
            self.size.append(POINTER_BYTES * max(len(kernel.writes), 2))
            self.written[index] += self.size[table]
            for array in kernel.writes:
                if array in read or arrays[array].stays:
                    handed_out[array] = len(self.uses)
                    self.uses.append((*kernel.writes, table))
                    self.written.append(0)
                    self.is_number.append(arrays[array].is_number)
                    below.append([index])
        below[:0] = [[handed_out.get(array, maker[array]) for array in uses] for uses in self.uses[: len(kernels)]]
        self.waits_for = [len(set(makers)) for makers in below]
        self.unblocks: list[list[int]] = [[] for _ in below]
        for index, makers in enumerate(below):
            for one in dict.fromkeys(makers):
                self.unblocks[one].append(index)
        self.left = [0] * len(self.size)
        self.readers: list[list[int]] = [[] for _ in self.size]
        for index, uses in enumerate(self.uses):
            for array in uses:
                self.left[array] += 1
                self.readers[array].append(index)
        for index, array in enumerate(arrays):
            self.left[index] += array.stays
        self.ready: list[tuple[tuple[float, int], int, int]] = []
        self.entered: dict[int, tuple[tuple[float, int], int]] = {}
        self.count = 0

    def cost(self, index: int) -> tuple[float, int]:
        if self.is_number[index]:
            return -inf, 0  # a number is cheap wherever it is computed, and near its readers it may stay in a register
        freed = sum(self.size[array] for array in self.uses[index] if self.left[array] == 1)
        return self.written[index] - freed, -len(self.unblocks[index])

    def enter(self, index: int) -> None:
        cost = self.cost(index)
        if index in self.entered and self.entered[index][0] == cost:
            return
        self.count -= 1
        self.entered[index] = cost, self.count
        heapq.heappush(self.ready, (cost, self.count, index))

    def order(self) -> list[int]:
        for index, waiting in enumerate(self.waits_for):
            if not waiting:
                self.enter(index)
        order = []
        while self.ready:
            cost, count, index = heapq.heappop(self.ready)
            if self.entered.get(index) != (cost, count):
                continue  # reckoned again since
            del self.entered[index]
            if index < self.kernels:
                order.append(index)
            freed_soon = []
            for array in self.uses[index]:
                self.left[array] -= 1
                if self.left[array] == 1:
                    freed_soon.append(array)
            for reader in self.unblocks[index]:
                self.waits_for[reader] -= 1
                if not self.waits_for[reader]:
                    self.enter(reader)
            for reader in dict.fromkeys(reader for array in freed_soon for reader in self.readers[array]):
                if reader in self.entered:
                    self.enter(reader)
        return order


def is_table(kernel: Kernel, arrays: Sequence[Array]) -> bool:
    """Whether what a kernel writes is a table of several arrays: of its own results, or of a library's result and workspace."""
    return len(kernel.writes) > 1 or any(arrays[array].of_library for array in kernel.writes)


def depth_first_order(kernels: Sequence[Kernel], arrays: Sequence[Array], results: Sequence[int]) -> list[int]:
    """Each kernel right behind what it reads, from the results of the program back.

    What has more readers besides the one that is being made ready comes first, all that it is made from included; equals by
    the bytes of all that (`DFSMemoryScheduler`).
    """
    weigh = _weights(kernels, arrays, results)
    writer = writers(kernels)
    return _depth_first(kernels, results, lambda found: sorted(found, key=lambda array: weigh[writer[array]]))


def post_order(kernels: Sequence[Kernel], results: Sequence[int]) -> list[int]:
    """Each kernel right behind what it reads, in the order in which it reads (`PostOrderScheduler`)."""
    return _depth_first(kernels, results, list)


def _depth_first(
    kernels: Sequence[Kernel], results: Sequence[int], arrange: Callable[[Iterable[int]], Iterable[int]]
) -> list[int]:
    writer = writers(kernels)
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


def writers(kernels: Sequence[Kernel]) -> dict[int, int]:
    """Array → the kernel that writes it."""
    return {array: index for index, kernel in enumerate(kernels) for array in kernel.writes}


def _weights(kernels: Sequence[Kernel], arrays: Sequence[Array], results: Sequence[int]) -> list[tuple[int, int]]:
    """Of each kernel, below 0: readers more than one, and bytes; its own and those of all that it is made from.

    What is reached on two ways is counted twice, up to the number of all kernels and arguments and the bytes of all. One of
    several results counts as an instruction of its own that takes its kernel's place: its readers do not count, but the
    results do.
    """
    writer = writers(kernels)
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
    for index in post_order(kernels, results):
        kernel = kernels[index]
        read = [array for array in kernel.writes if readers.get(array) or arrays[array].stays]
        if is_table(kernel, arrays):
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


def first_in_first_out(
    kernels: Sequence[Kernel], library: Collection[int] = (), searches: Collection[int] = ()
) -> list[int]:
    """Each kernel in the order in which it became ready.

    Arguments are instructions, too, and are ready in their order: what reads arguments alone is ready with the last of them.
    Of several that become ready with one kernel, those of the library are first, and the later in the program before the
    earlier: XLA makes fusions from the end of the program to its beginning, the library's before its own, and each of them is
    the last in the list of those who read an operand. What finds the maxima of a pool again is put behind all of them.

    Args:
        kernels: the program.
        library: indices of kernels that a library runs.
        searches: of kernels that find the maxima of a pool again.
    """
    writer = writers(kernels)
    below = [{writer[array] for array in kernel.reads if array in writer} for kernel in kernels]
    above: dict[int, list[int]] = {}
    for index in sorted(range(len(kernels)), key=lambda index: (index in searches, index not in library, -index)):
        for one in below[index]:
            above.setdefault(one, []).append(index)
    left = [len(needed) for needed in below]
    order = [index for index, waiting in enumerate(left) if not waiting]
    order.sort(key=lambda index: max(kernels[index].arguments, default=-1))
    for index in order:  # grows while it is read
        for reader in above.get(index, ()):
            left[reader] -= 1
            if not left[reader]:
                order.append(reader)
    return order


def unordered(kernels: Sequence[Kernel], pairs: Iterable[tuple[int, int]]) -> set[tuple[int, int]]:
    """Of pairs of kernels, those of which the second may run before the first: it waits for nothing that the first writes.

    Args:
        kernels: the program.
        pairs: indices of kernels; there are few of them, or the time grows with their number times that of kernels.
    """
    asked = list(dict.fromkeys(pairs))
    bit = {first: number for number, first in enumerate(dict.fromkeys(first for first, _ in asked))}
    writer = writers(kernels)
    behind = [0] * len(kernels)
    for index in post_order(kernels, ()):
        for array in kernels[index].reads:
            if array in writer:
                behind[index] |= behind[writer[array]]
        if index in bit:
            behind[index] |= 1 << bit[index]
    return {(first, second) for first, second in asked if not behind[second] >> bit[first] & 1}
