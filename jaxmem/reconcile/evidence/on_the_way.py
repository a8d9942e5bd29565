"""What is no value of the formula but on the way to one: operands, steps, pieces."""

from collections.abc import Iterator
from functools import cached_property
from operator import attrgetter

from jaxmem.attribution.collectives import COLLECTIVES
from jaxmem.attribution.dataflow import MOVES, Node
from jaxmem.attribution.facts import primitive
from jaxmem.formula.equal import MOVEMENT
from jaxmem.profile import Buffer
from jaxmem.reconcile.evidence.handed_on import HandedOn
from jaxmem.reconcile.evidence.named import HELPERS, Name, Place

_PRODUCTS = frozenset({"dot_general", "conv_general_dilated"})

_PRODUCTS_OPCODES = frozenset({"dot", "convolution", "custom-call"})

_NO_OPERATIONS = MOVES | HELPERS.keys() | {"bitcast", "call", "constant", "fusion", "get-tuple-element", "tuple"}
"""Opcodes of what does nothing by itself with what it is given."""

_CUTS = frozenset({"slice", "dynamic-slice"})


class OnTheWay(HandedOn):
    """What the compiler makes on the way to the values that the formula names."""

    def operand_of(self, buffer: Buffer) -> Name | None:
        """The operation for which a buffer holds a broadcast or cast operand; None for any other buffer."""
        node = self.attributions[buffer.id].node
        if node is None:
            return None
        origin = self._dataflow.nodes[self._dataflow.origins[node]]
        return self.name(origin) if origin.instruction.opcode in HELPERS else None

    def is_operand_alone(self, value: int) -> bool:
        """Whether a value that carries an operation's name is only an operand broadcast for its sake.

        A cast under that name may be the result: a mask unpacked from bits.
        """
        return all(map(self._is_operand, self.nodes_of.get(value, ())))

    @staticmethod
    def _is_operand(node: Node) -> bool:
        opcode = node.instruction.opcode
        if opcode == "convert" or opcode not in HELPERS:
            return False
        return primitive(node.instruction.op_name) not in ("", HELPERS[opcode])

    def is_step(self, value: int) -> bool:
        """Whether an operation is not done with a value that carries its name: the next instruction does something else.

        Two multiplications of the program in one place have one name, and neither is a step of the other: a step goes, under
        its own name and from the same line of the program, into an instruction of another opcode.
        """
        found = self._is_step.get(value)
        if found is None:
            found = self._is_step[value] = any(map(self._goes_on, self.nodes_of.get(value, ())))
        return found

    @cached_property
    def _is_step(self) -> dict[int, bool]:
        return {}

    def ends_gather(self, value: int) -> bool:
        """Whether a value is the last step of a gather, whose first another buffer holds."""
        return any(self.gather_before(node) is not None for node in self.nodes_of.get(value, ()))

    def _goes_on(self, node: Node) -> bool:
        made = node.instruction
        if made.opcode == "add" and self._ends_in_function(node):
            return True
        if not made.op_name or made.opcode in HELPERS:
            return False
        if self._only_opcode.get(made.op_name, made.opcode) == made.opcode:
            return False
        waiting, seen = [node.index], {node.index}
        for index in waiting:
            for reader in self._dataflow.readers(index):
                read = reader.instruction
                if read.metadata != made.metadata or reader.index in seen:
                    continue
                seen.add(reader.index)
                if read.opcode in HELPERS or read.opcode in COLLECTIVES or self.handed_on(reader):
                    waiting.append(reader.index)
                elif read.opcode != made.opcode:
                    return True
        return False

    def _ends_in_function(self, node: Node) -> bool:
        """Whether an addition is one of the steps of a function that a division ends."""
        nodes, origins = self._dataflow.nodes, self._dataflow.origins
        of_exponential = any(nodes[origins[each]].instruction.opcode == "exponential" for each in node.operands)
        return of_exponential and any(map(self.function_ended_by, self._dataflow.readers(node.index)))

    @cached_property
    def _only_opcode(self) -> dict[str, str]:
        """Name of an instruction → the opcode of the operations that are done under it; empty where there are several."""
        found: dict[str, str] = {}
        for name, opcode in set(map(attrgetter("op_name", "opcode"), self._dataflow.module.instructions.values())):
            if opcode not in _NO_OPERATIONS:
                found[name] = "" if name in found else opcode
        return found

    def step_of(self, buffer: Buffer) -> Iterator[Name]:
        """The operations that a buffer is a step on the way to.

        Those a nameless value goes into, and the one that a value shares its name with: a product of which the next
        instruction, under the same name, is the sum; a reciprocal that is broadcast and multiplied, all as one division.
        """
        start = self.attributions[buffer.id].node
        if start is None:
            return
        origin = self._dataflow.nodes[self._dataflow.origins[start]]
        yield from self._products_in(origin)
        if self._goes_by_another_name(origin):
            for node in self._ahead(buffer):
                yield self.name(node)
            return
        for node in self._ahead(buffer):
            yield from self._names(node)
        if (gathered := self.gather_before(origin)) is not None:
            yield self.name(gathered)
        if any(self._selections_behind(origin)) or self._is_part_of_sum(origin):
            yield self.name(origin)
        # What is the same all along a dimension is computed once, and broadcast.
        layer, given, _ = self.name(origin)
        yield from ((layer, given, each.elements) for each in self._broadcasts_behind(origin))
        if self.place_beside(origin) is not None:
            # A reduction of pairs finds the largest number and its place; only the place may be asked for.
            layer, _, elements = self.name(origin)
            yield layer, self.finds_place(origin), elements
        if (quotient := self._division_by_exponential(origin)) is not None:
            yield self.name(quotient)
        if origin.instruction.opcode in ("exponential", "add"):
            near = list(self._dataflow.readers(start))
            for end in (*near, *(after for reader in near for after in self._dataflow.readers(reader.index))):
                if self.function_ended_by(end) == "logistic":
                    yield self.name(end)

    def _broadcasts_behind(self, node: Node) -> Iterator[Node]:
        """The broadcasts of a node, and under its own name of what is computed of it."""
        for reader in self.readers(node.index):
            if reader.instruction.opcode == "broadcast":
                if node.instruction.opcode == "reduce" or not self.is_asked_for(reader):
                    yield reader
                continue
            for after in self.readers(reader.index):
                if after.instruction.opcode == "broadcast" and after.instruction.op_name == node.instruction.op_name:
                    yield after

    def values_ahead(self, buffer: Buffer) -> Iterator[int]:
        """The values that a buffer is a step on the way to."""
        for node in self._ahead(buffer):
            yield self.number(node.index)

    def places_ahead(self, buffer: Buffer) -> Iterator[Place]:
        """The operations that a buffer is a step on the way to, each with where it stands in the program."""
        for node in self._ahead(buffer):
            yield self.name(node)[1], self.place(node)

    def results_ahead(self, buffer: Buffer) -> Iterator[int]:
        """The places among the program's results of what a buffer is a step on the way to."""
        for node in self._ahead(buffer):
            if (position := self.result_of(node)) is not None:
                yield position

    def cut_from(self, node: Node) -> Node | None:
        """What a node is one device's part of, under the same name; None for any other node."""
        if node.instruction.opcode != "dynamic-slice":
            return None
        whole = self._dataflow.nodes[self._dataflow.origins[node.operands[0]]]
        return whole if whole.instruction.op_name == node.instruction.op_name else None

    def _selections_behind(self, gathered: Node) -> Iterator[Node]:
        """The last steps of a gather of which a node is the first, as often as XLA repeats them; none for any other node."""
        return (each for each in self.readers(gathered.index) if self.gather_before(each) is gathered)

    def _is_part_of_sum(self, node: Node) -> bool:
        """Whether a sum goes into an addition of the compiler's own, which adds up what lies side by side part by part."""
        given = primitive(node.instruction.op_name)
        return node.instruction.opcode == "reduce" and any(
            reader.instruction.opcode == "add"
            and (self._is_nameless(reader) or primitive(reader.instruction.op_name) == given)
            for reader in self.readers(node.index)
        )

    def _division_by_exponential(self, node: Node) -> Node | None:
        """The division by exp(x) of which a node is the exp(−x) that XLA multiplies by, to save a division."""
        if node.instruction.opcode != "exponential":
            return None
        negated = self._dataflow.nodes[self._dataflow.origins[node.operands[0]]].instruction
        if negated.opcode != "negate":
            return None
        products = (each for each in self.readers(node.index) if each.instruction.opcode == "multiply")
        return next((each for each in products if each.instruction.op_name == negated.op_name), None)

    def gradients_cut_from(self, buffer: Buffer) -> list[int]:
        """The places among the results of the new state whose gradients are cut from one product, all that is read of it.

        Of a buffer that holds the product, or its operand side by side or between borders: matrix products done as one, the
        groups of a convolution, of which only the blocks on the diagonal are wanted.
        """
        start = self.attributions[buffer.id].node
        if start is None:
            return []
        origin = self._dataflow.nodes[self._dataflow.origins[start]]
        wide = origin.instruction.opcode in ("concatenate", "pad")
        for product in self.readers(origin.index) if wide else (origin,):
            cuts = list(self.readers(product.index)) if self._is_product(product) else []
            found = [self.facts.gradient_of[each.index] for each in cuts if each.instruction.opcode in _CUTS]
            gradients = [each for each in found if each is not None]
            if cuts and len(gradients) == len(cuts):
                return gradients
        return []

    def _goes_by_another_name(self, node: Node) -> bool:
        """Whether an instruction has no name, or that of a mere movement which it has swallowed."""
        return self._is_nameless(node) or (
            primitive(node.instruction.op_name) in MOVEMENT and node.instruction.opcode not in MOVES
        )

    def _ahead(self, buffer: Buffer) -> Iterator[Node]:
        """The nodes that finish what a buffer is begun for: under its own name, or for a nameless one the next with a name."""
        start = self.attributions[buffer.id].node
        if start is None:
            return
        origin = self._dataflow.nodes[self._dataflow.origins[start]]
        any_name = self._goes_by_another_name(origin)
        yield from self._selections_behind(origin)
        waiting, seen = [start], {start}
        while waiting:
            for index in self._dataflow.nodes[waiting.pop()].users:
                node = self._dataflow.nodes[index]
                if index in seen:
                    continue
                seen.add(index)
                nameless = node.hands_on or self._is_nameless(node)
                if any_name and not node.hands_on and self.name(node)[1]:
                    yield node
                elif not any_name and not nameless and node.instruction.op_name == origin.instruction.op_name:
                    yield node
                    waiting.append(index)
                if nameless or (any_name and (self._is_summed_next(node) or self._is_part_of_sum(node))):
                    waiting.append(index)

    def _products_in(self, node: Node) -> Iterator[Name]:
        """The products of which XLA has made one with operands side by side, each a slice of it.

        For such a product, and for the operands that lie side by side.
        """
        readers = list(self._dataflow.readers(node.index))
        for product in filter(self._is_product, readers if node.instruction.opcode == "concatenate" else [node]):
            layer, given, elements = self.name(product)
            parts = [each for each in self._dataflow.readers(product.index) if each.instruction.opcode == "slice"]
            if sum(part.elements for part in parts) == elements:
                yield from ((layer, given, part.elements) for part in parts)

    def _is_product(self, node: Node) -> bool:
        """Whether a node is a matrix product or a convolution, by itself or as a call of a library."""
        return node.instruction.opcode in _PRODUCTS_OPCODES and self.name(node)[1] in _PRODUCTS

    def tiled_piece_of(self, buffer: Buffer) -> tuple[str, str]:
        """Layer and primitive of the operation that a buffer in a tiled layout is part of, on an array of whatever shape."""
        node = self.attributions[buffer.id].node
        if node is None or not self.is_tiled(buffer):
            return "", ""
        layer, given, _ = self.name(self._dataflow.nodes[self._dataflow.origins[node]])
        return layer, given

    def inside_function(self, buffer: Buffer) -> str | None:
        """The layer of the traced function's instruction that a buffer holds the result of; None for any other buffer."""
        node = self.attributions[buffer.id].node
        if node is None:
            return None
        origin = self._dataflow.nodes[self._dataflow.origins[node]]
        nested = "/jit(" in origin.instruction.op_name
        return self.facts.layer[origin.index] if nested else None

    def padded(self, buffer: Buffer) -> Node | None:
        """The node that a buffer holds between borders of zeros; None for any other buffer."""
        node = self.attributions[buffer.id].node
        if node is None:
            return None
        origin = self._dataflow.nodes[self._dataflow.origins[node]]
        if origin.instruction.opcode != "pad":
            return None
        return self._dataflow.nodes[self._dataflow.origins[origin.operands[0]]]
