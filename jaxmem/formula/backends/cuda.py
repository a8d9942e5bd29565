"""What XLA's compiler for NVIDIA GPUs adds to a program. Each function is one habit."""

from dataclasses import replace
from math import prod

from jaxmem.formula.backends.cuda_pools import max_pools
from jaxmem.formula.kernels import Addition, like
from jaxmem.formula.orders import unordered
from jaxmem.formula.plan import Plan
from jaxmem.formula.tiles import is_matrix
from jaxmem.layer_table import Operation
from jaxmem.roles import Role

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
    arguments_read_late(plan)


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
            addition = like(
                value,
                operation,
                role=Role.WORKSPACE,
                name="kernel in cuDNN's order",
                why="from the forward pass to the update",
            )
            (copied[kernel],) = plan.add(addition)
            plan.add_kernel(index, (), (copied[kernel],), arguments=(kernel,))
            for update in updates.get(kernel, ())[-1:]:
                again = replace(addition, name="new state in cuDNN's order", why="until it is copied into place")
                plan.read_instead(update, kernel, copied[kernel])
                _copy_into_place(plan, update, again, but=kernel)
        plan.extend(convolution, reads=(copied[kernel],))


def _copy_into_place(plan: Plan, update: int, addition: Addition, *, but: int) -> None:
    """Let an update write new state of its kernel elsewhere, and a kernel of its own copy each array over the old one."""
    over = {plan.equals.of[result] for argument, result in plan.replaced.items() if argument != but}
    for array in plan.kernels[update].writes:
        value = plan.arrays[array].value
        if value in over and plan.table.values[value].elements == addition.elements:
            (elsewhere,) = plan.add(addition)
            plan.replace_write(update, array, elsewhere)
            plan.kernel_of[array] = plan.add_kernel(plan.kernels[update].operation, (elsewhere,), (array,))


def arguments_read_late(plan: Plan) -> None:
    """A donated argument that may be read after its new value is written is copied first.

    The product that the gradient goes back through reads the weights, and so does the update, and neither waits for the
    other. XLA puts the copies in before it orders the kernels (`PreSchedulingCopyInsertionPipeline`), and takes out those
    that the order makes superfluous (`RunPostSchedulingCopyInsertion` of gpu_compiler.cc).
    """
    readers: dict[int, list[int]] = {}
    for index, kernel in enumerate(plan.kernels):
        for argument in kernel.arguments:
            readers.setdefault(argument, []).append(index)
    update_of = {
        argument: update
        for argument, result in plan.replaced.items()
        if (update := plan.kernel_writing(plan.array_of.get(plan.equals.of[result], -1))) is not None
    }
    late = unordered(
        plan.kernels,
        [
            (reader, update)
            for argument, update in update_of.items()
            for reader in readers.get(argument, ())
            if reader != update
        ],
    )
    for argument, update in update_of.items():
        reading = readers.get(argument, [])
        if not any((reader, update) in late for reader in reading):
            continue
        value = plan.table.values[argument]
        operation = plan.table.operations[plan.kernels[reading[0]].operation]
        (copy,) = plan.add(
            like(
                value,
                operation,
                role=Role.WORKSPACE,
                name="copy of an argument",
                why="read after its new value is written",
            ),
            copy_of=argument,
        )
        plan.add_kernel(plan.kernels[reading[0]].operation, (), (copy,), arguments=(argument,))
        for reader in reading:
            plan.read_instead(reader, argument, copy)


def tables_at_full_size(plan: Plan) -> None:
    """A table that a batch of products adds is written out for the whole batch: see `batch_epilogues`."""
    for written, tables in plan.shared_tables.items():
        value = plan.table.values[written]
        kernel = plan.kernel_of[plan.array_of[written]]
        operation = plan.table.operations[plan.kernels[kernel].operation]
        for table in tables:
            copy = plan.add(
                like(
                    value,
                    operation,
                    role=Role.TRANSIENT,
                    name="table at full size",
                    why="repeated for the whole batch before it is added",
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
                    like(read, operation, role=Role.TRANSIENT, name="operand in order", why="copied for the product")
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
            shown = like(seen, operation, role=Role.WORKSPACE, name="operand in another shape", why="takes no memory")
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
