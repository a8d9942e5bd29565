"""What the library behind XLA's compiler for CPUs allocates for itself while it runs a convolution or a product.

YNNPACK runs a convolution as tasks over blocks of output channels and of the last spatial dimension (`ynnpack/subgraph/dot.cc`
and `stencil_copy.cc` in XNNPACK). It holds

- the kernel, packed into blocks of columns, the last block filled up: depth × columns, for as long as the operation runs;
- for each task at work its own copy of the input that it reads: with the padding, or, where there is none, window by window,
  which multiplies it by the size of the window. With several groups of channels it is both, for all of the input, and with
  as many groups as channels the padded input alone.

How wide a block is depends on the kernel that it takes for the processor, the one with the least estimated time for 2048 rows
(``estimate_dot_cost`` in `ynnpack/kernels/dot/dot.cc`): calls × (5 per load of the left side + 11 per load of the right + 9).

It leaves to XLA's runtime (`IsConvolutionOpSupportedByYnn` in `xla/backends/cpu/ynn_support.cc`) convolutions over a dilated
input, the gradients of those with strides, those of 16 channels and fewer on both sides, and those with a result or window
larger than the input. One group over a dilated input is `EigenTransposedConv2D`'s, which multiplies every input pixel with the
whole kernel, and adds up afterwards. Depthwise ones gather the windows of all results first, of all channels at once; with
several results in a group each thread has blocks of its own, which are small. Products copy both sides, up to two slices of at
most 320 of the depth (Eigen's `TensorContractionThreadPool.h`).

As many operations that do not wait for one another run at a time as there are threads.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

from jaxmem.devices.library_kernels import Kernel, kernels_of
from jaxmem.formula.orders import writers
from jaxmem.formula.plan import Plan
from jaxmem.formula.products import Side, is_product_of_library, product_sides
from jaxmem.layer_table import LayerTable, Operation

PACK_FROM_CALLS = 10
"""Calls of a kernel for the rows, above which packing the right side is worth it."""

BLOCK_BYTES = 128 << 10
"""A packed block of columns grows to this size while it can."""

LARGEST_MATRIX_BYTES = 8 << 30
"""Above it, XLA takes another way through a transposed convolution."""

FEW_CHANNELS, DEEPEST_SLICE = 16, 320

_TYPES = {"float32": "f32", "float64": "f64", "bfloat16": "bf16"}


def hidden_bytes(plan: Plan, fused: Mapping[int, int], *, threads: int, features: frozenset[str]) -> int:
    """The most that convolutions and products hold at a time that may run side by side, the largest first.

    Which may: those of which none is reached from another through the kernels of the plan. 0 where the kernels for them are
    not known.

    Args:
        plan: the program.
        fused: result of a fusion of several operations → what it holds (`jaxmem.formula.backends.cpu_fused`).
        threads: of the pool.
        features: extensions of the processor, as Linux names them.
    """
    held = [(size_bytes, plan.kernel_of[plan.array_of[value]]) for value, size_bytes in fused.items()]
    for index in plan.equals.operations:
        operation = plan.table.operations[index]
        if operation.results and operation.results[0] in fused:
            continue
        bytes_of = {"conv_general_dilated": convolution_bytes, "dot_general": product_bytes}.get(operation.primitive)
        if bytes_of is not None and operation.results[0] in plan.array_of:
            size_bytes = bytes_of(plan.table, operation, threads=threads, features=features)
            held.append((size_bytes, plan.kernel_of[plan.array_of[operation.results[0]]]))
    held.sort(key=lambda pair: (-pair[0], pair[1]))
    kernels = [kernel for _, kernel in held]
    nearest = nearest_before(plan)
    before, behind = waits_for(nearest, kernels), waits_for(turned_round(nearest), kernels)
    all_bits = (1 << len(held)) - 1
    most = 0
    for position, (size_bytes, kernel) in enumerate(held):
        if size_bytes * threads <= most:
            break
        total = size_bytes
        # The lowest bit left is the largest that waits for none of those taken, nor they for it.
        beside = all_bits & ~(before[kernel] | behind[kernel]) & -1 << position + 1
        for _ in range(threads - 1):
            if not beside:
                break
            other_bytes, other = held[(beside & -beside).bit_length() - 1]
            total += other_bytes
            beside &= (beside - 1) & ~(before[other] | behind[other])
        most = max(most, total)
    return most


def nearest_before(plan: Plan) -> list[list[int]]:
    """For each kernel those that write what it reads."""
    writer = writers(plan.kernels)
    return [
        [writer[array] for array in kernel.reads if array in writer and writer[array] != index]
        for index, kernel in enumerate(plan.kernels)
    ]


def waits_for(nearest: Sequence[Sequence[int]], wanted: Sequence[int]) -> dict[int, int]:
    """Each of some kernels → which of them it is reached from through those nearest to each: bit n is the n-th wanted."""
    bit: dict[int, int] = {}
    for number, kernel in enumerate(wanted):
        bit[kernel] = bit.get(kernel, 0) | 1 << number
    reached: dict[int, int] = {}
    for root in range(len(nearest)):
        stack = [root]
        while stack:
            kernel = stack[-1]
            missing = [one for one in nearest[kernel] if one not in reached]
            if missing:
                stack.extend(missing)
                continue
            stack.pop()
            if kernel not in reached:
                mask = 0
                for one in nearest[kernel]:
                    mask |= reached[one] | bit.get(one, 0)
                reached[kernel] = mask
    return {kernel: reached[kernel] for kernel in wanted}


def turned_round(nearest: Sequence[Sequence[int]]) -> list[list[int]]:
    """For each kernel those that have it among their nearest."""
    turned: list[list[int]] = [[] for _ in nearest]
    for index, others in enumerate(nearest):
        for other in others:
            turned[other].append(index)
    return turned


def convolution_bytes(table: LayerTable, operation: Operation, *, threads: int, features: frozenset[str]) -> int:
    """Bytes that the library or the runtime holds while it runs one convolution.

    The gradient of a depthwise kernel runs as a whole convolution (`jaxmem.formula.backends.cpu`), whose axes are the same.
    0 for what neither runs: the gradient of a kernel in groups, and what is not in order.
    """
    if not is_in_order(operation):
        return 0
    work = read_convolution(table, operation, features)
    if work is None:
        return _of_runtime(table, operation)
    at_work = min(threads + 1, min(work.row_tasks, threads) * min(work.column_tasks, threads))
    if work.groups > 1:
        return work.packed_bytes + at_work * work.grouped_bytes
    whole, rest = divmod(work.rows, work.row_split)
    whole_tiles = min(at_work, whole * work.column_tasks)
    held = whole_tiles * work.input_bytes(work.row_split, gathers=True)
    if rest:
        held += (at_work - whole_tiles) * work.input_bytes(rest, gathers=True)
    return work.packed_bytes + held


def is_in_order(operation: Operation) -> bool:
    """Whether the axes of a convolution lie, or are brought, as the library and the runtime read them.

    XLA transposes the operands of those in the entry computation alone (`ConvCanonicalization` in
    `xla/service/cpu/conv_canonicalization.cc`). A gradient in the body of a loop runs as plain nested loops, and holds
    nothing.
    """
    axes = tuple(operation.size(name) for name in ("lhs_spec", "rhs_spec", "out_spec"))
    count = len(axes[0])
    space = tuple(range(1, count - 1))
    features_last = (0, count - 1, *space)
    return not operation.in_loop or axes == (features_last, (count - 1, count - 2, *range(count - 2)), features_last)


def _of_runtime(table: LayerTable, operation: Operation) -> int:
    """Bytes that XLA's own runtime holds for a convolution that it runs."""
    left, kernel = (table.values[operand] for operand in operation.operands[:2])
    result = table.values[operation.results[0]]
    left_axes, kernel_axes, result_axes = (operation.size(name) for name in ("lhs_spec", "rhs_spec", "out_spec"))
    window = [kernel.shape[axis] for axis in kernel_axes[2:]]
    images, columns = left.shape[left_axes[0]], kernel.shape[kernel_axes[0]]
    space = [left.shape[axis] for axis in left_axes[2:]]
    results = [result.shape[axis] for axis in result_axes[2:]]
    item_bytes, groups = left.itemsize_bits // 8, operation.size("feature_group_count")[0]
    if operation.size("batch_group_count")[0] not in (1, columns) or not space:
        return 0
    dilated = any(dilation > 1 for dilation in operation.size("lhs_dilation"))
    if dilated and groups == 1 and set(operation.size("window_strides")) == {1}:
        matrix = images * columns * prod(space) * prod(window) * item_bytes
        return matrix if matrix <= LARGEST_MATRIX_BYTES else 0
    if _is_of_runtime(table, operation) and columns == groups:
        depth = kernel.elements // max(columns, 1)
        return groups * gathered_elements(images * prod(results), 1, depth) * item_bytes
    return 0


def _is_of_runtime(table: LayerTable, operation: Operation) -> bool:
    left, kernel = (table.values[operand] for operand in operation.operands[:2])
    result = table.values[operation.results[0]]
    left_axes, kernel_axes, result_axes = (operation.size(name) for name in ("lhs_spec", "rhs_spec", "out_spec"))
    if any(dilation > 1 for dilation in operation.size("lhs_dilation")):
        return True
    if max(left.shape[left_axes[1]], kernel.shape[kernel_axes[0]]) <= FEW_CHANNELS:
        return True
    return any(
        result.shape[made] > left.shape[read] or kernel.shape[window] > left.shape[read]
        for made, read, window in zip(result_axes[2:], left_axes[2:], kernel_axes[2:], strict=True)
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvolutionWork:
    """One convolution as the library runs it.

    Attributes:
        images, channels, groups: of its input.
        space, results: height and width of the input, without padding, and of the result.
        window, strides, dilations: of its window, by dimension.
        padding: before and behind the input, by dimension.
        item_bytes: of one element.
        column_bytes: of one column of the result, in all other dimensions.
        packed_bytes: its packed kernel; 0 where it is read where it stands.
        rows, row_split: what a task is divided by, the last dimension of the result, and how much of it a task makes.
        row_tasks, column_tasks: tasks by that dimension, and by blocks of output channels.
    """

    images: int
    channels: int
    groups: int
    space: tuple[int, ...]
    results: tuple[int, ...]
    window: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    item_bytes: int
    column_bytes: int
    packed_bytes: int
    rows: int
    row_split: int
    row_tasks: int
    column_tasks: int

    @property
    def is_padded(self) -> bool:
        """Whether there is a border around its input."""
        return any(any(pair) for pair in self.padding)

    @property
    def is_one_task(self) -> bool:
        """Whether it is not divided."""
        return self.groups == 1 and self.row_tasks * self.column_tasks == 1

    @property
    def grouped_bytes(self) -> int:
        """Of several groups, what each task holds: all windows side by side, but for depthwise ones, and the padded input."""
        windows = 0
        if self.groups < self.channels:
            windows = self.images * prod(self.results) * prod(self.window) * self.channels
        bordered = self.images * self.channels * prod(max(size, 0) for size in self._bordered())
        return (windows + bordered * self.is_padded) * self.item_bytes

    def _bordered(self) -> list[int]:
        return [size + low + high for size, (low, high) in zip(self.space, self.padding, strict=True)]

    def _reach(self, dimension: int, results: int) -> int:
        return (results - 1) * self.strides[dimension] + (self.window[dimension] - 1) * self.dilations[dimension] + 1

    def input_bytes(self, columns: int, *, gathers: bool, height: int | None = None) -> int:
        """A task's own copy of the input for some columns of the result: with the padding, else window by window.

        Args:
            columns: of the result.
            gathers: window by window, if there is no padding.
            height: rows of the result that it makes; all without.
        """
        if gathers and not self.is_padded:
            others = list(self.results[:-1])
            if height is not None and others:
                others[0] = min(others[0], height)
            return self.images * self.channels * prod(others) * columns * prod(self.window) * self.item_bytes
        space = [max(size, 0) for size in self._bordered()]
        if height is not None:
            space[0] = min(space[0], self._reach(0, height))
        space[-1] = min(space[-1], self._reach(len(space) - 1, columns))
        return self.images * self.channels * prod(space) * self.item_bytes

    def reads(self, start: int, stop: int) -> tuple[int, int]:
        """The columns of the input, without the padding, that some columns of the result are made of."""
        first = start * self.strides[-1] - self.padding[-1][0]
        return max(first, 0), min(first + self._reach(len(self.space) - 1, stop - start), self.space[-1])


def read_convolution(table: LayerTable, operation: Operation, features: frozenset[str]) -> ConvolutionWork | None:
    """A convolution as the library runs it on a processor; None where it does not."""
    left, kernel = (table.values[operand] for operand in operation.operands[:2])
    result = table.values[operation.results[0]]
    left_axes = operation.size("lhs_spec")
    kernel_axes, result_axes = operation.size("rhs_spec"), operation.size("out_spec")
    kernels = kernels_of(_TYPES.get(left.dtype, ""), features)
    columns, item_bytes = kernel.shape[kernel_axes[0]], left.itemsize_bits // 8
    space = tuple(left.shape[axis] for axis in left_axes[2:])
    in_one = operation.size("batch_group_count")[0] in (1, columns) and bool(space)
    if not kernels or not in_one or _is_of_runtime(table, operation):
        return None
    window = tuple(kernel.shape[axis] for axis in kernel_axes[2:])
    results = tuple(result.shape[axis] for axis in result_axes[2:])
    images, groups = left.shape[left_axes[0]], operation.size("feature_group_count")[0]
    rows, products = (1, images * prod(results)) if groups > 1 else (results[-1], images * prod(results[:-1]))
    depth = kernel.elements // max(columns, 1) // prod(window)
    of_group = columns // groups
    block, deep, row_split, column_split = _split(kernels, rows, of_group, depth, prod(window), products, item_bytes)
    flat = operation.size("padding") or (0, 0) * len(window)
    return ConvolutionWork(
        images=images,
        channels=left.shape[left_axes[1]],
        groups=groups,
        space=space,
        results=results,
        window=window,
        strides=operation.size("window_strides"),
        dilations=operation.size("rhs_dilation"),
        padding=tuple(zip(flat[::2], flat[1::2], strict=True)),
        item_bytes=item_bytes,
        column_bytes=result.logical_bytes // max(results[-1], 1),
        packed_bytes=groups * deep * -(-of_group // block) * block * item_bytes if deep else 0,
        rows=rows,
        row_split=row_split,
        row_tasks=-(-rows // row_split),
        column_tasks=-(-of_group // column_split),
    )


def product_bytes(table: LayerTable, operation: Operation, *, threads: int, features: frozenset[str]) -> int:
    """Bytes that the library holds while it runs one matrix product: the packed columns of each task, of a whole batch.

    A left side of few rows is multiplied without packing, unless the right one lies with its rows and columns exchanged, which
    packing undoes on the way. A left side that is summed over its rows, as in the gradient of a kernel,
    is the runtime's.
    """
    left, right = (table.values[operation.operands[number]] for number in (0, -1))
    item_bytes = right.itemsize_bits // 8
    depth = prod(right.shape[axis] for axis in operation.size("rhs_contracting"))
    batch = prod(right.shape[axis] for axis in operation.size("rhs_batch"))
    rows, columns = (value.elements // max(depth * batch, 1) for value in (left, right))
    if min(rows, columns) <= 1:
        return 0
    if not is_product_of_library(table, operation):
        return batch * gathered_elements(rows, columns, depth) * item_bytes
    kernels = kernels_of(_TYPES.get(right.dtype, ""), features)
    if not kernels:
        return 0
    exchanged = product_sides(table, operation)[1] is Side.EXCHANGED
    block, deep, _, column_split = _split(kernels, rows, columns, max(depth, 1), 1, 1, item_bytes, exchanged=exchanged)
    columns_of_a_task = -(-min(column_split, columns) // block) * block
    return batch * deep * columns_of_a_task * item_bytes * min(-(-columns // column_split), threads)


def gathered_elements(rows: int, columns: int, depth: int) -> int:
    """Elements of both sides of a product that the runtime copies: up to two slices of the depth."""
    slices = -(-depth // DEEPEST_SLICE) or 1
    return (rows + columns) * min(depth, 2 * -(-depth // slices))


def _split(
    kernels: Sequence[Kernel],
    rows: int,
    columns: int,
    depth: int,
    windows: int,
    products: int,
    item_bytes: int,
    *,
    exchanged: bool = False,
) -> tuple[int, int, int, int]:
    """Columns of a packed block, the packed depth (0 where nothing is packed), and rows and columns of a task.

    A task grows, square-ish, until it is worth a thread: at least 64 × 64 results, and 2¹⁶ by its cost or by its area.
    """

    def time(kernel: Kernel) -> int:
        loads = 5 * kernel.rows * kernel.depth // (kernel.tile_rows * kernel.tile_depth)
        loads += 11 * kernel.columns * kernel.depth // (kernel.tile_columns * kernel.tile_depth)
        calls = -(-2048 // kernel.rows) * -(-columns // kernel.columns) * -(-depth // kernel.depth)
        return calls * ((loads + 9) * 10_000 + kernel.tile_rows * kernel.tile_columns * kernel.tile_depth)

    kernel = min(kernels, key=time)
    in_place = min((each for each in kernels if each.reads_unpacked), key=time, default=None)
    few = in_place is not None and -(-rows // in_place.rows) * products <= PACK_FROM_CALLS
    if in_place is not None and not exchanged and few and time(in_place) <= 2 * time(kernel):
        packed, summed, block = 0, depth * windows, max(64 // item_bytes, in_place.columns)
    else:
        packed = summed = -(-depth // kernel.tile_depth) * kernel.tile_depth * windows
        most = kernel.columns * max(1, BLOCK_BYTES // (kernel.columns * summed * max(item_bytes, 1)))
        block = min(-(-columns // kernel.tile_columns) * kernel.tile_columns, most)
    task_columns, task_rows = min(columns, block), min(rows, 16)
    enough = min(rows, 64) * min(columns, 64)
    while True:
        area, cost = task_columns * task_rows, (task_rows + task_columns) * min(summed, 1024)
        if area >= enough and max(area, cost) >= 1 << 16:
            break
        if (4 * task_columns <= task_rows or task_rows >= rows) and task_columns < columns:
            task_columns *= 2
        elif (task_rows <= 4 * task_columns or task_columns >= columns) and task_rows < rows:
            task_rows *= 2
        else:
            break
    return block, packed, min(task_rows, 1 << 15), min(task_columns, 1 << 16)
