"""Which numbers an array has only been handed: moved, cut, spread out or put side by side, and computed nowhere."""

from collections.abc import Sequence
from functools import cached_property

from jaxmem.attribution.collectives import GATHERS, HANDED_OVER, SUMS
from jaxmem.attribution.dataflow import MOVES, Node
from jaxmem.attribution.facts import primitive
from jaxmem.reconcile.evidence.named import Named

_PROGRAMS_OWN = {
    "broadcast": {"broadcast_in_dim"},
    "concatenate": {"concatenate"},
    "convert": {"convert_element_type"},
    "dynamic-slice": {"dynamic_slice"},
    "dynamic-update-slice": {"dynamic_update_slice"},
    "pad": {"pad"},
    "select": {"select_n"},
    "slice": {"slice", "dynamic_slice", "split"},
}
"""Opcodes that only hand numbers on → the operations of a program that each is, where it goes by their names.

What a compiler makes to divide an array goes by the name of the operation for which it does.
"""

_OF_ONE = MOVES | {"broadcast", "convert", "dynamic-slice", "slice"}
"""Opcodes whose result has the numbers of their first operand, or some of them."""

_DEVICE_NUMBERS = frozenset({"partition-id", "replica-id"})


class HandedOn(Named):
    """Arrays as others under another name, in parts, or together."""

    def is_asked_for(self, node: Node) -> bool:
        """Whether the program itself asked for what a node moves, cuts, spreads out or puts together."""
        return primitive(node.instruction.op_name) in _PROGRAMS_OWN.get(node.instruction.opcode, ())

    def handed_on(self, node: Node) -> Sequence[int]:
        """The nodes of whose numbers an array is made up, and of constants; none where it is computed."""
        opcode, operands = node.instruction.opcode, node.operands
        if opcode in _OF_ONE:
            return operands[:1]
        if opcode in HANDED_OVER or opcode in SUMS:
            return operands if opcode in HANDED_OVER or self.given_part(node) is not None else ()
        if opcode == "select":
            mask, *branches = operands
            return () if self.facts.depends[mask] else [each for each in branches if self.facts.depends[each]]
        if opcode in ("concatenate", "pad"):
            return [each for each in operands if self.facts.depends[each]]
        return [each for each in operands[:2] if self.facts.depends[each]] if opcode == "dynamic-update-slice" else ()

    def given_part(self, node: Node) -> Node | None:
        """What this device gives to a sum to which no two devices give numbers in one place; None for any other sum.

        One device gives an array and all others zeros; or each writes its part into zeros, in its own place.
        """
        if node.instruction.opcode not in SUMS or len(node.operands) != 1:
            return None
        nodes, origins, depends = self._dataflow.nodes, self._dataflow.origins, self.facts.depends
        placed = nodes[origins[node.operands[0]]]
        if placed.instruction.opcode == "select":
            data = [branch for branch in placed.operands[1:] if depends[branch]]
            return nodes[data[0]] if len(data) == 1 else None
        if placed.instruction.opcode == "dynamic-update-slice" and not depends[placed.operands[0]]:
            return nodes[placed.operands[1]]
        return None

    def gathered_part(self, node: Node) -> Node | None:
        """What this device has of an array that is gathered: its part goes in, and the parts of all devices come out.

        Small arrays are gathered by a sum: each device writes its part into zeros, at its own place.
        """
        if node.instruction.opcode in GATHERS and node.operands:
            return self._dataflow.nodes[node.operands[0]]
        part = self.given_part(node) if node.instruction.opcode != "reduce-scatter" else None
        return part if part is not None and self._writes_part(node) else None

    def _writes_part(self, node: Node) -> bool:
        placed = self._dataflow.nodes[self._dataflow.origins[node.operands[0]]]
        return placed.instruction.opcode == "dynamic-update-slice"

    def cut_by_device(self, node: Node) -> Node | None:
        """What a node is this device's part of, in the place that the number of the device says; None for any other node."""
        if node.instruction.opcode != "dynamic-slice" or self.is_asked_for(node):
            return None
        by_device = any(self._depends_on_device[start] for start in node.operands[1:])
        return self._dataflow.nodes[node.operands[0]] if by_device else None

    @cached_property
    def _depends_on_device(self) -> Sequence[int]:
        nodes = self._dataflow.nodes
        numbers = {node.index: 1 for node in nodes if node.instruction.opcode in _DEVICE_NUMBERS}
        return self._dataflow.spread(numbers) if numbers else [0] * len(nodes)
