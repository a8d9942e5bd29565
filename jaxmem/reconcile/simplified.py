"""What the compiler has simplified away: leaves of whose operation the compiled program has no instruction.

A sum over one element, the place of the largest of one, the gradient of what nothing depends on: an algebraic simplifier finds
that such an operation is a copy, a constant or part of another, and removes it. That is said only of an array that the traced
program really has, in size and number format, and for which nothing else could be meant: whatever has its size, under its
operation's name and in its place, is spoken of by another leaf, and so is whatever XLA has made of such an operation without
a name.
"""

from jaxmem.formula import Leaf
from jaxmem.reconcile.book import Book


def explain_simplified(book: Book) -> None:
    """Behind everything else, so that no buffer which nothing explains could be the leaf."""
    evidence = book.evidence
    if not book.without_value or (book.devices == 1 and evidence.exchanges):
        return  # arrays are divided, and the formula does not know: what has another size may be part of a leaf
    open_sizes = {evidence.elements(evidence.buffers[identifier]) for identifier in book.open}
    for leaf in book.without_value:
        if leaf.elements in open_sizes:
            continue
        if _is_gone(book, leaf):
            book.row(leaf.role, leaf.layer).add(
                "simplified away", -leaf.bytes, operation=leaf.primitive, formula=leaf.text
            )


def _is_gone(book: Book, leaf: Leaf) -> bool:
    """Whether a leaf is an array of the traced program, and every value of its size under its operation's name is another's."""
    name = book.traced.place(leaf)
    if name is None or not book.traced.is_array(leaf):
        return False
    under_its_name = book.evidence.values_at.get(name, ())
    nameless = book.evidence.values_at.get((leaf.primitive, None), ())
    sizes = {leaf.elements, *book.even_parts(leaf)}
    return all(
        _is_anothers(book, value)
        for value in (*under_its_name, *nameless)
        if book.evidence.elements_of(value) in sizes
        and book.may_be(value, leaf)
        and not book.evidence.is_operand_alone(value)
    )


def _is_anothers(book: Book, value: int) -> bool:
    """Whether a value is a result, a gradient, or claimed by another leaf."""
    evidence, facts = book.evidence, book.evidence.facts
    nodes = [node.index for node in evidence.nodes_of[value]]
    nodes += [
        node for each in evidence.holders.get(value, ()) if (node := evidence.attributions[each.id].node) is not None
    ]
    return value in book.claimed or any(
        facts.output_of(node) is not None or facts.gradient_of[node] is not None for node in nodes
    )
