"""What the compiler has simplified away: leaves of whose operation the compiled program has no instruction.

A sum over one element, the place of the largest of one, the gradient of what nothing depends on: an algebraic simplifier finds
that such an operation is a copy, a constant or part of another, and removes it. That is said only of a leaf for which nothing
else could be meant: its layer has no instruction of that operation of whatever size, and no other layer has one that no leaf
speaks of.
"""

from jaxmem.reconcile.book import Book
from jaxmem.roles import Role


def explain_simplified(book: Book) -> None:
    """Behind everything else, so that no buffer which nothing explains could be the leaf."""
    evidence = book.evidence
    made: set[tuple[str, str]] = set()
    left_over: set[str] = set()
    for (layer, given, _), values in evidence.values_named.items():
        made.add((layer, given))
        if any(value not in book.claimed and evidence.has_layer_of_neighbour(value) for value in values):
            left_over.add(given)
    open_sizes = {evidence.elements(evidence.buffers[identifier]) for identifier in book.open}
    for leaf in book.without_value:
        if leaf.elements in open_sizes:
            continue
        gone = leaf.role is Role.GRADIENTS  # nothing is made backward that becomes its parameter
        if gone or (leaf.primitive not in left_over and (leaf.layer, leaf.primitive) not in made):
            book.row(leaf.role, leaf.layer).add(
                "simplified away", -leaf.bytes, operation=leaf.primitive, formula=leaf.text
            )
