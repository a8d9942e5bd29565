"""Occupant → role: one ordered list of rules. Each answers with a role or passes; who answered is recorded.

The order is the argument: what a value *is* (an argument, an output, a constant) is asked before what it is *for*, and each
role has evidence of its own. What no rule knows is unattributed, and counted.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from jaxmem.attribution.collectives import COLLECTIVES
from jaxmem.attribution.dataflow import Node
from jaxmem.attribution.facts import Facts
from jaxmem.lowering import Argument, Output
from jaxmem.profile import Buffer, Leaf, MemoryProfile
from jaxmem.roles import STATE_ROLES, Phase, Role


class Attribution(NamedTuple):
    """What a buffer is for.

    Attributes:
        role, layer, phase: the answer.
        rule: the rule that decided the role; ``layer_rule`` the one that decided the layer.
        node: the dataflow node whose numbers the buffer holds; None for a table of pointers.
    """

    role: Role
    layer: str
    phase: Phase
    rule: str
    layer_rule: str
    node: int | None


@dataclass(eq=False)
class Occupant:
    """One buffer, with everything a rule may ask about it."""

    profile: MemoryProfile
    facts: Facts
    live_leaves: frozenset[Leaf]
    """Where the values are made that hold bytes at the peak."""
    buffer: Buffer
    node: Node | None
    slot_of: Argument | None
    """The donated argument whose memory the buffer lies in."""
    stands_in: bool
    """The argument whose numbers it holds is gone from its own slot at the peak, and this is the copy in its place."""
    is_in_result: bool
    """It lies in memory of the program's result that is no argument's."""

    def __post_init__(self) -> None:
        facts, node = self.facts, self.node
        self.dataflow = facts.dataflow
        self.argument: Argument | None = None
        """The argument whose numbers the buffer holds, unchanged."""
        self.output: Output | None = None
        """The program output that the buffer is."""
        self.phase = Phase.UNKNOWN
        """The phase in which the numbers were first made."""
        if node is not None:
            origin = facts.dataflow.origins[node.index]
            self.argument = facts.argument[node.index]
            self.phase = facts.phase[origin]
            if (position := facts.output_of(node.index)) is not None:
                self.output = facts.outputs[position]

    @property
    def origin(self) -> Node:
        """The node that first made the numbers."""
        assert self.node is not None
        return self.dataflow.nodes[self.dataflow.origins[self.node.index]]

    @property
    def is_read(self) -> bool:
        """Whether anything reads the buffer."""
        return self.node is not None and self.dataflow.is_read(self.node.index)

    @cached_property
    def readers(self) -> tuple[Node, ...]:
        """Who reads the buffer."""
        return self.dataflow.readers(self.node.index) if self.node is not None else ()

    @cached_property
    def reader_phases(self) -> frozenset[Phase]:
        """The phases for which its readers run: a forward operation repeated inside a backward fusion is backward."""
        return frozenset(self.facts.run_phase(reader) for reader in self.readers)

    @cached_property
    def grows_into(self) -> Output | None:
        """The program output of which the buffer is a part already written, or an earlier version that a loop carries."""
        position = self.facts.grows_into(self.node.index) if self.node is not None else None
        return self.facts.outputs[position] if position is not None else None


def _argument_itself(occupant: Occupant) -> Role | None:
    # Identity comes first: an argument is what its Python type and path say, whatever it looks like.
    if occupant.argument is not None and occupant.node is not None and occupant.node.instruction.opcode == "parameter":
        return occupant.argument.role
    return None


def _pointer_table(occupant: Occupant) -> Role | None:
    # A tuple's table holds addresses: the program's result if it leaves the program, else scaffolding.
    if occupant.node is not None:
        return None  # an array
    if not occupant.profile.instruction(occupant.buffer).shape.subshape(occupant.buffer.leaf[1]).is_tuple:
        return None
    root = occupant.profile.module.entry.root_id
    return Role.OUTPUTS if occupant.buffer.leaf[0] == root else Role.WORKSPACE


def _literal(occupant: Occupant) -> Role | None:
    if occupant.profile.instruction(occupant.buffer).opcode == "constant":
        return Role.CONSTANTS
    return None


def _output(occupant: Occupant) -> Role | None:
    # New state written over old state is that state. Beside the old, which the caller still holds, it is an output.
    if occupant.output is None:
        return None
    if occupant.output.role in STATE_ROLES and occupant.slot_of is not None:
        return occupant.output.role
    return Role.OUTPUTS


def _result_in_the_making(occupant: Occupant) -> Role | None:
    # What a loop writes part by part into the memory of a result is that result, though later turns write the rest.
    return Role.OUTPUTS if occupant.is_in_result and occupant.grows_into is not None else None


def _copy_of_argument(occupant: Occupant) -> Role | None:
    # XLA copies a donated argument out and reuses its slot: then one copy is the argument. While the slot still holds it,
    # and beside that one, a copy is a second one, made for a kernel's sake; so is the part of it that a kernel reads.
    if occupant.node is not None and occupant.facts.cut_from(occupant.node.index) is not None:
        return Role.WORKSPACE
    argument = occupant.argument
    if argument is None or argument.parameter_number is None:
        return None
    return argument.role if occupant.stands_in else Role.WORKSPACE


def _depends_on_nothing(occupant: Occupant) -> Role | None:
    # Before any look at phases: zeros and index ramps made for a backward pass have the shape of feature maps.
    if occupant.node is not None and not occupant.facts.depends[occupant.node.index]:
        return Role.CONSTANTS
    return None


def _carried_state(occupant: Occupant) -> Role | None:
    # A loop over training steps holds the state of the step before, in its own memory or in the argument's slot. A copy
    # takes its place where the new version is written over it, and is a second one beside it.
    if occupant.node is None or (argument := occupant.facts.carried_argument(occupant.origin)) is None:
        return None
    is_itself = occupant.dataflow.named_first(occupant.node.index) == occupant.origin.index
    return argument.role if is_itself or occupant.origin.leaf not in occupant.live_leaves else Role.WORKSPACE


def _selects_branch(occupant: Occupant) -> Role | None:
    if occupant.node is not None and occupant.dataflow.named_first(occupant.node.index) in occupant.dataflow.selectors:
        return Role.TRANSIENT
    return None


def _scratch(occupant: Occupant) -> Role | None:
    # A custom call's extra result that nobody reads is memory it works in.
    node = occupant.node
    if node is not None and node.instruction.opcode == "custom-call" and node.shape_index and not occupant.is_read:
        return Role.WORKSPACE
    return None


def _never_read(occupant: Occupant) -> Role | None:
    # A multi-output instruction writes every result, wanted or not.
    if occupant.node is not None and occupant.node.shape_index and not occupant.is_read and occupant.output is None:
        return Role.WORKSPACE
    return None


def _gradient(occupant: Occupant) -> Role | None:
    if occupant.node is not None and occupant.facts.gradient_of[occupant.node.index] is not None:
        return Role.GRADIENTS
    return None


def _collective(occupant: Occupant) -> Role | None:
    # What came from other devices, gathered parameters included: they are there for one operation. A gradient stays one on
    # its way through the sum over the devices.
    if occupant.node is not None and occupant.origin.instruction.opcode in COLLECTIVES:
        return Role.COLLECTIVES
    if occupant.node is None or occupant.origin.instruction.opcode != "concatenate":
        return None
    # Many small arrays are packed into one before it is sent, and what came in pieces is one array again.
    packed = occupant.is_read and all(reader.instruction.opcode in COLLECTIVES for reader in occupant.readers)
    return Role.COLLECTIVES if packed or occupant.facts.is_rejoined(occupant.origin) else None


def _made_forward_read_backward(occupant: Occupant) -> Role | None:
    # A forward operation that runs after the first gradient is rematerialization: nothing was saved.
    if (
        occupant.phase is Phase.FORWARD
        and Phase.BACKWARD in occupant.reader_phases
        and not _made_after_the_first_gradient(occupant)
    ):
        return Role.SAVED_ACTIVATIONS
    return None


def _made_after_the_first_gradient(occupant: Occupant) -> bool:
    first = occupant.facts.first_gradient_position
    return first is not None and occupant.buffer.start > first


def _backward_made_early(occupant: Occupant) -> Role | None:
    # An index map or mask that depends on the forward pass alone, made before the first gradient and kept for later, is
    # saved for the backward pass just as a feature map is. Made after it, it is recomputation.
    first = occupant.facts.first_gradient_position
    if (
        occupant.node is not None
        and occupant.phase is Phase.BACKWARD
        and first is not None
        and not occupant.facts.follows_cotangent[occupant.origin.index]
        and occupant.buffer.start < first < occupant.buffer.end
    ):
        return Role.SAVED_ACTIVATIONS
    return None


def _working_forward(occupant: Occupant) -> Role | None:
    if occupant.phase is Phase.FORWARD and occupant.is_read and occupant.reader_phases <= {Phase.FORWARD, Phase.UPDATE}:
        return Role.TRANSIENT
    return None


def _working_backward(occupant: Occupant) -> Role | None:
    recomputed = occupant.phase is Phase.FORWARD and _made_after_the_first_gradient(occupant)
    if (occupant.phase is Phase.BACKWARD or recomputed) and occupant.is_read:
        return Role.TRANSIENT
    return None


def _working_update(occupant: Occupant) -> Role | None:
    if occupant.phase is Phase.UPDATE and occupant.is_read:
        return Role.TRANSIENT
    return None


RULES: tuple[tuple[str, Callable[[Occupant], Role | None]], ...] = (
    ("argument itself", _argument_itself),
    ("table of pointers", _pointer_table),
    ("literal constant", _literal),
    ("program output", _output),
    ("result that a loop is writing", _result_in_the_making),
    ("copy of an argument", _copy_of_argument),
    ("depends on no argument", _depends_on_nothing),
    ("state that a loop carries", _carried_state),
    ("decides which branch runs, or another turn", _selects_branch),
    ("scratch of a custom call", _scratch),
    ("result nobody reads", _never_read),
    ("becomes new state element by element", _gradient),
    ("exchanged between devices", _collective),
    ("made forward, read backward", _made_forward_read_backward),
    ("made early for the backward pass", _backward_made_early),
    ("made and read forward", _working_forward),
    ("made and read backward", _working_backward),
    ("made and read in the update", _working_update),
)


def attribute(profile: MemoryProfile, facts: Facts) -> dict[int, Attribution]:
    """Role and layer of every buffer of the account, by buffer id."""
    parameter_allocations = {
        allocation.index: allocation.parameter_number
        for allocation in profile.allocations
        if allocation.is_entry_computation_parameter
    }
    argument_of_number: dict[int, Argument] = {}
    gone: set[int] = set()
    copies: dict[int, list[Buffer]] = {}
    dataflow, live = facts.dataflow, profile.live_at_peak
    nodes = [dataflow.node_at(buffer.leaf) for buffer in profile.buffers]
    for buffer, node in zip(profile.buffers, nodes, strict=True):
        argument = facts.argument[node] if node is not None else None
        if argument is None or argument.parameter_number is None:
            continue
        if profile.instruction(buffer).opcode != "parameter":
            copies.setdefault(argument.parameter_number, []).append(buffer)
            continue
        argument_of_number[argument.parameter_number] = argument
        if buffer.id not in live:
            gone.add(argument.parameter_number)
    stand_ins = {
        min(found, key=lambda buffer: _stand_in_order(profile, buffer)).id
        for number, found in copies.items()
        if number in gone
    }
    results = frozenset(
        allocation.index
        for allocation in profile.allocations
        if allocation.maybe_live_out and not allocation.is_entry_computation_parameter
    )
    live_leaves = frozenset(buffer.leaf for buffer in profile.buffers if buffer.id in live)
    answers: dict[int, Attribution] = {}
    for buffer, node_index in zip(profile.buffers, nodes, strict=True):
        number = parameter_allocations.get(buffer.allocation)
        occupant = Occupant(
            profile,
            facts,
            live_leaves,
            buffer,
            node=dataflow.nodes[node_index] if node_index is not None else None,
            slot_of=argument_of_number.get(number) if number is not None else None,
            stands_in=buffer.id in stand_ins,
            is_in_result=buffer.allocation in results,
        )
        role, rule = Role.UNATTRIBUTED, "no rule"
        for name, ask in RULES:
            answer = ask(occupant)
            if answer is not None:
                role, rule = answer, name
                break
        layer, layer_rule = "", ""
        if node_index is not None:
            layer, layer_rule = facts.layer[node_index], facts.layer_rule[node_index]
            if role is Role.GRADIENTS and (output := facts.gradient_of[node_index]) is not None:
                layer, layer_rule = facts.outputs[output].layer, "it is the gradient of a parameter of the layer"
            elif (output := occupant.output or (occupant.grows_into if role is Role.OUTPUTS else None)) is not None:
                layer, layer_rule = output.layer, "the state it replaces, if any"
        answers[buffer.id] = Attribution(
            role=role, layer=layer, phase=occupant.phase, rule=rule, layer_rule=layer_rule, node=node_index
        )
    return answers


def _stand_in_order(profile: MemoryProfile, buffer: Buffer) -> tuple[bool, bool, int]:
    """Live at the peak comes first, then a plain copy before a transposed one, then the earlier."""
    plain = profile.instruction(buffer).opcode in ("copy", "copy-start", "copy-done")
    return buffer.id not in profile.live_at_peak, not plain, buffer.start


__all__ = ["RULES", "Attribution", "Occupant", "attribute"]
