"""What XLA's compiler for CPUs scatters into, and how it finds the places for the backward pass of a max-pool."""

from dataclasses import replace
from math import prod

from jaxmem.formula.cpu_fusion import made_from
from jaxmem.formula.fusion import SCATTERS
from jaxmem.formula.kernels import Addition, like
from jaxmem.formula.plan import Plan
from jaxmem.roles import Phase, Role


def max_pools(plan: Plan) -> None:
    """The backward pass of max-pool is a scatter of the gradient into zeros, at the places where the maxima were.

    `SelectAndScatterExpander` of XLA finds the places by pooling again over index ramps, one for each dimension: s32, as large
    as the map itself, and written to memory from the start, since they wait for nothing. The places are put side by side, and
    wait for the gradient. So do the zeros. A pool with borders pools again over a copy of the map with the borders around it;
    the ramps and the zeros have them too.
    """
    for index in plan.equals.operations:
        operation = plan.table.operations[index]
        if operation.primitive != "select_and_scatter_add" or operation.results[0] not in plan.array_of:
            continue
        result = plan.table.values[operation.results[0]]
        rank = len(result.shape)
        zeros_of = (0,) * rank
        gradient, features = plan.operand(operation, 0), plan.operand(operation, 1)
        pooled = plan.table.values[gradient]
        borders = operation.size("padding")
        bordered = prod(
            size + before + after
            for size, before, after in zip(
                result.shape, borders[::2] or zeros_of, borders[1::2] or zeros_of, strict=True
            )
        )
        ramp = Addition(
            role=Role.CONSTANTS,
            layer=operation.layer,
            phase=Phase.BACKWARD,
            name="index ramp",
            why="from the start until the pooling over indices",
            elements=bordered // result.divided_over,
            itemsize_bits=32,
        )
        found = replace(
            ramp,
            role=Role.TRANSIENT,
            name="index map of the maxima",
            elements=pooled.elements,
            why="until put side by side",
        )
        unread = replace(
            found,
            role=Role.WORKSPACE,
            name="maximum that nobody reads",
            why="pooled again along with the indices",
            itemsize_bits=pooled.itemsize_bits,
        )
        places = replace(
            found, name="places to scatter to", elements=rank * pooled.elements, why="from the pooling to the scatter"
        )
        zeros = replace(
            ramp,
            name="zeros to scatter into",
            why="from the start until the scatter",
            itemsize_bits=result.itemsize_bits,
        )
        ramps, maps = plan.add(ramp, copies=rank), plan.add(found, copies=rank)
        for one in ramps:
            plan.add_kernel(index, (), (one,))
        searched = plan.arrays_of(plan.fusion.sources(features))
        if any(borders):
            with_borders = replace(
                ramp,
                role=Role.TRANSIENT,
                name="map with its borders",
                why="until the pooling over indices",
                itemsize_bits=result.itemsize_bits,
            )
            copied = plan.add(with_borders)
            plan.add_kernel(index, plan.arrays_of(made_from(plan.fusion, features)), copied)
            searched = copied
        plan.add_kernel(index, (*searched, *ramps), (*maps, *plan.add(unread)))
        side_by_side, target = plan.add(places), plan.add(zeros)
        plan.add_kernel(index, maps, side_by_side)
        plan.add_kernel(index, (), target)
        scatter = plan.kernel_of[plan.array_of[operation.results[0]]]
        plan.kernels[scatter] = replace(
            plan.kernels[scatter], reads=(*plan.arrays_of(plan.fusion.sources(gradient)), *side_by_side, *target)
        )
        written = plan.array_of[operation.results[0]]
        plan.arrays[written] = replace(plan.arrays[written], takes_over=True)


def zeros_of_scatters(plan: Plan) -> None:
    """What is scattered into zeros is written over them; they are there from the start, since they wait for nothing.

    So is the gradient of an embedding: rows of zeros, to which those that were looked up are added.
    """
    for index in plan.equals.operations:
        operation = plan.table.operations[index]
        if operation.primitive not in SCATTERS or operation.primitive == "select_and_scatter_add":
            continue
        result = operation.results[0]
        if result not in plan.array_of or not plan.equals.constant[plan.operand(operation, 0)]:
            continue
        if result in plan.equals.scattered_into:
            continue
        held, written = plan.table.values[result], plan.array_of[result]
        zeros = plan.add(
            like(
                held,
                operation,
                role=Role.CONSTANTS,
                name="zeros to scatter into",
                why="from the start until the scatter",
            )
        )
        plan.add_kernel(index, (), zeros)
        plan.extend(plan.kernel_of[written], reads=zeros)
        plan.arrays[written] = replace(plan.arrays[written], takes_over=True)
