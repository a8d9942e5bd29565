"""Which value of the compiled program each leaf speaks of; every value serves one leaf."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from jaxmem.formula import Leaf
from jaxmem.reconcile.book import Book, Claims
from jaxmem.reconcile.evidence import Kind, Name, Place
from jaxmem.roles import Phase, Role

_LEFT_BEHIND = frozenset({"cond", "dynamic_update_slice"})
"""Primitives of what a branch, or a loop turn by turn, leaves behind."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Question:
    """What all those leaves ask for that differ in nothing which tells values apart.

    Attributes:
        leaf: one of them.
        place: the operation that makes it, and where it stands in the program; None for what no operation makes.
        sizes: how many elements one device may have of it.
    """

    leaf: Leaf
    place: Place | None
    sizes: Sequence[int]

    @property
    def backward(self) -> bool:
        """Whether the backward pass makes it."""
        return self.leaf.phase is Phase.BACKWARD

    @property
    def kind(self) -> tuple[object, ...]:
        """What decides, of values that have one name, which may be the leaf and which is the best."""
        return self.leaf.role, self.leaf.keeps, _is_narrow(self.leaf.itemsize_bits), self.backward, self.place


_Queue = list[int]
"""Values for leaves of one kind, the best last."""


class Assignment(Claims):
    """Leaf → the value it speaks of, and value → leaf; each value serves one leaf.

    Several values may carry one name, and some of them are steps on the way: a value that a buffer holds under the
    leaf's own role, at the peak if possible, is taken before one that nothing holds; for what autodiff keeps, one that
    the backward pass computes again comes next.

    Leaves and values of one operation and size are brought together when one of them is first asked about; where arrays are
    divided, or an operation may be done on another shape, all of them at once.
    """

    def __init__(self, book: Book, leaves: Sequence[Leaf]) -> None:
        self._book = book
        self._evidence = evidence = book.evidence
        self._leaves = leaves
        self._taken: set[int] = set()
        self._value_of: dict[int, int] = {}
        self._leaf_of: dict[int, int] = {}
        self._waiting: list[tuple[int, _Question]] = []
        self._left: dict[Kind, list[int]] = {}
        """The leaves of one operation and size, while nobody has asked about them."""
        for index, leaf in enumerate(leaves):
            self._left.setdefault((leaf.primitive, leaf.elements), []).append(index)
        settled = [
            buffer
            for buffer in evidence.held_as[Role.GRADIENTS]
            if buffer.id not in book.open and buffer.id not in book.uncounted
        ]
        self._gradients = {evidence.value(buffer) for buffer in settled}
        """Values that a buffer holds as a gradient, and that a leaf in the formula's sum may have asked for."""
        self._asked_for = {
            evidence.value(buffer) for buffer in settled if evidence.is_live(buffer) or buffer.id in book.absent
        }
        """Those for which one has. Where the update multiplies a sum to make the gradient, XLA holds the sum in its place: no
        leaf has asked for that one."""
        self._spoken_of = {value for value in evidence.gradients if self._is_spoken_of(value)}
        """Gradients that a leaf has asked for, or speaks of by its operation."""
        if book.devices > 1 or evidence.is_tiled_anywhere:
            self._bring_together(list(self._left), evidence.values_named)

    def value_of(self, index: int) -> int | None:
        """The value that a leaf speaks of, by the leaf's place; None if it speaks of none."""
        leaf = self._leaves[index]
        self._ask_about((leaf.primitive, leaf.elements))
        return self._value_of.get(index)

    def get(self, value: int) -> Leaf | None:
        """As `Claims.get`."""
        return None if (index := self._index_of(value)) is None else self._leaves[index]

    def in_order(self, values: Iterable[int]) -> list[tuple[int, Leaf]]:
        """As `Claims.in_order`."""
        found = [(index, value) for value in values if (index := self._index_of(value)) is not None]
        return [(value, self._leaves[index]) for index, value in sorted(found)]

    def _index_of(self, value: int) -> int | None:
        for name in self._evidence.names_of.get(value, ()):
            self._ask_about(name[1:])
        return self._leaf_of.get(value)

    def _ask_about(self, kind: Kind) -> None:
        if kind in self._left:
            names = self._evidence.names_beside.get(kind, ())
            self._bring_together({kind, *(name[1:] for name in names)}, names)

    def _bring_together(self, kinds: Iterable[Kind], names: Iterable[Name]) -> None:
        leaves = sorted(index for kind in kinds for index in self._left.pop(kind, ()))
        self._waiting = self._ask(leaves)
        if self._book.devices > 1:
            self._in_order(leaves)
        self._serve(self._named(in_place=True))
        self._serve(self._in_other_layers_and_divisions(names, in_place=True))
        self._serve(self._named(in_place=False))
        if self._evidence.is_tiled_anywhere:
            self._in_other_shapes(leaves)
        self._serve(self._in_other_layers_and_divisions(names, in_place=False))
        self._serve(self._named(in_place=False, last=True))
        if self._book.devices > 1:
            self._make_room(leaves)
        self._leaf_of.update((self._value_of[index], index) for index in leaves if index in self._value_of)

    def _ask(self, indices: Iterable[int]) -> list[tuple[int, _Question]]:
        """The leaves by their places, those at the formula's peak first, and what autodiff keeps; each with what it asks.

        A leaf of which the traced program says another size speaks of nothing.
        """
        book, leaves, traced = self._book, self._leaves, self._book.traced
        questions: dict[tuple[object, ...], _Question] = {}
        asked = []
        order = [index for index in indices if traced.agrees(leaves[index])]
        for index in sorted(order, key=lambda i: (not leaves[i].counted, not leaves[i].keeps)):
            leaf = leaves[index]
            place, sizes = traced.place(leaf), book.part_sizes(leaf)
            alike = leaf.layer, leaf.primitive, leaf.elements, leaf.role, leaf.keeps, leaf.phase, place, sizes
            key = *alike, _is_narrow(leaf.itemsize_bits)
            if key not in questions:
                questions[key] = _Question(leaf=leaf, place=place, sizes=sizes)
            asked.append((index, questions[key]))
        return asked

    def _is_spoken_of(self, gradient: int) -> bool:
        book, evidence = self._book, self._evidence
        paths = [book.outputs[position].parameter_path for position in evidence.gradients[gradient]]
        spoken_of = (
            (path, place) in book.operations_of_gradients for path in paths for place in evidence.places_of[gradient]
        )
        return gradient in self._asked_for or any(spoken_of)

    def _in_order(self, indices: Iterable[int]) -> None:
        """Leaves that a branch or the turns of a loop leave behind, each by its place among all that these do.

        Where arrays are divided, half of one may have the size of another. Only where the compiled program has one such branch
        or loop in that place of the program, with as many results, each of which may be its leaf in size.
        """
        book, leaves = self._book, self._leaves
        waiting: dict[Place, list[int]] = {}
        for index in indices:
            leaf = leaves[index]
            place = book.traced.place(leaf) if leaf.primitive in _LEFT_BEHIND else None
            if place is not None:
                waiting.setdefault(place, []).append(index)
        for place, own in waiting.items():
            own.sort(key=lambda index: leaves[index].value or 0)
            values = self._evidence.results_in_order.get(place, ())
            if len(values) == len(own) and all(map(book.fits, values, map(leaves.__getitem__, own))):
                self._value_of.update(zip(own, values, strict=True))
                self._taken.update(values)

    def _serve(self, queues_of: Callable[[_Question], Sequence[_Queue]]) -> None:
        """Give each leaf that waits the best value which is left in the first of its queues where one is."""
        value_of, taken = self._value_of, self._taken
        queues: dict[_Question, Sequence[_Queue]] = {}
        self._waiting = [(index, question) for index, question in self._waiting if index not in value_of]
        for index, question in self._waiting:
            if question not in queues:
                queues[question] = queues_of(question)
            for queue in queues[question]:
                while queue and queue[-1] in taken:
                    queue.pop()
                if queue:
                    value_of[index] = queue.pop()
                    taken.add(value_of[index])
                    break

    def _named(self, *, in_place: bool, last: bool = False) -> Callable[[_Question], Sequence[_Queue]]:
        """Leaves under their own names: values that stand where the operation does in the program, or any; last of all those
        that are only steps on the way to it, or of the other pass.
        """
        evidence = self._evidence

        def queues_of(question: _Question) -> Sequence[_Queue]:
            leaf = question.leaf
            named = evidence.values_named.get((leaf.layer, leaf.primitive, leaf.elements), ())
            found = self._book.those_that_may_be(named, leaf)
            if not last:
                found = [value for value in found if not evidence.is_step(value)]
            if in_place:
                return (self._queue(self._in_place(found, question), question),)
            # A forward operation and its transpose may share a primitive and a size. Where XLA has made one of the two, it
            # carries either name.
            found = [value for value in found if value not in self._asked_for]
            same_phase = [value for value in found if evidence.is_of_pass(value, backward=question.backward)]
            return (self._queue((same_phase or found) if last else same_phase, question),)

        return queues_of

    def _in_other_layers_and_divisions(
        self, names: Iterable[Name], *, in_place: bool
    ) -> Callable[[_Question], Sequence[_Queue]]:
        """Leaves that the compiled program has in another layer, or of another part of on each device.

        Where no scope names a layer, it is that of a neighbour, and a compiler that fuses and moves operations leaves others.
        """
        evidence, taken = self._evidence, self._taken
        left: dict[Name | Kind, list[int]] = {}
        for name in names:
            left[name] = [value for value in evidence.values_named[name] if value not in taken]
            left.setdefault(name[1:], []).extend(filter(evidence.has_layer_of_neighbour, left[name]))
        queues: dict[tuple[object, ...], _Queue] = {}

        def queues_of(question: _Question) -> Sequence[_Queue]:
            leaf = question.leaf
            parts = [size for size in question.sizes if size != leaf.elements]
            asked: list[Name | Kind] = [(leaf.layer, leaf.primitive, size) for size in parts]
            if in_place or leaf.layer not in evidence.layers_of_scopes:  # a place says the scopes itself
                elsewhere = [(leaf.primitive, size) for size in (leaf.elements, *parts)]
                asked = [elsewhere[0], *asked, *elsewhere[1:]]
            for name in asked:
                if (name, question.kind) not in queues:
                    queues[name, question.kind] = self._queue(candidates(name, question), question)
            return [queues[name, question.kind] for name in asked]

        def candidates(name: Name | Kind, question: _Question) -> list[int]:
            found = self._book.those_that_may_be(left.get(name, ()), question.leaf)
            found = [value for value in found if value not in self._asked_for and not evidence.is_step(value)]
            if in_place:
                return self._in_place(found, question)
            return [value for value in found if evidence.is_of_pass(value, backward=question.backward)]

        return queues_of

    def _in_place(self, values: Iterable[int], question: _Question) -> list[int]:
        """Those that stand where an operation does in the program, and that no leaf has asked for as its gradient."""
        place, places_of = question.place, self._evidence.places_of
        return [value for value in values if place in places_of[value] and value not in self._spoken_of]

    def _queue(self, values: Sequence[int], question: _Question) -> _Queue:
        if len(values) < 2:
            return list(values)  # most names are those of one value
        return sorted(values, key=lambda value: self._preference(value, question.leaf))[::-1]

    def _preference(self, value: int, leaf: Leaf) -> tuple[bool, ...]:
        evidence = self._evidence
        holders = evidence.holders.get(value, ())
        wanted = leaf.keeps and evidence.is_recomputed(value)
        is_operand = evidence.is_operand_alone(value)
        widened = _is_narrow(leaf.itemsize_bits) and not _is_narrow(evidence.bits_of(value))
        if not holders:
            return widened, True, True, False, is_operand, False, False, not wanted, True
        roles = [*map(self._book.role, holders)]
        own = leaf.role in roles
        own_live = own and evidence.is_live(holders[roles.index(leaf.role)])  # these come first
        is_result = Role.OUTPUTS in roles  # what the program returns is no leaf but a result, under whatever name
        # A gradient is a value of its own; the sum of another one may have its name and size.
        others = value in self._gradients, value in self._spoken_of
        return widened, not own_live, not own, is_result, is_operand, *others, not wanted, False

    def _in_other_shapes(self, indices: Iterable[int]) -> None:
        """Leaves whose operation the compiler does on arrays of another shape: largest value first, each once."""
        named, value_of, taken = self._evidence.values_named, self._value_of, self._taken
        waiting = [
            (index, leaf)
            for index, leaf in ((index, self._leaves[index]) for index in indices if index not in value_of)
            if (leaf.layer, leaf.primitive, leaf.elements) not in named
        ]
        sizes: dict[tuple[str, str], set[int]] = {(leaf.layer, leaf.primitive): set() for _, leaf in waiting}
        for leaf in self._leaves if waiting else ():
            if (leaf.layer, leaf.primitive) in sizes:
                sizes[leaf.layer, leaf.primitive].add(leaf.elements)
        queues: dict[tuple[str, str], _Queue] = {}
        for index, leaf in waiting:
            name = leaf.layer, leaf.primitive
            if name not in queues:
                queues[name] = [
                    value
                    for elements, values in sorted(self._evidence.values_in_other_shapes(*name).items())
                    if elements not in sizes[name]
                    for value in values
                    if value not in taken
                ]
            while queues[name] and queues[name][-1] in taken:
                queues[name].pop()  # under another name
            if queues[name]:
                value_of[index] = queues[name].pop()
                taken.add(value_of[index])
                self._book.reshaped.add(index)

    def _make_room(self, indices: Iterable[int]) -> None:
        """Leaves without a value, of whose parts one has the size of another whole: that one may be there in parts, too.

        One of 96 elements and one of 384, which four devices have in parts of 24 and 96: by its size alone the part of 96 is
        the first one's.
        """
        book, evidence, leaves, value_of, taken = self._book, self._evidence, self._leaves, self._value_of, self._taken
        left: dict[tuple[Place, int], list[int]] = {}
        owners: dict[tuple[Place, int], list[int]] = {}
        places = {index: place for index in indices if (place := book.traced.place(leaves[index])) is not None}
        for index, place in places.items():
            if (value := value_of.get(index)) is not None:
                owners.setdefault((place, evidence.elements_of(value)), []).append(index)
        nameless = ((given, None) for given, _ in dict.fromkeys(places.values()))
        for place in dict.fromkeys((*places.values(), *nameless)):
            for value in evidence.values_at.get(place, ()):
                if value not in taken:
                    left.setdefault((place, evidence.elements_of(value)), []).append(value)

        def other_value(leaf: Leaf, place: Place) -> tuple[tuple[Place, int], int] | None:
            for size in book.part_sizes(leaf):
                for value in left.get((place, size), ()):
                    if book.may_be(value, leaf):
                        return (place, size), value
                # What stands nowhere in the program is of the leaf's layer and pass.
                named = evidence.values_named.get((leaf.layer, leaf.primitive, size), ())
                for value in left.get(((place[0], None), size), ()):
                    alike = value in named and evidence.is_of_pass(value, backward=leaf.phase is Phase.BACKWARD)
                    if alike and book.may_be(value, leaf):
                        return ((place[0], None), size), value
            return None

        for index, question in self._waiting:
            leaf, place = leaves[index], question.place
            if place is None or index in value_of:
                continue
            for owner in (each for size in book.part_sizes(leaf) for each in owners.get((place, size), ())):
                wanted = value_of[owner]
                found = other_value(leaves[owner], place) if book.may_be(wanted, leaf) else None
                if found is not None:
                    where, other = found
                    left[where].remove(other)
                    owners[place, evidence.elements_of(wanted)].remove(owner)
                    taken.add(other)
                    value_of[index], value_of[owner] = wanted, other
                    break


def _is_narrow(bits: int) -> bool:
    """Whether an element is a byte or less: a mask, a small integer, a number to be multiplied in a narrow format."""
    return bits < 16
