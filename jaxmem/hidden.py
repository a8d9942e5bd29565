"""Memory that XLA's buffer assignment does not see: what opaque library fusions allocate while they run.

On CPU, XLA hands convolutions, matrix products and reductions to YNNPACK (`xla/backends/cpu/ynn_emitter.cc`). Such a
fusion is one instruction to the buffer assignment, whatever stands inside, and the library takes its memory from
malloc. This room derives that memory from the fused computation and from how the library schedules it. No number here
is fitted to a measured size of a process; the two constants of a kernel, `KERNEL_COLUMNS` and `PACKED_BLOCK_BYTES`,
were read off the sizes of single allocations.

What a fusion holds (`ynnpack/subgraph/{dot,copy,stencil_copy,runtime}.cc` in XNNPACK, the emitter in XLA):

- **Results.** What a convolution, dot, reduction or window makes is a whole buffer, until its last use; the root is
  written straight into the fusion's own output. An elementwise operation works in place on such a buffer. Broadcasts,
  reshapes and constants take none.
- **Packed kernels.** The kernel of a convolution is copied into blocks of columns, the last block filled up, and stays
  until the fusion ends. A dot packs one block a task, and not at all where its left side has few rows.
- **Tiles.** A convolution runs as tasks over blocks of output channels and of the last spatial dimension. Every task
  holds its own copy of the input it reads: padded, or gathered window by window (which multiplies it by the window's
  size) where there is no padding and the input is the fusion's own operand. A window over an elementwise result holds
  that result one image at a time.
- **Threads.** A parallel loop has at most as many tasks at work as the pool has threads; with two nested loops, the
  caller works too while it waits (`parallel_for` in slinky's base/thread_pool.cc).

Fusions that do not depend on one another run at the same time on a pool of several threads (XLA's ThunkExecutor).
"""

import heapq
import json
import os
from dataclasses import dataclass, field
from math import prod

from jaxmem.xla.hlo import Computation, Instruction, Module

OPAQUE_FUSION_KINDS = frozenset({"__ynn_fusion", "__xnn_fusion", "__onednn_fusion"})
"""The fusion kinds of XLA's CPU backend whose body a library runs (``fusion_config.kind`` of the backend config)."""

KERNEL_COLUMNS = 16
"""Columns of the right side that one call of a float32 kernel makes, on AVX2. Decides only how many tasks there are."""

PACKED_BLOCK_BYTES = 128 << 10
"""A packed block of columns grows to this size while it can, before the work is split over more blocks."""

_KERNEL_ROWS = 6
_PACK_FROM_ROW_BLOCKS = 10
_VIRTUAL = frozenset({"parameter", "constant", "broadcast", "bitcast", "reshape", "iota", "slice"})
_WHOLE = frozenset({"convolution", "dot", "reduce", "reduce-window", "transpose", "concatenate"})


@dataclass(frozen=True, slots=True, kw_only=True)
class OpaqueFusion:
    """A fusion whose body a library runs.

    Attributes:
        instruction_id, name: the fusion instruction.
        kind: the library's mark, e.g. ``__ynn_fusion``.
        computation: name of the computation it stands in.
        position: its place in that computation's schedule.
        operations: opcodes of the fused operations that take memory of their own, in order.
        op_names: name stacks inside, each once, in order: they say which layers it covers.
        inside_bytes: the most that the library holds at once while it runs.
    """

    instruction_id: int
    name: str
    kind: str
    computation: str
    position: int
    operations: tuple[str, ...]
    op_names: tuple[str, ...] = field(repr=False)
    inside_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Hidden:
    """What the opaque fusions of a module need.

    Attributes:
        bytes: the largest need of fusions that can run at the same time, anywhere in the schedule.
        reason: where the number comes from, in a sentence.
        fusions: all opaque fusions, in the order of the schedule.
        concurrent: names of those that make the largest need together.
        threads: size of the thread pool that the number holds for.
    """

    bytes: int
    reason: str
    fusions: tuple[OpaqueFusion, ...] = ()
    concurrent: tuple[str, ...] = ()
    threads: int = 1


def pool_threads() -> int:
    """Threads of the pool that XLA's CPU backend makes here: what NPROC says, else the CPUs this process may use."""
    for name in ("PJRT_NPROC", "NPROC"):
        if os.environ.get(name, "").isdecimal() and int(os.environ[name]) > 0:
            return int(os.environ[name])
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def opaque_fusions(module: Module, *, threads: int | None = None) -> tuple[OpaqueFusion, ...]:
    """Every opaque fusion of the module, computation by computation, in the order of the schedule.

    Args:
        module: the optimized module.
        threads: size of the thread pool; that of this machine if not given.
    """
    workers = pool_threads() if threads is None else threads
    found = []
    for computation in module.computations.values():
        if computation.is_fusion:
            continue
        for position, instruction_id in enumerate(module.schedule.get(computation.id, computation.instruction_ids)):
            instruction = module.instructions[instruction_id]
            kind = _opaque_kind(instruction)
            if kind:
                body = module.computations[instruction.called_computation_ids[0]]
                inside = [module.instructions[i] for i in body.instruction_ids]
                found.append(
                    OpaqueFusion(
                        instruction_id=instruction_id,
                        name=instruction.name,
                        kind=kind,
                        computation=computation.name,
                        position=position,
                        operations=tuple(each.opcode for each in inside if each.opcode in _WHOLE),
                        op_names=tuple(dict.fromkeys(each.op_name for each in inside if each.op_name)),
                        inside_bytes=_Body(module, body, workers).most_bytes(),
                    )
                )
    return tuple(found)


def hidden_need(module: Module, *, threads: int | None = None) -> Hidden:
    """The largest concurrent need of the module's opaque fusions.

    Fusions of one computation that do not depend on one another count together, the largest first, as many as the pool
    has threads.

    Args:
        module: the optimized module.
        threads: size of the thread pool; that of this machine if not given.
    """
    workers = pool_threads() if threads is None else threads
    fusions = opaque_fusions(module, threads=workers)
    if not fusions:
        return Hidden(bytes=0, reason="no opaque fusions", threads=workers)
    together: tuple[OpaqueFusion, ...] = ()
    for name in dict.fromkeys(fusion.computation for fusion in fusions):
        chosen = _largest_together(module, [each for each in fusions if each.computation == name], workers)
        together = max(together, chosen, key=_sum_inside)
    total = _sum_inside(together)
    return Hidden(
        bytes=total,
        reason=(
            f"derived from the bodies of {len(fusions)} opaque library fusions for a pool of {workers} threads: "
            "results kept between fused operations, packed kernels, and each task's own copy of its input"
        ),
        fusions=fusions,
        concurrent=tuple(fusion.name for fusion in together),
        threads=workers,
    )


def _sum_inside(fusions: tuple[OpaqueFusion, ...]) -> int:
    return sum(fusion.inside_bytes for fusion in fusions)


def _opaque_kind(instruction: Instruction) -> str:
    if instruction.opcode != "fusion" or not instruction.called_computation_ids:
        return ""
    try:
        kind = json.loads(instruction.backend_config or b"{}")["fusion_config"]["kind"]
    except (ValueError, KeyError, TypeError):
        return ""
    return kind if kind in OPAQUE_FUSION_KINDS else ""


def _largest_together(module: Module, fusions: list[OpaqueFusion], workers: int) -> tuple[OpaqueFusion, ...]:
    """Fusions of one computation, none of which waits for another, by size."""
    bit = {fusion.instruction_id: 1 << number for number, fusion in enumerate(fusions)}
    computation = module.computations[module.instructions[fusions[0].instruction_id].computation_id]
    # Which fusions each instruction waits for, itself included, as a set of bits.
    awaits: dict[int, int] = {}
    for instruction_id in computation.instruction_ids:
        instruction = module.instructions[instruction_id]
        awaited = bit.get(instruction_id, 0)
        for before in instruction.operand_ids + instruction.control_predecessor_ids:
            awaited |= awaits.get(before, 0)
        awaits[instruction_id] = awaited
    chosen: list[OpaqueFusion] = []
    for fusion in sorted(fusions, key=lambda each: (-each.inside_bytes, each.position)):
        mine, waits = bit[fusion.instruction_id], awaits[fusion.instruction_id]
        independent = all(
            not waits & bit[other.instruction_id] and not awaits[other.instruction_id] & mine for other in chosen
        )
        if independent and fusion.inside_bytes and len(chosen) < workers:
            chosen.append(fusion)
    return tuple(chosen)


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


class _Body:
    """The memory of one fused computation, operation by operation."""

    def __init__(self, module: Module, computation: Computation, workers: int) -> None:
        self.module = module
        self.order = [module.instructions[i] for i in computation.instruction_ids]
        self.root_id = computation.root_id
        self.workers = workers
        self.position = {each.id: number for number, each in enumerate(self.order)}
        self.last_use = self._last_uses()
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
                size = instruction.shape.logical_bytes
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
            until = number if instruction.opcode in _WHOLE else max(number, last[instruction.id])
            for operand in instruction.operand_ids:
                last[operand] = max(last[operand], until)
        return last

    def _storage(self) -> dict[int, int]:
        storage: dict[int, int] = {}
        for instruction in self.order:
            inside = [operand for operand in instruction.operand_ids if operand in storage]
            if instruction.opcode in _VIRTUAL:
                if inside and instruction.opcode in ("bitcast", "reshape"):
                    storage[instruction.id] = storage[inside[0]]
            elif instruction.opcode in _WHOLE:
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
        if instruction.opcode == "convolution" and instruction.convolution and len(instruction.operand_ids) == 2:
            return self._convolution_bytes(instruction)
        if instruction.opcode == "dot" and instruction.dot and len(instruction.operand_ids) == 2:
            return 0, self._dot_bytes(instruction)
        if instruction.opcode == "reduce-window" and instruction.operand_ids:
            return 0, self._window_bytes(instruction)
        return 0, 0

    def _convolution_bytes(self, instruction: Instruction) -> tuple[int, int]:
        left, kernel = (self.module.instructions[operand] for operand in instruction.operand_ids)
        dimensions = instruction.convolution
        assert dimensions is not None
        item = left.shape.logical_bytes // max(left.shape.elements, 1)
        depth = kernel.shape.elements // max(kernel.shape.dimensions[dimensions.kernel_output_feature], 1)
        columns = kernel.shape.dimensions[dimensions.kernel_output_feature]
        rows = instruction.shape.dimensions[dimensions.output_spatial[-1]] if dimensions.output_spatial else 1
        product = _product(rows, columns, depth, item)
        packed = depth * -(-columns // product.block) * product.block * item

        window = instruction.window
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
                return prod(outer) * prod(results) * rows * prod(each.size for each in window) * item
            spatial = [
                left.shape.dimensions[number] + each.padding_low + each.padding_high
                for number, each in zip(dimensions.input_spatial, window, strict=True)
            ]
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
        return instruction.opcode not in _VIRTUAL and instruction.opcode not in _WHOLE

    def _dot_bytes(self, instruction: Instruction) -> int:
        left, right = (self.module.instructions[operand] for operand in instruction.operand_ids)
        dimensions = instruction.dot
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
