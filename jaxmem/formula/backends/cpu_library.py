"""What the library behind XLA's compiler for CPUs allocates for itself while it runs a convolution or a product.

YNNPACK runs a convolution as tasks over blocks of output channels and of the last spatial dimension (`ynnpack/subgraph/dot.cc`
and `stencil_copy.cc` in XNNPACK). It holds

- the kernel, packed into blocks of columns, the last block filled up: depth × columns, for as long as the operation runs;
- for each task at work its own copy of the input that it reads: with the padding, or, where there is none, window by window,
  which multiplies it by the size of the window.

A convolution over a dilated input, the gradient of one with strides, is XLA's own (`EigenTransposedConv2D`): it multiplies
every input pixel with the whole kernel, and adds up afterwards.

As many operations that do not wait for one another run at a time as there are threads.
"""

from collections.abc import Sequence
from math import prod

from jaxmem.formula.plan import Plan
from jaxmem.layer_table import LayerTable, Operation

COLUMNS_OF_A_CALL = 16
"""Columns of the right side that one call of a float32 kernel makes, on AVX2."""

ROWS_OF_A_CALL, PACK_FROM_CALLS = 6, 10
"""Rows of the left side that one call takes, and the calls above which packing the right side is worth it."""

BLOCK_BYTES = 128 << 10
"""A packed block of columns grows to this size while it can."""

LARGEST_MATRIX_BYTES = 8 << 30
"""Above it, XLA takes another way through a transposed convolution."""


def hidden_bytes(plan: Plan, *, threads: int) -> int:
    """The most that convolutions hold at a time that may run side by side, the largest first.

    Which may: those of which none is reached from another through the kernels of the plan.
    """
    held = []
    for index in plan.equals.operations:
        operation = plan.table.operations[index]
        bytes_of = {"conv_general_dilated": convolution_bytes, "dot_general": product_bytes}.get(operation.primitive)
        if bytes_of is not None and operation.results[0] in plan.array_of:
            size_bytes = bytes_of(plan.table, operation, threads=threads)
            held.append((size_bytes, plan.kernel_of[plan.array_of[operation.results[0]]]))
    held.sort(key=lambda pair: (-pair[0], pair[1]))
    kernels = [kernel for _, kernel in held]
    before, behind = waits_for(plan, kernels), waits_for(plan, kernels, behind=True)
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


def waits_for(plan: Plan, wanted: Sequence[int], *, behind: bool = False) -> dict[int, int]:
    """Each of some kernels → which of them must have run before it, or must run behind it: bit n is the n-th wanted."""
    writer = {array: index for index, kernel in enumerate(plan.kernels) for array in kernel.writes}
    nearest: list[list[int]] = [
        [writer[array] for array in kernel.reads if array in writer and writer[array] != index]
        for index, kernel in enumerate(plan.kernels)
    ]
    if behind:
        nearest = _turned_round(nearest)
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


def _turned_round(nearest: Sequence[Sequence[int]]) -> list[list[int]]:
    turned: list[list[int]] = [[] for _ in nearest]
    for index, others in enumerate(nearest):
        for other in others:
            turned[other].append(index)
    return turned


def convolution_bytes(table: LayerTable, operation: Operation, *, threads: int) -> int:
    """Bytes that the library holds while it runs one convolution.

    The gradient of a depthwise kernel runs as a whole convolution (`jaxmem.formula.backends.cpu`), whose axes are the same.
    0 for what neither the library nor `EigenTransposedConv2D` runs: the gradient of a kernel in groups, and groups over a
    dilated input.
    """
    left, kernel = (table.values[operand] for operand in operation.operands[:2])
    result = table.values[operation.results[0]]
    left_axes, kernel_axes, result_axes = (operation.size(name) for name in ("lhs_spec", "rhs_spec", "out_spec"))
    window = [kernel.shape[axis] for axis in kernel_axes[2:]]
    images, channels = left.shape[left_axes[0]], left.shape[left_axes[1]]
    space = [left.shape[axis] for axis in left_axes[2:]]
    results = [result.shape[axis] for axis in result_axes[2:]]
    columns, item_bytes = kernel.shape[kernel_axes[0]], left.itemsize_bits // 8
    if operation.size("batch_group_count")[0] not in (1, columns):
        return 0
    dilated = any(dilation > 1 for dilation in operation.size("lhs_dilation"))
    if dilated and operation.size("feature_group_count") != (1,):
        return 0
    if dilated:
        matrix = images * columns * prod(space) * prod(window) * item_bytes
        return matrix if matrix <= LARGEST_MATRIX_BYTES and set(operation.size("window_strides")) == {1} else 0
    depth = kernel.elements // max(columns, 1)
    rows = results[-1] if results else 1
    block, row_split, column_split = _split(rows, columns, depth, item_bytes)
    packed = depth * -(-columns // block) * block * item_bytes
    padding = operation.size("padding")
    padded = any(padding)
    if padded:
        space = [size + low + high for size, low, high in zip(space, padding[::2], padding[1::2], strict=True)]

    def tile(rows_of_task: int) -> int:
        if not padded:
            return images * channels * prod(results[:-1]) * rows_of_task * prod(window) * item_bytes
        reach = (rows_of_task - 1) * operation.size("window_strides")[-1]
        reach += (window[-1] - 1) * operation.size("rhs_dilation")[-1] + 1
        return (
            images * channels * prod(max(size, 0) for size in space[:-1]) * min(max(space[-1], 0), reach) * item_bytes
        )

    if not space:
        return packed
    row_tasks, column_tasks = -(-rows // row_split), -(-columns // column_split)
    at_work = min(threads + 1, min(row_tasks, threads) * min(column_tasks, threads))
    whole, rest = divmod(rows, row_split)
    whole_tiles = min(at_work, whole * column_tasks)
    return packed + whole_tiles * tile(row_split) + (at_work - whole_tiles) * (tile(rest) if rest else 0)


def product_bytes(table: LayerTable, operation: Operation, *, threads: int) -> int:
    """Bytes that the library holds while it runs one matrix product: a packed block of the right side for each task.

    A left side of few rows is multiplied without packing.
    """
    left, right = (table.values[operation.operands[number]] for number in (0, -1))
    item_bytes = right.itemsize_bits // 8
    depth = prod(right.shape[axis] for axis in operation.size("rhs_contracting"))
    batch = prod(right.shape[axis] for axis in operation.size("rhs_batch"))
    rows, columns = (value.elements // max(depth * batch, 1) for value in (left, right))
    if -(-rows // ROWS_OF_A_CALL) <= PACK_FROM_CALLS:
        return 0
    block, _, column_split = _split(max(rows, 1), max(columns, 1), max(depth, 1), item_bytes)
    return depth * block * item_bytes * min(-(-columns // column_split), threads)


def _split(rows: int, columns: int, depth: int, item_bytes: int) -> tuple[int, int, int]:
    """Columns of a packed block, and rows and columns of a task.

    A task grows, square-ish, until it is worth a thread: at least 64 × 64 results, and 2¹⁶ by its cost or by its area.
    """
    aligned = -(-columns // COLUMNS_OF_A_CALL) * COLUMNS_OF_A_CALL
    block = min(aligned, COLUMNS_OF_A_CALL * max(1, BLOCK_BYTES // (COLUMNS_OF_A_CALL * depth * max(item_bytes, 1))))
    task_columns, task_rows = min(columns, block), min(rows, 16)
    enough = min(rows, 64) * min(columns, 64)
    while True:
        area, cost = task_columns * task_rows, (task_rows + task_columns) * min(depth, 1024)
        if area >= enough and max(area, cost) >= 1 << 16:
            break
        if (4 * task_columns <= task_rows or task_rows >= rows) and task_columns < columns:
            task_columns *= 2
        elif (task_rows <= 4 * task_columns or task_columns >= columns) and task_rows < rows:
            task_rows *= 2
        else:
            break
    return block, min(task_rows, 1 << 15), min(task_columns, 1 << 16)
