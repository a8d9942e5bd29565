"""What XLA's compiler for CPUs adds to a program. Each function is one habit.

What its library fusions allocate while they run is not among them: it depends on the number of threads of the machine.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import prod

from jaxmem.formula.backends.cpu_library import is_in_order, nearest_before, waits_for
from jaxmem.formula.backends.cpu_loops import zeros_from_the_start
from jaxmem.formula.backends.cpu_pools import max_pools, zeros_of_scatters
from jaxmem.formula.backends.cpu_products import copies_for_products, written_as_matrices
from jaxmem.formula.cpu_fusion import IN_A_LOOP, CpuFusion, is_inside_erfc, made_from
from jaxmem.formula.kernels import Addition, Slot
from jaxmem.formula.loop_invariants import CONVERT
from jaxmem.formula.plan import Plan
from jaxmem.layer_table import Operation
from jaxmem.roles import Phase, Role


def add_cpu(plan: Plan) -> None:
    """All habits."""
    results_written_over(plan)
    random_words(plan)
    exponentials_of_erfc(plan)
    max_pools(plan)
    zeros_of_scatters(plan)
    transposed_operands(plan)
    copies_for_products(plan)
    written_as_matrices(plan)
    depthwise_gradients(plan)
    spread_operands(plan)
    copied_arguments(plan)
    zeros_from_the_start(plan)


def results_written_over(plan: Plan) -> None:
    """What works element by element is written over what a convolution has written: both have one shape, and one result.

    A matrix product is another shape to XLA, with all its rows in one dimension, wherever the trace has more than two; a loop
    writes over an operand of its own shape only (`HloDataflowAnalysis::CanShareOperandBufferWithUser`).
    """
    for value, array in plan.array_of.items():
        made = plan.table.values[value].operation
        primitive = plan.table.operations[made].primitive if made is not None else ""
        if primitive == "conv_general_dilated":
            plan.arrays[array] = replace(plan.arrays[array], lends=True)
        elif primitive == "dot_general" and len(plan.table.values[value].shape) > 2:
            plan.arrays[array] = replace(plan.arrays[array], lends=False)


def random_words(plan: Plan) -> None:
    """Random bits come in two words, and are put together where they are read.

    JAX's generator, threefry, turns a counter of two words into two random words; on CPU its rounds are a loop, which writes
    both. The one word that is asked for is the exclusive or of the two, and everything made of it, a mask of dropout too, is
    computed again by each reader: both words wait for the backward pass in place of the mask. A key that is derived from
    another is two words as well, each a number of its own to the loop.
    """
    reading = plan.kernels_reading()
    for operation in _existing(plan):
        if operation.primitive in IN_A_LOOP:
            _stands_for(
                plan,
                reading,
                operation,
                "word of the random bits",
                "from its loop to the last mask made of it",
                copies=2,
            )
        elif operation.primitive == "random_fold_in":
            _stands_for(plan, reading, operation, "word of a key", "for the loop that draws with it", copies=2, parts=2)


def exponentials_of_erfc(plan: Plan) -> None:
    """exp(-x²) is a step of erfc(x), and the gradient's factor: computed once, and kept (`jaxmem.formula.cpu_fusion`)."""
    fusion = plan.fusion
    assert isinstance(fusion, CpuFusion)
    reading = plan.kernels_reading()
    for operation in _existing(plan):
        if is_inside_erfc(fusion, operation):
            _stands_for(
                plan,
                reading,
                operation,
                "exponential inside erfc",
                "for the gradient, which has it as a factor",
                copies=1,
            )


def _existing(plan: Plan) -> list[Operation]:
    """The operations whose first result exists."""
    operations = [plan.table.operations[index] for index in plan.equals.operations]
    return [operation for operation in operations if operation.results and operation.results[0] in plan.array_of]


def _stands_for(
    plan: Plan,
    reading: Mapping[int, Sequence[int]],
    operation: Operation,
    name: str,
    why: str,
    *,
    copies: int,
    parts: int = 1,
) -> None:
    """In place of a value the backend has arrays of its own, as large or in parts, written and read by the same kernels."""
    own = plan.array_of[operation.results[0]]
    plan.arrays[own] = replace(plan.arrays[own], size_bytes=0)
    value = plan.table.values[operation.results[0]]
    arrays = plan.add(
        Addition(
            role=Role.SAVED_ACTIVATIONS,
            layer=operation.layer,
            phase=operation.phase,
            name=name,
            why=why,
            elements=value.elements // parts,
            itemsize_bits=value.itemsize_bits,
        ),
        copies=copies,
    )
    plan.extend(plan.kernel_of[own], writes=arrays)
    for kernel in reading.get(own, ()):
        plan.extend(kernel, reads=arrays)


def depthwise_gradients(plan: Plan) -> None:
    """The gradient of a depthwise kernel is computed as if the convolution were a whole one, and the rest thrown away.

    Traced, it is a convolution whose batch falls into groups, one for each output channel. `ConvolutionGroupConverter` of XLA
    makes a whole one of it, every input channel with every output channel: groups times the kernel. Its diagonal is then
    selected into another array of that size, and added up into the gradient. Groups of several output channels become a
    dimension of space instead, and nothing is thrown away.
    """
    for index in plan.equals.operations:
        operation = plan.table.operations[index]
        groups = next(iter(operation.size("batch_group_count")), 1)
        if operation.primitive != "conv_general_dilated" or groups == 1 or operation.results[0] not in plan.array_of:
            continue
        gradient = plan.table.values[operation.results[0]]
        if groups != gradient.shape[operation.size("out_spec")[1]]:
            continue
        whole, selected = (
            plan.add(
                Addition(
                    role=Role.TRANSIENT,
                    layer=operation.layer,
                    phase=Phase.BACKWARD,
                    name=name,
                    why="for the gradient of a depthwise kernel",
                    elements=groups * gradient.elements,
                    itemsize_bits=gradient.itemsize_bits,
                )
            )
            for name in ("gradient of every pair of channels", "gradient within each group")
        )
        written = plan.array_of[operation.results[0]]
        convolution = plan.kernel_of[written]
        plan.kernels[convolution] = replace(plan.kernels[convolution], writes=whole)
        plan.add_kernel(index, whole, selected)
        plan.kernel_of[written] = plan.add_kernel(index, selected, (written,))
        plan.kernel_of[whole[0]] = convolution


def transposed_operands(plan: Plan) -> None:
    """The convolutions of the backward pass read their operands in the order of the forward pass's: transposed copies.

    For the gradient of a kernel, both the map that the layer read and the gradient of its result are copied, with the
    channels, or the images, in the place of the other. The copy of the map is made as soon as the map is there, fused with
    what makes it, and is what waits for the backward pass instead of the map. For the gradient of the map the kernel is
    transposed, and reversed, at the start. Convolutions that read the same map share its copy.
    """
    copies: dict[tuple[int, tuple[int, ...], tuple[int, ...]], int] = {}
    for index in plan.equals.operations:
        operation = plan.table.operations[index]
        if operation.primitive != "conv_general_dilated" or operation.phase is not Phase.BACKWARD:
            continue
        if operation.results[0] not in plan.array_of:
            continue  # inside a fusion of the library
        if not is_in_order(operation):
            continue
        convolution = plan.kernel_of[plan.array_of[operation.results[0]]]
        of_kernel = operation.size("lhs_spec")[:1] not in ((0,), ())
        for number in (0, 1) if of_kernel else (1,):
            value = plan.operand(operation, number)
            argument = plan.is_argument(value) or _is_cast_argument(plan, value)
            if not of_kernel and not argument:
                continue
            copied = plan.table.values[value]
            own = plan.array_of.get(value)
            kernel = plan.kernels[convolution]
            order = operation.size(("lhs_spec", "rhs_spec")[number]), operation.size("batch_group_count")
            if of_kernel and number == 0 and (value, *order) in copies:
                reads = (*(array for array in kernel.reads if array != own), copies[value, *order])
                plan.kernels[convolution] = replace(kernel, reads=reads)
                continue
            (copy,) = plan.add(
                Addition(
                    role=Role.WORKSPACE if argument else Role.SAVED_ACTIVATIONS if number == 0 else Role.TRANSIENT,
                    layer=operation.layer,
                    phase=plan.phase_of(value),
                    name=("map", "gradient")[number] + " transposed" if of_kernel else "kernel transposed and reversed",
                    why="for the convolution of the backward pass",
                    elements=copied.elements,
                    itemsize_bits=copied.itemsize_bits,
                )
            )
            of_argument = (value,) if plan.is_argument(value) else ()
            plan.add_kernel(index, plan.arrays_of(made_from(plan.fusion, value)), (copy,), arguments=of_argument)
            copies[value, *order] = copy
            plan.kernels[convolution] = replace(
                kernel, reads=(*(array for array in kernel.reads if array != own), copy)
            )


def _is_cast_argument(plan: Plan, value: int) -> bool:
    """Whether a value is an argument in another number format."""
    while not plan.is_argument(value):
        made = plan.table.values[value].operation
        if made is None or plan.table.operations[made].primitive != CONVERT:
            return False
        value = plan.operand(plan.table.operations[made], 0)
    return True


def spread_operands(plan: Plan) -> None:
    """What the library reads spread over a larger array is written out at that size, if anything else reads it so too.

    The reciprocal deviations and the scale of layer norm, kept at the size of the map; the zeros of every ReLU that the
    library computes (`jaxmem.formula.library_fusion`). A number of the program is spread out from the start, since that waits
    for nothing.
    """
    fusion = plan.fusion
    assert isinstance(fusion, CpuFusion)
    for spread in fusion.library.spreads:
        first = plan.table.operations[spread.readers[0]]
        held = plan.table.values[spread.value if spread.value is not None else first.results[0]]
        (array,) = plan.add(
            Addition(
                role=Role.CONSTANTS if spread.value is None else Role.WORKSPACE,
                layer=first.layer,
                phase=plan.phase_of(spread.value) if spread.value is not None else Phase.FORWARD,
                name="number spread out" if spread.value is None else "operand spread out",
                why="the library reads it at the size of the map, and something else does",
                elements=prod(spread.shape),
                itemsize_bits=held.itemsize_bits,
            )
        )
        reads = plan.arrays_of(fusion.sources(spread.value)) if spread.value is not None else ()
        plan.add_kernel(spread.readers[0], reads, (array,))
        results = [result for reader in spread.readers for result in plan.table.operations[reader].results]
        for kernel in sorted(plan.kernels_computing(results)):
            plan.extend(kernel, reads=(array,))


def copied_arguments(plan: Plan) -> None:
    """A donated argument that the backward pass reads is copied at the start; everything reads the copy.

    Its update is written over it and need not wait for the backward pass of the layer below, which still reads the old
    value. Where everything that reads the old value must have run before the update anyway, there is no copy: an embedding
    that is read again at the end of the network, whose gradient is the last of all. Between the copy and the update the
    argument's own memory stands idle, and other arrays are put there.
    """
    readers: dict[int, list[Operation]] = {}
    for index in plan.equals.operations:
        operation = plan.table.operations[index]
        for operand in plan.fusion.operands(operation):
            for source in plan.fusion.sources(operand):
                if source in plan.replaced:
                    readers.setdefault(source, []).append(operation)
    reading: dict[int, list[int]] = {}
    for argument, found in readers.items():
        new = plan.equals.of[plan.replaced[argument]]
        if new in plan.array_of and any(operation.phase is Phase.BACKWARD for operation in found):
            kernels = plan.kernels_computing(result for operation in found for result in operation.results)
            reading[argument] = sorted(kernels)
    updates = {argument: plan.kernel_of[plan.array_of[plan.equals.of[plan.replaced[argument]]]] for argument in reading}
    wanted = tuple(dict.fromkeys((*(kernel for kernels in reading.values() for kernel in kernels), *updates.values())))
    before = waits_for(nearest_before(plan), wanted)
    bit = {kernel: 1 << number for number, kernel in enumerate(wanted)}
    for argument, kernels in reading.items():
        update = updates[argument]
        if all(kernel == update or bit[kernel] & before[update] for kernel in kernels):
            continue
        found = readers[argument]
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
        copying = plan.add_kernel(plan.equals.operations[0], (), (copy,), arguments=(argument,))
        for kernel in kernels:
            plan.extend(kernel, reads=(copy,))
        plan.slots.append(Slot(size_bytes=plan.fusion.size_bytes(argument), after=(copying,), before=update))
