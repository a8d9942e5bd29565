"""What YNNPACK holds in memory while it runs one fused computation.

No number here is fitted to a measured size of a process; the two constants of a kernel, `KERNEL_COLUMNS` and
`PACKED_BLOCK_BYTES`, were read off the sizes of single allocations.

What a fusion holds (`ynnpack/subgraph/{dot,copy,stencil_copy,runtime}.cc` in XNNPACK, the emitter in XLA):

- **Results.** What a convolution, dot, reduction or window makes is a whole buffer, until its last use; the root is
  written straight into the fusion's own output. An elementwise operation works in place on such a buffer. Broadcasts,
  reshapes and constants take none.
- **Rows.** What flows into nothing but a reduction over its rows (the mean over an image) is made a row at a time, all
  the way back to the fusion's operands: a convolution on that way reads as many rows as its window has.
- **Packed kernels.** The kernel of a convolution is copied into blocks of columns, the last block filled up, and stays
  until the fusion ends. A dot packs one block a task, and not at all where its left side has few rows.
- **Tiles.** A convolution runs as tasks over blocks of output channels and of the last spatial dimension. Every task
  holds its own copy of the input it reads: padded, or gathered window by window (which multiplies it by the window's
  size) where there is no padding and the input is the fusion's own operand. A window over an elementwise result holds
  that result one image at a time.
- **Threads.** A parallel loop has at most as many tasks at work as the pool has threads; with two nested loops, the
  caller works too while it waits (`parallel_for` in slinky's base/thread_pool.cc).
"""

import heapq
from dataclasses import dataclass
from math import prod

from jaxmem.xla.hlo import Computation, Instruction, Module

KERNEL_COLUMNS = 16
"""Columns of the right side that one call of a float32 kernel makes, on AVX2. Decides only how many tasks there are."""

PACKED_BLOCK_BYTES = 128 << 10
"""A packed block of columns grows to this size while it can, before the work is split over more blocks."""

_KERNEL_ROWS = 6
_PACK_FROM_ROW_BLOCKS = 10
_VIRTUAL = frozenset({"parameter", "constant", "broadcast", "bitcast", "reshape", "iota", "slice"})
WHOLE = frozenset({"convolution", "dot", "reduce", "reduce-window", "transpose", "concatenate"})
"""Operations whose result is a buffer of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Product:
    """A convolution or dot as YNNPACK runs it: rows × depth times depth × columns, over the outer dimensions."""

    rows: int
    columns: int
    depth: int
    block: int
    row_split: int
    column_split: int

    @property
    def row_tasks(self) -> int:
        return -(-self.rows // self.row_split)

    @property
    def column_tasks(self) -> int:
        return -(-self.columns // self.column_split)

    def at_work(self, workers: int) -> int:
        """How many tasks can be at work at once."""
        return min(workers + 1, min(self.row_tasks, workers) * min(self.column_tasks, workers))


def _product(rows: int, columns: int, depth: int, item_bytes: int) -> _Product:
    """How the work is split (`define_pack_b` and `choose_split_factors` in ynnpack/subgraph/dot.cc)."""
    rows, columns, depth = max(rows, 1), max(columns, 1), max(depth, 1)
    aligned = -(-columns // KERNEL_COLUMNS) * KERNEL_COLUMNS
    column_bytes = KERNEL_COLUMNS * depth * max(item_bytes, 1)
    block = min(aligned, KERNEL_COLUMNS * max(1, PACKED_BLOCK_BYTES // column_bytes))
    # Grow the task, square-ish, until it is worth a thread: at least 64 × 64 results, and then by cost or by area.
    cost_depth, aspect = min(depth, 1024), 4
    column_split, row_split = min(columns, block), min(rows, 16)
    least = min(rows, 64) * min(columns, 64)
    while True:
        area, cost = column_split * row_split, (row_split + column_split) * cost_depth
        if area >= least and (cost >= 1 << 16 or area >= 1 << 16):
            break
        if (aspect * column_split <= row_split or row_split >= rows) and column_split < columns:
            column_split *= 2
        elif (row_split <= aspect * column_split or column_split >= columns) and row_split < rows:
            row_split *= 2
        else:
            break
    return _Product(
        rows=rows,
        columns=columns,
        depth=depth,
        block=block,
        row_split=min(row_split, 1 << 15),
        column_split=min(column_split, 1 << 16),
    )


class FusedBody:
    """The memory of one fused computation, operation by operation, on a pool of ``workers`` threads."""

    def __init__(self, module: Module, computation: Computation, workers: int) -> None:
        self.module = module
        self.order = [module.instructions[i] for i in computation.instruction_ids]
        self.root_id = computation.root_id
        self.workers = workers
        self.position = {each.id: number for number, each in enumerate(self.order)}
        self.last_use = self._last_uses()
        # How many rows (dimension 1) of a value exist at a time; absent where all of them do.
        self.rows = self._rows_at_a_time()
        # Instruction to the one whose buffer its value is in; absent where it has none of its own.
        self.storage = self._storage()

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
        return most

    def _last_uses(self) -> dict[int, int]:
        """The last position that reads each value, directly or through what is computed on the way."""
        last = {each.id: number for number, each in enumerate(self.order)}
        for instruction in reversed(self.order):
            number = self.position[instruction.id]
            # What is no buffer is made where it is read: its operands must live until then.
            until = number if instruction.opcode in WHOLE else max(number, last[instruction.id])
            for operand in instruction.operand_ids:
                last[operand] = max(last[operand], until)
        return last

    def _rows_at_a_time(self) -> dict[int, int]:
        rows: dict[int, int] = {}
        whole = {self.root_id}
        for instruction in reversed(self.order):
            made = None if instruction.id in whole else rows.get(instruction.id)
            for operand in instruction.operand_ids:
                shape = self.module.instructions[operand].shape
                if (
                    instruction.opcode == "reduce"
                    and 1 in instruction.attributes.dimensions
                    and len(shape.dimensions) > 2
                ):
                    needed = 1
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

    def _share(self, instruction: Instruction) -> int:
        """Bytes of a value that exist at a time."""
        size = instruction.shape.logical_bytes
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
        """Bytes that an operation keeps until the fusion ends, and bytes that it holds while it runs."""
        if (
            instruction.opcode == "convolution"
            and instruction.attributes.convolution
            and len(instruction.operand_ids) == 2
        ):
            return self._convolution_bytes(instruction)
        if instruction.opcode == "dot" and instruction.attributes.dot and len(instruction.operand_ids) == 2:
            return 0, self._dot_bytes(instruction)
        if instruction.opcode == "reduce-window" and instruction.operand_ids:
            return 0, self._window_bytes(instruction)
        return 0, 0

    def _convolution_bytes(self, instruction: Instruction) -> tuple[int, int]:
        left, kernel = (self.module.instructions[operand] for operand in instruction.operand_ids)
        dimensions = instruction.attributes.convolution
        assert dimensions is not None
        item = left.shape.logical_bytes // max(left.shape.elements, 1)
        depth = kernel.shape.elements // max(kernel.shape.dimensions[dimensions.kernel_output_feature], 1)
        columns = kernel.shape.dimensions[dimensions.kernel_output_feature]
        rows = instruction.shape.dimensions[dimensions.output_spatial[-1]] if dimensions.output_spatial else 1
        product = _product(rows, columns, depth, item)
        packed = depth * -(-columns // product.block) * product.block * item

        window = instruction.attributes.window
        padded = any(each.padding_low or each.padding_high for each in window)
        if not padded and left.id in self.storage and not self._is_elementwise(left):
            return packed, 0  # the window reads a buffer of the library's own where it stands
        if product.row_tasks * product.column_tasks == 1 and left.id in self.storage:
            return packed, 0  # one task: the producer writes into the padded buffer

        def tile(rows: int) -> int:
            """Bytes of the input that ``rows`` results of the last spatial dimension read, in all other dimensions."""
            outer = [
                size for number, size in enumerate(left.shape.dimensions) if number not in dimensions.input_spatial
            ]
            if not padded and left.id not in self.storage:
                results = [instruction.shape.dimensions[number] for number in dimensions.output_spatial[:-1]]
                if results and instruction.id in self.rows:
                    results[0] = min(results[0], self.rows[instruction.id])
                return prod(outer) * prod(results) * rows * prod(each.size for each in window) * item
            spatial = [
                left.shape.dimensions[number] + each.padding_low + each.padding_high
                for number, each in zip(dimensions.input_spatial, window, strict=True)
            ]
            if spatial and instruction.id in self.rows:
                first, made = window[0], self.rows[instruction.id]
                spatial[0] = min(spatial[0], (made - 1) * first.stride + (first.size - 1) * first.window_dilation + 1)
            if spatial:
                last = window[-1]
                spatial[-1] = min(spatial[-1], (rows - 1) * last.stride + (last.size - 1) * last.window_dilation + 1)
            return prod(outer) * prod(max(size, 0) for size in spatial) * item

        # The largest tiles first: whole ones, then what is left of the last dimension.
        at_work = product.at_work(self.workers)
        whole, rest = divmod(product.rows, product.row_split)
        whole_tiles = min(at_work, whole * product.column_tasks)
        return packed, whole_tiles * tile(product.row_split) + (at_work - whole_tiles) * (tile(rest) if rest else 0)

    def _is_elementwise(self, instruction: Instruction) -> bool:
        return instruction.opcode not in _VIRTUAL and instruction.opcode not in WHOLE

    def _dot_bytes(self, instruction: Instruction) -> int:
        left, right = (self.module.instructions[operand] for operand in instruction.operand_ids)
        dimensions = instruction.attributes.dot
        assert dimensions is not None
        item = right.shape.logical_bytes // max(right.shape.elements, 1)
        depth = prod(right.shape.dimensions[number] for number in dimensions.rhs_contracting)
        batch = prod(right.shape.dimensions[number] for number in dimensions.rhs_batch)
        columns = right.shape.elements // max(depth * batch, 1)
        rows = left.shape.elements // max(depth * batch, 1)
        if -(-rows // _KERNEL_ROWS) <= _PACK_FROM_ROW_BLOCKS:
            return 0
        product = _product(rows, columns, depth, item)
        return depth * product.block * item * min(product.column_tasks, self.workers)

    def _window_bytes(self, instruction: Instruction) -> int:
        source = self.module.instructions[instruction.operand_ids[0]]
        if not self._is_elementwise(source) or not source.shape.dimensions:
            return 0
        images = max(source.shape.dimensions[0], 1)
        return source.shape.logical_bytes // images * min(images, self.workers)
