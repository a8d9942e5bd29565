"""Which value of the compiled program each leaf speaks of; every value serves one leaf."""

from collections.abc import Mapping, Sequence

from jaxmem.formula import Leaf
from jaxmem.profile import Buffer
from jaxmem.reconcile.book import Book
from jaxmem.reconcile.evidence import Name, Place
from jaxmem.roles import Phase, Role

_LEFT_BEHIND = frozenset({"cond", "dynamic_update_slice"})
"""Primitives of what a branch, or a loop turn by turn, leaves behind."""


def assign_values(book: Book, leaves: Sequence[Leaf]) -> dict[int, int]:
    """Leaf (by position) → the value it speaks of; each value serves one leaf.

    Several values may carry one name, and some of them are steps on the way: a value that a buffer holds under the
    leaf's own role, at the peak if possible, is taken before one that nothing holds; for what autodiff keeps, one that
    the backward pass computes again comes next.
    """
    taken: set[int] = set()
    value_of: dict[int, int] = {}
    _assign_in_order(book, leaves, value_of, taken)
    _assign_named(book, leaves, value_of, taken, in_place=True)
    _assign_other_layers_and_divisions(book, leaves, value_of, taken, in_place=True)
    _assign_named(book, leaves, value_of, taken, in_place=False)
    _assign_other_shapes(book, leaves, value_of, taken)
    _assign_other_layers_and_divisions(book, leaves, value_of, taken, in_place=False)
    if book.devices > 1:
        _make_room(book, leaves, value_of, taken)
    return value_of


def _in_order(book: Book, leaves: Sequence[Leaf], value_of: Mapping[int, int]) -> list[int]:
    """The leaves without a value by their places: those at the formula's peak first, and what autodiff keeps.

    A leaf of which the traced program says another size speaks of nothing.
    """
    waiting = [index for index, leaf in enumerate(leaves) if index not in value_of and book.traced.agrees(leaf)]
    return sorted(waiting, key=lambda i: (not leaves[i].counted, not leaves[i].keeps))


def _assign_in_order(book: Book, leaves: Sequence[Leaf], value_of: dict[int, int], taken: set[int]) -> None:
    """Leaves that a branch or the turns of a loop leave behind, each by its place among all that these do.

    Where arrays are divided, half of one may have the size of another. Only where the compiled program has one such branch or
    loop in that place of the program, with as many results, each of which may be its leaf in size.
    """
    waiting: dict[Place, list[int]] = {}
    for index, leaf in enumerate(leaves) if book.devices > 1 else ():
        place = book.traced.place(leaf) if leaf.primitive in _LEFT_BEHIND else None
        if place is not None:
            waiting.setdefault(place, []).append(index)
    for place, own in waiting.items():
        own.sort(key=lambda index: leaves[index].value or 0)
        values = book.evidence.results_in_order.get(place, ())
        if len(values) == len(own) and all(map(book.fits, values, map(leaves.__getitem__, own))):
            value_of.update(zip(own, values, strict=True))
            taken.update(values)


def _assign_named(
    book: Book, leaves: Sequence[Leaf], value_of: dict[int, int], taken: set[int], *, in_place: bool
) -> None:
    """Leaves under their own names: those whose values stand where the operation does in the program, or any."""
    evidence = book.evidence
    queues: dict[tuple[object, ...], list[int]] = {}
    for index in _in_order(book, leaves, value_of):
        leaf = leaves[index]
        name, backward = (leaf.layer, leaf.primitive, leaf.elements), leaf.phase is Phase.BACKWARD
        place = book.traced.place(leaf)
        key = (*_kind(leaf), name, backward, place)
        queue = queues.get(key)
        if queue is None:
            found = [value for value in evidence.values_named.get(name, ()) if book.may_be(value, leaf)]
            if in_place:
                found = [value for value in found if _is_in_place(book, value, place)]
            else:
                # A forward operation and its transpose may share a primitive and a size. Where XLA has made one of the
                # two, it carries either name.
                found = [value for value in found if not _is_asked_for(book, value)]
                found = [value for value in found if evidence.is_backward(value) is backward] or found
            queue = _least_preferred_first(book, found, leaf)
            queues[key] = queue
        while queue and queue[-1] in taken:
            queue.pop()
        if queue:
            value_of[index] = queue.pop()
            taken.add(value_of[index])


def _kind(leaf: Leaf) -> tuple[object, ...]:
    """What `_preference` asks of a leaf."""
    return leaf.role, leaf.keeps, _is_narrow(leaf.itemsize_bits)


def _is_narrow(bits: int) -> bool:
    """Whether an element is a byte or less: a mask, a small integer, a number to be multiplied in a narrow format."""
    return bits < 16


def _least_preferred_first(book: Book, values: Sequence[int], leaf: Leaf) -> list[int]:
    if len(values) < 2:
        return list(values)  # most names are those of one value
    return sorted(values, key=lambda value: _preference(book, value, leaf))[::-1]


def _preference(book: Book, value: int, leaf: Leaf) -> tuple[bool, ...]:
    evidence = book.evidence
    holders = evidence.holders.get(value, ())
    wanted = leaf.keeps and evidence.is_recomputed(value)
    on_the_way = evidence.is_operand_alone(value), evidence.is_step(value)
    widened = _is_narrow(leaf.itemsize_bits) and not _is_narrow(evidence.bits_of(value))
    if not holders:
        return widened, True, True, False, *on_the_way, False, False, not wanted, True
    own = [buffer for buffer in holders if book.role(buffer) is leaf.role]
    # A gradient is a value of its own; the sum of another one may have its name and size.
    gradients, speaks_for_another = _gradients_in(book, value), _speaks_for_gradient(book, value)
    own_live = any(map(evidence.is_live, own))
    # What the program returns is no leaf but a result, under whatever name.
    is_result = any(book.role(buffer) is Role.OUTPUTS for buffer in holders)
    others = bool(gradients), speaks_for_another
    return widened, not own_live, not own, is_result, *on_the_way, *others, not wanted, False


def _is_in_place(book: Book, value: int, place: Place | None) -> bool:
    """Whether a value stands where an operation does in the program, and no leaf has asked for it as its gradient."""
    return place in book.evidence.places_of(value) and not _speaks_for_gradient(book, value)


def _gradients_in(book: Book, value: int) -> list[Buffer]:
    """The buffers that hold a value as a gradient, and that a leaf in the formula's sum may have asked for."""
    return [
        buffer
        for buffer in book.evidence.holders.get(value, ())
        if book.role(buffer) is Role.GRADIENTS and buffer.id not in book.open and buffer.id not in book.uncounted
    ]


def _is_asked_for(book: Book, value: int) -> bool:
    """Whether a leaf has asked for a value as its gradient.

    Where the update multiplies a sum to make the gradient, XLA holds the sum in its place: no leaf has asked for that one.
    """
    return any(book.evidence.is_live(buffer) or buffer.id in book.absent for buffer in _gradients_in(book, value))


def _speaks_for_gradient(book: Book, value: int) -> bool:
    """Whether a leaf has asked for a value as its gradient, or speaks of it as one by its operation."""
    evidence, of_leaves = book.evidence, book.operations_of_gradients
    gradients = {evidence.facts.gradient_of[node.index] for node in evidence.nodes_of[value]} - {None}
    if not gradients:
        return False
    if _is_asked_for(book, value):
        return True
    paths = [book.outputs[position].parameter_path for position in gradients if position is not None]
    return any((path, place) in of_leaves for path in paths for place in evidence.places_of(value))


def _assign_other_shapes(book: Book, leaves: Sequence[Leaf], value_of: dict[int, int], taken: set[int]) -> None:
    """Leaves whose operation the compiler does on arrays of another shape: largest value first, each once."""
    sizes: dict[tuple[str, str], set[int]] = {}
    for leaf in leaves:
        sizes.setdefault((leaf.layer, leaf.primitive), set()).add(leaf.elements)
    queues: dict[tuple[str, str], list[int]] = {}
    for index, leaf in enumerate(leaves):
        name = (leaf.layer, leaf.primitive)
        if index in value_of or (*name, leaf.elements) in book.evidence.values_named:
            continue
        if name not in queues:
            found = book.evidence.shapes_named.get(name, {})
            queues[name] = [
                value
                for elements in sorted(found)
                if elements not in sizes[name]
                for value in found[elements]
                if value not in taken
            ]
        if queues[name]:
            value_of[index] = queues[name].pop()
            taken.add(value_of[index])
            book.reshaped.add(index)


def _assign_other_layers_and_divisions(
    book: Book, leaves: Sequence[Leaf], value_of: dict[int, int], taken: set[int], *, in_place: bool
) -> None:
    """Leaves that the compiled program has in another layer, or of another part of on each device: each value once.

    Where no scope names a layer, it is that of a neighbour, and a compiler that fuses and moves operations leaves others.
    """
    evidence = book.evidence
    of_layer: dict[Name, list[int]] = {}
    for name, values in evidence.values_named.items():
        for value in values:
            if value not in taken:
                of_layer.setdefault(name, []).append(value)
    anywhere: dict[tuple[str, int], list[int]] = {}
    for (_, given, elements), values in of_layer.items():
        anywhere.setdefault((given, elements), []).extend(filter(evidence.has_layer_of_neighbour, values))
    queues: dict[tuple[object, ...], list[int]] = {}

    def next_of(candidates: Sequence[int], leaf: Leaf, *name: object) -> int | None:
        """The best that is left of the candidates of a name, whose order is the same for all leaves of one kind."""
        backward, place = leaf.phase is Phase.BACKWARD, book.traced.place(leaf)
        key = (*name, *_kind(leaf), backward, place)
        if key not in queues:
            found = [
                value
                for value in candidates
                if book.may_be(value, leaf)
                and not _is_asked_for(book, value)
                and (_is_in_place(book, value, place) if in_place else evidence.is_backward(value) is backward)
            ]
            queues[key] = _least_preferred_first(book, found, leaf)
        queue = queues[key]
        while queue and queue[-1] in taken:
            queue.pop()
        return queue.pop() if queue else None

    for index in _in_order(book, leaves, value_of):
        leaf = leaves[index]
        parts = [size for size in _part_sizes(book, leaf) if size != leaf.elements]
        in_layer = [(leaf.layer, leaf.primitive, size) for size in parts]
        elsewhere: list[tuple[str, int]] = []
        if in_place or leaf.layer not in evidence.layers_of_scopes:  # a place says the scopes itself
            elsewhere = [(leaf.primitive, size) for size in (leaf.elements, *parts)]
        found = (
            *((anywhere.get(name, ()), name) for name in elsewhere[:1]),
            *((of_layer.get(name, ()), name) for name in in_layer),
            *((anywhere.get(name, ()), name) for name in elsewhere[1:]),
        )
        for candidates, name in found:
            if (value := next_of(candidates, leaf, *name)) is not None:
                value_of[index] = value
                taken.add(value)
                break


def _make_room(book: Book, leaves: Sequence[Leaf], value_of: dict[int, int], taken: set[int]) -> None:
    """Leaves without a value, of whose parts one has the size of another whole: that one may be there in parts, too.

    One of 96 elements and one of 384, which four devices have in parts of 24 and 96: by its size alone the part of 96 is the
    first one's.
    """
    evidence = book.evidence
    left: dict[tuple[Place, int], list[int]] = {}
    owners: dict[tuple[Place, int], list[int]] = {}
    places = {index: place for index, leaf in enumerate(leaves) if (place := book.traced.place(leaf)) is not None}
    for index, place in places.items():
        if (value := value_of.get(index)) is not None:
            owners.setdefault((place, evidence.elements_of(value)), []).append(index)
    for place in dict.fromkeys(places.values()):
        for value in evidence.values_at.get(place, ()):
            if value not in taken:
                left.setdefault((place, evidence.elements_of(value)), []).append(value)

    def other_value(place: Place, leaf: Leaf) -> int | None:
        waiting = (left.get((place, size), ()) for size in _part_sizes(book, leaf))
        return next((value for values in waiting for value in values if book.may_be(value, leaf)), None)

    for index in _in_order(book, leaves, value_of):
        leaf, place = leaves[index], places.get(index)
        if place is None:
            continue
        for owner in (each for size in _part_sizes(book, leaf) for each in owners.get((place, size), ())):
            wanted = value_of[owner]
            found = other_value(place, leaves[owner]) if book.may_be(wanted, leaf) else None
            if found is not None:
                left[place, evidence.elements_of(found)].remove(found)
                owners[place, evidence.elements_of(wanted)].remove(owner)
                taken.add(found)
                value_of[index], value_of[owner] = wanted, found
                break


def _part_sizes(book: Book, leaf: Leaf) -> list[int]:
    """How many elements of a leaf one device may have: all of them, or one of equal parts, rounded up or not."""
    return book.even_parts(leaf) + sorted(book.traced.uneven_parts(leaf, book.divisions))
