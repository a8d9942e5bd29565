"""Feature maps and working set: leaves and buffers brought together by the value they speak of."""

from collections.abc import Sequence
from itertools import chain

from jaxmem.formula import Leaf
from jaxmem.profile import Buffer
from jaxmem.reconcile.assignment import Assignment
from jaxmem.reconcile.book import Book
from jaxmem.reconcile.made_on_the_way import explain_made_on_the_way
from jaxmem.roles import STATE_ROLES, Phase, Role

_HELD_ROLES = STATE_ROLES | {Role.INPUTS}
"""Roles whose values the caller hands over."""

_LOOKED_FOR_BY_PATH = (Role.GRADIENTS, Role.COLLECTIVES)
"""Roles of leaves that are another leaf's, or argument's, gradient or whole."""


def explain_values(book: Book) -> None:
    """What the program computes: leaves and buffers brought together by the value they speak of."""
    leaves = [leaf for leaf in book.formula.leaves if leaf.primitive and leaf.role not in _LOOKED_FOR_BY_PATH]
    # Nothing becomes new state as the gradient of its parameter: it is looked for by its own operation.
    leaves += book.without_value
    book.without_value = []
    assignment = book.claimed = Assignment(book, leaves)
    _explain_counted_leaves(book, leaves, assignment)
    _explain_alive(book)
    _explain_computed_again(book)
    explain_made_on_the_way(book, leaves)


def _explain_counted_leaves(book: Book, leaves: Sequence[Leaf], assignment: Assignment) -> None:
    """Where each leaf is that the formula has at its peak."""
    in_calls: set[tuple[str, str]] = set()
    for index, leaf in enumerate(leaves):
        if not leaf.counted:
            continue
        value = assignment.value_of(index)
        if value is None:
            if not _explain_in_call(book, leaf, in_calls):
                book.without_value.append(leaf)
            continue
        holders = _holders_not_handed_over(book, value)
        if index in book.reshaped and not holders:
            instruction = book.evidence.instruction_of(value)
            book.row(leaf.role, leaf.layer).add(
                "another shape", -leaf.bytes, instruction=instruction, formula=leaf.text
            )
        else:
            _explain_counted(book, leaf, value, holders)


def _explain_alive(book: Book) -> None:
    """Buffers at XLA's peak of leaves that the formula has at another moment."""
    evidence = book.evidence
    values = (evidence.value(evidence.buffers[identifier]) for identifier in book.open)
    held = {value for value in values if value is not None}
    over_them = chain.from_iterable(evidence.next_versions.get(value, ()) for value in held)
    for value, leaf in book.claimed.in_order(held.union(over_them)):
        book.alive_at_the_peak(leaf, [b for b in _holders(book, value) if _may_hold(book, leaf, b)])


def _may_hold(book: Book, leaf: Leaf, buffer: Buffer) -> bool:
    """Whether a buffer's role is one that it may have while it holds a leaf, which the formula knows from other reasons.

    XLA keeps what autodiff does not, and computes the rest; a loop carries for the backward pass what begins as a forward
    value; a factor of a gradient has its size.
    """
    facts, node = book.evidence.facts, book.evidence.attributions[buffer.id].node
    if book.role(buffer) is Role.GRADIENTS:
        return node is not None and (not facts.follows_cotangent[node] or _is_on_the_way_to_gradient(book, leaf, node))
    saved = leaf.keeps or leaf.phase is Phase.FORWARD or leaf.primitive == "while"
    return book.role(buffer) is Role.TRANSIENT or (saved and book.role(buffer) is Role.SAVED_ACTIVATIONS)


def _is_on_the_way_to_gradient(book: Book, leaf: Leaf, node: int) -> bool:
    """Whether what becomes a gradient element by element is an operation of its own, in its place, and no gradient's."""
    evidence, place = book.evidence, book.traced.place(leaf)
    position = evidence.facts.gradient_of[node]
    if place is None or position is None or place not in evidence.places_of[evidence.number(node)]:
        return False
    return (book.outputs[position].parameter_path, place) not in book.operations_of_gradients


def _explain_computed_again(book: Book) -> None:
    """Buffers from which the backward pass computes a leaf again: one that no buffer keeps for it, or another one."""
    evidence = book.evidence
    kept = [buffer for identifier in book.open if _may_be_kept(book, buffer := evidence.buffers[identifier])]
    instead, beside = [], []
    for value, leaf in book.claimed.in_order(evidence.may_be_made_with(kept)):
        holders = _holders_not_handed_over(book, value) if leaf.keeps else ()
        if leaf.keeps and not any(map(evidence.is_made_before_backward, holders)):
            instead.append((value, leaf))
        elif leaf.phase is Phase.FORWARD:
            beside.append((value, leaf))
    for kind, computed_again in (("kept instead", instead), ("kept beside", beside)):
        for value, leaf in computed_again:
            sources = evidence.recomputed_from(value)
            for buffer, fusion in (*sources, *evidence.made_from(value)) if kind == "kept instead" else sources:
                if buffer.id in book.open and _may_be_kept(book, buffer):
                    book.row_of(buffer).add(
                        kind, book.settle(buffer), buffer=evidence.label(buffer), instruction=fusion, formula=leaf.text
                    )


def _may_be_kept(book: Book, buffer: Buffer) -> bool:
    return book.role(buffer) in (Role.SAVED_ACTIVATIONS, Role.TRANSIENT)


def _holders(book: Book, value: int) -> list[Buffer]:
    """The buffers that ever hold a value.

    What a scan stacks it writes part by part into an array that the loop carries, of which the formula does not speak by
    itself: the buffers of that array hold the stack in the making.
    """
    evidence = book.evidence
    holders = evidence.holders.get(value, [])
    state = evidence.written_over(value)
    if state is None or state in book.claimed:
        return holders
    return sorted([*holders, *evidence.holders.get(state, [])], key=lambda b: (not evidence.is_live(b), b.start, b.id))


def _holders_not_handed_over(book: Book, value: int) -> list[Buffer]:
    return [buffer for buffer in _holders(book, value) if book.role(buffer) not in _HELD_ROLES]


def _explain_in_call(book: Book, leaf: Leaf, in_calls: set[tuple[str, str]]) -> bool:
    """A leaf without an instruction: a library call does it with its neighbours. Each call does an operation once.

    A sum of two layers' results may be done in the call of either: those of other layers are asked last.
    """
    calls = book.evidence.library_calls
    elsewhere = (call for (layer, size), found in calls.items() if size == leaf.elements for call in found if layer)
    for call in (*calls.get((leaf.layer, leaf.elements), ()), *elsewhere):
        if (call, leaf.primitive) not in in_calls:
            in_calls.add((call, leaf.primitive))
            book.row(leaf.role, leaf.layer).add(
                "inside a library call", -leaf.bytes, instruction=call, formula=leaf.text
            )
            return True
    return False


def _explain_counted(book: Book, leaf: Leaf, value: int, holders: Sequence[Buffer]) -> None:
    evidence, row = book.evidence, book.row(leaf.role, leaf.layer)
    same_role = [buffer for buffer in holders if book.role(buffer) is leaf.role]
    live_elsewhere = [buffer for buffer in holders if book.role(buffer) is not leaf.role and buffer.id in book.open]
    if not any(map(evidence.is_live, same_role)) and not live_elsewhere:
        # A gradient that is a product of a sum: the formula has the sum in its place.
        for other in holders:
            held = book.uncounted.get(other.id)
            if held == leaf.bytes or (held == other.logical_bytes and book.forms(leaf, other)):
                del book.uncounted[other.id]
                role = str(book.role(other))
                row.add(
                    "counted under another role",
                    -leaf.bytes,
                    buffer=evidence.label(other),
                    role=role,
                    formula=leaf.text,
                )
                return
    if any(evidence.is_live(buffer) for buffer in same_role) or not live_elsewhere:
        fusions = evidence.fusions_around(value)
        elsewhere = evidence.held_elsewhere.get(value, ())
        if not holders and elsewhere:
            row.add(
                "held in another memory",
                -leaf.bytes,
                buffer=evidence.label(elsewhere[0]),
                color=elsewhere[0].color,
                formula=leaf.text,
            )
        elif not holders and fusions:
            size_bytes = evidence.logical_bytes(value)
            forms = book.forms_of(leaf, evidence.elements_of(value), evidence.bits_of(value), size_bytes)
            if size_bytes == leaf.bytes or forms:
                row.add("fused away", -leaf.bytes, instruction=fusions, formula=leaf.text)
        elif (grown := next((buffer for buffer in holders if _grows(book, leaf, buffer)), None)) is not None:
            result = book.output_of(grown)
            path = result.path if result is not None else ""
            row.add("grows into a result", -leaf.bytes, buffer=evidence.label(grown), result=path, formula=leaf.text)
        else:
            book.match(leaf, same_role or holders)
            for other in live_elsewhere:
                book.row_of(other).add(
                    "kept twice",
                    book.settle(other),
                    buffer=(evidence.label(same_role[0]), evidence.label(other)),
                    formula=leaf.text,
                )
        return
    other = live_elsewhere[0]
    role = str(book.role(other))
    held = book.settle(other)
    row.add("counted under another role", -held, buffer=evidence.label(other), role=role, formula=leaf.text)
    if held == other.logical_bytes:
        book.explain_form(row, leaf, other)
    book.row_of(other).add(
        "counted under another role", held, buffer=evidence.label(other), role=str(leaf.role), formula=leaf.text
    )
    for second in live_elsewhere[1:]:
        book.row_of(second).add(
            "kept twice",
            book.settle(second),
            buffer=(evidence.label(other), evidence.label(second)),
            formula=leaf.text,
        )


def _grows(book: Book, leaf: Leaf, buffer: Buffer) -> bool:
    """Whether a buffer holds a leaf in the memory of a result, which it becomes when an operation has written into it, and
    stands for that result at the peak.
    """
    if buffer.logical_bytes != leaf.bytes and not book.forms(leaf, buffer):
        return False
    node = book.evidence.attributions[buffer.id].node
    becomes_result = node is not None and book.evidence.facts.output_of(node) is None
    in_place = becomes_result and book.role(buffer) is Role.OUTPUTS
    return in_place and book.evidence.is_live(buffer) and buffer.id not in book.open
