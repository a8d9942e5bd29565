"""When the state of loops begins to exist on a CPU."""

from dataclasses import replace

from jaxmem.formula.loop_invariants import Borders
from jaxmem.formula.plan import Plan


def zeros_from_the_start(plan: Plan) -> None:
    """What a loop carries, or stacks, and what begins as a number spread out, is written as soon as the program begins.

    Such an array waits for nothing, and what is ready first runs first (`jaxmem.formula.orders.first_in_first_out`): the zeros
    to which the backward pass adds its gradients exist during the forward pass. In a loop's body they exist from its beginning.
    """
    if not plan.loops.begins_with:
        return
    around = _loops_around(plan)
    taken: dict[int, list[int]] = {}
    for value, token in plan.loops.begins_with.items():
        if value not in plan.array_of or token not in plan.array_of:
            continue
        array = plan.array_of[value]
        if value in plan.loops.ends_with:  # stacked: the array that it is, under the name before the loop is over
            same_as = plan.arrays[array].same_as
            array = array if same_as is None else same_as
        elif not _begins_as_number(plan, value):
            continue
        if plan.arrays[array].same_as is None:
            taken.setdefault(token, []).append(array)
    for token, arrays in taken.items():
        begin = plan.kernel_of[plan.array_of[token]]
        kernel = plan.kernels[begin]
        plan.kernels[begin] = replace(
            kernel,
            reads=(*kernel.reads, *arrays),
            writes=tuple(array for array in kernel.writes if array not in arrays),
        )
        waits_for = plan.arrays_of(around[token])
        for array in arrays:
            plan.kernel_of[array] = plan.add_kernel(kernel.operation, waits_for, (array,))


def _begins_as_number(plan: Plan, value: int) -> bool:
    made = plan.table.values[value].operation
    return made is not None and plan.equals.constant[plan.equals.of[plan.table.operations[made].operands[0]]]


def _loops_around(plan: Plan) -> dict[int, tuple[int, ...]]:
    """What says that a loop begins → the same of the innermost loop that it stands in."""
    borders, found = Borders(plan.table), dict[int, tuple[int, ...]]()
    for index, operation in enumerate(plan.table.operations):
        loop = borders.loop
        if borders.reach(index) is not None:
            found[operation.results[0]] = plan.table.operations[loop].results if loop is not None else ()
    return found
