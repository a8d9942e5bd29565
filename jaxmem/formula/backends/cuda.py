"""What XLA's compiler for NVIDIA GPUs adds to a program. Each function is one habit."""

from collections.abc import Sequence
from dataclasses import replace
from math import prod

from jaxmem.formula.plan import Plan
from jaxmem.formula.schedule import Addition
from jaxmem.formula.tiles import is_matrix
from jaxmem.layer_table import Operation
from jaxmem.roles import Phase, Role

MULTIPROCESSORS = 132
"""Of an H100: a product with fewer tiles than that leaves some of them idle."""

CUBLAS_WORKSPACE_BYTES = 4 << 20
"""`GemmConfig::kDefaultWorkspace` in XLA's xla/service/gpu/matmul_utils.h."""


def add_cuda(plan: Plan) -> None:
    """All habits."""
    kernels_in_cudnn_order(plan)
    max_pools(plan)
    tables_at_full_size(plan)
    if plan.calls_cublas:
        cublas_calls(plan)
    else:
        split_products(plan)


def kernels_in_cudnn_order(plan: Plan) -> None:
    """cuDNN reads the kernel of a convolution with the output channels first, JAX's have them last.

    The copy is made before the convolution and serves its backward pass and the update as well. The update, in turn, computes
    two of the three new arrays of state in that order and has them copied into place when all else is done.
    """
    updates = plan.updates_of()
    copied: dict[int, int] = {}
    for index in plan.equals.operations:
        operation = plan.table.operations[index]
        if operation.primitive != "conv_general_dilated":
            continue
        result = operation.results[0]
        convolution = plan.kernel_of[plan.array_of[plan.swallowed.get(result, result)]]
        kernel = plan.operand(operation, 1)
        if not plan.is_argument(kernel):
            continue
        if kernel not in copied:
            value = plan.table.values[kernel]
            addition = Addition(
                role=Role.WORKSPACE,
                layer=operation.layer,
                phase=operation.phase,
                name="kernel in cuDNN's order",
                why="from the forward pass to the update",
                elements=value.elements,
                itemsize_bits=value.itemsize_bits,
            )
            (copied[kernel],) = plan.add(addition)
            plan.add_kernel(index, (), (copied[kernel],), arguments=(kernel,))
            for update in updates.get(kernel, ())[-1:]:
                again = replace(addition, name="new state in cuDNN's order", why="until it is copied into place")
                plan.extend(update, reads=(copied[kernel],), writes=plan.add(again, copies=2))
        plan.extend(convolution, reads=(copied[kernel],))


def max_pools(plan: Plan) -> None:
    """The backward pass of max-pool is a scatter of the gradient into zeros, at the places where the maxima were.

    `SelectAndScatterExpander` of XLA finds the places by pooling again over four index maps (one for each dimension, s32,
    as large as the pooled map) along with the map, whose maximum nobody reads then. The scatter works in place on zeros.

    Where the map comes from a ReLU, max(x, 0), the zeros are the same as the ReLU's: one array, made along with the first
    ReLU of that shape, and read by all others and their gradients. For the scatter it is copied, and the copy is put in
    right behind it, in the forward pass already: for each pool, zeros twice the size of the map wait for the backward pass.

    A pool with a border in front scatters into the map with its borders, and slices these off: zeros of another shape than
    any ReLU's, made where they are needed. A border behind alone changes nothing, since no window begins in it.
    """
    masked = _masked_values(plan)
    zeros_of: dict[tuple[tuple[int, ...], str], int] = {}
    for index in plan.equals.operations:
        operation = plan.table.operations[index]
        if operation.primitive != "select_and_scatter_add" or operation.results[0] not in plan.array_of:
            continue
        result = plan.table.values[operation.results[0]]
        gradient, features = plan.operand(operation, 0), plan.operand(operation, 1)
        pooled = plan.table.values[gradient]
        map_of = Addition(
            role=Role.TRANSIENT,
            layer=operation.layer,
            phase=Phase.BACKWARD,
            name="index map of the maxima",
            why="from the pooling over indices to the scatter",
            elements=pooled.elements,
            itemsize_bits=32,
        )
        unread = replace(
            map_of,
            role=Role.WORKSPACE,
            name="maximum that nobody reads",
            why="pooled again along with the indices",
            itemsize_bits=pooled.itemsize_bits,
        )
        maps = plan.add(map_of, copies=len(result.shape))
        plan.add_kernel(index, plan.arrays_of(plan.fusion.sources(features)), (*maps, *plan.add(unread)))
        bordered = with_borders(result.shape, operation.size("padding"))
        zeros = Addition(
            role=Role.CONSTANTS,
            layer=operation.layer,
            phase=Phase.BACKWARD,
            name="zeros to scatter into",
            why="made just before",
            elements=prod(bordered) // result.divided_over,
            itemsize_bits=result.itemsize_bits,
        )
        shape = (bordered, result.dtype)
        (target,) = plan.add(zeros)
        if shape in masked:
            if shape not in zeros_of:
                early = replace(
                    zeros, name="zeros of the ReLUs", why="from the first ReLU of this shape to its gradient"
                )
                zeros_of[shape] = _zeros_with_relu(plan, index, masked[shape], early)
            plan.arrays[target] = replace(
                plan.arrays[target],
                addition=replace(zeros, why="a copy of the ReLUs' zeros, made in the forward pass"),
            )
            plan.add_kernel(index, (zeros_of[shape],), (target,), copies=True)
        else:
            plan.add_kernel(index, (), (target,))
        scatter = plan.kernel_of[plan.array_of[operation.results[0]]]
        plan.kernels[scatter] = replace(
            plan.kernels[scatter], reads=(*plan.arrays_of(plan.fusion.sources(gradient)), *maps, target)
        )
        written = plan.array_of[operation.results[0]]
        plan.arrays[written] = replace(plan.arrays[written], takes_over=True)


def with_borders(shape: tuple[int, ...], padding: tuple[int, ...]) -> tuple[int, ...]:
    """The shape with the borders of a window's padding (before and after each dimension) where one stands in front."""
    before, after = padding[::2], padding[1::2]
    if not any(before):
        return shape
    return tuple(size + low + high for size, low, high in zip(shape, before, after, strict=True))


def _masked_values(plan: Plan) -> dict[tuple[tuple[int, ...], str], list[int]]:
    """Shape and dtype → the results of ReLUs and of their gradients, in the order of the trace. None without a ReLU."""
    found: dict[tuple[tuple[int, ...], str], list[int]] = {}
    rectified = set()
    for index in plan.equals.operations:
        operation = plan.table.operations[index]
        if operation.primitive not in ("max", "select_n"):
            continue
        value = plan.table.values[operation.results[0]]
        shape = (value.shape, value.dtype)
        if operation.primitive == "max" and len(plan.fusion.operands(operation)) == 1:
            rectified.add(shape)
            found.setdefault(shape, []).append(operation.results[0])
        elif operation.primitive == "select_n" and any(plan.equals.constant[v] for v in operation.operands):
            found.setdefault(shape, []).append(operation.results[0])
    return {shape: values for shape, values in found.items() if shape in rectified}


def _zeros_with_relu(plan: Plan, index: int, masked: Sequence[int], zeros: Addition) -> int:
    """Let the kernel of the first ReLU that writes its result write the zeros too, and all others read them."""
    (array,) = plan.add(zeros)
    kernels = dict.fromkeys(kernel for value in masked for kernel in sorted(plan.kernels_computing((value,))))
    own = [plan.array_of[plan.swallowed.get(value, value)] for value in masked if _is_written_relu(plan, value)]
    if own:
        first = plan.kernel_of[own[0]]
        plan.extend(first, writes=(array,))
    else:
        first = plan.add_kernel(index, (), (array,))
    for kernel in kernels:
        if kernel != first:
            plan.extend(kernel, reads=(array,))
    return array


def _is_written_relu(plan: Plan, value: int) -> bool:
    made = plan.table.values[value].operation
    rectifies = made is not None and plan.table.operations[made].primitive == "max"
    return rectifies and plan.swallowed.get(value, value) in plan.array_of


def tables_at_full_size(plan: Plan) -> None:
    """A table that a batch of products adds is written out for the whole batch: see `batch_epilogues`."""
    for written, tables in plan.shared_tables.items():
        value = plan.table.values[written]
        kernel = plan.kernel_of[plan.array_of[written]]
        operation = plan.table.operations[plan.kernels[kernel].operation]
        for table in tables:
            copy = plan.add(
                Addition(
                    role=Role.TRANSIENT,
                    layer=operation.layer,
                    phase=operation.phase,
                    name="table at full size",
                    why="repeated for the whole batch before it is added",
                    elements=value.elements,
                    itemsize_bits=value.itemsize_bits,
                )
            )
            plan.add_kernel(plan.kernels[kernel].operation, plan.arrays_of(plan.fusion.sources(table)), copy)
            plan.extend(kernel, reads=copy)


def cublas_calls(plan: Plan) -> None:
    """Each call of cuBLAS is handed memory to work in, and matrices: a product that lies otherwise is copied into order."""
    for index in plan.equals.operations:
        operation = plan.table.operations[index]
        if operation.primitive != "dot_general":
            continue
        result = operation.results[0]
        product = plan.kernel_of[plan.array_of[plan.swallowed.get(result, result)]]
        workspace = Addition(
            role=Role.WORKSPACE,
            layer=operation.layer,
            phase=operation.phase,
            name="workspace of cuBLAS",
            why="while it multiplies",
            elements=CUBLAS_WORKSPACE_BYTES,
            itemsize_bits=8,
        )
        plan.extend(product, writes=plan.add(workspace), first=True)
        for number in range(len(operation.operands)):
            value = plan.operand(operation, number)
            made = plan.table.values[value].operation
            if made is None or plan.table.operations[made].primitive != "dot_general":
                continue  # what is computed element by element is written in order at once
            if value in plan.array_of and not is_matrix(plan.table, operation, number):
                read = plan.table.values[value]
                copy = plan.add(
                    Addition(
                        role=Role.TRANSIENT,
                        layer=operation.layer,
                        phase=operation.phase,
                        name="operand in order",
                        why="copied for the product",
                        elements=read.elements,
                        itemsize_bits=read.itemsize_bits,
                    )
                )
                plan.add_kernel(index, (plan.array_of[value],), copy)
                plan.replace_read(product, plan.array_of[value], copy[0])


def split_products(plan: Plan) -> None:
    """A matrix product with few tiles is split along what it sums over, so that every multiprocessor has work.

    It reads its operands in another shape then. XLA's schedulers count what has another shape as an array of its own, though
    it takes no memory; a large kernel so read is put off as if it were large to make.
    """
    for index in plan.equals.operations:
        operation = plan.table.operations[index]
        if operation.primitive != "dot_general" or len(operation.operands) < 2 or not _is_split(plan, operation):
            continue
        product = plan.kernel_of[plan.array_of[operation.results[0]]]
        for number in (0, 1):
            value = plan.operand(operation, number)
            seen = plan.table.values[value]
            shown = Addition(
                role=Role.WORKSPACE,
                layer=operation.layer,
                phase=operation.phase,
                name="operand in another shape",
                why="takes no memory",
                elements=seen.elements,
                itemsize_bits=seen.itemsize_bits,
            )
            reads = plan.arrays_of(plan.fusion.sources(value))
            another = plan.add(shown, same_as=reads[0] if reads else -1)
            plan.add_kernel(index, reads, another)
            plan.extend(product, reads=another)


def _is_split(plan: Plan, operation: Operation) -> bool:
    left, right = (plan.table.values[operand] for operand in operation.operands[:2])
    batch = prod(left.shape[axis] for axis in operation.size("lhs_batch"))
    depth = prod(left.shape[axis] for axis in operation.size("lhs_contracting"))
    rows, columns = (value.elements // max(batch * depth, 1) for value in (left, right))
    tiles = batch * -(-rows // 64) * -(-columns // 32)
    return tiles < MULTIPROCESSORS and depth >= 1024
