"""Results of the program: they have memory from the start."""

from jaxmem.formula import Leaf
from jaxmem.profile import Buffer, Segment
from jaxmem.reconcile.book import Book, Row
from jaxmem.roles import Role


def explain_outputs(book: Book) -> None:
    """Results have memory from the start: matched by their position in the program's result."""
    by_path: dict[str, list[Buffer]] = {}
    for buffer in book.profile.buffers:
        if buffer.leaf == (book.profile.module.entry.root_id, ()) and _is_table(book, buffer):
            by_path.setdefault("", []).append(buffer)
        elif book.role(buffer) is Role.OUTPUTS and (output := book.output_of(buffer)) is not None:
            by_path.setdefault(output.path, []).append(buffer)
    donated = {
        output.path
        for output in book.outputs
        if output.argument_index is not None and book.arguments[output.argument_index].donated
    }
    for places in by_path.values():
        # A result that a loop writes has several buffers in one place; the one that is there at the peak speaks for it.
        places.sort(key=lambda buffer: not book.evidence.is_live(buffer))
    for leaf in book.formula.leaves:
        if not leaf.is_result:
            continue
        if by_path.get(leaf.path):
            place = by_path[leaf.path].pop(0)
            _explain_place(book, book.row(leaf.role, leaf.layer), leaf, place, refused=leaf.path in donated)


def _is_table(book: Book, buffer: Buffer) -> bool:
    return book.profile.instruction(buffer).shape.subshape(buffer.leaf[1]).is_tuple


def _explain_place(book: Book, row: Row, leaf: Leaf, place: Buffer, *, refused: bool) -> None:
    evidence = book.evidence
    live = book.settle(place)
    waiting = 0
    for index, (segment, role) in enumerate(book.idle):
        low = max(segment.offset, place.offset)
        high = min(segment.offset + segment.size_bytes, place.offset + place.size_bytes)
        if segment.allocation == place.allocation and role is Role.OUTPUTS and low < high:
            waiting += high - low
            book.idle[index] = (
                Segment(
                    allocation=segment.allocation,
                    offset=segment.offset,
                    size_bytes=segment.size_bytes - (high - low),
                    buffer_id=None,
                ),
                role,
            )
    if not leaf.counted and refused:
        book.row_of(place).add("donation refused", live + waiting, buffer=evidence.label(place), formula=leaf.text)
        return
    if live + waiting == place.size_bytes > place.logical_bytes == leaf.bytes and not live:
        # A result that is not written yet holds its place with its padding.
        shape = book.profile.instruction(place).shape.subshape(place.leaf[1])
        if shape.tiles or shape.is_tuple:
            row.add("layout padding", waiting - leaf.bytes, buffer=evidence.label(place), formula=leaf.text)
    missing = leaf.bytes - live - waiting
    if missing > 0 and leaf.bytes == (place.logical_bytes or place.size_bytes):
        lent = book.written_over(place)
        if lent:
            row.add("slot lent out", -missing, buffer=tuple(lent), formula=leaf.text)
