"""What devices hand one another: each array by what it was made from, and of the size that this makes of it.

The opcode alone explains nothing. What was gathered must be an argument, or a value, of which the formula speaks, at its whole
size; what was added up, or packed to be, must consist of gradients or other values that the formula names, each at the size
it has on one device or at its whole size, and the parts must make up the buffer.
"""

from collections.abc import Iterable, Mapping, Sequence

from jaxmem.attribution.collectives import COLLECTIVES, GATHERS, SUMS
from jaxmem.attribution.dataflow import MOVES, Node
from jaxmem.formula import Leaf
from jaxmem.profile import Buffer
from jaxmem.reconcile.book import Book
from jaxmem.reconcile.evidence import Name
from jaxmem.roles import Role

_ASKED_FOR = frozenset(
    """all_gather all_gather_invariant all_gather_reduced all_to_all ppermute psum psum_invariant pmax pmin reduce_scatter
    unreduced_psum unreduced_reduce_scatter""".split()
)
"""JAX's primitives that exchange data between devices."""

_CUTS = MOVES | {"slice", "dynamic-slice", "convert"}
"""Opcodes whose result is part of their first operand, or all of it, in whatever number format."""

Explanation = tuple[str, tuple[str, ...], tuple[str, ...]]
"""(kind, what this device sent, the leaves that it stands for)."""


def explain_collectives(book: Book) -> None:
    """What came from other devices, or goes to them: parameters gathered for the forward pass, and all that no formula has."""
    spoken_of = _SpokenOf(book)
    _explain_gathered(book, spoken_of)
    _explain_asked_for(book)
    _explain_what_is_sent(book, spoken_of)
    for identifier in list(book.open):
        buffer = book.evidence.buffers[identifier]
        node = book.evidence.attributions[identifier].node
        if book.role(buffer) is not Role.COLLECTIVES or node is None:
            continue
        found = spoken_of.explanation(node)
        if found is not None:
            kind, sent, text = found
            book.row_of(buffer).add(
                kind, book.settle(buffer), buffer=book.evidence.label(buffer), instruction=sent, formula=text
            )


def _explain_asked_for(book: Book) -> None:
    """Collectives that the program itself calls, under JAX's own names: each result is a leaf, each leaf serves once."""
    evidence, dataflow = book.evidence, book.evidence.facts.dataflow
    waiting: dict[Name, list[Leaf]] = {}
    for leaf in book.formula.leaves:
        if leaf.primitive in _ASKED_FOR and leaf.role is not Role.COLLECTIVES:
            waiting.setdefault((leaf.layer, leaf.primitive, leaf.elements), []).append(leaf)
    for identifier in list(book.open) if waiting else ():
        buffer = evidence.buffers[identifier]
        node = evidence.attributions[identifier].node
        if node is None or book.role(buffer) is not Role.COLLECTIVES:
            continue
        leaves = waiting.get(evidence.name(dataflow.nodes[dataflow.origins[node]]), [])
        whole = book.open[identifier] == buffer.logical_bytes
        alike = (each for each in leaves if each.bytes == buffer.logical_bytes or book.forms(each, buffer))
        leaf = next(alike, None) if whole else None
        if leaf is None:
            continue
        leaves.remove(leaf)
        held, label = book.settle(buffer), evidence.label(buffer)
        if leaf.counted:
            row, role = book.row(leaf.role, leaf.layer), str(Role.COLLECTIVES)
            row.add("counted under another role", -leaf.bytes, buffer=label, role=role, formula=leaf.text)
        book.row_of(buffer).add("asked for by the program", held, buffer=label, formula=leaf.text)


def _explain_what_is_sent(book: Book, spoken_of: "_SpokenOf") -> None:
    """What one device has of a sum over all: its part of a result of the program, a loss, or an array that it alone gives."""
    results = {leaf.path: leaf for leaf in book.formula.leaves if leaf.is_result and leaf.path}
    evidence, dataflow = book.evidence, book.evidence.facts.dataflow
    for identifier in list(book.open):
        buffer = evidence.buffers[identifier]
        node = evidence.attributions[identifier].node
        readers = list(dataflow.readers(node)) if node is not None else []
        if len(readers) != 1 or readers[0].instruction.opcode not in SUMS or len(readers[0].operands) != 1:
            continue
        position = evidence.facts.output_of(readers[0].index)
        leaf = results.get(book.outputs[position].path) if position is not None else None
        given = spoken_of.explanation(readers[0].index) if spoken_of.given(readers[0]) is not None else None
        summed = book.claimed.get(evidence.number(readers[0].index))
        same_size = readers[0].elements == evidence.elements(buffer)
        if leaf is not None and leaf.bytes == buffer.logical_bytes:
            text = leaf.text
        elif summed is not None and same_size:
            text = summed.text
        elif given is not None:
            text = given[2]
        else:
            continue
        book.row_of(buffer).add(
            "awaits the sum over devices",
            book.settle(buffer),
            buffer=evidence.label(buffer),
            instruction=readers[0].instruction.name,
            formula=text,
        )


def _explain_gathered(book: Book, spoken_of: "_SpokenOf") -> None:
    """Counted leaves, each matched by the parameter that it is the whole of."""
    holders: dict[str, list[Buffer]] = {}
    for buffer in book.profile.buffers:
        attribution = book.evidence.attributions[buffer.id]
        if attribution.role is Role.COLLECTIVES and attribution.node is not None:
            path = spoken_of.gathered_path(attribution.node)
            if path is not None:
                holders.setdefault(path, []).append(buffer)
    for leaf in book.formula.leaves:
        if leaf.role is not Role.COLLECTIVES or not leaf.counted:
            continue
        found = holders.get(leaf.path, [])
        if found:
            book.match(leaf, found)
        elif not spoken_of.is_gathered(leaf.path):
            book.row(leaf.role, leaf.layer).add("used in parts", -leaf.bytes, argument=leaf.path, formula=leaf.text)


class _SpokenOf:
    """The formula's leaves as a collective's operands ask for them."""

    def __init__(self, book: Book) -> None:
        self._book = book
        self._evidence = book.evidence
        self._facts = book.evidence.facts
        self._nodes = book.evidence.facts.dataflow.nodes
        self._origins = book.evidence.facts.dataflow.origins
        leaves = book.formula.leaves
        self._arguments: Mapping[str, Leaf] = {
            leaf.path: leaf for leaf in leaves if not leaf.primitive and leaf.elements
        }
        self._gathered = {leaf.path: leaf for leaf in leaves if leaf.role is Role.COLLECTIVES}
        self._gradients: dict[str, list[Leaf]] = {}
        self._named: dict[Name, Leaf] = {}
        for leaf in leaves:
            if leaf.role is Role.GRADIENTS:
                self._gradients.setdefault(leaf.path, []).append(leaf)
            if leaf.primitive and leaf.role is not Role.COLLECTIVES:
                self._named[leaf.layer, leaf.primitive, leaf.elements] = leaf
                self._named.setdefault((leaf.layer, leaf.primitive, leaf.elements * leaf.divided_over), leaf)

    def explanation(self, index: int) -> Explanation | None:
        """(kind, what this device sent, the leaves that it stands for) of the array a node holds; None if it is not known."""
        origin = self._nodes[self._origins[index]]
        opcode, elements = origin.instruction.opcode, self._nodes[index].elements
        if elements != origin.elements:
            return None  # a part of it, or another array
        if opcode == "concatenate":
            return self._of_parts("packed for the devices", origin.operands, elements) or self._rejoined(origin)
        if opcode not in COLLECTIVES or not origin.operands:
            return None
        if opcode == "all-to-all":
            return self._exchanged(origin, origin.operands)
        if len(origin.operands) != 1:
            return None
        part = self._gathered_part(origin)
        if opcode in SUMS and part is None:
            return self._given_by_one(origin) or self._added_up(origin, self._nodes[origin.operands[0]])
        if part is None:
            return self._exchanged(origin, origin.operands)
        return self._gathered_from(origin, self._nodes[part])

    def _gathered_from(self, origin: Node, part: Node) -> Explanation | None:
        """The parts of several devices make up the whole array, or a larger part of it."""
        devices, rest = divmod(origin.elements, part.elements) if part.elements else (0, 1)
        if rest or devices < 2 or self._book.devices % devices:
            return None
        sent, source = self._evidence.sent(origin.index), self._source(part)
        if source is None:
            leaf = self._begun_in_parts(origin, part)
            return ("gathered from the devices", sent, (leaf.text,)) if leaf is not None else None
        leaf, whole = source
        if not leaf.primitive and leaf.role is not Role.INPUTS:
            # Of state, the formula must say that it is gathered, and all of it is.
            gathered = self._gathered.get(leaf.path)
            all_of_it = gathered is not None and origin.elements == gathered.elements * gathered.divided_over
            return ("gathered from the devices", sent, (gathered.text,)) if gathered and all_of_it else None
        if not self._book.is_part(leaf, whole.elements):
            return None
        return "gathered from the devices", sent, (leaf.text,)

    def _begun_in_parts(self, origin: Node, part: Node) -> Leaf | None:
        """The leaf of an operation that each device begins with what it has, and that ends with what all have found."""
        begun = self._nodes[self._origins[part.index]].instruction
        ends = (
            reader
            for reader in self._evidence.facts.dataflow.readers(origin.index)
            if reader.instruction.op_name == origin.instruction.op_name == begun.op_name
            and reader.instruction.opcode == begun.opcode
        )
        return next((leaf for end in ends if (leaf := self._leaf(end)) is not None), None)

    def _exchanged(self, origin: Node, pieces: Sequence[int]) -> Explanation | None:
        """An exchange makes nothing more and nothing less of each piece, and all pieces are of one array."""
        found = [self._source(self._nodes[piece]) for piece in pieces]
        texts = {source[0].text for source in found if source is not None}
        same_size = all(self._nodes[piece].elements == origin.elements for piece in pieces)
        if None in found or len(texts) != 1 or not same_size:
            return None
        for source in found:
            if source is None or len(pieces) * origin.elements > source[1].elements:
                return None
        return "exchanged between the devices", self._evidence.sent(origin.index), tuple(texts)

    def _rejoined(self, origin: Node) -> Explanation | None:
        """What came in pieces, side by side."""
        pieces = [self._nodes[self._origins[piece]] for piece in origin.operands]
        found = [self.explanation(each.index) if each.instruction.opcode in COLLECTIVES else None for each in pieces]
        whole = sum(each.elements for each in pieces) == origin.elements
        if not whole or not found or found[0] is None or any(each is None or each[2] != found[0][2] for each in found):
            return None
        kind, _, texts = found[0]
        return kind, tuple(dict.fromkeys(each.instruction.name for each in pieces)), texts

    def _given_by_one(self, origin: Node) -> Explanation | None:
        """A sum to which one device gives an array, or a part of it, and all the others zeros."""
        given = self.given(origin)
        source = self._source(given) if given is not None else None
        if given is None or source is None or not given.elements == origin.elements <= source[1].elements:
            return None
        return "exchanged between the devices", self._evidence.sent(origin.index), (source[0].text,)

    def given(self, origin: Node) -> Node | None:
        """What one device gives to a sum of which all the others give zeros; None for any other sum."""
        if origin.instruction.opcode not in SUMS or len(origin.operands) != 1:
            return None
        chosen = self._nodes[self._origins[origin.operands[0]]]
        if chosen.instruction.opcode != "select":
            return None
        data = [branch for branch in chosen.operands[1:] if self._facts.depends[branch]]
        return self._nodes[data[0]] if len(data) == 1 else None

    def _source(self, node: Node) -> tuple[Leaf, Node] | None:
        """The leaf that a node is, or that it is cut from, and the node that is the leaf."""
        while (leaf := self._leaf(node)) is None:
            origin = self._nodes[self._origins[node.index]]
            if origin.instruction.opcode not in _CUTS:
                return None
            node = self._nodes[origin.operands[0]]
        return leaf, node

    def gathered_path(self, index: int) -> str | None:
        """The argument of which a node holds the whole, gathered from the parts of all devices; None for any other array."""
        found = self.explanation(index)
        origin = self._nodes[self._origins[index]]
        part = self._gathered_part(origin)
        if found is None or part is None:
            return None
        argument = self._facts.argument[part]
        return argument.path if argument is not None else None

    def is_gathered(self, path: str) -> bool:
        """Whether any instruction gathers an argument."""
        return any(
            argument is not None and argument.path == path
            for node in self._nodes
            if not node.hands_on and node.instruction.opcode in COLLECTIVES
            for part in (node.operands if node.instruction.opcode in GATHERS else (self._gathered_part(node),))
            for argument in ((self._facts.argument[part],) if part is not None else ())
        )

    def _gathered_part(self, origin: Node) -> int | None:
        """What this device has of an array that is gathered: its part goes in, and the parts of all devices come out.

        Small arrays are gathered by a sum: each device writes its part into zeros, at its own place.
        """
        opcode = origin.instruction.opcode
        if opcode in GATHERS and origin.operands:
            return origin.operands[0]
        if opcode != "all-reduce" or len(origin.operands) != 1:
            return None
        placed = self._nodes[self._origins[origin.operands[0]]]
        if placed.instruction.opcode != "dynamic-update-slice":
            return None
        zeros, part = placed.operands[:2]
        return part if not self._facts.depends[zeros] else None

    def _added_up(self, origin: Node, operand: Node) -> Explanation | None:
        packed = self._nodes[self._origins[operand.index]]
        parts = packed.operands if packed.instruction.opcode == "concatenate" else [operand.index]
        found = self._of_parts("added up over the devices", parts, operand.elements)
        if found is None or origin.instruction.opcode != "reduce-scatter":
            return found if found is not None and origin.elements == operand.elements else None
        leaf = self._leaf(operand)
        divided = leaf is not None and origin.elements == leaf.elements
        return found if divided and leaf is not None and operand.elements == leaf.elements * leaf.divided_over else None

    def _of_parts(self, kind: str, parts: Iterable[int], elements: int) -> Explanation | None:
        nodes = [self._nodes[part] for part in parts]
        leaves = [leaf for node in nodes if (leaf := self._leaf(node)) is not None]
        if len(leaves) != len(nodes) or sum(node.elements for node in nodes) != elements:
            return None
        made = (self._nodes[self._origins[node.index]].instruction.name for node in nodes)
        return kind, tuple(dict.fromkeys(made)), tuple(leaf.text for leaf in leaves)

    def _leaf(self, node: Node) -> Leaf | None:
        """The leaf that speaks of an array, by its argument, by the parameter it is the gradient of, or by its name."""
        argument = self._evidence.argument_in(node.index)
        if argument is not None:
            return self._arguments.get(argument.path)
        output = self._facts.gradient_of[node.index]
        if output is not None:
            found = self._gradients.get(self._facts.outputs[output].parameter_path, ())
            return next(
                (leaf for leaf in found if node.elements in (leaf.elements, leaf.elements * leaf.divided_over)), None
            )
        origin = self._nodes[self._origins[node.index]]
        claimed = self._book.claimed.get(self._evidence.number(node.index))
        if claimed is None and (place := self._evidence.place_beside(origin)) is not None:
            claimed = self._book.claimed.get(place)
        return claimed or self._named.get(self._evidence.name(origin))
