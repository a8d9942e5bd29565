"""What XLA's compiler for CPUs adds to a program. Each function is one habit.

What its library fusions allocate while they run is not among them: it depends on the number of threads of the machine.
"""

from dataclasses import replace

from jaxmem.formula.fusion import IN_MEMORY
from jaxmem.formula.plan import Plan
from jaxmem.formula.schedule import Addition, Slot
from jaxmem.layer_table import Operation
from jaxmem.roles import Phase, Role


def add_cpu(plan: Plan) -> None:
    """All habits."""
    max_pools(plan)
    transposed_operands(plan)
    copied_arguments(plan)


def max_pools(plan: Plan) -> None:
    """The backward pass of max-pool is a scatter of the gradient into zeros, at the places where the maxima were.

    `SelectAndScatterExpander` of XLA finds the places by pooling again over index ramps, one for each dimension: s32, as large
    as the map itself, and written to memory from the start, since they wait for nothing. The places are put side by side, and
    wait for the gradient. So do the zeros.
    """
    for index in plan.equals.operations:
        operation = plan.table.operations[index]
        if operation.primitive != "select_and_scatter_add" or operation.results[0] not in plan.array_of:
            continue
        result = plan.table.values[operation.results[0]]
        rank = len(result.shape)
        gradient, features = plan.operand(operation, 0), plan.operand(operation, 1)
        pooled = plan.table.values[gradient]
        ramp = Addition(
            role=Role.CONSTANTS,
            layer=operation.layer,
            phase=Phase.BACKWARD,
            name="index ramp",
            why="from the start until the pooling over indices",
            elements=result.elements,
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
        plan.add_kernel(index, (*plan.arrays_of(plan.fusion.sources(features)), *ramps), (*maps, *plan.add(unread)))
        side_by_side, target = plan.add(places), plan.add(zeros)
        plan.add_kernel(index, maps, side_by_side)
        plan.add_kernel(index, (), target)
        scatter = plan.kernel_of[plan.array_of[operation.results[0]]]
        plan.kernels[scatter] = replace(
            plan.kernels[scatter], reads=(*plan.arrays_of(plan.fusion.sources(gradient)), *side_by_side, *target)
        )
        written = plan.array_of[operation.results[0]]
        plan.arrays[written] = replace(plan.arrays[written], takes_over=True)


def transposed_operands(plan: Plan) -> None:
    """The convolutions of the backward pass read their operands in the order of the forward pass's: transposed copies.

    For the gradient of a kernel, both the map that the layer read and the gradient of its result are copied, with the
    channels, or the images, in the place of the other. The copy of the map is made as soon as the map is there, fused with
    what makes it, and is what waits for the backward pass instead of the map. For the gradient of the map the kernel is
    transposed, and reversed, at the start.
    """
    for index in plan.equals.operations:
        operation = plan.table.operations[index]
        if operation.primitive != "conv_general_dilated" or operation.phase is not Phase.BACKWARD:
            continue
        convolution = plan.kernel_of[plan.array_of[operation.results[0]]]
        of_kernel = operation.size("lhs_spec")[:1] not in ((0,), ())
        for number in (0, 1) if of_kernel else (1,):
            value = plan.operand(operation, number)
            if not of_kernel and not plan.is_argument(value):
                continue
            copied = plan.table.values[value]
            (copy,) = plan.add(
                Addition(
                    role=Role.WORKSPACE
                    if plan.is_argument(value)
                    else Role.SAVED_ACTIVATIONS
                    if number == 0
                    else Role.TRANSIENT,
                    layer=operation.layer,
                    phase=_phase_of(plan, value),
                    name=("map", "gradient")[number] + " transposed" if of_kernel else "kernel transposed and reversed",
                    why="for the convolution of the backward pass",
                    elements=copied.elements,
                    itemsize_bits=copied.itemsize_bits,
                )
            )
            plan.add_kernel(index, plan.arrays_of(_made_from(plan, value)), (copy,))
            own = plan.array_of.get(value)
            kernel = plan.kernels[convolution]
            plan.kernels[convolution] = replace(
                kernel, reads=(*(array for array in kernel.reads if array != own), copy)
            )


def _phase_of(plan: Plan, value: int) -> Phase:
    made = plan.table.values[value].operation
    return plan.table.operations[made].phase if made is not None else Phase.FORWARD


def _made_from(plan: Plan, value: int) -> tuple[int, ...]:
    """What a copy of a value reads: what the value is computed from, element by element, or the value itself."""
    made = plan.table.values[value].operation
    if made is None or plan.table.operations[made].primitive in IN_MEMORY:
        return plan.fusion.sources(value)
    return plan.fusion.read_by(plan.table.operations[made])


def copied_arguments(plan: Plan) -> None:
    """A donated argument that the backward pass reads is copied at the start; everything reads the copy.

    Its update is written over it and need not wait for the backward pass of the layer below, which still reads the old
    value. Between the copy and the update the argument's own memory stands idle, and other arrays are put there.
    """
    readers: dict[int, list[Operation]] = {}
    for index in plan.equals.operations:
        operation = plan.table.operations[index]
        for operand in plan.fusion.operands(operation):
            for source in plan.fusion.sources(operand):
                if source in plan.replaced:
                    readers.setdefault(source, []).append(operation)
    for argument, found in readers.items():
        new = plan.equals.of[plan.replaced[argument]]
        if new not in plan.array_of or not any(operation.phase is Phase.BACKWARD for operation in found):
            continue
        value = plan.table.values[argument]
        (copy,) = plan.add(
            Addition(
                role=Role.WORKSPACE,
                layer=found[0].layer,
                phase=Phase.FORWARD,
                name="copy of a donated argument",
                why="the old value is read until the end, the new one written before",
                elements=value.elements,
                itemsize_bits=value.itemsize_bits,
            )
        )
        copying = plan.add_kernel(plan.equals.operations[0], (), (copy,))
        kernels = {
            kernel for operation in found for result in operation.results for kernel in plan.kernels_computing(result)
        }
        for kernel in sorted(kernels):
            plan.extend(kernel, reads=(copy,))
        update = plan.kernel_of[plan.array_of[new]]
        plan.slots.append(Slot(size_bytes=plan.fusion.size_bytes(argument), after=copying, before=update))
