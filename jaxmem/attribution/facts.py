"""What the rules may ask about an array: whose numbers it holds, what it depends on, its phase, the gradient it is.

Everything here is a query on the dataflow graph together with the lowering's tables; nothing is decided from a shape or from
the name of an HLO instruction.
"""

from collections.abc import Sequence

from jaxmem.attribution.collectives import SUMS
from jaxmem.attribution.dataflow import ELEMENTWISE, MOVES, Dataflow, Node
from jaxmem.layer_paths import ScopeLayers, is_combined, is_transposed, name_stack
from jaxmem.lowering import Argument, Output
from jaxmem.roles import OPTIMIZER_ROLES, STATE_ROLES, Phase, Role

DEPENDS_ON_STATE = 1
DEPENDS_ON_OPTIMIZER = 2
DEPENDS_ON_INPUT = 4

SCOPES_LAYER = "the scope names the layer"
PRODUCERS_LAYER = "its producer's layer"
READERS_LAYER = "it reads what the layer's forward pass left for it"
CONSUMERS_LAYER = "its consumer's layer"
NEIGHBOURS_LAYER = frozenset({PRODUCERS_LAYER, READERS_LAYER, CONSUMERS_LAYER})
"""Rules that give a node the layer of a neighbour."""

_REJOINS = "ConcatBitcast"
"""What XLA for TPU calls an array whose slices were brought on chip one by one."""

PRODUCTS = frozenset({"dot", "convolution"})

_MOVES_NEARER = MOVES | {"slice", "async-start", "async-done"}

_PHASES = (Phase.UNKNOWN, Phase.FORWARD, Phase.BACKWARD, Phase.UPDATE)
_UNKNOWN, _FORWARD, _BACKWARD, _UPDATE = range(4)
"""Phases in their order, as numbers while they are being found: comparing these is many times faster."""


class Facts:
    """Answers for every node of a dataflow graph, computed once.

    Attributes:
        argument: the program argument whose numbers the node holds, unchanged; None for anything computed.
        depends: bits of `DEPENDS_ON_...`; 0 for what depends on no argument at all.
        phase: forward, backward or update.
        gradient_of: the output (index) of which the node is the gradient; None for anything else.
        awaits_sum: for the part of a gradient that one device has made, the node of the collective that adds up the parts.
        layer: layer path, empty where none was found; ``layer_rule`` says what decided it.
        follows_cotangent: the node depends on the gradient of the loss, so it cannot exist before the backward pass begins.
    """

    def __init__(self, dataflow: Dataflow, arguments: Sequence[Argument], outputs: Sequence[Output]) -> None:
        self.dataflow = dataflow
        self.outputs = outputs
        self._entry_arguments = self._find_entry_arguments(arguments)
        nodes = dataflow.nodes
        self.argument: list[Argument | None] = [self._entry_arguments.get(origin) for origin in dataflow.origins]
        self._carried_arguments = self._find_carried_arguments()
        self.depends = dataflow.spread({node: _bit(argument) for node, argument in self._entry_arguments.items()})
        self._follows_optimizer = self._find_what_follows_optimizer()
        self._named: dict[str, tuple[str, bool]] = {}
        self.scope: list[str] = [self._find_scope(node) for node in nodes]
        phases = self._find_phases()
        self.phase = [_PHASES[phase] for phase in phases]
        self._run_phases = self._find_run_phases(phases)
        self.output_nodes = self._find_output_nodes()
        self._become_outputs = self._find_what_becomes_output()
        self._becomes = self._find_what_becomes_state()
        self.gradient_of = self._find_gradients()
        self.awaits_sum = self._find_sums()
        self.first_gradient_position, self.follows_cotangent = self._follow_cotangent()
        self.layer, self.layer_rule = _Layers(self, arguments).find()

    def _find_scope(self, node: Node) -> str:
        """Its name stack; for a product that XLA has turned round and left without a name, that of the moves behind it."""
        instruction = node.instruction
        if instruction.op_name or instruction.opcode not in PRODUCTS:
            return self._read_name(instruction.op_name)[0]
        behind = {
            name_stack(reader.instruction.op_name) for reader in self.dataflow.readers(node.index) if _moves(reader)
        }
        return behind.pop() if len(behind) == 1 else ""

    def _read_name(self, op_name: str) -> tuple[str, bool]:
        """The name stack, and whether it tells of the backward pass. Many instructions share a name: each is read once."""
        found = self._named.get(op_name)
        if found is None:
            found = self._named[op_name] = name_stack(op_name), is_transposed(op_name)
        return found

    def _find_entry_arguments(self, arguments: Sequence[Argument]) -> dict[int, Argument]:
        by_number = {a.parameter_number: a for a in arguments if a.parameter_number is not None}
        found = {}
        for parameter in self.dataflow.module.parameters:
            for position, (index, _) in enumerate(parameter.shape.leaves):
                number = position if parameter.shape.is_tuple else parameter.parameter_number
                if number in by_number:
                    found[self.dataflow.node_at[(parameter.id, index)]] = by_number[number]
        return found

    def _find_what_follows_optimizer(self) -> list[bool]:
        """Which nodes depend on optimizer state within one turn of the loops around them.

        A loop over training steps makes everything depend on the optimizer of the step before; that does not make it part
        of the update.
        """
        nodes = self.dataflow.nodes
        follows = [False] * len(nodes)
        waiting = [node for node, argument in self._entry_arguments.items() if argument.role in OPTIMIZER_ROLES]
        for index in waiting:
            follows[index] = True
        while waiting:
            index = waiting.pop()
            for user in nodes[index].users:
                if user > index and not follows[user]:
                    follows[user] = True
                    waiting.append(user)
        return follows

    def _find_phases(self) -> list[int]:
        """Transposed by name is backward; later than that, or reading optimizer state, is update; other names are forward.

        What the compiler made without a name belongs to what it is made for: from forward values and read by the backward
        pass alone, it is backward. Otherwise it belongs to what it is made from.
        """
        nodes, depends = self.dataflow.nodes, self.depends
        phases = [_UNKNOWN] * len(nodes)
        made_from = list(phases)
        for node in nodes:
            index, operands, name = node.index, node.operands, node.instruction.op_name
            # What depends on no argument (a device's own number, zeros) is shared between phases, under the name of one.
            latest = _UNKNOWN
            for operand in operands:
                if phases[operand] > latest and (depends[operand] or not depends[index]):
                    latest = phases[operand]
            made_from[index] = latest
            if not operands and node.instruction.opcode == "parameter":
                continue
            if node.hands_on or not name:
                phases[index] = latest
            elif self._read_name(name)[1]:
                phases[index] = _BACKWARD
            elif latest >= _BACKWARD or self._follows_optimizer[index]:
                phases[index] = _UPDATE
            else:
                phases[index] = _FORWARD
        made_for = list(phases)
        for node in reversed(nodes):
            index = node.index
            earliest = _UNKNOWN
            for user in node.users:
                phase = made_for[user]
                if phase and (phase < earliest or not earliest):
                    earliest = phase
            if not node.operands and node.instruction.opcode == "parameter":
                continue
            if phases[index] == _UNKNOWN:
                phases[index] = earliest
            elif (
                earliest == _BACKWARD
                and phases[index] == _FORWARD
                and not node.instruction.op_name
                and not _moves(node)
            ):
                phases[index] = _BACKWARD
            made_for[index] = earliest if earliest and _moves(node) else phases[index]
        for node in nodes:
            if node.hands_on and len(node.operands) == 1 and node.operands[0] < node.index:
                phases[node.index] = phases[node.operands[0]]
        return phases

    def run_phase(self, node: Node) -> Phase:
        """The phase for which a node runs.

        A forward operation inside a fusion runs for what it goes into there. What the compiler made without a name to bring
        an array nearer (a copy, a slice of it) runs for its first reader. All others run for their own.
        """
        return self._run_phases[node.index]

    def _find_run_phases(self, own: Sequence[int]) -> list[Phase]:
        phases = list(own)
        for node in reversed(self.dataflow.nodes):
            index, phase = node.index, phases[node.index]
            in_fusion = node.fusion is not None
            if phase >= _BACKWARD if in_fusion else not _brings_nearer(node):
                continue
            # Users inside the same fusion come later, as do the fusion's own results.
            later = {phases[user] for user in node.users if user > index} - {_UNKNOWN}
            if in_fusion:
                # The update may be fused into the gradient: what the gradient reads is read backward.
                phases[index] = _BACKWARD if _BACKWARD in later else max(later, default=phase)
            else:
                phases[index] = min(later, default=_UNKNOWN if node.hands_on and not node.users else phase)
        return [_PHASES[phase] for phase in phases]

    def _find_output_nodes(self) -> dict[int, int]:
        """Node → index of the program output that it is."""
        entry = self.dataflow.module.entry
        root = self.dataflow.module.instructions[entry.root_id]
        found = {}
        for position, (index, _) in enumerate(root.shape.leaves):
            if position < len(self.outputs):
                found[self.dataflow.node_at[(root.id, index)]] = position
        return found

    def _find_what_becomes_output(self) -> set[int]:
        """The nodes that are a program output, under whatever name: few of all."""
        nodes, found = self.dataflow.nodes, set(self.output_nodes)
        waiting = list(found)
        while waiting:
            node = nodes[waiting.pop()]
            if node.hands_on:
                new = [operand for operand in node.operands if operand not in found]
                found.update(new)
                waiting += new
        return found

    def output_of(self, node: int) -> int | None:
        """Index of the program output that a node is, seen through names and boundaries; None if it is none."""
        return self._follow_to_output(node) if node in self._become_outputs else None

    def grows_into(self, node: int) -> int | None:
        """Index of the program output that a node becomes when the parts still missing are written into it."""
        return self._follow_to_output(node, parts=True)

    def _follow_to_output(self, node: int, *, parts: bool = False) -> int | None:
        nodes, waiting, seen = self.dataflow.nodes, [node], {node}
        while waiting:
            index = waiting.pop()
            if index in self.output_nodes:
                return self.output_nodes[index]
            for user in nodes[index].users:
                is_same = nodes[user].hands_on or (parts and index in continued(nodes[user]))
                if is_same and user not in seen:
                    seen.add(user)
                    waiting.append(user)
        return None

    def _find_what_becomes_state(self) -> list[int | None]:
        """For each node the output, a new parameter or moment, that it becomes element by element, or part by part."""
        nodes = self.dataflow.nodes
        becomes: list[int | None] = [None] * len(nodes)
        self._packed_sum: dict[int, int] = {}
        for node, position in self.output_nodes.items():
            output = self.outputs[position]
            if output.role in OPTIMIZER_ROLES | {Role.PARAMETERS} and output.parameter_path:
                becomes[node] = position
        for node in reversed(nodes):
            output = becomes[node.index]
            if output is None:
                continue
            if self._sums_parts(node):
                becomes[node.operands[0]] = output
                continue
            if (packed := self._packed_part(node)) is not None:
                becomes[packed] = output
                self._packed_sum[packed] = self.dataflow.origins[node.operands[0]]
                continue
            for operand in node.operands if _keeps_elements(node) else continued(node):
                if becomes[operand] is None and nodes[operand].elements == node.elements:
                    becomes[operand] = output
        return becomes

    def _sums_parts(self, node: Node) -> bool:
        """Whether the devices add up their parts of an array at a node, or each takes its part of such a sum."""
        opcode = node.instruction.opcode
        if opcode == "dynamic-slice":
            summed = self.dataflow.nodes[self.dataflow.origins[node.operands[0]]]
            return summed.instruction.opcode in SUMS
        return opcode in SUMS

    def _packed_part(self, node: Node) -> int | None:
        """For a slice of a sum of many arrays packed into one, the array that was packed in its place."""
        nodes, origins = self.dataflow.nodes, self.dataflow.origins
        if node.instruction.opcode != "slice" or len(node.instruction.attributes.slice_starts) != 1:
            return None
        summed = nodes[origins[node.operands[0]]]
        if summed.instruction.opcode not in SUMS or len(summed.operands) != 1:
            return None
        packed, start = nodes[origins[summed.operands[0]]], node.instruction.attributes.slice_starts[0]
        for operand in packed.operands if packed.instruction.opcode == "concatenate" else ():
            if start == 0 and nodes[operand].elements == node.elements:
                return operand
            start -= nodes[operand].elements
        return None

    def _find_sums(self) -> list[int | None]:
        """For each node the collective that adds up what the devices have made of it; None where there is none to come."""
        sums: list[int | None] = [self._packed_sum.get(index) for index in range(len(self.dataflow.nodes))]
        for node in reversed(self.dataflow.nodes):
            coming = node.index if node.instruction.opcode in SUMS else sums[node.index]
            if coming is None or self.gradient_of[node.index] is None:
                continue
            for operand in node.operands:
                if self.gradient_of[operand] == self.gradient_of[node.index]:
                    sums[operand] = coming
        return sums

    def _find_gradients(self) -> list[int | None]:
        """What becomes new state and was made backward from the inputs, back to where it stops being elementwise."""
        nodes = self.dataflow.nodes
        return [
            output
            if output is not None
            and self.depends[index] & DEPENDS_ON_INPUT
            and not self._follows_optimizer[index]
            and self._is_made_late(nodes[index])
            and self.argument[index] is None
            and index not in self._carried_arguments
            else None
            for index, output in enumerate(self._becomes)
        ]

    def _is_made_late(self, node: Node) -> bool:
        """Whether an array is made after the forward pass; what a loop sums up there begins as zeros made before it."""
        makers = node.operands if is_meeting(node) else (node.index,)
        return any(self.phase[maker] in (Phase.BACKWARD, Phase.UPDATE) for maker in (node.index, *makers))

    def carried_argument(self, node: Node) -> Argument | None:
        """The state argument whose version of the last turn a loop hands to the next; None for anything else.

        What a branch leaves is no next version: where one branch hands an argument on, another may leave zeros.
        """
        return self._carried_arguments.get(node.index)

    def _find_carried_arguments(self) -> dict[int, Argument]:
        found = {}
        for node in self.dataflow.nodes:
            if is_meeting(node) and node.instruction.opcode != "conditional":
                given = (self.argument[operand] for operand in node.operands)
                initial = next((argument for argument in given if argument is not None), None)
                if initial is not None and initial.role in STATE_ROLES:
                    found[node.index] = initial
        return found

    def _follow_cotangent(self) -> tuple[int | None, list[bool]]:
        """Where the first gradient is made, and which nodes depend on the gradient of the loss.

        Everything backward that the first gradient is made from stands at the head of the chain rule; what depends on that
        is a cotangent. The rest of the backward phase is a function of the forward pass alone: an index map, a mask, a
        recomputed activation. What a loop over training steps does is asked of one step: that its parameters come from the
        gradients of the step before makes no cotangent of what is computed from them.
        """
        nodes = self.dataflow.nodes
        state = self._carried_arguments
        made = [n for n in nodes if self.gradient_of[n.index] is not None and self.phase[n.index] is Phase.BACKWARD]
        if not made:
            return None, [False] * len(nodes)
        first = min(made, key=lambda node: (node.position, node.index))
        ancestors = self.dataflow.spread({first.index: 1}, backwards=True, anew=state)
        head = {
            node.index: 1
            for node in nodes
            # The gradient of the loss depends on the parameters; an index map made of the labels alone does not.
            if ancestors[node.index]
            and self.phase[node.index] is Phase.BACKWARD
            and self.depends[node.index] & DEPENDS_ON_STATE
        }
        return first.position, [bool(bit) for bit in self.dataflow.spread(head, anew=state)]


def is_meeting(node: Node) -> bool:
    """Whether ways meet at a node: what a loop carries, or what either branch leaves."""
    return node.hands_on and len(node.operands) > 1


def continued(node: Node) -> Sequence[int]:
    """The operand of which the node is the next version: the array that a part is written into."""
    return node.operands[:1] if node.instruction.opcode == "dynamic-update-slice" else ()


def _keeps_elements(node: Node) -> bool:
    return node.hands_on or node.instruction.opcode in ELEMENTWISE


def _moves(node: Node) -> bool:
    return node.hands_on or node.instruction.opcode in MOVES


def _brings_nearer(node: Node) -> bool:
    """Whether a node only moves numbers, whole or in slices, and the program did not ask for it."""
    instruction = node.instruction
    if node.hands_on and instruction.opcode not in ("fusion", "call"):
        return len(node.operands) == 1
    moves = instruction.opcode in _MOVES_NEARER or instruction.attributes.custom_call_target == _REJOINS
    return moves and not instruction.op_name


def _bit(argument: Argument) -> int:
    if argument.role in OPTIMIZER_ROLES:
        return DEPENDS_ON_OPTIMIZER
    return DEPENDS_ON_STATE if argument.role in (Role.PARAMETERS, Role.MODEL_STATE) else DEPENDS_ON_INPUT


def primitive(op_name: str) -> str:
    """JAX's name of the operation that an instruction comes from, empty for one that the compiler made.

    Some of the compiler's own go by the name of another instruction, ``compare.6``; JAX's names are paths.
    """
    path = op_name.split(";")[0]
    return "" if is_combined(op_name) or "/" not in path else path.rsplit("/", 1)[-1]


class _Layers:
    """The layer of every node: the scope that names one, else the parameters that flow in, else its neighbours."""

    def __init__(self, facts: Facts, arguments: Sequence[Argument]) -> None:
        self._facts = facts
        self._nodes = facts.dataflow.nodes
        self._scopes = ScopeLayers({argument.layer for argument in arguments if argument.layer})
        self._scopes.learn(facts.scope)
        self._layer = [""] * len(self._nodes)
        self._rule = [""] * len(self._nodes)
        self._held = [
            argument or facts.carried_argument(node) for argument, node in zip(facts.argument, self._nodes, strict=True)
        ]
        self._flows = self._find_what_flows()

    def find(self) -> tuple[list[str], list[str]]:
        layers, rules = self._layer, self._rule
        for node in self._nodes:
            layers[node.index], rules[node.index] = self._answer(node)
        for node in reversed(self._nodes):
            index = node.index
            if layers[index] or self._facts.phase[index] is Phase.UPDATE or self._facts.argument[index] is not None:
                continue
            for user in node.users:
                if layers[user]:
                    layers[index], rules[index] = layers[user], CONSUMERS_LAYER
                    break
        return layers, rules

    def _answer(self, node: Node) -> tuple[str, str]:
        facts, index = self._facts, node.index
        argument = self._held[index]
        if argument is not None:
            return argument.layer, "the argument's own layer"
        origin = facts.dataflow.origins[index]
        if origin != index and self._layer[origin]:
            return self._layer[origin], self._rule[origin]
        if node.hands_on:
            return self._largest(node.operands), PRODUCERS_LAYER
        if named := self._scopes.layer(facts.scope[index]):
            return named, SCOPES_LAYER
        if flowing := self._parameter(node):
            return flowing.layer, "a parameter of the layer flows in"
        # In the update, too: many gradients packed into one sum over the devices come from one producer.
        output = facts.gradient_of[index]
        if output is not None:
            return facts.outputs[output].layer, "it is the gradient of a parameter of the layer"
        if facts.phase[index] is Phase.BACKWARD:
            forward = [operand for operand in node.operands if self._made_forward(operand)]
            if layer := self._largest(forward):
                return layer, READERS_LAYER
        return self._largest(node.operands), PRODUCERS_LAYER

    def _made_forward(self, operand: int) -> bool:
        return self._facts.phase[operand] is Phase.FORWARD and self._facts.argument[operand] is None

    def _largest(self, candidates: Sequence[int]) -> str:
        if len(candidates) == 1:
            return self._layer[candidates[0]]
        layered = [candidate for candidate in candidates if self._layer[candidate]]
        return self._layer[max(layered, key=lambda index: self._nodes[index].elements)] if layered else ""

    def _parameter(self, node: Node) -> Argument | None:
        """The largest state argument that flows in directly, or through a cast, a broadcast or padding."""
        largest, origins = None, self._facts.dataflow.origins
        for operand in node.operands:
            argument = self._flows[origins[operand]]
            if argument is not None and (largest is None or argument.elements > largest.elements):
                largest = argument
        return largest

    def _find_what_flows(self) -> list[Argument | None]:
        """For each node that is an origin the state argument of a layer that it is, or a cast, a broadcast or padding of."""
        origins = self._facts.dataflow.origins
        flows: list[Argument | None] = []
        for node in self._nodes:
            if node.instruction.opcode in ("convert", "broadcast", "pad") and node.operands:
                flows.append(flows[origins[node.operands[0]]])
                continue
            argument = self._held[node.index]
            flows.append(argument if argument is not None and argument.layer and argument.role in STATE_ROLES else None)
        return flows
