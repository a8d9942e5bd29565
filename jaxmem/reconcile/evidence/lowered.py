"""What JAX lowers one operation to where it takes several instructions, and what XLA makes of these."""

from jaxmem.attribution.collectives import SUMS
from jaxmem.attribution.dataflow import Node
from jaxmem.reconcile.evidence.computed import Computed


def gathers(node: Node) -> bool:
    """Whether a node gathers; of one place out of one, XLA makes a broadcast under the gather's name."""
    return node.instruction.opcode == "gather" or node.instruction.op_name.endswith("/gather")


class Lowered(Computed):
    """Instructions that are together one operation of the program."""

    def is_index_of_next(self, node: Node) -> bool:
        """Whether a node is, under the name of a gather or a scatter, the array of places for it."""
        origins = self._dataflow.origins
        return any(
            reader.instruction.opcode in ("gather", "scatter") and origins[reader.operands[1]] == origins[node.index]
            for reader in self._dataflow.readers(node.index)
        )

    def sum_before(self, node: Node) -> Node | None:
        """The sum that a node turns the sign of; None for any other node.

        Of ``sum(-x)`` XLA makes ``-sum(x)``.
        """
        if node.instruction.opcode != "negate":
            return None
        summed = self._dataflow.nodes[self._dataflow.origins[node.operands[0]]]
        return summed if summed.instruction.opcode == "reduce" and self.repeats(summed) == "add" else None

    def gather_before(self, node: Node) -> Node | None:
        """What a ``gather`` with ``mode="fill"`` has read, where a node is its last step; None for any other node.

        JAX lowers it to a gather and a selection: a constant where an index lies outside the array, by a mask that it computes
        from the indices.
        """
        selection = node.instruction
        if selection.opcode != "select":
            return None
        gathered, filled = (self._dataflow.nodes[self._dataflow.origins[operand]] for operand in node.operands[1:])
        same_place = (
            gathered.instruction.metadata.stack_frame_id == selection.metadata.stack_frame_id
            and gathered.instruction.op_name.rpartition("/")[0] == selection.op_name.rpartition("/")[0]
        )
        is_last_step = gathers(gathered) and not self.facts.depends[filled.index] and same_place
        return gathered if is_last_step else None

    def gather_ended_by(self, node: Node) -> Node | None:
        """As `gather_before`, where no buffer holds what has been read.

        One of the two is the operation, so that two leaves of the formula need two gathers.
        """
        gathered = self.gather_before(node)
        return None if gathered is None or self.number(gathered.index) in self.holders else gathered

    def function_ended_by(self, node: Node) -> str:
        """The operation that JAX lowers to a function of which a division is the last step; empty for any other division.

        ``logistic`` is 1 / (1 + exp(−x)), and ``integer_pow`` to the power of −2 is 1 / (x · x).
        """
        nodes, origins = self._dataflow.nodes, self._dataflow.origins
        if node.instruction.opcode != "divide":
            return ""
        above, below = (nodes[origins[operand]] for operand in node.operands)
        first_operands = [origins[operand] for operand in below.operands]
        if (
            below.instruction.opcode == "multiply"
            and len(set(first_operands)) == 1
            and not self.facts.depends[above.index]
        ):
            return "integer_pow"
        ends_logistic = below.instruction.opcode == "add" and any(
            nodes[operand].instruction.opcode == "exponential"
            and nodes[origins[nodes[operand].operands[0]]].instruction.opcode == "negate"
            for operand in first_operands
        )
        return "logistic" if ends_logistic else ""

    def finds_place(self, node: Node) -> str:
        """The operation that a reduction of pairs is: the one for the largest number asks which of two is greater."""
        module = self.profile.module
        step = module.computations[node.instruction.called_computation_ids[0]]
        asks = {module.instructions[each].op_name.rpartition("/")[2] for each in step.instruction_ids}
        return "argmax" if "gt" in asks else "argmin"

    def repeats(self, node: Node) -> str:
        """The opcode with which a reduction takes in one more element, in whatever number format."""
        module = self.profile.module
        step = module.instructions[module.computations[node.instruction.called_computation_ids[0]].root_id]
        while step.opcode == "convert":
            step = module.instructions[step.operand_ids[0]]
        return step.opcode

    def partial_product(self, node: Node) -> Node | None:
        """What a sum adds up under the name of its operand: a product cut along the dimension that it contracts."""
        operand = self._dataflow.nodes[self._dataflow.origins[node.operands[0]]]
        return operand if operand.instruction.op_name == node.instruction.op_name else None

    def is_added_up_next(self, node: Node) -> bool:
        """Whether a sum is only that of one device, and the sum over all of them follows under its name."""
        return any(
            reader.instruction.opcode in SUMS and reader.instruction.op_name == node.instruction.op_name
            for reader in self._dataflow.readers(node.index)
        )
