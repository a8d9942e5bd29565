"""State and inputs: arguments, and the new state written over them."""

from jaxmem.profile import Buffer
from jaxmem.reconcile.book import Book
from jaxmem.roles import STATE_ROLES, Role

_HELD_ROLES = STATE_ROLES | {Role.INPUTS}
"""Roles whose values the caller hands over."""


def explain_state(book: Book) -> None:
    """Arguments and the new state written over them: matched by argument, never by size."""
    for role in sorted(_HELD_ROLES):
        holders: dict[str, list[Buffer]] = {}
        for buffer in book.evidence.held_as[role]:
            path = _argument_path(book, buffer)
            if path is not None:
                holders.setdefault(path, []).append(buffer)
        seen: set[str] = set()
        for leaf in book.leaves_as[role]:
            if leaf.counted and leaf.elements and leaf.path not in seen:
                seen.add(leaf.path)  # an argument is one leaf: a second one stays open, even where a loop holds a copy
                book.match(leaf, holders.get(leaf.path, ()))


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
