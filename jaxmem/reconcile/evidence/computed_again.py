"""What the backward pass computes again, and from what."""

from collections.abc import Iterable, Iterator

from jaxmem.attribution.dataflow import Node
from jaxmem.profile import Buffer
from jaxmem.reconcile.evidence.handed_on import HandedOn
from jaxmem.roles import Phase


class ComputedAgain(HandedOn):
    """Values that the backward pass does not read from where the forward pass left them."""

    def is_recomputed(self, value: int) -> bool:
        """Whether the backward pass computes a value inside a fusion of its own."""
        return any(
            node.fusion is not None and self.facts.run_phase(node) is Phase.BACKWARD
            for node in self.nodes_of.get(value, ())
        )

    def recomputed_from(self, value: int) -> Iterator[tuple[Buffer, str]]:
        """The buffers from which the backward pass or the update computes a value again, each with the fusion that does."""
        nodes, instructions = self._dataflow.nodes, self.profile.module.instructions
        for start in self.nodes_of.get(value, []):
            if start.fusion is None or self.facts.run_phase(start) is Phase.FORWARD:
                continue
            fusion = instructions[start.fusion].name
            waiting, seen = list(start.operands), set()
            while waiting:
                index = waiting.pop()
                if index in seen:
                    continue
                seen.add(index)
                node = nodes[index]
                buffer = self._buffer_at.get(node.leaf) if node.fusion is None else None
                if buffer is not None:
                    yield buffer, fusion
                    if self.attributions[buffer.id].phase is not Phase.BACKWARD:
                        continue
                if not self.facts.follows_cotangent[index]:
                    waiting.extend(node.operands)

    def made_from(self, value: int) -> Iterator[tuple[Buffer, str]]:
        """The buffers that a fusion writes from a value that it computes on the way, with the fusion.

        All of it, element by element; or its numbers beside constants: places in an array, as a gather wants them.
        """
        nodes = self._dataflow.nodes
        for start in self.nodes_of.get(value, []):
            if start.fusion is None:
                continue
            waiting, seen = list(start.users), set()
            while waiting:
                node = nodes[waiting.pop()]
                if node.index in seen or (node.elements != start.elements and not self._is_beside_constants(node)):
                    continue
                seen.add(node.index)
                if node.fusion is not None:
                    waiting.extend(node.users)
                elif (buffer := self._buffer_at.get(node.leaf)) is not None:
                    yield buffer, node.instruction.name

    def _is_beside_constants(self, node: Node) -> bool:
        """Whether the compiler has made a node of the numbers of one array, with constants side by side."""
        if node.hands_on:
            return len(node.operands) == 1
        alone = node.instruction.opcode == "concatenate" and len(self.handed_on(node)) == 1
        return alone and not self.is_asked_for(node)

    def may_be_made_with(self, buffers: Iterable[Buffer]) -> set[int]:
        """The only values of which `recomputed_from` or `made_from` may find one of some buffers."""
        instructions = {buffer.leaf[0] for buffer in buffers}
        outside = (node for node in self._dataflow.nodes if node.fusion is None) if instructions else ()
        held = [node for node in outside if node.instruction.id in instructions]
        nodes, numbers, found = self._dataflow.nodes, self._dataflow.value_numbers, set[int]()
        waiting, seen = list(held), {node.index for node in held}
        while waiting:
            for index in waiting.pop().users:
                if nodes[index].fusion is not None:
                    found.add(numbers[index])
                buffer = self._buffer_at.get(nodes[index].leaf) if nodes[index].fusion is None else None
                ends = buffer is not None and self.attributions[buffer.id].phase is not Phase.BACKWARD
                if index not in seen and not ends and not self.facts.follows_cotangent[index]:
                    seen.add(index)
                    waiting.append(nodes[index])
        waiting, seen = list(held), {node.index for node in held}
        while waiting:
            for index in waiting.pop().operands:
                if index not in seen and nodes[index].fusion is not None:
                    seen.add(index)
                    found.add(numbers[index])
                    waiting.append(nodes[index])
        return found

    def is_made_before_backward(self, buffer: Buffer) -> bool:
        """Whether a buffer exists before the first gradient does; one that does not is computed again for its reader."""
        first = self.facts.first_gradient_position
        return first is None or buffer.start <= first

    def is_prepared_for_backward(self, buffer: Buffer) -> bool:
        """Whether a buffer holds a function of the forward pass that only the backward pass wants, made before it begins."""
        attribution, first = self.attributions[buffer.id], self.facts.first_gradient_position
        if attribution.node is None or first is None:
            return False
        origin = self._dataflow.origins[attribution.node]
        return (
            attribution.phase is Phase.BACKWARD
            and not self.facts.follows_cotangent[origin]
            and self.facts.depends[origin] != 0
            and buffer.start < first
        )
