"""What YNNPACK holds in memory while it runs one fused computation.

No number here is fitted to a measured size of a process; the constants of a kernel (`jaxmem.hidden.kernels`) are those of the
library itself, and the rules were checked against the sizes of single allocations.

What a fusion holds (`ynnpack/subgraph/{dot,copy,stencil_copy,runtime}.cc` in XNNPACK, the emitter in XLA):

- **Results.** What a convolution, dot, reduction or window makes is a whole buffer, until its last use; the root is
  written straight into the fusion's own output. An elementwise operation works in place on such a buffer. Broadcasts,
  reshapes and constants take none.
- **Rows.** What flows into nothing but a reduction over its rows (the mean over an image) is made a few rows at a time, all
  the way back to the fusion's operands: a convolution on that way reads as many rows as its window has besides.
- **Images.** What flows into nothing but windows that make the fusion's result, likewise, is made an image at a time, on as
  many threads; only what a window reads is then held, an image for each.
- **Loops of their own.** A convolution that is more than one task is no part of either: it is whole. If its tasks are over
  columns of the image alone, the convolutions before it run inside them, on the columns that each task reads.
- **Packed kernels.** The kernel of a convolution is copied into blocks of columns, the last block filled up, and stays
  until the next whole value that several operations read, or the end. A dot packs the columns of each task, of all products
  of a batch at once. Where the left side has few rows, nothing is packed.
- **Tiles.** A convolution runs as tasks over blocks of output channels and of the last spatial dimension. Every task
  holds its own copy of the input it reads: padded, or gathered window by window (which multiplies it by the window's
  size) where there is no padding and the input is the fusion's own operand. A window over an elementwise result holds
  that result one image at a time.
- **Groups.** A convolution in several groups has tasks over blocks of one group's output channels alone. Each holds the
  padded input and, beside it, all of it gathered window by window. Where every channel is a group of its own
  (depthwise), the windows are read where they stand, and only the padded input is held.
- **Threads.** A parallel loop has at most as many tasks at work as the pool has threads; with two nested loops, the
  caller works too while it waits (`parallel_for` in slinky's base/thread_pool.cc).
"""

import heapq
from math import prod

from jaxmem.hidden.convolutions import Convolution, read_convolution
from jaxmem.hidden.kernels import divide
from jaxmem.xla.hlo import Computation, Instruction, Module, Shape

TILE_BYTES = 128 << 10
"""What a loop takes at a time (``make_split_factors`` in `ynnpack/subgraph/slinky.cc`)."""

_VIRTUAL = frozenset({"parameter", "constant", "broadcast", "bitcast", "reshape", "iota", "slice"})
WHOLE = frozenset({"convolution", "dot", "reduce", "reduce-window", "transpose", "concatenate"})
"""Operations whose result is a buffer of its own."""


class FusedBody:
    """The memory of one fused computation, operation by operation.

    Args:
        workers: threads of the pool.
        features: the processor's extensions, as Linux names them.
    """

    def __init__(self, module: Module, computation: Computation, *, workers: int, features: frozenset[str]) -> None:
        self.module = module
        self.features = features
        self.order = [module.instructions[i] for i in computation.instruction_ids]
        self.root_id = computation.root_id
        self.workers = workers
        self.position = {each.id: number for number, each in enumerate(self.order)}
        self.readers: dict[int, list[Instruction]] = {each.id: [] for each in self.order}
        for each in self.order:
            for operand in dict.fromkeys(each.operand_ids):
                self.readers.setdefault(operand, []).append(each)
        read = ((each.id, read_convolution(module, each, features)) for each in self.order)
        self.convolutions = {identifier: one for identifier, one in read if one is not None}
        # What is made one image at a time, in the loops of the window that reads it.
        self.by_image = self._made_by_image()
        # Convolution to the one before it that runs inside its tasks.
        self.inside = self._runs_inside()
        self.runs_inside = frozenset(self.inside.values())
        self.last_use = self._last_uses()
        # How many rows (dimension 1) of a value exist at a time; absent where all of them do.
        self.rows = self._rows_at_a_time()
        # Instruction to the one whose buffer its value is in; absent where it has none of its own.
        self.storage = self._storage()
        # Of a convolution made a few rows at a time: its input and that of those behind it, which wait for it.
        self.held_in_rows = self._held_in_rows()

    def most_bytes(self) -> int:
        """The most that is held at once."""
        ends = dict.fromkeys(self.storage.values(), 0)
        for instruction_id, holder in self.storage.items():
            ends[holder] = max(ends[holder], self.last_use[instruction_id])
        external = self.storage.get(self.root_id)
        ending: list[tuple[int, int]] = []
        live = packed = most = 0
        for number, instruction in enumerate(self.order):
            while ending and ending[0][0] < number:
                live -= heapq.heappop(ending)[1]
            if self.storage.get(instruction.id) == instruction.id and instruction.id != external:
                size = self._share(instruction)
                live += size
                heapq.heappush(ending, (ends[instruction.id], size))
            kept, passing = self._working_bytes(instruction)
            packed += kept
            most = max(most, live + packed + passing)
            if self._ends_a_scope(instruction):
                packed = 0
        return most

    def _ends_a_scope(self, instruction: Instruction) -> bool:
        """Whether packed kernels are given back: after a whole value that several operations read, as residuals are."""
        return len(self.readers[instruction.id]) > 1 and self._is_elementwise(instruction)

    def _made_by_image(self) -> frozenset[int]:
        found: set[int] = set()
        for instruction in reversed(self.order):
            if instruction.id == self.root_id:
                follows = instruction.opcode == "reduce-window"
            else:
                readers = self.readers[instruction.id]
                follows = bool(readers) and all(each.id in found for each in readers)
            convolution = self.convolutions.get(instruction.id)
            makes = (
                convolution.is_one_task
                if convolution is not None
                else instruction.opcode == "reduce-window" or self._is_elementwise(instruction)
            )
            if follows and makes:
                found.add(instruction.id)
        return frozenset(found)

    def _runs_inside(self) -> dict[int, int]:
        found: dict[int, int] = {}
        within: set[int] = set()
        for instruction in reversed(self.order):
            convolution = self.convolutions.get(instruction.id)
            if convolution is None or convolution.groups > 1 or not convolution.instruction.attributes.window:
                continue
            in_loops = convolution.product.row_tasks > 1 or instruction.id in within
            if convolution.product.column_tasks > 1 or not in_loops:
                continue
            producer = convolution.left
            while self._is_elementwise(producer) and len(self.readers[producer.id]) == 1:
                own = [operand for operand in producer.operand_ids if not self._is_virtual(operand)]
                if len(own) != 1:
                    break
                producer = self.module.instructions[own[0]]
            before = self.convolutions.get(producer.id)
            if before is not None and before.groups == 1 and len(self.readers[producer.id]) == 1:
                found[instruction.id] = producer.id
                within.add(producer.id)
        return found

    def _is_virtual(self, identifier: int) -> bool:
        return self.module.instructions[identifier].opcode in _VIRTUAL

    def _last_uses(self) -> dict[int, int]:
        """The last position that reads each value, directly or through what is computed on the way."""
        last = {each.id: number for number, each in enumerate(self.order)}
        for instruction in reversed(self.order):
            number = self.position[instruction.id]
            # What is no buffer is made where it is read: its operands must live until then.
            whole = instruction.opcode in WHOLE and instruction.id not in self.runs_inside
            until = number if whole else max(number, last[instruction.id])
            for operand in instruction.operand_ids:
                last[operand] = max(last[operand], until)
        return last

    def _rows_at_a_time(self) -> dict[int, int]:
        rows: dict[int, int] = {}
        whole = {self.root_id}
        for instruction in reversed(self.order):
            convolution = self.convolutions.get(instruction.id)
            if convolution is not None and not convolution.is_one_task:
                whole.add(instruction.id)  # it has loops of its own
            made = None if instruction.id in whole else rows.get(instruction.id)
            for operand in instruction.operand_ids:
                shape = self.module.instructions[operand].shape
                if (
                    instruction.opcode == "reduce"
                    and 1 in instruction.attributes.dimensions
                    and len(shape.dimensions) > 2
                ):
                    needed = self._rows_of_a_tile(shape)
                elif made is None:
                    needed = None
                elif instruction.opcode == "convolution" and instruction.attributes.window:
                    first = instruction.attributes.window[0]
                    needed = (made - 1) * first.stride + (first.size - 1) * first.window_dilation + 1
                elif shape.dimensions == instruction.shape.dimensions and self._is_elementwise(instruction):
                    needed = made
                else:
                    needed = None
                if needed is None:
                    whole.add(operand)
                else:
                    rows[operand] = max(rows.get(operand, 0), needed)
        return {instruction_id: count for instruction_id, count in rows.items() if instruction_id not in whole}

    def _held_in_rows(self) -> dict[int, int]:
        held, total = {}, 0
        for convolution in reversed(self.convolutions.values()):
            if convolution.instruction.id in self.rows:
                total += self._task_bytes(convolution, 0, convolution.product.rows)
                held[convolution.instruction.id] = total
        return held

    def _rows_of_a_tile(self, shape: Shape) -> int:
        """Rows that a reduction takes in at a time: as many as fit a tile of 128 KiB, not counting the images."""
        row_bytes = shape.logical_bytes // max(shape.dimensions[0] * shape.dimensions[1], 1)
        return max(1, min(shape.dimensions[1], TILE_BYTES // max(row_bytes, 1)))

    def _share(self, instruction: Instruction) -> int:
        """Bytes of a value that exist at a time; what its reader holds is counted there."""
        size = instruction.shape.logical_bytes
        if instruction.id in self.by_image or instruction.id in self.runs_inside:
            return 0
        rows = self.rows.get(instruction.id)
        if rows is None:
            return size
        height = max(instruction.shape.dimensions[1], 1)
        return size * min(rows, height) // height

    def _storage(self) -> dict[int, int]:
        storage: dict[int, int] = {}
        for instruction in self.order:
            inside = [operand for operand in instruction.operand_ids if operand in storage]
            if instruction.opcode in _VIRTUAL:
                if inside and instruction.opcode in ("bitcast", "reshape"):
                    storage[instruction.id] = storage[inside[0]]
            elif instruction.opcode in WHOLE:
                storage[instruction.id] = instruction.id
            else:
                size = instruction.shape.logical_bytes
                in_place = [
                    operand
                    for operand in inside
                    if self.module.instructions[operand].shape.logical_bytes == size
                    and not self._read_elsewhere(operand, instruction)
                ]
                if in_place:
                    storage[instruction.id] = storage[in_place[0]]
                elif inside:
                    storage[instruction.id] = instruction.id
        return storage

    def _read_elsewhere(self, operand: int, reader: Instruction) -> bool:
        return any(operand in each.operand_ids for each in self.order if each.id != reader.id)

    def _working_bytes(self, instruction: Instruction) -> tuple[int, int]:
        """Bytes that an operation keeps for the operations after it, and bytes that it holds while it runs."""
        convolution = self.convolutions.get(instruction.id)
        if convolution is not None:
            return convolution.packed_bytes, self._convolution_bytes(convolution)
        if instruction.opcode == "dot" and instruction.attributes.dot and len(instruction.operand_ids) == 2:
            return 0, self._dot_bytes(instruction)
        if instruction.opcode == "reduce-window" and instruction.operand_ids:
            size = self._window_bytes(instruction)
            return (size, 0) if instruction.id in self.by_image else (0, size)
        return 0, 0

    def _convolution_bytes(self, convolution: Convolution) -> int:
        """What the tasks of a convolution hold that are at work at once."""
        identifier, left = convolution.instruction.id, convolution.left.id
        if identifier in self.by_image or identifier in self.runs_inside:
            return 0  # held by its reader
        at_work = convolution.product.at_work(self.workers)
        if convolution.groups > 1:
            return convolution.grouped_bytes() * at_work
        own = left in self.storage
        if own and not convolution.padded and not self._is_elementwise(convolution.left):
            return 0  # the window reads a buffer of the library's own where it stands
        if identifier in self.rows:
            return self.held_in_rows[identifier]
        if own and convolution.is_one_task:
            return 0  # one task: the producer writes into the padded buffer
        tasks = (self._task_bytes(convolution, start, stop) for start, stop in convolution.tasks())
        return sum(heapq.nlargest(at_work, tasks))

    def _task_bytes(self, convolution: Convolution, start: int, stop: int) -> int:
        """What a task holds that makes a range of the last spatial dimension, with the convolution that runs inside."""
        identifier, left = convolution.instruction.id, convolution.left.id
        outside = left not in self.storage
        size = 0
        if outside or convolution.padded or self._is_elementwise(convolution.left):
            size = convolution.input_bytes(stop - start, gathers=outside, rows=self.rows.get(identifier))
        inside = self.inside.get(identifier)
        if inside is not None:
            producer = self.convolutions[inside]
            start, stop = convolution.reads(start, stop)
            size += producer.result_bytes(stop - start) + self._task_bytes(producer, start, stop)
        return size

    def _is_elementwise(self, instruction: Instruction) -> bool:
        return instruction.opcode not in _VIRTUAL and instruction.opcode not in WHOLE

    def _dot_bytes(self, instruction: Instruction) -> int:
        left, right = (self.module.instructions[operand] for operand in instruction.operand_ids)
        dimensions = instruction.attributes.dot
        assert dimensions is not None
        item = right.shape.logical_bytes // max(right.shape.elements, 1)
        depth = prod(right.shape.dimensions[number] for number in dimensions.rhs_contracting)
        batch = prod(right.shape.dimensions[number] for number in dimensions.rhs_batch)
        product = divide(
            rows=left.shape.elements // max(depth * batch, 1),
            columns=right.shape.elements // max(depth * batch, 1),
            depth=depth,
            is_transposed=len(right.shape.dimensions) - 1 in dimensions.rhs_contracting,
            element_type=right.shape.element_type,
            item_bytes=item,
            features=self.features,
        )
        at_work = min(product.column_tasks, self.workers)
        return batch * product.depth * product.packed_columns_of_a_task * item * at_work

    def _window_bytes(self, instruction: Instruction) -> int:
        source = self.module.instructions[instruction.operand_ids[0]]
        if not self._is_elementwise(source) or not source.shape.dimensions:
            return 0
        images = max(source.shape.dimensions[0], 1)
        return source.shape.logical_bytes // images * min(images, self.workers)
