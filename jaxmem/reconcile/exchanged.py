"""What an array that devices exchange was made from, and the leaves of the formula that it stands for."""

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property

from jaxmem.attribution.collectives import COLLECTIVES, GATHERS, SUMS
from jaxmem.attribution.dataflow import Node
from jaxmem.formula import Leaf
from jaxmem.reconcile.book import Book
from jaxmem.reconcile.evidence import Name
from jaxmem.roles import STATE_ROLES, Role

Explanation = tuple[str, tuple[str, ...], tuple[str, ...]]
"""(kind, what this device sent, the leaves that it stands for)."""


class SpokenOf:
    """The formula's leaves as a collective's operands ask for them."""

    def __init__(self, book: Book) -> None:
        self._book = book
        self._evidence = book.evidence
        self._facts = book.evidence.facts
        self._nodes = book.evidence.facts.dataflow.nodes
        self._origins = book.evidence.facts.dataflow.origins

    @cached_property
    def _arguments(self) -> Mapping[str, Leaf]:
        return {leaf.path: leaf for leaf in self._book.formula.leaves if not leaf.primitive and leaf.elements}

    @cached_property
    def _gathered(self) -> Mapping[str, Leaf]:
        return {leaf.path: leaf for leaf in self._book.leaves_as[Role.COLLECTIVES]}

    @cached_property
    def _results(self) -> Mapping[str, Leaf]:
        return {leaf.path: leaf for leaf in self._book.formula.leaves if leaf.is_result and leaf.path}

    @cached_property
    def _in_the_making(self) -> Mapping[int, Leaf]:
        """What a loop carries → the leaf that it is the next version of."""
        claimed = self._book.claimed
        versions = self._evidence.next_versions.items()
        return {state: leaf for state, values in versions for _, leaf in claimed.in_order(values)}

    @cached_property
    def _gradients(self) -> Mapping[str, Sequence[Leaf]]:
        found: dict[str, list[Leaf]] = {}
        for leaf in self._book.leaves_as[Role.GRADIENTS]:
            found.setdefault(leaf.path, []).append(leaf)
        return found

    @cached_property
    def _named(self) -> Mapping[Name, Leaf]:
        found: dict[Name, Leaf] = {}
        for leaf in self._book.formula.leaves:
            if leaf.primitive and leaf.role not in (Role.COLLECTIVES, Role.GRADIENTS):  # a gradient is its parameter's
                found[leaf.layer, leaf.primitive, leaf.elements] = leaf
                found.setdefault((leaf.layer, leaf.primitive, leaf.elements * leaf.divided_over), leaf)
        return found

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
        part = self._evidence.gathered_part(origin)
        if opcode in SUMS and part is None:
            added_up = self._added_up(origin, self._nodes[origin.operands[0]])
            return self._given_by_one(origin) or added_up or self._is_sum(origin)
        if part is None:
            return self._exchanged(origin, origin.operands)
        return self._gathered_from(origin, part)

    def _gathered_from(self, origin: Node, part: Node) -> Explanation | None:
        """The parts of several devices make up the whole array, or a larger part of it."""
        devices, rest = divmod(origin.elements, part.elements) if part.elements else (0, 1)
        if rest or devices < 2 or self._book.devices % devices:
            return None
        source = self.source(part)
        leaf = self._begun_in_parts(origin, part) if source is None else self._whole_of(origin, part, *source)
        return ("gathered from the devices", self._evidence.sent(origin.index), (leaf.text,)) if leaf else None

    def _whole_of(self, origin: Node, part: Node, leaf: Leaf, held: Node) -> Leaf | None:
        """The leaf of which a gather of the parts makes the whole, or what is cut from it; a device holds ``held`` of it."""
        if leaf.role not in STATE_ROLES:
            return leaf if leaf.is_result or self._book.is_part(leaf, held.elements) else None
        # Of state, the formula must say that it is gathered, and all of it is, or what a group of the devices has together;
        # or it has a slice of it, whole.
        gathered, whole = self._gathered.get(leaf.path), leaf.elements * leaf.divided_over
        of_group = origin.elements <= whole and self._book.is_part(leaf, origin.elements)
        if gathered is not None and of_group and gathered.elements * gathered.divided_over == whole:
            return gathered
        layer, given, _ = self._evidence.name(self._nodes[self._origins[part.index]])
        return self._named.get((layer, given, origin.elements))

    def _begun_in_parts(self, origin: Node, part: Node) -> Leaf | None:
        """The leaf of an operation that each device begins with what it has, and that ends with what all have found."""
        begun = self._nodes[self._origins[part.index]].instruction
        ends = (
            reader
            for reader in self._evidence.readers(origin.index)
            if reader.instruction.op_name == origin.instruction.op_name == begun.op_name
            and reader.instruction.opcode == begun.opcode
        )
        return next((leaf for end in ends if (leaf := self.leaf(end)) is not None), None)

    def _exchanged(self, origin: Node, pieces: Sequence[int]) -> Explanation | None:
        """An exchange makes nothing more and nothing less of each piece, and all pieces are of one array."""
        found = [self.source(self._nodes[piece]) for piece in pieces]
        texts = {source[0].text for source in found if source is not None}
        same_size = all(self._nodes[piece].elements == origin.elements for piece in pieces)
        if None in found or len(texts) != 1 or not same_size:
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
        given = self._evidence.given_part(origin)
        source = self.source(given) if given is not None else None
        if given is None or source is None or given.elements != origin.elements:
            return None
        return "exchanged between the devices", self._evidence.sent(origin.index), (source[0].text,)

    def source(self, node: Node, *, asked_for: bool = True) -> tuple[Leaf, Node] | None:
        """The one leaf of whose numbers an array is made up, moved, cut, spread out, exchanged or put together, and the node
        that is the leaf; None where others flow in.

        Args:
            asked_for: also through movements that the program itself asked for.
        """
        evidence, found = self._evidence, dict[str, tuple[Leaf, Node]]()
        waiting, seen = [node], {node.index}
        while waiting:
            at = waiting.pop()
            origin = self._nodes[self._origins[at.index]]
            leaf = None if evidence.is_cut_to_be_sent(origin) else self.leaf(at)
            if leaf is not None:
                found.setdefault(leaf.text, (leaf, at))
                continue
            if not asked_for and evidence.is_asked_for(origin):
                return None
            handed_on = evidence.handed_on(origin)
            if not handed_on:
                return None
            waiting += [self._nodes[each] for each in handed_on if each not in seen]
            seen.update(handed_on)
        return next(iter(found.values())) if len(found) == 1 else None

    def part(self, node: Node) -> tuple[str, Leaf] | None:
        """The instruction and its leaf of which an array is this device's part, cut by the compiler; None for any other."""
        origin = self._nodes[self._origins[node.index]]
        whole = self._evidence.cut_by_device(origin)
        source = self.source(whole, asked_for=False) if whole is not None else None
        return (self._nodes[self._origins[source[1].index]].instruction.name, source[0]) if source is not None else None

    def gathered_path(self, index: int) -> str | None:
        """The argument of which a node holds the whole, gathered from the parts of all devices; None for any other array."""
        found = self.explanation(index)
        origin = self._nodes[self._origins[index]]
        part = self._evidence.gathered_part(origin)
        if found is None or part is None:
            return None
        argument = self._facts.argument[part.index]
        return argument.path if argument is not None else None

    def is_gathered(self, path: str) -> bool:
        """Whether any instruction gathers an argument."""
        return any(
            argument is not None and argument.path == path
            for node in self._nodes
            if not node.hands_on and node.instruction.opcode in COLLECTIVES
            for part in (
                node.operands if node.instruction.opcode in GATHERS else _indices(self._evidence.gathered_part(node))
            )
            for argument in (self._facts.argument[part],)
        )

    def _added_up(self, origin: Node, operand: Node) -> Explanation | None:
        packed = self._nodes[self._origins[operand.index]]
        parts = packed.operands if packed.instruction.opcode == "concatenate" else [operand.index]
        found = self._of_parts("added up over the devices", parts, operand.elements) or self._goes_into(origin)
        if found is None or origin.instruction.opcode != "reduce-scatter":
            return found if found is not None and origin.elements == operand.elements else None
        leaf = self.leaf(operand)
        divided = leaf is not None and origin.elements == leaf.elements
        return found if divided and leaf is not None and operand.elements == leaf.elements * leaf.divided_over else None

    def _is_sum(self, origin: Node) -> Explanation | None:
        """A sum that is a leaf itself, of what each device has added up of its part, in whatever steps."""
        leaf = self._book.claimed.get(self._evidence.number(origin.index))
        return ("added up over the devices", self._evidence.sent(origin.index), (leaf.text,)) if leaf else None

    def _goes_into(self, origin: Node) -> Explanation | None:
        """A sum in a wider number format than the leaf's, or that is written into a stack of such sums, and nothing else."""
        node, readers = origin, self._evidence.facts.dataflow.readers(origin.index)
        while len(readers) == 1 and node.instruction.opcode != "dynamic-update-slice":
            node = readers[0]
            if node.instruction.opcode not in ("convert", "dynamic-slice", "dynamic-update-slice"):
                return None
            leaf = self.leaf(node) if node.instruction.opcode != "dynamic-slice" else None  # its part of the sum
            if leaf is not None and leaf.elements * leaf.divided_over % origin.elements == 0:
                return "added up over the devices", self._evidence.sent(origin.index), (leaf.text,)
            readers = self._evidence.facts.dataflow.readers(node.index)
        return None

    def _of_parts(self, kind: str, parts: Iterable[int], elements: int) -> Explanation | None:
        nodes = [self._nodes[part] for part in parts]
        leaves = [leaf for node in nodes if (leaf := self.leaf(node)) is not None]
        if len(leaves) != len(nodes) or sum(node.elements for node in nodes) != elements:
            return None
        made = (self._nodes[self._origins[node.index]].instruction.name for node in nodes)
        return kind, tuple(dict.fromkeys(made)), tuple(leaf.text for leaf in leaves)

    def leaf(self, node: Node) -> Leaf | None:
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
        value = self._evidence.number(node.index)
        claimed = self._book.claimed.get(value) or self._in_the_making.get(value)
        if claimed is None and (place := self._evidence.place_beside(origin)) is not None:
            claimed = self._book.claimed.get(place)
        if claimed is not None:
            return claimed
        # What is made for the sake of an operation may have its name, and by chance the size of one device's part of it.
        is_it = origin.instruction.opcode == "reduce" or self._evidence.is_the_operation(origin)
        return (self._named.get(self._evidence.name(origin)) if is_it else None) or self.result(origin)

    def result(self, node: Node) -> Leaf | None:
        """The result of the program that an array becomes, through a sum over the devices or as it is, whole."""
        position = self._evidence.becomes_result(node.index)
        leaf = self._results.get(self._book.outputs[position].path) if position is not None else None
        return leaf if leaf is not None and leaf.bytes * 8 == node.elements * node.bits else None


def _indices(node: Node | None) -> tuple[int, ...]:
    return (node.index,) if node is not None else ()
