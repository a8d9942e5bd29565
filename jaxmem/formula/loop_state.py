"""Where the state of loops lies: in one place, from the first turn to the last reader of what the loop returns.

XLA's ``while`` receives, hands from turn to turn and returns one tuple, each element of which has one place
(`BufferAssignment` shares the buffers of a ``while``'s operand, parameter, root and result; `CopyInsertion` copies only what is
read after it was written over). So of each carried array there is

- one place that the loop takes with the others as it begins, and gives back with the others when it is over;
- nothing else for the next version, where its kernel works element by element or does not read the one before;
- no copy of what comes in where nobody reads it later, as zeros, or a donated argument that the result is written over.

What a scan stacks is such an array too: it exists, whole, from the first turn on.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from jaxmem.formula.equal import Equals
from jaxmem.formula.kernels import Array, Kernel
from jaxmem.layer_table import LayerTable

STACKED = "dynamic_update_slice"
"""The primitive of what a scan stacks, where a loop returns it."""

_UPDATES = frozenset({"dynamic_update_slice", "scatter", "scatter-add", "scatter_add", "scatter_mul"})
"""Operations that write some elements into their first operand, in its place if nobody reads the old ones later."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopState:
    """The state of all loops of a program, as values.

    Attributes:
        result_of: carried value → what the loop returns of it.
        version_of: what a turn makes → the carried value that it is the next version of.
        begins_with: what a loop receives, carries or stacks → the token that says that the loop begins; all of one token exist
            from there on.
        ends_with: what a loop returns → the token that says that its last turn is over.
    """

    result_of: Mapping[int, int]
    version_of: Mapping[int, int]
    begins_with: Mapping[int, int]
    ends_with: Mapping[int, int]


def loop_state(table: LayerTable, equals: Equals) -> LoopState:
    """Read off a table what its loops carry. Linear in the number of operations."""
    result_of: dict[int, int] = {}
    versions: dict[int, list[int]] = {}
    begins_with: dict[int, int] = {}
    ends_with: dict[int, int] = {}
    begun_by: dict[int, int] = {}
    open_loops: list[tuple[str, int]] = []
    for index in equals.operations:
        operation = table.operations[index]
        result = operation.results[0] if operation.results else -1
        is_token = result >= 0 and table.values[result].dtype == "token" and not operation.hands_on
        if is_token and operation.primitive == "while":  # the token of branches is no loop's
            if open_loops and open_loops[-1][0] == operation.scope:
                begun_by[result] = open_loops.pop()[1]
            else:
                open_loops.append((operation.scope, result))
        if not operation.hands_on:
            continue
        token = operation.operands[-1]
        if token not in begun_by:  # handed in
            if operation.primitive == "while":
                begins_with[result] = token
            continue
        ends_with[result] = token
        continues = table.values[result].continues
        if continues is not None:
            result_of[continues] = result
            versions.setdefault(equals.of[operation.operands[0]], []).append(continues)
        elif operation.primitive == STACKED:
            begins_with[result] = begun_by[token]
    version_of = {value: states[0] for value, states in versions.items() if len(states) == 1 and value not in result_of}
    for value, state in tuple(version_of.items()):
        # One update behind another, as of a cache layer by layer.
        before = updated_in_place(table, equals, value)
        while before is not None and (further := updated_in_place(table, equals, before)) is not None:
            version_of.setdefault(before, state)
            before = further
    return LoopState(
        result_of=result_of,
        version_of=version_of,
        begins_with=begins_with,
        ends_with=ends_with,
    )


def updated_in_place(table: LayerTable, equals: Equals, value: int) -> int | None:
    """What is written into to make a value; None where a value is made otherwise."""
    made = table.values[value].operation
    operation = table.operations[made] if made is not None else None
    if operation is None or operation.hands_on or operation.primitive not in _UPDATES or not operation.operands:
        return None
    return equals.of[operation.operands[0]]


def gather_state(
    kernels: Sequence[Kernel], arrays: Sequence[Array], array_of: dict[int, int], loops: LoopState
) -> tuple[list[Kernel], list[Array]]:
    """One kernel takes all state of a loop, what it stacks as well, and one gives it back. Linear in the number of kernels.

    Args:
        kernels, arrays: the program, one kernel for each array that a loop receives or returns.
        array_of: value → its array; what is stacked gets another one, by which it is known when the loop is over.
        loops: their state.
    """
    gathered = list(arrays)
    writer = {array: index for index, kernel in enumerate(kernels) for array in kernel.writes}
    joins: dict[int, int] = {}
    """Kernel of what a loop receives or returns → the kernel of its token, which does it all."""
    stacks: dict[int, list[int]] = {}
    known_as: dict[int, int] = {}
    reads_last: dict[int, list[int]] = {}
    for value, token in loops.ends_with.items():
        if value in array_of and token in array_of:
            joins[writer[array_of[value]]] = writer[array_of[token]]
    for value, token in loops.begins_with.items():
        if value not in array_of or token not in array_of:
            continue
        array, begin = array_of[value], writer[array_of[token]]
        if value in loops.ends_with:
            stacks.setdefault(begin, []).append(array)
            gathered.append(replace(arrays[array], value=None, same_as=array))
            known_as[array] = array_of[value] = len(gathered) - 1
            continue
        joins[writer[array]] = begin
        result = array_of.get(loops.result_of.get(value, -1))
        if arrays[array].same_as == -1 and result is not None:
            # The argument itself is the state: it is read until the loop is over.
            reads_last.setdefault(joins.get(writer[result], writer[result]), []).extend(
                kernels[writer[array]].arguments
            )
    members: dict[int, list[int]] = {}
    for index in range(len(kernels)):
        members.setdefault(joins.get(index, index), []).append(index)
    found = []
    for index in sorted(members):
        together = [kernels[one] for one in members[index]]
        written = [known_as.get(array, array) for kernel in together for array in kernel.writes]
        writes = dict.fromkeys((*written, *stacks.get(index, ())))
        reads = [known_as.get(array, array) for kernel in together for array in kernel.reads]
        # What was stacked is there until the loop is over.
        reads += [array for kernel in together for array in kernel.writes if array in known_as]
        arguments = [argument for kernel in together for argument in kernel.arguments] + reads_last.get(index, [])
        found.append(
            replace(
                kernels[index],
                reads=tuple(array for array in dict.fromkeys(reads) if array not in writes),
                writes=tuple(writes),
                arguments=tuple(dict.fromkeys(arguments)),
            )
        )
    return found, gathered
