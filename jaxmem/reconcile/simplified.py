"""What the compiler has simplified away: leaves of whose operation the compiled program has no instruction.

A sum over one element, the place of the largest of one, the gradient of what nothing depends on: an algebraic simplifier finds
that such an operation is a copy, a constant or part of another, and removes it. That is said only of a leaf for which nothing
else could be meant: its layer has no instruction of that operation of whatever size, and no layer has one of which no leaf
speaks.
"""

from jaxmem.reconcile.book import Book
from jaxmem.roles import Role

_HANDS_ON = frozenset({"while", "cond"})
"""What a loop or a branch hands on; XLA takes what does not change, or is not read, out of it, one array of many."""


def explain_simplified(book: Book) -> None:
    """Behind everything else, so that no buffer which nothing explains could be the leaf."""
    evidence = book.evidence
    made: set[tuple[str, str]] = set()
    left_over: set[str] = set()
    for (layer, given, _), values in evidence.values_named.items():
        made.add((layer, given))
        if any(value not in book.claimed for value in values):
            left_over.add(given)
    open_sizes = {evidence.elements(evidence.buffers[identifier]) for identifier in book.open}
    for leaf in book.without_value:
        if leaf.elements in open_sizes:
            continue
        operation, of_its_size = (leaf.layer, leaf.primitive), (leaf.layer, leaf.primitive, leaf.elements)
        if leaf.role is Role.GRADIENTS:
            gone = True  # nothing is made backward that becomes its parameter
        elif leaf.primitive in _HANDS_ON:
            gone = leaf.primitive not in left_over and of_its_size not in evidence.values_named
        else:
            gone = leaf.primitive not in left_over and operation not in made
        if gone:
            book.row(leaf.role, leaf.layer).add(
                "simplified away", -leaf.bytes, operation=leaf.primitive, formula=leaf.text
            )
