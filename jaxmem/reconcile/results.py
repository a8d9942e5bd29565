"""Results of the program: they have memory from the start."""

from collections.abc import Iterable, Mapping

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
    donates = any(argument.donated for argument in book.arguments)
    for places in by_path.values():
        # A result that a loop writes has several buffers in one place; the one that is there at the peak speaks for it.
        # One that is copied into its place has others elsewhere.
        home = max(places, key=lambda buffer: buffer.end).allocation
        places.sort(key=lambda buffer: (buffer.allocation != home, not book.evidence.is_live(buffer)))
    idle: dict[int, list[int]] = {}
    for index, (segment, _) in enumerate(book.idle):
        idle.setdefault(segment.allocation, []).append(index)
    paths = {argument.parameter_number: argument.path for argument in book.arguments}
    lent = {
        each.index: paths.get(each.parameter_number, "")
        for each in book.profile.allocations
        if each.is_parameter_aliased_with_output
    }
    for leaf in book.formula.leaves:
        if not leaf.is_result:
            continue
        if not by_path.get(leaf.path):
            if leaf.counted:
                _explain_as_state(book, leaf, book.buffers_of_results.get(leaf.path, ()), lent)
            continue
        # Elsewhere a result is on its way to the slot of the argument that it is written over.
        places = by_path[leaf.path]
        place = next((each for each in places if not leaf.counted and each.allocation in lent), places[0])
        places.remove(place)
        if not leaf.counted and place.allocation in lent:
            held, path = book.settle(place), lent[place.allocation]
            book.row_of(place).add(
                "written over an argument", held, buffer=book.evidence.label(place), argument=path, formula=leaf.text
            )
            continue
        row = book.row(leaf.role, leaf.layer)
        _explain_place(book, row, leaf, place, idle.get(place.allocation, ()), lent, donates=donates)


def _explain_as_state(book: Book, leaf: Leaf, places: Iterable[Buffer], lent: Mapping[int, str]) -> None:
    """A result that XLA writes over an argument, or beside one, where the formula has memory of its own for it."""
    places = tuple(places)
    for buffer in places:
        if buffer.logical_bytes == leaf.bytes and buffer.id in book.open:
            held, label = book.settle(buffer), book.evidence.label(buffer)
            there, role = book.row_of(buffer), str(book.role(buffer))
            book.row(leaf.role, leaf.layer).add(
                "counted under another role", -held, buffer=label, role=role, formula=leaf.text
            )
            there.add("counted under another role", held, buffer=label, role=str(leaf.role), formula=leaf.text)
            return
    later = (each for each in places if each.logical_bytes == leaf.bytes and each.allocation in lent)
    if (place := next(later, None)) is not None and place.id not in book.absent:
        book.absent.add(place.id)
        label, argument = book.evidence.label(place), lent[place.allocation]
        book.row(leaf.role, leaf.layer).add(
            "written over an argument", -leaf.bytes, buffer=label, argument=argument, formula=leaf.text
        )


def _is_table(book: Book, buffer: Buffer) -> bool:
    return book.profile.instruction(buffer).shape.subshape(buffer.leaf[1]).is_tuple


def _is_divided(book: Book, leaf: Leaf, place: Buffer) -> bool:
    """Whether a place has one device's part of a result, or all of it, and the formula another part.

    Both are equal parts of the result as the program returns it, in no more parts than there are devices.
    """
    position, output = next((each, output) for each, output in enumerate(book.outputs) if output.path == leaf.path)
    # New state that the program leaves as it likes is lowered as a part: the traced program has the whole of it.
    whole_bytes = max(book.traced.result_elements(position) * output.itemsize_bits // 8, output.logical_bytes)
    return all(
        size_bytes and whole_bytes % size_bytes == 0 and book.devices % (whole_bytes // size_bytes) == 0
        for size_bytes in (leaf.bytes, place.logical_bytes)
    )


def _explain_place(
    book: Book,
    row: Row,
    leaf: Leaf,
    place: Buffer,
    idle: Iterable[int],
    lent: Mapping[int, str],
    *,
    donates: bool,
) -> None:
    evidence = book.evidence
    live = book.settle(place)
    waiting = 0
    for index in idle:
        segment, role = book.idle[index]
        low = max(segment.offset, place.offset)
        high = min(segment.offset + segment.size_bytes, place.offset + place.size_bytes)
        if role is Role.OUTPUTS and low < high:
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
    if not leaf.counted and donates:
        book.row_of(place).add("donation refused", live + waiting, buffer=evidence.label(place), formula=leaf.text)
        return
    if live + waiting == place.size_bytes > place.logical_bytes == leaf.bytes and not live:
        # A result that is not written yet holds its place with its padding.
        shape = book.profile.instruction(place).shape.subshape(place.leaf[1])
        if shape.tiles or shape.is_tuple:
            row.add("layout padding", waiting - leaf.bytes, buffer=evidence.label(place), formula=leaf.text)
    size_bytes = leaf.bytes
    if book.devices > 1 and place.logical_bytes != leaf.bytes and _is_divided(book, leaf, place):
        size_bytes = place.logical_bytes
        row.add("divided otherwise", size_bytes - leaf.bytes, buffer=evidence.label(place), formula=leaf.text)
    missing = size_bytes - live - waiting
    if missing > 0 and size_bytes == (place.logical_bytes or place.size_bytes):
        label, borrowers = evidence.label(place), book.written_over(place)
        if place.allocation in lent:
            argument = lent[place.allocation]
            row.add("written over an argument", -missing, buffer=label, argument=argument, formula=leaf.text)
        elif borrowers:
            row.add("slot lent out", -missing, buffer=tuple(borrowers), formula=leaf.text)
