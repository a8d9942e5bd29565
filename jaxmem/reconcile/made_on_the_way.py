"""What is no leaf but on the way to one: operands at full size, steps, pieces, intermediates of functions."""

from collections.abc import Sequence
from functools import cached_property
from itertools import chain

from jaxmem.formula import Leaf
from jaxmem.profile import Buffer
from jaxmem.reconcile.book import Book
from jaxmem.reconcile.evidence import Name, Place
from jaxmem.roles import Role


class _SpokenOf:
    """The leaves by what a buffer on the way to one may say of it."""

    def __init__(self, book: Book, leaves: Sequence[Leaf]) -> None:
        self._book = book
        self._evidence = book.evidence
        self._leaves = leaves

    @cached_property
    def named(self) -> dict[Name, Leaf]:
        """On the way to a gradient is on the way to something the formula names, too."""
        leaves = [leaf for leaf in self._book.formula.leaves if leaf.primitive]
        found = {(leaf.layer, leaf.primitive, leaf.elements): leaf for leaf in leaves}
        for leaf in leaves if self._book.devices > 1 else ():
            for part in self._book.even_parts(leaf):
                found.setdefault((leaf.layer, leaf.primitive, part), leaf)
        return found

    @cached_property
    def by_operation(self) -> dict[tuple[str, str], Leaf]:
        """Layer and operation → a leaf of that name."""
        return {(layer, given): leaf for (layer, given, _), leaf in self.named.items()}

    @cached_property
    def named_at_all(self) -> dict[tuple[str, str], Leaf]:
        """Layer and operation → a leaf that is there in its own shape: it may have pieces beside it."""
        there = self._evidence.values_named
        return {(name[0], name[1]): leaf for name, leaf in self.named.items() if name in there}

    @cached_property
    def results(self) -> dict[int, Leaf]:
        """Place among the program's results → the leaf that it is."""
        places = {leaf.path: position for position, leaf in enumerate(self._book.outputs)}
        leaves = self._book.formula.leaves
        return {places[leaf.path]: leaf for leaf in leaves if leaf.is_result and leaf.path in places}

    @cached_property
    def gradients(self) -> dict[str, Leaf]:
        """Path of a parameter → its gradient."""
        return {leaf.path: leaf for leaf in self._book.leaves_as[Role.GRADIENTS]}

    @cached_property
    def _in_place(self) -> dict[tuple[Place, int], Leaf]:
        """An operation and where it stands in the program, elements → the leaf."""
        places = ((self._book.traced.place(leaf), leaf) for leaf in self._leaves)
        return {(place, leaf.elements): leaf for place, leaf in places if place is not None}

    @cached_property
    def largest_in_place(self) -> dict[Place, Leaf]:
        """An operation and where it stands in the program → its leaf, the largest of several."""
        found: dict[Place, Leaf] = {}
        for leaf in self._leaves:
            place = self._book.traced.place(leaf)
            if place is not None and ((other := found.get(place)) is None or other.elements < leaf.elements):
                found[place] = leaf
        return found

    @cached_property
    def _functions(self) -> dict[str, Leaf]:
        """Layer → the first leaf whose operation left nothing in it under its own name: its lowering traced a function."""
        is_function = self._evidence.is_lowered_to_a_function
        leaves = [leaf for leaf in self._leaves if is_function(leaf.layer, leaf.primitive)]
        return {leaf.layer: leaf for leaf in reversed(leaves)}

    @cached_property
    def _functions_in_place(self) -> dict[tuple[str, ...] | None, Leaf]:
        """Where operations stand → the first leaf there whose operation left nothing anywhere under its own name."""
        names_anywhere = {given for _, given, _ in self._evidence.values_named}
        places = (
            (self._book.traced.place(leaf), leaf) for leaf in self._leaves if leaf.primitive not in names_anywhere
        )
        standing = [(place[1], leaf) for place, leaf in places if place is not None]
        return dict(reversed(standing))

    def operation(self, buffer: Buffer, name: Name, value: int) -> Leaf | None:
        """The leaf of a name; where the buffer has its layer of a neighbour, that of the operation standing in its place."""
        own = self.named.get(name)
        if own is not None or not self._evidence.has_layer_of_neighbour(value):
            return own
        return self._in_place.get(((name[1], self._evidence.place_in(buffer)), name[2]))

    def done_after_sum(self, buffer: Buffer) -> Leaf | None:
        """The leaf whose elements the program changes one by one, where a buffer holds the sum of them so changed."""
        start = self._evidence.attributions[buffer.id].node
        dataflow = self._evidence.facts.dataflow
        node = dataflow.nodes[dataflow.origins[start]] if start is not None else None
        summed = self._evidence.sum_before(node) if node is not None else None
        if node is None or summed is None:
            return None
        terms = self.largest_in_place.get((self._evidence.name(node)[1], self._evidence.place(node)))
        sums = self._book.claimed.get(self._evidence.number(summed.index))
        return terms if terms and sums and terms.elements % sums.elements == 0 else None

    def function(self, buffer: Buffer, value: int) -> Leaf | None:
        """The leaf whose operation was lowered to the function inside which a buffer is made."""
        layer = self._evidence.inside_function(buffer)
        if layer is None:
            return None
        own = self._functions.get(layer)
        if own is not None or not self._evidence.has_layer_of_neighbour(value):
            return own
        return self._functions_in_place.get(self._evidence.place_in(buffer))


def explain_made_on_the_way(book: Book, leaves: Sequence[Leaf]) -> None:
    """Buffers that are no leaf: what the compiler makes on the way to one, and what JAX lowers an operation to."""
    spoken_of = _SpokenOf(book, leaves)
    for identifier in list(book.open):
        buffer = book.evidence.buffers[identifier]
        if not (_explain_padded(book, buffer, spoken_of) or _explain_step(book, buffer, spoken_of)):
            _explain_piece(book, buffer, spoken_of)


def _explain_step(book: Book, buffer: Buffer, spoken_of: _SpokenOf) -> bool:
    """An operand written out, a result half done, an intermediate of a function.

    What the forward pass leaves for the backward pass is explained only by what it is itself: that it leads to an operation
    would explain any feature map.
    """
    evidence, role, value = book.evidence, book.role(buffer), book.evidence.value(buffer)
    if value is None or role not in (Role.TRANSIENT, Role.SAVED_ACTIVATIONS):
        return False
    transient = role is Role.TRANSIENT
    operand_of = evidence.operand_of(buffer)
    operation = spoken_of.operation(buffer, operand_of, value) if operand_of is not None else None
    # With borders around it, the result that it is a step to has another size.
    steps = (
        spoken_of.operation(buffer, name, value) or spoken_of.by_operation.get(name[:2])
        for name in evidence.step_of(buffer)
    )
    ahead = (book.claimed.get(each) for each in evidence.values_ahead(buffer))
    places = evidence.places_ahead(buffer) if evidence.has_layer_of_neighbour(value) else ()
    standing = map(spoken_of.largest_in_place.get, places)
    step = next((leaf for leaf in chain(steps, ahead, standing) if leaf is not None), None)
    function = spoken_of.function(buffer, value)
    result = next(
        (spoken_of.results[each] for each in evidence.results_ahead(buffer) if each in spoken_of.results), None
    )
    cut = [spoken_of.gradients.get(book.outputs[each].parameter_path) for each in evidence.gradients_cut_from(buffer)]
    if operation is not None and (transient or evidence.is_operand_alone(value)):
        kind, leaf = "operand at full size", operation
    elif step is not None and (transient or evidence.is_step(value) or evidence.ends_gather(value)):
        kind, leaf = "step of an operation", step
    elif function is not None and transient:
        kind, leaf = "inside an operation", function
    elif result is not None and transient:
        kind, leaf = "step of an operation", result
    elif transient and (after := spoken_of.done_after_sum(buffer)) is not None:
        kind, leaf = "done after the sum", after
    elif cut and cut[0] is not None and None not in cut and transient:
        kind, leaf = "step of an operation", cut[0]
    else:
        return False
    book.row_of(buffer).add(kind, book.settle(buffer), buffer=evidence.label(buffer), formula=leaf.text)
    return True


def _explain_piece(book: Book, buffer: Buffer, spoken_of: _SpokenOf) -> None:
    """A piece of an operation in a tiled layout, or what is made early for the backward pass."""
    evidence = book.evidence
    kept = book.role(buffer) in (Role.SAVED_ACTIVATIONS, Role.TRANSIENT)
    if kept and (piece := evidence.tiled_piece_of(buffer)) in spoken_of.named_at_all:
        book.row_of(buffer).add(
            "another shape",
            book.settle(buffer),
            instruction=evidence.label(buffer),
            formula=spoken_of.named_at_all[piece].text,
        )
    elif evidence.is_prepared_for_backward(buffer):
        book.row_of(buffer).add("prepared for the backward pass", book.settle(buffer), buffer=evidence.label(buffer))


def _explain_padded(book: Book, buffer: Buffer, spoken_of: _SpokenOf) -> bool:
    """A kernel that wants its operand in whole tiles, or with borders, reads a padded copy of it."""
    evidence = book.evidence
    inside = evidence.padded(buffer)
    if inside is None or book.role(buffer) not in (Role.SAVED_ACTIVATIONS, Role.TRANSIENT):
        return False
    argument, claimed = evidence.facts.argument[inside.index], book.claimed.get(evidence.number(inside.index))
    leaf = claimed or spoken_of.named.get(evidence.name(inside))
    if argument is not None:
        held = {"argument": argument.path}
    elif leaf is not None:
        held = {"formula": leaf.text}
    else:
        return False
    book.row_of(buffer).add("padded for a kernel", book.settle(buffer), buffer=evidence.label(buffer), **held)
    return True
