"""What the library holds while it runs several operations in one fusion, beyond the operands and the result.

(`ynnpack/subgraph/runtime.cc`, `stencil_copy.cc` and `dot.cc` in XNNPACK.)

- What a convolution, a product, a reduction or a window makes is a buffer, from there to the last that reads it. What is
  computed element by element is written over such a buffer where nothing else reads that, and it takes as many bytes. The
  last one's is the result.
- Packed kernels stay: the library packs them all before it begins, and gives them back behind a value that several read.
- What flows into nothing but a mean over the image is made a few rows at a time, as many as 128 KiB hold, and what flows into
  a window that is the result, an image at a time. A convolution of several tasks has loops of its own, and is whole; where
  those tasks are columns of the image, the convolution before it is made inside them.
"""

import heapq
from collections.abc import Mapping, Sequence

from jaxmem.formula.backends.cpu_library import ConvolutionWork, product_bytes, read_convolution
from jaxmem.formula.equal import Equals
from jaxmem.formula.fusion import CONTRACTIONS, REDUCTIONS, WINDOWS
from jaxmem.layer_table import LayerTable, Operation

TILE_BYTES = 128 << 10
"""What a loop of the library takes at a time."""


class FusedWork:
    """The operations of one fusion; values are known by the first that holds their numbers.

    Args:
        operations: their indices; the last one makes the result.
        threads: of the pool.
        features: extensions of the processor, as Linux names them.
    """

    def __init__(
        self, table: LayerTable, equals: Equals, operations: Sequence[int], *, threads: int, features: frozenset[str]
    ) -> None:
        self.table, self.equals, self.threads, self.features = table, equals, threads, features
        self.result = table.operations[operations[-1]].results[0]
        self.order = self._post_order({table.operations[index].results[0]: index for index in operations})
        self.made = {operation.results[0]: place for place, operation in enumerate(self.order)}
        self.reads = [
            [first for operand in dict.fromkeys(operation.operands) if (first := equals.of[operand]) in self.made]
            for operation in self.order
        ]
        self.readers: dict[int, list[int]] = {value: [] for value in self.made}
        for place, values in enumerate(self.reads):
            for value in dict.fromkeys(values):
                self.readers[value].append(place)
        self.convolutions: dict[int, ConvolutionWork] = {
            operation.results[0]: work
            for operation in self.order
            if operation.primitive == "conv_general_dilated"
            and (work := read_convolution(table, operation, features)) is not None
        }
        self.by_image = self._made_by_image()
        self.inside = self._made_inside()
        self.rows = self._made_by_rows()
        self.holder = self._holders()

    def _post_order(self, indices: Mapping[int, int]) -> list[Operation]:
        """The operations, each behind what it reads, from the result back and the first operand first: XLA's order."""
        order, entered = list[Operation](), set[int]()
        stack = [(self.result, False)]
        while stack:
            value, is_left = stack.pop()
            operation = self.table.operations[indices[value]]
            if is_left:
                order.append(operation)
            elif value not in entered:
                entered.add(value)
                stack.append((value, True))
                read = (self.equals.of[operand] for operand in operation.operands)
                stack.extend((one, False) for one in reversed([*read]) if one in indices and one not in entered)
        return order

    def most_bytes(self) -> int:
        """The most that is held at once."""
        ends = self._ends()
        within = set(self.inside.values())
        live = packed = most = 0
        ending: list[tuple[int, int]] = []
        for place, operation in enumerate(self.order):
            value = operation.results[0]
            while ending and ending[0][0] < place:
                live -= heapq.heappop(ending)[1]
            if self.holder.get(value) == value and value != self.holder.get(self.result):
                size = 0 if value in self.by_image or value in within else self._rows_bytes(value)
                live += size
                heapq.heappush(ending, (ends[value], size))
            kept, held = self._working_bytes(operation, within)
            packed += kept
            most = max(most, live + packed + held)
            if len(self.readers[value]) > 1 and _is_elementwise(operation):
                packed = 0
        return most

    def _ends(self) -> dict[int, int]:
        """Buffer → the place of the last that reads it, through what is made where it is read."""
        within = set(self.inside.values())
        last = dict(self.made)
        for place in reversed(range(len(self.order))):
            operation = self.order[place]
            whole = _is_whole(operation) and operation.results[0] not in within
            until = place if whole else max(place, last[operation.results[0]])
            for value in self.reads[place]:
                last[value] = max(last[value], until)
        ends: dict[int, int] = {}
        for value, holder in self.holder.items():
            ends[holder] = max(ends.get(holder, 0), last[value])
        return ends

    def _holders(self) -> dict[int, int]:
        """Value → the one in whose buffer it is; none for what has no buffer."""
        holder: dict[int, int] = {}
        for place, operation in enumerate(self.order):
            value = operation.results[0]
            if _is_whole(operation):
                holder[value] = value
            elif operation.primitive != "broadcast_in_dim":
                elements = self.table.values[value].elements
                # What is spread out is read where it stands.
                held = [
                    each
                    for each in self.reads[place]
                    if each in holder and self.table.values[each].elements == elements
                ]
                size = self.table.values[value].logical_bytes
                over = [
                    each
                    for each in held
                    if self.readers[each] == [place] and self.table.values[each].logical_bytes == size
                ]
                if held:
                    holder[value] = holder[over[0]] if over else value
        return holder

    def _made_by_image(self) -> frozenset[int]:
        found: set[int] = set()
        for operation in reversed(self.order):
            value = operation.results[0]
            behind = [self.order[place].results[0] in found for place in self.readers[value]]
            follows = operation.primitive in WINDOWS if value == self.result else bool(behind) and all(behind)
            work = self.convolutions.get(value)
            makes = work.is_one_task if work else operation.primitive in WINDOWS or _is_elementwise(operation)
            if follows and makes:
                found.add(value)
        return frozenset(found)

    def _made_inside(self) -> dict[int, int]:
        """Convolution → the one before it that is made inside its tasks, with what is computed between them."""
        found: dict[int, int] = {}
        within: set[int] = set()
        for value, work in reversed(self.convolutions.items()):
            if work.groups > 1 or work.column_tasks > 1 or not (work.row_tasks > 1 or value in within):
                continue
            before = self._only(self.reads[self.made[value]])
            while before is not None and _is_elementwise(self.order[self.made[before]]):
                before = self._only(self.reads[self.made[before]]) if len(self.readers[before]) == 1 else None
            if before not in self.convolutions or len(self.readers[before]) > 1:
                continue
            if self.convolutions[before].groups == 1:
                found[value] = before
                within.add(before)
        return found

    @staticmethod
    def _only(values: Sequence[int]) -> int | None:
        return values[0] if len(values) == 1 else None

    def _made_by_rows(self) -> dict[int, int]:
        """Value → how many of its rows exist at a time; none for what is whole."""
        rows: dict[int, int] = {}
        whole = {self.result}
        for place in reversed(range(len(self.order))):
            operation = self.order[place]
            value = operation.results[0]
            work = self.convolutions.get(value)
            if work is not None and not work.is_one_task:
                whole.add(value)
            made = None if value in whole else rows.get(value)
            for read in self.reads[place]:
                shape = self.table.values[read].shape
                needed = None
                if operation.primitive in REDUCTIONS and 1 in operation.size("axes") and len(shape) > 2:
                    row_bytes = self.table.values[read].logical_bytes // max(shape[0] * shape[1], 1)
                    needed = max(1, min(shape[1], TILE_BYTES // max(row_bytes, 1)))
                elif made is not None and work is not None:
                    needed = (made - 1) * work.strides[0] + (work.window[0] - 1) * work.dilations[0] + 1
                elif made is not None and _is_elementwise(operation) and shape == self.table.values[value].shape:
                    needed = made
                if needed is None:
                    whole.add(read)
                else:
                    rows[read] = max(rows.get(read, 0), needed)
        return {value: count for value, count in rows.items() if value not in whole}

    def _rows_bytes(self, value: int) -> int:
        held = self.table.values[value]
        if value not in self.rows:
            return held.logical_bytes
        height = max(held.shape[1], 1)
        return held.logical_bytes * min(self.rows[value], height) // height

    def _working_bytes(self, operation: Operation, within: set[int]) -> tuple[int, int]:
        """What an operation leaves for those behind it, and what it holds while it runs."""
        value = operation.results[0]
        work = self.convolutions.get(value)
        if work is not None:
            return work.packed_bytes, self._convolution_bytes(value, work, within)
        if operation.primitive == "dot_general":
            return 0, product_bytes(self.table, operation, threads=self.threads, features=self.features)
        if operation.primitive in WINDOWS:
            read = self._only(self.reads[self.made[value]])
            if read is None or not _is_elementwise(self.order[self.made[read]]):
                return 0, 0
            held = self.table.values[read]
            images = max(held.shape[0], 1)
            size = held.logical_bytes // images * min(images, self.threads)
            return (size, 0) if value in self.by_image else (0, size)
        return 0, 0

    def _convolution_bytes(self, value: int, work: ConvolutionWork, within: set[int]) -> int:
        if value in self.by_image or value in within:
            return 0  # counted with the one that it is made for
        at_work = min(self.threads + 1, min(work.row_tasks, self.threads) * min(work.column_tasks, self.threads))
        if work.groups > 1:
            return work.grouped_bytes * at_work
        read = self._input(value)
        own = read is not None and read in self.holder
        if read is not None and own and not work.is_padded and _is_whole(self.order[self.made[read]]):
            return 0  # read where it stands
        if value in self.rows:
            return sum(
                self._task_bytes(each, 0, self.convolutions[each].rows)
                for each in self.convolutions
                if each in self.rows and self.made[each] >= self.made[value]
            )
        if own and work.is_one_task:
            return 0  # written into the padded buffer
        starts = range(0, min(work.rows, 64 * work.row_split), work.row_split)
        tasks = [self._task_bytes(value, start, min(start + work.row_split, work.rows)) for start in starts]
        return sum(heapq.nlargest(at_work, tasks * min(work.column_tasks, 64)))

    def _input(self, value: int) -> int | None:
        """What a convolution reads, if the fusion makes it."""
        first = self.equals.of[self.order[self.made[value]].operands[0]]
        return first if first in self.made else None

    def _task_bytes(self, value: int, start: int, stop: int) -> int:
        """What a task holds that makes some columns, with the convolution that is made inside it."""
        work, read = self.convolutions[value], self._input(value)
        own = read is not None and read in self.holder
        size = 0
        if read is None or not own or work.is_padded or _is_elementwise(self.order[self.made[read]]):
            size = work.input_bytes(stop - start, gathers=not own, height=self.rows.get(value))
        before = self.inside.get(value)
        if before is not None:
            start, stop = work.reads(start, stop)
            size += self.convolutions[before].column_bytes * (stop - start) + self._task_bytes(before, start, stop)
        return size


def _is_whole(operation: Operation) -> bool:
    """Whether a result is a buffer of its own."""
    return operation.primitive in CONTRACTIONS or operation.primitive in REDUCTIONS or operation.primitive in WINDOWS


def _is_elementwise(operation: Operation) -> bool:
    return operation.primitive != "broadcast_in_dim" and not _is_whole(operation)


def fused_bytes(
    table: LayerTable,
    equals: Equals,
    fusions: Sequence[Sequence[int]],
    *,
    threads: int,
    features: frozenset[str],
) -> Mapping[int, int]:
    """Result of a fusion of several operations → bytes that the library holds while it runs it."""
    return {
        table.operations[operations[-1]].results[0]: FusedWork(
            table, equals, operations, threads=threads, features=features
        ).most_bytes()
        for operations in fusions
        if len(operations) > 1
    }
