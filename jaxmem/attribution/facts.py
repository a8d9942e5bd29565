"""What the rules may ask about an array: whose numbers it holds, what it depends on, its phase, the gradient it is.

Everything here is a query on the dataflow graph together with the lowering's tables; nothing is decided from a shape or from
the name of an HLO instruction.
"""

from collections.abc import Iterable, Sequence
from functools import lru_cache

from jaxmem.attribution.collectives import EXCHANGES
from jaxmem.attribution.dataflow import MOVES, PRODUCTS, Dataflow, Node
from jaxmem.attribution.graph import is_meeting
from jaxmem.attribution.layers import Layers
from jaxmem.attribution.outputs import Outputs
from jaxmem.attribution.phases import PHASES, find_phases, find_run_phases
from jaxmem.layer_paths import is_combined, is_linearized, is_transposed, name_stack
from jaxmem.layer_table import EXCHANGING
from jaxmem.lowering import Argument, Output
from jaxmem.roles import OPTIMIZER_ROLES, STATE_ROLES, Phase, Role

DEPENDS_ON_STATE = 1
DEPENDS_ON_OPTIMIZER = 2
DEPENDS_ON_INPUT = 4


class Facts:
    """Answers for every node of a dataflow graph, computed once.

    Attributes:
        argument: the program argument whose numbers the node holds, unchanged; None for anything computed.
        held_argument: the same, or the state argument whose version of the last turn a loop hands to the next.
        carried_arguments: node → the state argument whose version of the last turn a loop hands to the next.
        are_outputs: the nodes that are a program output, under whatever name.
        depends: bits of `DEPENDS_ON_...`; 0 for what depends on no argument at all.
        scopes: name of an instruction → its name stack; ``scope_behind``: product without a name → that of the moves behind it.
        phase: forward, backward or update.
        gradient_of: the output (index) of which the node is the gradient; None for anything else.
        awaits_sum: for the part of a gradient that one device has made, the node of the collective that adds up the parts.
        layer: layer path, empty where none was found; ``layer_rule`` says what decided it.
        follows_cotangent: not 0 where the node depends on the gradient of the loss, so it cannot exist before the backward pass
            begins.
    """

    def __init__(self, dataflow: Dataflow, arguments: Sequence[Argument], outputs: Sequence[Output]) -> None:
        self.dataflow = dataflow
        self.outputs = outputs
        self._entry_arguments = self._find_entry_arguments(arguments)
        self.argument: list[Argument | None] = [*map(self._entry_arguments.get, dataflow.origins)]
        self.carried_arguments = self._find_carried_arguments()
        self.held_argument = list(self.argument)
        for node, argument in self.carried_arguments.items():
            self.held_argument[node] = self.argument[node] or argument
        self.depends = dataflow.spread({node: _bit(argument) for node, argument in self._entry_arguments.items()})
        self._outputs = Outputs(dataflow, outputs)
        self._in_update = self._find_what_follows_optimizer()
        names, unnamed_products = self._find_names()
        self.scopes = {name: name_stack(name) for name in names}
        self.scope_behind = self._find_scopes_behind(unnamed_products)
        is_backward = {name: is_transposed(name) for name in names}
        phases = find_phases(dataflow, self.depends, self._in_update, is_backward.__getitem__)
        self.phase = [*map(PHASES.__getitem__, phases)]
        self._run_phases = find_run_phases(dataflow, phases)
        self.output_of, self.grows_into = self._outputs.output_of, self._outputs.grows_into
        self.packed_part = self._outputs.packed_part
        self.are_outputs = self._outputs.under_other_names
        self._gradients = self._find_gradients()
        self.gradient_of: list[int | None] = [*map(self._gradients.get, range(len(dataflow.nodes)))]
        self.awaits_sum = self._outputs.sums_to_come(self.gradient_of)
        self.first_gradient_position, self.follows_cotangent = self._follow_cotangent()
        layers = Layers(self, arguments)
        self.layer, self.layer_rule = layers.layer, layers.rule

    def _find_names(self) -> tuple[set[str], list[Node]]:
        """The names of all instructions, many of which share one, and the products without."""
        names, unnamed_products = set[str](), []
        for node in self.dataflow.nodes:
            instruction = node.instruction
            names.add(instruction.op_name)
            if not instruction.op_name and instruction.opcode in PRODUCTS:
                unnamed_products.append(node)
        return names, unnamed_products

    def _find_scopes_behind(self, unnamed_products: Iterable[Node]) -> dict[int, str]:
        """For a product that XLA has turned round and left without a name, the name stack of the moves behind it."""
        found = {}
        for node in unnamed_products:
            readers = self._first_named_behind(node.index)
            behind = {self.scopes[reader.instruction.op_name] for reader in readers if _moves(reader)}
            if len(behind) == 1:
                found[node.index] = behind.pop()
        return found

    def _first_named_behind(self, index: int) -> list[Node]:
        """The readers of an array, with those of what only moves or casts it and has no name, where these are few."""
        behind, named = [index], []
        for at in behind:
            for reader in self.dataflow.readers(at):
                passes_on = _moves(reader) or reader.instruction.opcode == "convert"
                if passes_on and not reader.instruction.op_name and len(behind) < _FEW:
                    behind.append(reader.index)
                else:
                    named.append(reader)
        return named

    def _find_entry_arguments(self, arguments: Sequence[Argument]) -> dict[int, Argument]:
        by_number = {a.parameter_number: a for a in arguments if a.parameter_number is not None}
        found = {}
        for parameter in self.dataflow.module.parameters:
            for position, node in enumerate(self.dataflow.arrays[parameter.id]):
                number = position if parameter.shape.is_tuple else parameter.parameter_number
                if number in by_number:
                    found[node] = by_number[number]
        return found

    def _find_what_follows_optimizer(self) -> list[int]:
        """Nothing but 0 for nodes that depend on optimizer state within one turn of the loops around them.

        A loop over training steps makes everything depend on the optimizer of the step before; that does not make it part
        of the update. What is cut from a sum of several arrays packed into one follows what its own array does.
        """
        dataflow, depends, unpacked = self.dataflow, self.depends, self._outputs.unpacked()
        if dataflow.way_round or unpacked:
            state = [node for node, argument in self._entry_arguments.items() if argument.role in OPTIMIZER_ROLES]
            anew = {received for _, received in dataflow.way_round}
            return dataflow.spread(dict.fromkeys(state, 1), anew=anew, made_of=unpacked)
        return [bits & DEPENDS_ON_OPTIMIZER for bits in depends]

    def run_phase(self, node: Node) -> Phase:
        """The phase for which a node runs.

        A forward operation inside a fusion runs for what it goes into there. What the compiler made without a name to bring
        an array nearer (a copy, a slice of it) runs for its first reader. All others run for their own.
        """
        return PHASES[self._run_phases[node.index]]

    def _find_gradients(self) -> dict[int, int]:
        """What becomes new state and was made backward from the inputs, back to where it stops being elementwise."""
        return {
            index: output
            for index, output in enumerate(self._outputs.becomes)
            if output is not None
            and self.depends[index] & DEPENDS_ON_INPUT
            and not self._in_update[index]
            and self._is_made_late(self.dataflow.nodes[index])
            and not is_linearized(self.dataflow.nodes[self.dataflow.origins[index]].instruction.op_name)
            and self.held_argument[index] is None
        }

    def _is_made_late(self, node: Node) -> bool:
        """Whether an array is made after the forward pass; what a loop sums up there begins as zeros made before it."""
        makers = node.operands if is_meeting(node) else (node.index,)
        return any(self.phase[maker] in (Phase.BACKWARD, Phase.UPDATE) for maker in (node.index, *makers))

    def cut_from(self, node: int) -> Argument | None:
        """The argument of which a node holds a part that the compiler has cut from it; None for anything else."""
        origin = self.dataflow.nodes[self.dataflow.origins[node]]
        cut = origin.instruction.opcode == "slice" and not origin.instruction.op_name
        return self.argument[origin.operands[0]] if cut else None

    def is_rejoined(self, node: Node) -> bool:
        """Whether a node only puts side by side what came in pieces from other devices, and the program did not ask for it.

        What it asks for is what it computes.
        """
        if node.instruction.opcode != "concatenate" or primitive(node.instruction.op_name) in EXCHANGING:
            return False
        pieces = (self.dataflow.nodes[self.dataflow.origins[piece]] for piece in node.operands)
        return all(piece.instruction.opcode in EXCHANGES for piece in pieces)

    def carried_argument(self, node: Node) -> Argument | None:
        """The state argument whose version of the last turn a loop hands to the next; None for anything else.

        What a branch leaves is no next version: where one branch hands an argument on, another may leave zeros.
        """
        return self.carried_arguments.get(node.index)

    def _find_carried_arguments(self) -> dict[int, Argument]:
        nodes, found = self.dataflow.nodes, {}
        for index in self.dataflow.loop_state:
            given = (self.argument[operand] for operand in nodes[index].operands)
            initial = next((argument for argument in given if argument is not None), None)
            if initial is not None and initial.role in STATE_ROLES and is_meeting(nodes[index]):
                found[index] = initial
        return found

    def _follow_cotangent(self) -> tuple[int | None, list[int]]:
        """Where the first gradient is made, and which nodes depend on the gradient of the loss.

        Everything backward that the first gradient is made from stands at the head of the chain rule; what depends on that
        is a cotangent. The rest of the backward phase is a function of the forward pass alone: an index map, a mask, a
        recomputed activation. What a loop over training steps does is asked of one step: that its parameters come from the
        gradients of the step before makes no cotangent of what is computed from them.
        """
        nodes, phase = self.dataflow.nodes, self.phase
        state = self.carried_arguments
        made = [nodes[index] for index in self._gradients if phase[index] is Phase.BACKWARD]
        if not made:
            return None, [0] * len(nodes)
        first = min(made, key=lambda node: (node.position, node.index))
        ancestors = self.dataflow.spread({first.index: 1}, backwards=True, anew=state)
        head = {
            index: 1
            for index, is_ancestor in enumerate(ancestors)
            # The gradient of the loss depends on the parameters; an index map made of the labels alone does not.
            if is_ancestor and phase[index] is Phase.BACKWARD and self.depends[index] & DEPENDS_ON_STATE
        }
        return first.position, self.dataflow.spread(head, anew=state)


_FEW = 8
"""Steps from a product to what has a name behind it: two casts, a copy and a transposition at most were seen."""


def _moves(node: Node) -> bool:
    return node.hands_on or node.instruction.opcode in MOVES


def _bit(argument: Argument) -> int:
    if argument.role in OPTIMIZER_ROLES:
        return DEPENDS_ON_OPTIMIZER
    return DEPENDS_ON_STATE if argument.role in (Role.PARAMETERS, Role.MODEL_STATE) else DEPENDS_ON_INPUT


@lru_cache(maxsize=1 << 14)
def primitive(op_name: str) -> str:
    """JAX's name of the operation that an instruction comes from, empty for one that the compiler made.

    Some of the compiler's own go by the name of another instruction, ``compare.6``; JAX's names are paths.
    """
    path = op_name.split(";")[0]
    return "" if is_combined(op_name) or "/" not in path else path.rsplit("/", 1)[-1]


__all__ = ["Facts", "primitive"]
