"""Which buffers hold a value, and when."""

from collections.abc import Iterator, Mapping, Sequence
from functools import cache, cached_property, partial

from jaxmem.attribution import Attribution, Facts
from jaxmem.attribution.dataflow import Node
from jaxmem.lowering import Argument
from jaxmem.profile import Buffer, MemoryProfile
from jaxmem.reconcile.evidence.told import read_name
from jaxmem.roles import Phase, Role


class Held:
    """Buffers of one compiled program by the value that they hold."""

    def __init__(self, profile: MemoryProfile, facts: Facts, attributions: Mapping[int, Attribution]) -> None:
        self.profile = profile
        self.facts = facts
        self.attributions = attributions
        self.buffers = {buffer.id: buffer for buffer in profile.buffers}
        self._dataflow = facts.dataflow
        # What XLA makes of an argument alone may carry the argument's path in place of an operation's name.
        self._argument_names = frozenset(parameter.op_name for parameter in self._dataflow.module.parameters)
        self.told = cache(partial(read_name, self._argument_names))
        """What the name of an instruction tells."""
        self._buffer_at = {buffer.leaf: buffer for buffer in profile.buffers}

    def value(self, buffer: Buffer) -> int | None:
        """The number of the value that a buffer holds, in whatever order; None for a table of pointers."""
        node = self.attributions[buffer.id].node
        return None if node is None else self.number(node)

    def number(self, node: int) -> int:
        """The number of the value that a node is, in whatever order."""
        origin = self._dataflow.origins[node]
        return self._dataflow.value_numbers[self._dataflow.loop_state.get(origin, origin)]

    def readers(self, node: int) -> Iterator[Node]:
        """The nodes that compute from an array, seen through copies, moves and casts of it."""
        origins, waiting, seen = self._dataflow.origins, [node], {node}
        while waiting:
            for reader in self._dataflow.readers(waiting.pop()):
                if reader.index in seen:
                    continue
                seen.add(reader.index)
                if origins[reader.index] == origins[node]:
                    waiting.append(reader.index)
                else:
                    yield reader

    def result_of(self, node: Node) -> int | None:
        """The place among the program's results of an array, in whatever order and number format; None if it is none."""
        nodes, origins = self._dataflow.nodes, self._dataflow.origins
        waiting, seen = [node.index], {node.index}
        while waiting:
            index = waiting.pop()
            if (position := self.facts.output_of(index)) is not None:
                return position
            same = [user for user in nodes[index].users if user not in seen and origins[user] == origins[index]]
            seen.update(same)
            waiting += same
        return None

    def is_read_backward(self, node: Node) -> bool:
        """Whether the backward pass computes from an array."""
        return any(self.facts.phase[reader.index] is Phase.BACKWARD for reader in self.readers(node.index))

    def argument_in(self, node: int) -> Argument | None:
        """The argument whose numbers a node holds, as it came or as a loop over steps carries it; None for anything else."""
        origin = self._dataflow.nodes[self._dataflow.origins[node]]
        return self.facts.argument[node] or self.facts.carried_argument(origin)

    def is_live(self, buffer: Buffer) -> bool:
        """Whether a buffer holds bytes at the peak."""
        return buffer.id in self.profile.live_at_peak

    def lent_bytes(self, buffer: Buffer) -> int:
        """Bytes of a buffer's place that another one holds at the peak."""
        end = buffer.offset + buffer.size_bytes
        return sum(
            max(0, min(segment.offset + segment.size_bytes, end) - max(segment.offset, buffer.offset))
            for segment in self.profile.segments
            if segment.allocation == buffer.allocation and segment.buffer_id not in (None, buffer.id)
        )

    @cached_property
    def holders(self) -> dict[int, list[Buffer]]:
        """Value → the buffers that ever hold it, those live at the peak first, then in the order of the schedule."""
        found: dict[int, list[Buffer]] = {}
        for buffer in sorted(self.profile.buffers, key=lambda b: (not self.is_live(b), b.start, b.id)):
            value = self.value(buffer)
            if value is not None:
                found.setdefault(value, []).append(buffer)
        return found

    @cached_property
    def held_as(self) -> Mapping[Role, Sequence[Buffer]]:
        """Role → its buffers, in the profile's order."""
        found: dict[Role, list[Buffer]] = {role: [] for role in Role}
        for buffer in self.profile.buffers:
            found[self.attributions[buffer.id].role].append(buffer)
        return found

    @cached_property
    def saved(self) -> frozenset[int]:
        """The values that buffers keep for the backward pass."""
        kept = map(self.value, self.held_as[Role.SAVED_ACTIVATIONS])
        return frozenset(value for value in kept if value is not None)

    @cached_property
    def held_elsewhere(self) -> dict[int, list[Buffer]]:
        """Value → the buffers that hold it in other memories."""
        found: dict[int, list[Buffer]] = {}
        for buffer in self.profile.elsewhere:
            node = self._dataflow.node_at(buffer.leaf)
            if node is not None:
                found.setdefault(self.number(node), []).append(buffer)
        return found

    def is_tiled(self, buffer: Buffer) -> bool:
        """Whether the layout of a buffer is tiled."""
        return bool(self.profile.instruction(buffer).shape.subshape(buffer.leaf[1]).tiles)

    def bits(self, buffer: Buffer) -> int:
        """Bits of one element that a buffer holds; 0 for a table of pointers."""
        node = self.attributions[buffer.id].node
        return self._dataflow.nodes[node].bits if node is not None else 0

    def elements(self, buffer: Buffer) -> int:
        """Number of elements a buffer holds; 0 for a table of pointers."""
        node = self.attributions[buffer.id].node
        return self._dataflow.nodes[node].elements if node is not None else 0

    def label(self, buffer: Buffer) -> str:
        """A buffer's name in evidence: its instruction, with the element of a tuple."""
        name = self.profile.instruction(buffer).name
        return name + "".join(f"{{{step}}}" for step in buffer.leaf[1])
