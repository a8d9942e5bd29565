"""Gradients, each by the parameter it is the gradient of."""

from collections import Counter
from collections.abc import Iterable, Sequence

from jaxmem.attribution.collectives import SUMS
from jaxmem.formula import Leaf
from jaxmem.profile import Buffer
from jaxmem.reconcile.book import Book
from jaxmem.reconcile.evidence import Place
from jaxmem.roles import Role

_Key = tuple[str, bool]
"""(path of the parameter, the gradient is a sum that a loop carries)."""


def explain_gradients(book: Book) -> None:
    """Matched by the parameter they are the gradient of, the sum that a loop carries apart from the gradient of one turn."""
    evidence = book.evidence
    holders: dict[_Key, list[Buffer]] = {}
    for buffer in evidence.held_as[Role.GRADIENTS]:
        node = evidence.attributions[buffer.id].node
        output = evidence.facts.gradient_of[node] if node is not None else None
        if node is not None and output is not None:
            summed = evidence.is_summed_in_loop(evidence.facts.dataflow.nodes[node])
            holders.setdefault((book.outputs[output].parameter_path, summed), []).append(buffer)
    made = _made(book)
    carried = {key for key in [*holders, *(key for key, _ in made)] if key[1]}
    leaves = book.leaves_as[Role.GRADIENTS]
    several = Counter((leaf.path, _is_carried(leaf)) for leaf in leaves)
    spoken_for: set[int] = set()
    seen: set[int] = set()
    waiting: list[Leaf] = []
    for leaf in leaves:
        if leaf.value in seen:
            continue  # one array of the traced program is one gradient: a second leaf of it stays open
        if leaf.value is not None:
            seen.add(leaf.value)
        key = leaf.path, _is_carried(leaf) and (leaf.path, True) in carried
        found = _without_sums(book, leaf, holders.get(key, []))
        if not several[leaf.path, True]:
            # A loop carries what the devices add up behind it.
            _without_sums(book, leaf, holders.get((leaf.path, True), ()))
        if several[leaf.path, _is_carried(leaf)] > 1:
            found = _of_one_value(book, leaf, found, spoken_for)
        values = made.get((key, leaf.elements)) or _of_another_part(book, leaf, key, made)
        held = any(evidence.elements(buffer) == leaf.elements or book.forms(leaf, buffer) for buffer in found)
        fused = not held and all(evidence.fusions_around(value) for value in values)
        if leaf.counted and values and fused:
            value = next(iter(values))
            sizes, (elements, bits) = values.pop(value), (evidence.elements_of(value), evidence.bits_of(value))
            if leaf.bytes in sizes or any(book.forms_of(leaf, elements, bits, size_bytes) for size_bytes in sizes):
                fusions = evidence.fusions_around(value)
                book.row(leaf.role, leaf.layer).add("fused away", -leaf.bytes, instruction=fusions, formula=leaf.text)
            else:
                # A buffer may hold it that counts as the gradient of another parameter, which it becomes, too.
                book.match(leaf, [b for b in evidence.holders.get(value, ()) if book.role(b) is leaf.role])
        elif leaf.counted and not found and not any(name == key for name, _ in made):
            book.without_value.append(leaf)
        elif leaf.counted and not found and (call := _call_with_update(book, values)) is not None:
            book.row(leaf.role, leaf.layer).add(
                "inside a library call", -leaf.bytes, instruction=call, formula=leaf.text
            )
        elif leaf.counted:
            book.match(leaf, found)
        elif any(buffer.id in book.open for buffer in found):
            book.alive_at_the_peak(leaf, found)
        else:
            waiting.append(leaf)
    _explain_by_place(book, waiting)
    _explain_wider_sums(book)


def _explain_by_place(book: Book, leaves: Iterable[Leaf]) -> None:
    """What becomes the gradients of several parameters element by element, and is that of another one by its operation."""
    evidence, gradients = book.evidence, _open_gradients(book)
    at: dict[tuple[Place, int], list[Buffer]] = {}
    for buffer in gradients:
        if (value := evidence.value(buffer)) in evidence.nodes_of:
            for place in evidence.places_of[value]:
                at.setdefault((place, evidence.elements(buffer)), []).append(buffer)
    for leaf in leaves if at else ():
        place = book.traced.place(leaf)
        if place is not None and (found := at.get((place, leaf.elements))):
            value = evidence.value(found[0])
            book.alive_at_the_peak(leaf, [buffer for buffer in found if evidence.value(buffer) == value])


def _explain_wider_sums(book: Book) -> None:
    """Sums over the devices in a wider number format than the gradient's, which a cast behind them makes of them."""
    evidence, facts = book.evidence, book.evidence.facts
    leaves = {(leaf.path, leaf.elements): leaf for leaf in book.leaves_as[Role.GRADIENTS]}
    for buffer in _open_gradients(book):
        node = evidence.attributions[buffer.id].node
        position = facts.gradient_of[node] if node is not None else None
        if node is None or position is None:
            continue
        origin = facts.dataflow.nodes[facts.dataflow.origins[node]]
        leaf = leaves.get((book.outputs[position].parameter_path, origin.elements))
        readers = facts.dataflow.readers(origin.index)
        cast = all(reader.instruction.opcode == "convert" and reader.bits < origin.bits for reader in readers)
        if leaf is not None and origin.instruction.opcode in SUMS and readers and cast:
            book.row_of(buffer).add(
                "added up over the devices",
                book.settle(buffer),
                buffer=evidence.label(buffer),
                instruction=evidence.sent(origin.index),
                formula=leaf.text,
            )


def _open_gradients(book: Book) -> list[Buffer]:
    """The buffers of gradients that nothing has explained yet."""
    return [buffer for buffer in book.evidence.held_as[Role.GRADIENTS] if buffer.id in book.open]


_Made = dict[tuple[_Key, int], dict[int, set[int]]]
"""(gradient, elements) → the values that are it, each with its sizes in bytes."""


def _call_with_update(book: Book, values: Iterable[int]) -> str | None:
    """The library call that computes a gradient and takes it from the parameter at once; None where no call does."""
    nodes = (node for value in values for node in book.evidence.nodes_of.get(value, ()))
    calls = (node for node in nodes if node.instruction.opcode == "custom-call")
    return next(
        (call.instruction.name for call in calls if book.evidence.facts.output_of(call.index) is not None), None
    )


def _of_another_part(book: Book, leaf: Leaf, key: _Key, made: _Made) -> dict[int, set[int]]:
    """The values of a gradient of which each device has another part than the formula says."""
    parts = (values for (name, elements), values in made.items() if name == key and book.is_part(leaf, elements))
    return next(parts, {})


def _of_one_value(book: Book, leaf: Leaf, holders: Sequence[Buffer], spoken_for: set[int]) -> list[Buffer]:
    """Of the buffers of a parameter's gradient, those of one value, where several loops or branches hand it on.

    Each leaf is asked for a value of its own: that of its own operation, where it stands in the program, if there is one.
    """
    evidence = book.evidence
    values: dict[int, list[Buffer]] = {}
    for buffer in holders:
        value = evidence.value(buffer)
        if value is not None:
            value = evidence.written_over(value) or value  # the array that a loop carries, and its next version
        fits = evidence.elements(buffer) == leaf.elements or book.forms(leaf, buffer)
        if value is not None and value not in spoken_for and fits:
            values.setdefault(value, []).append(buffer)
    if not values:
        return []
    place = book.traced.place(leaf)

    def preference(value: int) -> tuple[bool, ...]:
        buffers = values[value]
        own = any(evidence.operation_in(buffer) == leaf.primitive for buffer in buffers)
        there = place in evidence.places_of[value]
        return not own, not there, not any(map(evidence.is_live, buffers))

    chosen = min(values, key=preference)
    spoken_for.add(chosen)
    return values[chosen]


def _made(book: Book) -> _Made:
    """What is made of each gradient; sums over the devices apart."""
    evidence, found = book.evidence, {}
    for index, output in enumerate(evidence.facts.gradient_of):
        if output is None:
            continue
        node = evidence.facts.dataflow.nodes[index]
        if not node.hands_on and evidence.sum_of(node) is None:
            key = book.outputs[output].parameter_path, evidence.is_summed_in_loop(node)
            sizes = found.setdefault((key, node.elements), {}).setdefault(evidence.number(node.index), set())
            sizes.add(node.shape.logical_bytes)
    return found


def _is_carried(leaf: Leaf) -> bool:
    """Whether a loop may carry a gradient from turn to turn: a sum over its turns, or a stack of what they make."""
    return leaf.primitive in ("while", "dynamic_update_slice")


def _without_sums(book: Book, leaf: Leaf, holders: Iterable[Buffer]) -> list[Buffer]:
    """The buffers that hold a gradient as the update reads it. Those before the sum over the devices are explained."""
    complete = []
    for buffer in holders:
        node = book.evidence.attributions[buffer.id].node
        collective = book.evidence.sum_of(book.evidence.facts.dataflow.nodes[node]) if node is not None else None
        before = node is not None and book.evidence.facts.awaits_sum[node] is not None
        whole = not before and book.evidence.elements(buffer) == leaf.elements
        if node is None or collective is None or whole:
            complete.append(buffer)
            continue
        position, wholes = book.evidence.facts.gradient_of[node], {leaf.elements * leaf.divided_over}
        if position is not None and book.traced.agrees(leaf):
            wholes.add(book.traced.result_elements(position))  # of examples divided among the devices each has a sum
        elements = book.evidence.elements(buffer)
        of_group = leaf.elements < elements and book.is_part(leaf, elements)
        if elements not in wholes and not of_group:
            continue  # before it is divided, all of a gradient or of a group's part is on each device
        if held := book.settle(buffer):
            book.uncounted[buffer.id] = held
        book.row_of(buffer).add(
            "awaits the sum over devices" if before else "whole before it is divided",
            held,
            buffer=book.evidence.label(buffer),
            instruction=collective.instruction.name,
            formula=leaf.text,
        )
    return complete
