"""What devices hand one another: parts that await their sum, and what becomes of the sum."""

from functools import cached_property

from jaxmem.attribution.collectives import SUMS
from jaxmem.attribution.dataflow import MOVES, Node
from jaxmem.reconcile.evidence.computed import is_branch_result
from jaxmem.reconcile.evidence.handed_on import HandedOn
from jaxmem.reconcile.evidence.named import Place

_SAME_NUMBERS = MOVES | {"convert"}
"""Opcodes whose result is the program's own array in another order, place or number format."""


STACKS = "dynamic-update-slice"
"""The opcode with which a loop writes what a turn makes into the stack of all turns."""


class Exchanged(HandedOn):
    """Arrays on their way through collectives."""

    @cached_property
    def results_in_order(self) -> dict[Place, list[int]]:
        """Where a branch stands, or what stacks the turns of a loop → the values that it leaves, in their order.

        Not where several branches or loops stand in one place.
        """
        dataflow, found = self._dataflow, {}
        ends = [(node.index, node) for node in dataflow.nodes if is_branch_result(node)]
        stacks = ((dataflow.origins[made], dataflow.nodes[state]) for made, state in dataflow.next_version.items())
        ends += [(made, state) for made, state in stacks if dataflow.nodes[made].instruction.opcode == STACKS]
        for made, end in ends:
            place = self.name(dataflow.nodes[made])[1], self.place(dataflow.nodes[made])
            found.setdefault(place, {}).setdefault(end.instruction.id, []).append((end.leaf[1], self.number(made)))
        return {
            place: [value for _, value in sorted(next(iter(each.values())))]
            for place, each in found.items()
            if len(each) == 1
        }

    def sum_of(self, node: Node) -> Node | None:
        """The collective that a gradient is on its way through: to come, or behind it with all parts still in one place."""
        nodes, facts = self._dataflow.nodes, self.facts
        coming = facts.awaits_sum[node.index]
        if coming is not None:
            return nodes[coming]
        position = facts.gradient_of[node.index]
        origin = nodes[self._dataflow.origins[node.index]]
        if position is None or origin.instruction.opcode not in SUMS:
            return None
        return origin if node.elements != facts.outputs[position].elements else None

    def sent(self, node: int) -> tuple[str, ...]:
        """What a collective received from this device: for an argument its path, for anything else its instruction."""
        nodes, found = self._dataflow.nodes, []
        for operand in nodes[self._dataflow.origins[node]].operands:
            argument = self.facts.argument[operand]
            origin = nodes[self._dataflow.origins[operand]]
            found.append(argument.path if argument is not None else origin.instruction.name)
        return tuple(dict.fromkeys(found))

    def sum_ahead(self, node: int) -> Node | None:
        """The sum over the devices that alone reads an array, by itself or packed with others; None for any other array."""
        readers = self._dataflow.readers(node)
        if len(readers) == 1 and readers[0].instruction.opcode == "concatenate":
            readers = self._dataflow.readers(readers[0].index)
        if len(readers) != 1 or readers[0].instruction.opcode not in SUMS or len(readers[0].operands) != 1:
            return None
        return readers[0]

    def becomes_result(self, node: int) -> int | None:
        """The place among the program's results of what an array becomes: moved, cast, added up over the devices, or in
        its last version what a loop hands on."""
        waiting, seen = [node], {node}
        while waiting:
            index = waiting.pop()
            handed_on = self.handed_on_by_loop.get(self._dataflow.loop_state.get(index, -1), ())
            for same in (index, *(node.index for node in handed_on)):
                if (position := self.facts.output_of(same)) is not None:
                    return position
            for reader in self._dataflow.readers(index):
                opcode, following = reader.instruction.opcode, ()
                if opcode in _SAME_NUMBERS or (
                    opcode in SUMS and reader.elements == self._dataflow.nodes[node].elements
                ):
                    following = (reader.index,)
                elif opcode == "concatenate" and (packed := self.sum_ahead(index)) is not None:
                    following = self._unpacked(index, packed)
                waiting += [each for each in following if each not in seen]
                seen.update(following)
        return None

    def _unpacked(self, part: int, packed: Node) -> tuple[int, ...]:
        """What is cut from a sum of several arrays in the place of one of them."""
        origins = self._dataflow.origins
        return tuple(
            reader.index
            for reader in self._dataflow.readers(packed.index)
            if (own := self.facts.packed_part(reader)) is not None and origins[own] == origins[part]
        )
