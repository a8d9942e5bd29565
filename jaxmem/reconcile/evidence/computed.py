"""Which nodes compute a value, and what a loop makes of it from turn to turn."""

from collections.abc import Iterable
from functools import cached_property

from jaxmem.attribution.dataflow import Node
from jaxmem.reconcile.evidence.held import Held


def is_branch_result(node: Node) -> bool:
    """Whether a node is where the results of a conditional's branches meet."""
    return node.instruction.opcode == "conditional"


class Computed(Held):
    """Nodes of one compiled program by the value that they compute."""

    @cached_property
    def nodes_of(self) -> dict[int, list[Node]]:
        """Value → the nodes that compute it; for what a loop carries, the node in its body; of branches, where they meet."""
        found: dict[int, list[Node]] = {}
        numbers, states = self._dataflow.value_numbers, self._dataflow.loop_state
        for node, origin in zip(self._dataflow.nodes, self._dataflow.origins, strict=True):
            index = node.index
            if origin != index:
                continue
            if not node.hands_on or states.get(index) == index or is_branch_result(node):
                found.setdefault(numbers[index], []).append(node)
        return found

    @cached_property
    def is_tiled_anywhere(self) -> bool:
        """Whether any value has a tiled layout."""
        return any(nodes[0].shape.tiles for nodes in self.nodes_of.values())

    def instruction_of(self, value: int) -> str:
        """An instruction that computes a value."""
        return self.nodes_of[value][0].instruction.name

    def logical_bytes(self, value: int) -> int:
        """Bytes of a value as the program computes it."""
        return self.nodes_of[value][0].shape.logical_bytes

    def elements_of(self, value: int) -> int:
        """Number of elements of a value on one device."""
        return self.nodes_of[value][0].elements

    def bits_of(self, value: int) -> int:
        """Bits of one element of a value as the program computes it."""
        return self.nodes_of[value][0].bits

    @cached_property
    def handed_on_by_loop(self) -> dict[int, list[Node]]:
        """What a loop carries, in its body → the same where the loop hands it on, under the name of the loop."""
        found: dict[int, list[Node]] = {}
        for index, state in self._dataflow.loop_state.items():
            node = self._dataflow.nodes[index]
            if node.instruction.opcode == "while":
                found.setdefault(state, []).append(node)
        return found

    def _values_of(self, nodes: Iterable[int]) -> frozenset[int]:
        """The values that some nodes compute; of those that compute none, nothing."""
        numbers, all_nodes = self._dataflow.value_numbers, self._dataflow.nodes
        return frozenset(
            numbers[node]
            for node in nodes
            if any(each is all_nodes[node] for each in self.nodes_of.get(numbers[node], ()))
        )

    def is_summed_in_loop(self, node: Node) -> bool:
        """Whether a node is what a loop carries from turn to turn, or the next version that a turn writes over it."""
        first = self._dataflow.named_first(node.index)
        origin = self._dataflow.origins[node.index]
        return origin in self._dataflow.loop_state or not self._next_version_from.keys().isdisjoint({first, origin})

    def written_over(self, value: int) -> int | None:
        """The array that a loop carries and over which a value is written as its next version; None for any other value."""
        if states := self._next_version_from:
            for node in self.nodes_of.get(value, ()):
                if (state := states.get(node.index)) is not None:
                    return self.number(state)
        return None

    @cached_property
    def next_versions(self) -> dict[int, list[int]]:
        """Array that a loop carries → the values that are written over it."""
        found: dict[int, list[int]] = {}
        for value in self._values_of(self._next_version_from):
            if (state := self.written_over(value)) is not None:
                found.setdefault(state, []).append(value)
        return found

    @cached_property
    def _next_version_from(self) -> dict[int, int]:
        """What a turn computes → the array that the loop carries over which it is written, in whatever number format."""
        origins, states = self._dataflow.origins, self._dataflow.loop_state
        found = {
            origins[made]: state for made, state in self._dataflow.next_version.items() if origins[made] not in states
        }
        return found | self._dataflow.next_version
