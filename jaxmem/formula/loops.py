"""Arrays that go round in loops.

JAX lowers a loop to one that carries its state in one place: what a turn returns is written over what it received. So a
carried array exists once, from the moment it is handed in to the last use of what the loop returns, and the versions of the
turns between are that same array.
"""

from jaxmem.layer_table import LayerTable, Operation
from jaxmem.lowering import Output
from jaxmem.roles import Phase


def carried_in_place(table: LayerTable) -> list[int]:
    """For each value the one whose place it takes over: for what a loop returns the state that it carries, else itself."""
    return [index if value.continues is None else value.continues for index, value in enumerate(table.values)]


def walk_back_through_loop(
    operation: Operation, table: LayerTable, becomes: dict[int, Output], found: dict[int, Output]
) -> None:
    """One step of the walk from new state back to gradients, over the border of a loop or a branch.

    What a loop returns is what its last turn left. A carried array that begins as no argument, as zeros, and becomes new
    state is a gradient that the loop adds up; one that begins as an argument is that state itself.
    """
    result = operation.results[0]
    if result not in becomes:
        return
    for source in operation.operands[: operation.hands_on]:
        if table.values[source].shape == table.values[result].shape:
            becomes.setdefault(source, becomes[result])
    if operation.phase is Phase.BACKWARD:
        found[result] = becomes[result]
        if (state := table.values[result].continues) is not None:
            # Transposed by JAX, the loop itself adds up what its turns give.
            for part in _added_to(state, operation.operands[0], table):
                found[part] = becomes[result]
        return
    if (
        operation.primitive == "while"
        and table.values[result].continues is None
        and _begins_as_nothing(operation.operands[0], table)
    ):
        found[result] = becomes[result]


def _added_to(state: int, version: int, table: LayerTable) -> list[int]:
    """What a turn adds to a sum that its loop carries."""
    maker = table.values[version].operation
    if maker is None or table.operations[maker].primitive != "add_any":
        return []
    return [operand for operand in table.operations[maker].operands if operand != state]


def _begins_as_nothing(value: int, table: LayerTable) -> bool:
    """Whether no argument is in a value: the operations that make it read none."""
    waiting, seen = [value], {value}
    while waiting:
        one = table.values[waiting.pop()]
        if one.argument is not None:
            return False
        if one.operation is None:
            continue
        for operand in table.operations[one.operation].operands:
            if operand not in seen:
                seen.add(operand)
                waiting.append(operand)
    return True
