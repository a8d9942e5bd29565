"""Which arrays are, or become, the results of the program: under another name, part by part, element by element."""

from collections.abc import Sequence

from jaxmem.attribution.collectives import GATHERS, SUMS
from jaxmem.attribution.dataflow import ELEMENTWISE, Dataflow, Node
from jaxmem.attribution.graph import is_meeting
from jaxmem.lowering import Output
from jaxmem.roles import OPTIMIZER_ROLES, Role


def continued(node: Node) -> Sequence[int]:
    """The operand of which the node is the next version: the array that a part is written into."""
    return node.operands[:1] if node.instruction.opcode == "dynamic-update-slice" else ()


class Outputs:
    """The way of every node to the results of the program.

    Attributes:
        under_other_names: the nodes that are a program output, under whatever name: few of all.
        becomes: for each node the output (index), a new parameter or moment, that it becomes element by element, or part by
            part; None for anything else.
    """

    def __init__(self, dataflow: Dataflow, outputs: Sequence[Output]) -> None:
        self.dataflow = dataflow
        self.outputs = outputs
        root = dataflow.arrays[dataflow.module.entry.root_id]
        self._nodes = {node: position for position, node in enumerate(root[: len(outputs)])}
        self.under_other_names = self._find_other_names()
        self._packed_sum: dict[int, int] = {}
        self.becomes = self._find_what_becomes_state()

    def _find_other_names(self) -> set[int]:
        """The nodes that are a program output, under whatever name: few of all."""
        nodes, found = self.dataflow.nodes, set(self._nodes)
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
        return self._follow(node) if node in self.under_other_names else None

    def grows_into(self, node: int) -> int | None:
        """Index of the program output that a node becomes when the parts still missing are written into it."""
        return self._follow(node, parts=True)

    def _follow(self, node: int, *, parts: bool = False) -> int | None:
        nodes, waiting, seen = self.dataflow.nodes, [node], {node}
        while waiting:
            index = waiting.pop()
            if index in self._nodes:
                return self._nodes[index]
            for user in nodes[index].users:
                is_same = nodes[user].hands_on or (parts and index in continued(nodes[user]))
                if is_same and user not in seen:
                    seen.add(user)
                    waiting.append(user)
        return None

    def _find_what_becomes_state(self) -> list[int | None]:
        nodes = self.dataflow.nodes
        becomes: list[int | None] = [None] * len(nodes)
        for node, position in self._nodes.items():
            output = self.outputs[position]
            if output.role in OPTIMIZER_ROLES | {Role.PARAMETERS} and output.parameter_path:
                becomes[node] = position
        for index in range(len(nodes) - 1, -1, -1):
            output = becomes[index]
            if output is None:
                continue
            node = nodes[index]
            if self._sums_parts(node) or self._gathers_parts(node):
                becomes[node.operands[0]] = output
                continue
            if (packed := self.packed_part(node)) is not None:
                becomes[packed] = output
                self._packed_sum[packed] = self.dataflow.origins[node.operands[0]]
                continue
            keeps_elements = node.hands_on or node.instruction.opcode in ELEMENTWISE
            elements = node.shape.elements
            for operand in node.operands if keeps_elements else continued(node):
                if becomes[operand] is None and nodes[operand].shape.elements == elements:
                    becomes[operand] = output
        return becomes

    def _sums_parts(self, node: Node) -> bool:
        """Whether the devices add up their parts of an array at a node, or each takes its part of such a sum."""
        opcode = node.instruction.opcode
        if opcode == "dynamic-slice":
            summed = self.dataflow.nodes[self.dataflow.origins[node.operands[0]]]
            return summed.instruction.opcode in SUMS
        return opcode in SUMS

    def _gathers_parts(self, node: Node) -> bool:
        """Whether the devices hand one another their parts of new state at a node, or what made these equal is cut off behind.

        What a loop has made is not looked into: of state that it carries from step to step each turn makes a version.
        """
        made = self.dataflow.nodes[self.dataflow.origins[node.operands[0]]] if node.operands else node
        if node.instruction.opcode == "slice":
            return made.instruction.opcode in GATHERS
        return node.instruction.opcode in GATHERS and not is_meeting(made)

    def packed_part(self, node: Node) -> int | None:
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

    def unpacked(self) -> dict[int, tuple[int]]:
        """What is cut from a sum of many arrays packed into one → the array that was packed in its place."""
        readers = (each for summed in self.dataflow.sums for each in self.dataflow.readers(summed))
        parts = {reader.index: self.packed_part(reader) for reader in readers}
        return {index: (part,) for index, part in parts.items() if part is not None}

    def sums_to_come(self, gradient_of: Sequence[int | None]) -> list[int | None]:
        """For each node that is part of a gradient the collective that adds up the parts; None where there is none to come."""
        nodes = self.dataflow.nodes
        sums: list[int | None] = [None] * len(nodes)
        for packed, summed in self._packed_sum.items():
            sums[packed] = summed
        for index in range(max([*self.dataflow.sums, *self._packed_sum], default=-1), -1, -1):
            node, output = nodes[index], gradient_of[index]
            coming = index if node.instruction.opcode in SUMS else sums[index]
            if coming is None or output is None:
                continue
            for operand in node.operands:
                if gradient_of[operand] == output:
                    sums[operand] = coming
        return sums
