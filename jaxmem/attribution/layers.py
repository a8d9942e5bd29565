"""Which layer each array belongs to."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from jaxmem.layer_paths import ScopeLayers
from jaxmem.lowering import Argument
from jaxmem.roles import STATE_ROLES, Phase

if TYPE_CHECKING:
    from jaxmem.attribution.facts import Facts

SCOPES_LAYER = "the scope names the layer"
PRODUCERS_LAYER = "its producer's layer"
READERS_LAYER = "it reads what the layer's forward pass left for it"
CONSUMERS_LAYER = "its consumer's layer"
NEIGHBOURS_LAYER = frozenset({PRODUCERS_LAYER, READERS_LAYER, CONSUMERS_LAYER})
"""Rules that give a node the layer of a neighbour."""
GRADIENTS_LAYER = "it is the gradient of a parameter of the layer"

_ARGUMENTS_LAYER = "the argument's own layer"
_PARAMETERS_LAYER = "a parameter of the layer flows in"

_HANDS_PARAMETERS_ON = frozenset({"convert", "broadcast", "pad"})
"""Opcodes through which a parameter flows into the operation that it is for."""


class Layers:
    """The layer of every node: the scope that names one, else the parameters that flow in, else its neighbours.

    Attributes:
        layer: for each node its layer's path, empty where none was found; ``rule`` says what decided it.
    """

    def __init__(self, facts: "Facts", arguments: Iterable[Argument]) -> None:
        self._facts = facts
        self._nodes = facts.dataflow.nodes
        self.layer = [""] * len(self._nodes)
        self.rule = [""] * len(self._nodes)
        scopes = ScopeLayers({argument.layer for argument in arguments if argument.layer})
        scopes.learn([*facts.scopes.values(), *facts.scope_behind.values()])
        self._of_name = {name: scopes.layer(scope) for name, scope in facts.scopes.items()}
        self._of_moves_behind = {node: scopes.layer(scope) for node, scope in facts.scope_behind.items()}
        self._find_from_producers()
        self._find_from_consumers()

    def _find_from_producers(self) -> None:
        facts, layers, rules, origins = self._facts, self.layer, self.rule, self._facts.dataflow.origins
        of_name, of_moves_behind = self._of_name, self._of_moves_behind
        # For what is an origin: the state argument of a layer that it is, or a cast, a broadcast or padding of.
        flows: dict[int, Argument] = {}
        for node, argument in zip(self._nodes, facts.held_argument, strict=True):
            index, operands, opcode = node.index, node.operands, node.instruction.opcode
            if opcode in _HANDS_PARAMETERS_ON and operands and (flowing := flows.get(origins[operands[0]])) is not None:
                flows[index] = flowing
            origin = origins[index]
            if argument is not None:
                layers[index], rules[index] = argument.layer, _ARGUMENTS_LAYER
                if argument.layer and argument.role in STATE_ROLES:
                    flows[index] = argument
            elif origin != index and layers[origin]:
                layers[index], rules[index] = layers[origin], rules[origin]
            elif node.hands_on:
                layers[index], rules[index] = self._largest(operands), PRODUCERS_LAYER
            elif named := of_name[node.instruction.op_name] or of_moves_behind.get(index, ""):
                layers[index], rules[index] = named, SCOPES_LAYER
            elif largest := _largest_parameter(flows, origins, operands):
                layers[index], rules[index] = largest.layer, _PARAMETERS_LAYER
            elif (output := facts.gradient_of[index]) is not None:
                # In the update, too: many gradients packed into one sum over the devices come from one producer.
                layers[index], rules[index] = facts.outputs[output].layer, GRADIENTS_LAYER
            elif facts.phase[index] is Phase.BACKWARD and (layer := self._largest(self._made_forward(operands))):
                layers[index], rules[index] = layer, READERS_LAYER
            else:
                layers[index], rules[index] = self._largest(operands), PRODUCERS_LAYER

    def _find_from_consumers(self) -> None:
        layers, facts = self.layer, self._facts
        for index in range(len(layers) - 1, -1, -1):
            if layers[index] or facts.phase[index] is Phase.UPDATE or facts.argument[index] is not None:
                continue
            for user in self._nodes[index].users:
                if layers[user]:
                    layers[index], self.rule[index] = layers[user], CONSUMERS_LAYER
                    break

    def _made_forward(self, operands: Iterable[int]) -> list[int]:
        phase, argument = self._facts.phase, self._facts.argument
        return [each for each in operands if phase[each] is Phase.FORWARD and argument[each] is None]

    def _largest(self, candidates: Sequence[int]) -> str:
        """The layer of the largest array among those that have one."""
        layers = self.layer
        if len(candidates) == 1:
            return layers[candidates[0]]
        found, most = "", -1
        for candidate in candidates:
            if layers[candidate] and (elements := self._nodes[candidate].shape.elements) > most:
                found, most = layers[candidate], elements
        return found


def _largest_parameter(
    flows: Mapping[int, Argument], origins: Sequence[int], operands: Iterable[int]
) -> Argument | None:
    """The largest state argument that flows in directly, or through a cast, a broadcast or padding."""
    largest = None
    for operand in operands:
        argument = flows.get(origins[operand])
        if argument is not None and (largest is None or argument.elements > largest.elements):
            largest = argument
    return largest
