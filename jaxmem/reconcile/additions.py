"""What the formula expects the backend to make for its own sake: laid beside the buffers that do the same."""

from jaxmem.reconcile.book import Book
from jaxmem.roles import Role


def explain_additions(book: Book) -> None:
    """Each counted addition takes one open buffer of its role, layer and size; without one, the backend did not make it.

    Behind everything that names values, so that an addition never takes a buffer that the program itself explains.
    """
    waiting: dict[tuple[str, str, int], list[int]] = {}
    for identifier in book.open:
        buffer = book.evidence.buffers[identifier]
        attribution = book.evidence.attributions[identifier]
        if book.open[identifier] == buffer.logical_bytes:
            key = (attribution.role, attribution.layer, buffer.logical_bytes)
            waiting.setdefault(key, []).append(identifier)
    for leaf in book.formula.leaves:
        if not (leaf.of_backend and leaf.counted):
            continue
        if leaf.role is Role.PADDING and book.padded.get((leaf.layer, leaf.bytes)):
            book.padded[leaf.layer, leaf.bytes] -= 1
            continue
        found = waiting.get((leaf.role, leaf.layer, leaf.bytes))
        if found:
            book.settle(book.evidence.buffers[found.pop(0)])
        else:
            book.row(leaf.role, leaf.layer).add(
                "not made by the compiler", -leaf.bytes, peak=book.profile.peak_position, formula=leaf.text
            )
