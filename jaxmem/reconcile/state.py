"""State and inputs: arguments, and the new state written over them."""

from itertools import chain

from jaxmem.profile import Buffer
from jaxmem.reconcile.book import Book
from jaxmem.roles import STATE_ROLES, Role

_HELD_ROLES = STATE_ROLES | {Role.INPUTS}
"""Roles whose values the caller hands over."""


def explain_state(book: Book) -> None:
    """Arguments and the new state written over them: matched by argument, never by size."""
    holders: dict[str, list[Buffer]] = {}
    for buffer in chain.from_iterable(map(book.evidence.held_as.__getitem__, _HELD_ROLES)):
        path = _argument_path(book, buffer)
        if path is not None:
            holders.setdefault(path, []).append(buffer)
    for leaf in book.formula.leaves:
        if leaf.role in _HELD_ROLES and leaf.counted and leaf.elements:
            book.match(leaf, [b for b in holders.get(leaf.path, []) if book.role(b) is leaf.role])


def _argument_path(book: Book, buffer: Buffer) -> str | None:
    """The argument that a buffer holds: as it came, copied, or in its new version."""
    attribution = book.evidence.attributions[buffer.id]
    if attribution.node is None:
        return None
    argument = book.evidence.argument_in(attribution.node)
    if argument is not None:
        return argument.path
    output = book.output_of(buffer)
    if output is not None and output.argument_index is not None:
        return book.arguments[output.argument_index].path
    return None
