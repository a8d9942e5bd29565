"""The backward pass of max-pools, as XLA's compiler for NVIDIA GPUs has it."""

from collections.abc import Sequence
from dataclasses import replace
from math import prod

from jaxmem.formula.kernels import Addition, like
from jaxmem.formula.orders import unordered
from jaxmem.formula.plan import Plan
from jaxmem.formula.pools import Kind, with_borders
from jaxmem.roles import Phase, Role


def max_pools(plan: Plan) -> None:
    """The backward pass of max-pool is a scatter of the gradient into zeros, at the places where the maxima were.

    `SelectAndScatterExpander` of XLA finds the places by pooling again over four index maps (one for each dimension, s32,
    as large as the pooled map) along with the map, whose maximum nobody reads then. The scatter works in place on zeros.

    Where the map comes from a ReLU, max(x, 0), the zeros are the same as the ReLU's: one array, made along with the first
    ReLU of that shape, and read by all others and their gradients. For the scatter it is copied, before the kernels have
    their order: the list has the copy right behind the zeros, since whatever else is ready then writes a table more, so that
    for each pool zeros twice the size of the map wait for the backward pass; depth first it is made when it is needed.

    Where the map has another reader, the scatter adds to the gradient that comes from there, and needs no zeros.

    A pool with a border in front scatters into the map with its borders, and slices these off: zeros of another shape than
    any ReLU's, made where they are needed. A border behind alone changes nothing, since no window begins in it.
    """
    masked = _masked_values(plan)
    zeros_of: dict[Kind, int] = {}
    for index in plan.equals.operations:
        operation = plan.table.operations[index]
        if operation.primitive != "select_and_scatter_add" or operation.results[0] not in plan.array_of:
            continue
        result = plan.table.values[operation.results[0]]
        gradient, features = plan.operand(operation, 0), plan.operand(operation, 1)
        pooled = plan.table.values[gradient]
        unread = like(
            pooled,
            operation,
            role=Role.WORKSPACE,
            name="maximum that nobody reads",
            why="pooled again along with the indices",
        )
        map_of = replace(
            unread,
            role=Role.TRANSIENT,
            name="index map of the maxima",
            why="from the pooling over indices to the scatter",
            itemsize_bits=32,
        )
        maps = plan.add(map_of, copies=len(result.shape))
        plan.add_kernel(index, plan.arrays_of(plan.fusion.sources(features)), (*maps, *plan.add(unread)))
        written = plan.array_of[operation.results[0]]
        scatter = plan.kernel_of[written]
        reads = (*plan.arrays_of(plan.fusion.sources(gradient)), *maps)
        into = plan.equals.scattered_into.get(operation.results[0])
        if into in plan.array_of:
            plan.kernels[scatter] = replace(plan.kernels[scatter], reads=(plan.array_of[into], *reads))
            plan.arrays[written] = replace(plan.arrays[written], over=plan.array_of[into], lends=False)
            continue
        bordered = with_borders(result.shape, operation.size("padding"))
        zeros = replace(
            like(result, operation, role=Role.CONSTANTS, name="zeros to scatter into", why="made just before"),
            elements=prod(bordered) // result.divided_over,
        )
        shape = (bordered, result.dtype)
        (target,) = plan.add(zeros)
        if shape in masked:
            if shape not in zeros_of:
                early = replace(
                    zeros, name="zeros of the ReLUs", why="from the first ReLU of this shape to its gradient"
                )
                zeros_of[shape] = _zeros_with_relu(plan, index, masked[shape], early, target)
            plan.arrays[target] = replace(
                plan.arrays[target], addition=replace(zeros, why="a copy of the ReLUs' zeros")
            )
            if plan.kernel_writing(target) is None:
                plan.add_kernel(index, (zeros_of[shape],), (target,))
        else:
            plan.add_kernel(index, (), (target,))
        plan.kernels[scatter] = replace(plan.kernels[scatter], reads=(target, *reads))
        plan.arrays[written] = replace(plan.arrays[written], takes_over=True, lends=False)


def _masked_values(plan: Plan) -> dict[Kind, list[int]]:
    """Shape and dtype → the results of ReLUs and of their gradients, in the order of the trace. None without a ReLU."""
    found: dict[Kind, list[int]] = {}
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


def _zeros_with_relu(plan: Plan, index: int, masked: Sequence[int], zeros: Addition, target: int) -> int:
    """Let the kernel of the first ReLU that writes its result write the zeros too, and all others read them.

    Where none does, since each is part of its convolution or of what reads it, or only one that waits for another, a kernel of
    its own writes the zeros, and the copy that the first pool scatters into.
    """
    (array,) = plan.add(zeros)
    kernels = dict.fromkeys(
        kernel
        for value in masked
        if not _is_of_library(plan, value)
        for kernel in sorted(plan.kernels_computing((value,)))
    )
    own = [plan.array_of[value] for value in masked if _is_relu(plan, value) and value in plan.array_of]
    own = [written for written in own if not plan.arrays[written].of_library]
    first = plan.kernel_of[own[0]] if own else -1
    others = [(kernel, first) for kernel in kernels if kernel != first]
    if own and len(unordered(plan.kernels, others)) == len(others):
        plan.extend(first, writes=(array,))
    else:
        first = plan.add_kernel(index, (), (array, target))
    for kernel in kernels:
        if kernel != first:
            plan.extend(kernel, reads=(array,))
    return array


def _is_relu(plan: Plan, value: int) -> bool:
    """Whether a value is a ReLU of the forward pass."""
    made = plan.table.values[value].operation
    operation = plan.table.operations[made] if made is not None else None
    return operation is not None and operation.primitive == "max" and operation.phase is Phase.FORWARD


def _is_of_library(plan: Plan, value: int) -> bool:
    """Whether a convolution writes the value, a ReLU, in place of its own result."""
    return value in plan.array_of and plan.arrays[plan.array_of[value]].of_library
