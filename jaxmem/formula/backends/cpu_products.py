"""The copies that matrix products on a CPU read in place of what lies in another order (`jaxmem.formula.products`)."""

from dataclasses import dataclass, field, replace

from jaxmem.formula.cpu_fusion import CpuFusion, is_expensive
from jaxmem.formula.kernels import Addition
from jaxmem.formula.plan import Plan
from jaxmem.formula.products import Order, Side, read_side
from jaxmem.layer_table import Operation
from jaxmem.roles import Phase, Role


@dataclass(slots=True)
class _Read:
    """How products read a value.

    Attributes:
        copies: order of its dimensions → the products that read it in this order.
        stands: products read it as it is, too.
    """

    copies: dict[Order, list[Operation]] = field(default_factory=dict)
    stands: bool = False


def copies_for_products(plan: Plan) -> None:
    """What products read in another order is written in that order: fused with what computes it, if that is a loop.

    A value that a loop computes and nothing else reads from memory is the copy itself. A value of a library, an argument, and
    one that others read from memory stands beside it; so do copies in different orders. The gradient of a dense layer's result
    is such a value: one product sums over its rows, for the gradient of the kernel, the other over its columns.
    """
    reads: dict[int, _Read] = {}
    for index in plan.equals.operations:
        operation = plan.table.operations[index]
        if operation.primitive != "dot_general" or len(operation.operands) < 2:  # the other side is a literal
            continue
        for place in (0, 1):
            value = plan.operand(operation, place)
            side, order = read_side(plan.table, operation, place)
            read = reads.setdefault(value, _Read())
            if side is Side.COPIED:
                read.copies.setdefault(order, []).append(operation)
            else:
                read.stands = True
    for value, read in reads.items():
        orders = list(read.copies)
        if orders and not read.stands and not _lies_in_memory(plan, value):
            del orders[0]
        for order in orders:
            _copy(plan, value, read.copies[order])


def _lies_in_memory(plan: Plan, value: int) -> bool:
    """Whether a value lies in memory in its own order, whatever products read."""
    fusion = plan.fusion
    assert isinstance(fusion, CpuFusion)
    if plan.is_argument(value) or value not in plan.array_of or value in fusion.ends:
        return True
    if plan.arrays[plan.array_of[value]].stays or not plan.arrays[plan.array_of[value]].takes_over:
        return True
    readers = [plan.table.operations[reader] for reader in fusion.readers.get(value, ())]
    others = [reader for reader in readers if reader.primitive != "dot_general"]
    return any(value not in fusion.again or not fusion.takes(reader, value) for reader in others)


def _copy(plan: Plan, value: int, products: list[Operation]) -> None:
    fusion = plan.fusion
    assert isinstance(fusion, CpuFusion)
    held, phase = plan.table.values[value], plan.phase_of(value)
    kept = phase is Phase.FORWARD and any(product.phase is Phase.BACKWARD for product in products)
    (copy,) = plan.add(
        Addition(
            role=Role.WORKSPACE if plan.is_argument(value) else Role.SAVED_ACTIVATIONS if kept else Role.TRANSIENT,
            layer=products[0].layer,
            phase=phase,
            name="operand in another order",
            why="for a matrix product, beside the value as it lies",
            elements=held.elements,
            itemsize_bits=held.itemsize_bits,
        )
    )
    first = plan.table.values[products[0].results[0]].operation
    assert first is not None
    plan.add_kernel(first, plan.arrays_of(_made_from(plan, value)), (copy,))
    own = plan.array_of.get(value)
    for kernel in sorted(plan.kernels_computing(result for product in products for result in product.results)):
        if own in plan.kernels[kernel].reads:
            plan.replace_read(kernel, own, copy)
        else:
            plan.extend(kernel, reads=(copy,))


def _made_from(plan: Plan, value: int) -> tuple[int, ...]:
    """What a copy is computed from: the value, or what the value is computed from.

    That is so where reading this takes no more, and where products alone read the value, in matrices: each of them reads it in
    another shape, and whatever gives it that shape computes it by itself.
    """
    fusion = plan.fusion
    assert isinstance(fusion, CpuFusion)
    made = plan.table.values[value].operation
    if value in fusion.again or made is None or _lies_in_memory(plan, value):
        return fusion.again.get(value, fusion.sources(value))
    maker = plan.table.operations[made]
    reshaped = _is_read_in_matrices(plan, value) and not is_expensive(plan.table, maker)
    return fusion.read_by(maker) if reshaped else fusion.sources(value)


def _is_read_in_matrices(plan: Plan, value: int) -> bool:
    """Whether products alone read a value, all of them in a shape of fewer dimensions."""
    readers = [plan.table.operations[reader] for reader in plan.fusion.readers.get(value, ())]
    return bool(readers) and all(
        reader.primitive == "dot_general" and len(reader.size("lhs_batch")) + 2 < len(plan.table.values[value].shape)
        for reader in readers
    )


def written_as_matrices(plan: Plan) -> None:
    """What is computed for products alone is written in their shape at once, and over no operand, which has another."""
    for value, array in plan.array_of.items():
        held = plan.arrays[array]
        if held.takes_over and not held.stays and _is_read_in_matrices(plan, value):
            plan.arrays[array] = replace(held, takes_over=False)
