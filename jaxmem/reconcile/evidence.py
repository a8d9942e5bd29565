"""What the compiled side can testify: which values exist, in which buffers, and from what they are computed again.

A value is named the way the formula names it: by its layer, the operation that makes it, and its number of elements. Equal
computations are one value, however often XLA repeats them, so that two leaves of the formula need two values.
"""

from collections.abc import Iterator, Mapping
from functools import cached_property

from jaxmem.attribution import Attribution, Facts
from jaxmem.attribution.collectives import COLLECTIVES, SUMS
from jaxmem.attribution.dataflow import MOVES, Node
from jaxmem.attribution.facts import primitive
from jaxmem.formula.equal import MOVEMENT
from jaxmem.profile import Buffer, MemoryProfile
from jaxmem.roles import Phase

Name = tuple[str, str, int]
"""(layer, primitive, elements)."""

OPCODE_PRIMITIVE = {"dot": "dot_general", "convolution": "conv_general_dilated"}
"""For the instructions that XLA rewrites without keeping their name."""

_REDUCTIONS = {"add": "reduce_sum", "maximum": "reduce_max", "minimum": "reduce_min", "multiply": "reduce_prod"}
"""What a nameless ``reduce`` does, by the operation that it repeats."""

_LIBRARY_CALLS = {"__cublas": "dot", "__cudnn$conv": "convolution"}
"""How the targets of custom calls begin that do the work of an instruction (`xla/service/gpu/cublas_cudnn.h`)."""

_XLA_NAMES = {"select_and_scatter": "select_and_scatter_add"}
"""Names that JAX's lowering gives an operation, where they differ from its primitive's."""


_EXCHANGES = COLLECTIVES - SUMS

_HELPERS = {"broadcast": "broadcast_in_dim", "convert": "convert_element_type", "iota": "iota"}
"""Opcodes that JAX's lowering of any operation may use beside the real one, and the primitive that each really is."""


class Evidence:
    """Questions about one compiled program, each answered from its dataflow graph and live ranges."""

    def __init__(self, profile: MemoryProfile, facts: Facts, attributions: Mapping[int, Attribution]) -> None:
        self.profile = profile
        self.facts = facts
        self.attributions = attributions
        self.buffers = {buffer.id: buffer for buffer in profile.buffers}
        self._dataflow = facts.dataflow
        # What XLA makes of an argument alone may carry the argument's path in place of an operation's name.
        self._argument_names = {parameter.op_name for parameter in self._dataflow.module.parameters}
        self._buffer_at = {buffer.leaf: buffer for buffer in profile.buffers}

    def value(self, buffer: Buffer) -> int | None:
        """The number of the value that a buffer holds, in whatever order; None for a table of pointers."""
        node = self.attributions[buffer.id].node
        return None if node is None else self._number(node)

    def _number(self, node: int) -> int:
        origin = self._dataflow.origins[node]
        return self._dataflow.value_numbers[self._dataflow.loop_state.get(origin, origin)]

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
    def nodes_of(self) -> dict[int, list[Node]]:
        """Value → the nodes that compute it; for what a loop carries, the node in its body."""
        found: dict[int, list[Node]] = {}
        for node in self._dataflow.nodes:
            if self._dataflow.loop_state.get(node.index) == node.index:
                found.setdefault(self._dataflow.value_numbers[node.index], []).append(node)
            if not node.hands_on and self._dataflow.origins[node.index] == node.index:
                found.setdefault(self._dataflow.value_numbers[node.index], []).append(node)
        return found

    @cached_property
    def values_named(self) -> dict[Name, list[int]]:
        """Name → the different values that carry it, in the order of the schedule."""
        found: dict[Name, list[int]] = {}
        for value, nodes in sorted(self.nodes_of.items(), key=lambda pair: (pair[1][0].position, pair[1][0].index)):
            for name in {name for node in nodes if self.is_the_operation(node) for name in self._names(node)}:
                found.setdefault(name, []).append(value)
        return found

    def is_the_operation(self, node: Node) -> bool:
        """Whether a node is the operation it is named after, not a cast or a broadcast made for that operation's sake."""
        if not self.facts.depends[node.index] or node.instruction.opcode in _EXCHANGES:
            return False
        if node.instruction.opcode == "gather" and any(
            self._gather_ended_by(reader) is node for reader in self._dataflow.readers(node.index)
        ):
            return False
        helper_of = _HELPERS.get(node.instruction.opcode)
        name = node.instruction.op_name
        if helper_of is None or primitive(name) == helper_of:
            return True
        return all(
            reader.instruction.op_name != name or reader.instruction.opcode in MOVES
            for reader in self._dataflow.readers(node.index)
        )

    @cached_property
    def shapes_named(self) -> dict[tuple[str, str], dict[int, list[int]]]:
        """(layer, primitive) → elements → the values in tiled layouts that carry that name.

        Only a compiler that tiles its layouts cuts an operation into pieces of another shape; elsewhere an array of another
        size is another array.
        """
        found: dict[tuple[str, str], dict[int, list[int]]] = {}
        for (layer, given, elements), values in self.values_named.items():
            tiled = [value for value in values if self._is_tiled(self.nodes_of[value][0])]
            if tiled:
                found.setdefault((layer, given), {})[elements] = tiled
        return found

    @staticmethod
    def _is_tiled(node: Node) -> bool:
        return bool(node.instruction.shape.subshape(node.leaf[1]).tiles)

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

    def instruction_of(self, value: int) -> str:
        """An instruction that computes a value."""
        return self.nodes_of[value][0].instruction.name

    def name(self, node: Node) -> Name:
        """How the formula would name a node."""
        if node.index in self._dataflow.loop_state:
            return self.facts.layer[node.index], "while", node.elements
        given = "" if node.instruction.op_name in self._argument_names else primitive(node.instruction.op_name)
        given = (self._function_ended_by(node) if given == "div" else "") or _XLA_NAMES.get(given, given)
        if not given or given in MOVEMENT:
            # XLA has rewritten it without a name, or it has swallowed a transpose and taken the transpose's name.
            target = node.instruction.attributes.custom_call_target
            opcode = next((work for start, work in _LIBRARY_CALLS.items() if target.startswith(start)), "")
            opcode = opcode or node.instruction.opcode
            if opcode == "reduce" and (partial := self._partial_product(node)) is not None:
                opcode = partial.instruction.opcode
            given = OPCODE_PRIMITIVE.get(opcode, given)
            if opcode == "reduce" and not given:
                given = _REDUCTIONS.get(self._repeats(node), "")
        return self.facts.layer[node.index], given, node.elements

    def _repeats(self, node: Node) -> str:
        """The opcode with which a reduction takes in one more element."""
        module = self.profile.module
        step = module.computations[node.instruction.called_computation_ids[0]]
        return module.instructions[step.root_id].opcode

    def _is_nameless(self, node: Node) -> bool:
        """Whether the compiler made an instruction of its own accord: no name of JAX's, or only that of an argument."""
        name = node.instruction.op_name
        return not primitive(name) or name in self._argument_names

    def _names(self, node: Node) -> Iterator[Name]:
        """Its name, and that of an operation merged into it, or of which it is the end.

        Of ``scatter(0, i, u) + x`` XLA makes ``scatter(x, i, u)``.
        """
        name = self.name(node)
        yield name
        if node.instruction.opcode == "scatter" and self.facts.depends[node.operands[0]]:
            yield name[0], "add_any", name[2]
        if self._gather_ended_by(node) is not None:
            yield name[0], "gather", name[2]

    def _gather_ended_by(self, node: Node) -> Node | None:
        """What a ``gather`` with ``mode="fill"`` has read, where a node is its last step and no buffer holds what it has read.

        JAX lowers it to a gather and a selection: a constant where an index lies outside the array, by a mask that it computes
        from the indices. One of the two is the operation, so that two leaves of the formula need two gathers.
        """
        selection = node.instruction
        if selection.opcode != "select":
            return None
        gathered, filled = (self._dataflow.nodes[self._dataflow.origins[operand]] for operand in node.operands[1:])
        same_place = (
            gathered.instruction.metadata.stack_frame_id == selection.metadata.stack_frame_id
            and gathered.instruction.op_name.rpartition("/")[0] == selection.op_name.rpartition("/")[0]
        )
        if gathered.instruction.opcode != "gather" or self.facts.depends[filled.index] or not same_place:
            return None
        return None if self._number(gathered.index) in self.holders else gathered

    def _function_ended_by(self, node: Node) -> str:
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

    def is_summed_in_loop(self, node: Node) -> bool:
        """Whether a node is what a loop carries from turn to turn, or the next version that a turn writes over it."""
        first = self._dataflow.named_first(node.index)
        origin = self._dataflow.origins[node.index]
        return origin in self._dataflow.loop_state or not {first, origin}.isdisjoint(self._dataflow.next_version)

    def written_over(self, value: int) -> int | None:
        """The array that a loop carries and over which a value is written as its next version; None for any other value."""
        for node in self.nodes_of.get(value, ()):
            if (state := self._dataflow.next_version.get(node.index)) is not None:
                return self._number(state)
        return None

    def _partial_product(self, node: Node) -> Node | None:
        """What a sum adds up under the name of its operand: a product cut along the dimension that it contracts."""
        operand = self._dataflow.nodes[self._dataflow.origins[node.operands[0]]]
        return operand if operand.instruction.op_name == node.instruction.op_name else None

    def _is_summed_next(self, node: Node) -> bool:
        return any(
            reader.instruction.opcode == "reduce" and self._partial_product(reader) is node
            for reader in self._dataflow.readers(node.index)
        )

    def padded(self, buffer: Buffer) -> Node | None:
        """The node that a buffer holds between borders of zeros; None for any other buffer."""
        node = self.attributions[buffer.id].node
        if node is None:
            return None
        origin = self._dataflow.nodes[self._dataflow.origins[node]]
        if origin.instruction.opcode != "pad":
            return None
        return self._dataflow.nodes[self._dataflow.origins[origin.operands[0]]]

    def fusions_around(self, value: int) -> tuple[str, ...]:
        """The fusions inside which a value is computed; empty if any instruction outside a fusion computes it."""
        nodes = self.nodes_of.get(value, [])
        if not nodes or any(node.fusion is None for node in nodes):
            return ()
        instructions = self.profile.module.instructions
        return tuple(sorted({instructions[node.fusion].name for node in nodes if node.fusion is not None}))

    def logical_bytes(self, value: int) -> int:
        """Bytes of a value as the program computes it."""
        node = self.nodes_of[value][0]
        return node.instruction.shape.subshape(node.leaf[1]).logical_bytes

    def bits_of(self, value: int) -> int:
        """Bits of one element of a value as the program computes it."""
        return self.nodes_of[value][0].bits

    def is_backward(self, value: int) -> bool:
        """Whether the first instruction that computes a value is one of the backward pass."""
        return self.facts.phase[self.nodes_of[value][0].index] is Phase.BACKWARD

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

    def operand_of(self, buffer: Buffer) -> Name | None:
        """The operation for which a buffer holds a broadcast or cast operand; None for any other buffer."""
        node = self.attributions[buffer.id].node
        if node is None:
            return None
        origin = self._dataflow.nodes[self._dataflow.origins[node]]
        return self.name(origin) if origin.instruction.opcode in _HELPERS else None

    def made_from(self, value: int) -> Iterator[tuple[Buffer, str]]:
        """The buffers that a fusion writes from a value of the same size that it computes on the way, with the fusion."""
        nodes, instructions = self._dataflow.nodes, self.profile.module.instructions
        for start in self.nodes_of.get(value, []):
            if start.fusion is None:
                continue
            waiting, seen = list(start.users), set()
            while waiting:
                node = nodes[waiting.pop()]
                if node.index in seen or node.elements != start.elements:
                    continue
                seen.add(node.index)
                if node.fusion is not None:
                    waiting.extend(node.users)
                elif (buffer := self._buffer_at.get(node.leaf)) is not None:
                    yield buffer, instructions[start.fusion].name

    @cached_property
    def held_elsewhere(self) -> dict[int, list[Buffer]]:
        """Value → the buffers that hold it in other memories."""
        found: dict[int, list[Buffer]] = {}
        for buffer in self.profile.elsewhere:
            node = self._dataflow.node_at.get(buffer.leaf)
            if node is not None:
                found.setdefault(self._number(node), []).append(buffer)
        return found

    @cached_property
    def library_calls(self) -> dict[tuple[str, int], list[str]]:
        """(layer, elements) → the library calls that write a result of that size."""
        found: dict[tuple[str, int], list[str]] = {}
        for node in self._dataflow.nodes:
            if node.instruction.opcode == "custom-call":
                found.setdefault((self.facts.layer[node.index], node.elements), []).append(node.instruction.name)
        return found

    def is_made_before_backward(self, buffer: Buffer) -> bool:
        """Whether a buffer exists before the first gradient does; one that does not is computed again for its reader."""
        first = self.facts.first_gradient_position
        return first is None or buffer.start <= first

    def is_operand_alone(self, value: int) -> bool:
        """Whether a value that carries an operation's name is only an operand broadcast for its sake.

        A cast under that name may be the result: a mask unpacked from bits.
        """
        return all(self._is_operand(node) for node in self.nodes_of.get(value, ()))

    @staticmethod
    def _is_operand(node: Node) -> bool:
        helper_of = _HELPERS.get(node.instruction.opcode)
        broadcast = helper_of is not None and node.instruction.opcode != "convert"
        return broadcast and primitive(node.instruction.op_name) not in ("", helper_of)

    def is_step(self, value: int) -> bool:
        """Whether an operation is not done with a value that carries its name: the next instruction does something else.

        Two multiplications of the program in one place have one name, and neither is a step of the other: a step goes, under
        its own name and from the same line of the program, into an instruction of another opcode.
        """
        return any(self._goes_on(node) for node in self.nodes_of.get(value, ()))

    def _goes_on(self, node: Node) -> bool:
        made = node.instruction
        if not made.op_name or made.opcode in _HELPERS:
            return False
        waiting, seen = [node.index], {node.index}
        while waiting:
            for reader in self._dataflow.readers(waiting.pop()):
                read = reader.instruction
                if read.metadata != made.metadata or reader.index in seen:
                    continue
                seen.add(reader.index)
                if read.opcode in MOVES or read.opcode in _HELPERS:
                    waiting.append(reader.index)
                elif read.opcode != made.opcode:
                    return True
        return False

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

    def step_of(self, buffer: Buffer) -> Iterator[Name]:
        """The operations that a buffer is a step on the way to.

        Those a nameless value goes into, and the one that a value shares its name with: a product of which the next
        instruction, under the same name, is the sum; a reciprocal that is broadcast and multiplied, all as one division.
        """
        start = self.attributions[buffer.id].node
        if start is None:
            return
        origin = self._dataflow.nodes[self._dataflow.origins[start]]
        seen: set[int] = set()
        if not self._is_nameless(origin):
            steps = [start]
            for step in steps:
                for reader in self._dataflow.readers(step):
                    if reader.instruction.op_name == origin.instruction.op_name and reader.index not in seen:
                        seen.add(reader.index)
                        steps.append(reader.index)
                        yield self.name(reader)
            if origin.instruction.opcode in ("exponential", "add"):
                near = list(self._dataflow.readers(start))
                for end in (*near, *(after for reader in near for after in self._dataflow.readers(reader.index))):
                    if self._function_ended_by(end) == "logistic":
                        yield self.name(end)
            return
        waiting = list(self._dataflow.nodes[start].users)
        while waiting:
            node = self._dataflow.nodes[waiting.pop()]
            if node.index in seen:
                continue
            seen.add(node.index)
            name = self.name(node)
            if name[1] and not node.hands_on:
                yield name
            if self._is_nameless(node) or node.hands_on or self._is_summed_next(node):
                waiting.extend(node.users)

    def tiled_piece_of(self, buffer: Buffer) -> tuple[str, str]:
        """Layer and primitive of the operation that a buffer in a tiled layout is part of, on an array of whatever shape."""
        node = self.attributions[buffer.id].node
        if node is None or not self.is_tiled(buffer):
            return "", ""
        layer, given, _ = self.name(self._dataflow.nodes[self._dataflow.origins[node]])
        return layer, given

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

    @cached_property
    def _named_in_layer(self) -> set[tuple[str, str]]:
        return {(layer, given) for layer, given, _ in self.values_named}

    def is_lowered_to_a_function(self, layer: str, given: str) -> bool:
        """Whether an operation of the program left no instruction under its own name: its lowering traced a function."""
        return (layer, given) not in self._named_in_layer

    def inside_function(self, buffer: Buffer) -> str | None:
        """The layer of the traced function's instruction that a buffer holds the result of; None for any other buffer."""
        node = self.attributions[buffer.id].node
        if node is None:
            return None
        origin = self._dataflow.nodes[self._dataflow.origins[node]]
        nested = "/jit(" in origin.instruction.op_name
        return self.facts.layer[origin.index] if nested else None

    def label(self, buffer: Buffer) -> str:
        """A buffer's name in evidence: its instruction, with the element of a tuple."""
        name = self.profile.instruction(buffer).name
        return name + "".join(f"{{{step}}}" for step in buffer.leaf[1])
