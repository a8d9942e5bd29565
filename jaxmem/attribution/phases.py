"""Forward, backward or update: the phase in which each array is made, and the one for which it is."""

from collections.abc import Callable, Sequence

from jaxmem.attribution.dataflow import MOVES, Dataflow, Node
from jaxmem.roles import Phase

PHASES = (Phase.UNKNOWN, Phase.FORWARD, Phase.BACKWARD, Phase.UPDATE)
_UNKNOWN, _FORWARD, _BACKWARD, _UPDATE = range(4)
"""Phases in their order, as numbers while they are being found: comparing these is many times faster."""

_MOVES_NEARER = MOVES | {"slice", "async-start", "async-done"}

_REJOINS = "ConcatBitcast"
"""What XLA for TPU calls an array whose slices were brought on chip one by one."""


def find_phases(
    dataflow: Dataflow, depends: Sequence[int], in_update: Sequence[int], is_backward: Callable[[str], bool]
) -> list[int]:
    """For each node its phase, by its place in `PHASES`.

    Transposed by name is backward; later than that, or reading optimizer state, is update; other names are forward. What the
    compiler made without a name belongs to what it is made for: from forward values and read by the backward pass alone, it
    is backward. Otherwise it belongs to what it is made from.

    Args:
        depends: nothing but 0 for what depends on no argument.
        in_update: nothing but 0 for what depends on optimizer state.
        is_backward: whether a name tells of the backward pass.
    """
    phases = _from_what_it_is_made(dataflow, depends, in_update, is_backward)
    made_for = list(phases)
    for node in reversed(dataflow.nodes):
        index = node.index
        earliest = _UNKNOWN
        for user in node.users:
            phase = made_for[user]
            if phase and (phase < earliest or not earliest):
                earliest = phase
        if not earliest:
            continue
        opcode = node.instruction.opcode
        if opcode == "parameter" and not node.operands:
            continue
        moves = node.hands_on or opcode in MOVES
        if phases[index] == _UNKNOWN:
            phases[index] = earliest
        elif earliest == _BACKWARD and phases[index] == _FORWARD and not moves and not node.instruction.op_name:
            phases[index] = _BACKWARD
        made_for[index] = earliest if moves else phases[index]
    for node in dataflow.nodes:
        if node.hands_on and len(node.operands) == 1:
            phases[node.index] = phases[node.operands[0]]
    return phases


def _from_what_it_is_made(
    dataflow: Dataflow, depends: Sequence[int], in_update: Sequence[int], is_backward: Callable[[str], bool]
) -> list[int]:
    phases = [_UNKNOWN] * len(dataflow.nodes)
    for node in dataflow.nodes:
        index, operands, instruction = node.index, node.operands, node.instruction
        if not operands and instruction.opcode == "parameter":
            continue
        name = "" if node.hands_on else instruction.op_name
        if name and is_backward(name):
            phases[index] = _BACKWARD
            continue
        # What depends on no argument (a device's own number, zeros) is shared between phases, under the name of one.
        latest = _UNKNOWN
        for operand in operands:
            if phases[operand] > latest and (depends[operand] or not depends[index]):
                latest = phases[operand]
        if not name:
            phases[index] = latest
        elif latest >= _BACKWARD or in_update[index]:
            phases[index] = _UPDATE
        else:
            phases[index] = _FORWARD
    return phases


def find_run_phases(dataflow: Dataflow, own: Sequence[int]) -> list[int]:
    """For each node the phase for which it runs, by its place in `PHASES`.

    A forward operation inside a fusion runs for what it goes into there. What the compiler made without a name to bring an
    array nearer (a copy, a slice of it) runs for its first reader. All others run for their own.
    """
    phases = list(own)
    for node in reversed(dataflow.nodes):
        index, in_fusion = node.index, node.fusion is not None
        phase = phases[index]
        if phase >= _BACKWARD if in_fusion else not _brings_nearer(node):
            continue
        # Users inside the same fusion come later, as do the fusion's own results.
        later = [user for user in node.users if user > index]
        if in_fusion:
            phases[index] = _goes_into({phases[user] for user in later}, phase)
        else:
            readers = _phases_of_readers(dataflow.nodes, phases, later, phase)
            phases[index] = min(readers, default=_UNKNOWN if node.hands_on and not node.users else phase)
    return phases


def _goes_into(later: set[int], own: int) -> int:
    """The phase for which an operation in a fusion runs: that of what it goes into there, its own where that has none."""
    # The update may be fused into the gradient: what the gradient reads is read backward.
    return _BACKWARD if _BACKWARD in later else max(later, default=_UNKNOWN) or own


def _phases_of_readers(nodes: Sequence[Node], phases: Sequence[int], users: Sequence[int], own: int) -> set[int]:
    """The phases in which an array is read: a fusion reads it once, for what its operations make of it."""
    found: set[int] = set()
    in_fusions: dict[int, set[int]] = {}
    for user in users:
        fusion = nodes[user].fusion
        (found if fusion is None else in_fusions.setdefault(fusion, set())).add(phases[user])
    found.update(own if own >= _BACKWARD else _goes_into(inside, own) for inside in in_fusions.values())
    return found - {_UNKNOWN}


def _brings_nearer(node: Node) -> bool:
    """Whether a node only moves numbers, whole or in slices, and the program did not ask for it."""
    instruction = node.instruction
    if node.hands_on and instruction.opcode not in ("fusion", "call"):
        return len(node.operands) == 1
    moves = instruction.opcode in _MOVES_NEARER or instruction.attributes.custom_call_target == _REJOINS
    return moves and not instruction.op_name
