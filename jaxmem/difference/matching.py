"""Which buffers of two compiled programs are the same buffer.

XLA numbers its instructions anew in every compile, so a name or a number says nothing. A buffer is told by what it is for,
whose it is, when and by which operation it is made, and what is in it; among those that agree in all of it the order of
the program decides. What finds no partner that way is tried again with less, as the levels say, and each level only sees
what the one before it left over. Each is one pass over both sides: linear but for the sort by program order.
"""

import re
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass

from jaxmem.difference.side import Side
from jaxmem.result import BufferRow
from jaxmem.roles import STATE_ROLES

_NUMBERING = re.compile(r"(?:\.(?:\d+|clone|remat\d*))+$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Described:
    """A buffer and what it is matched by.

    Attributes:
        at_peak: it is live at the peak.
        kind: role, layer and phase: in every level.
        stem: the instruction's name without its numbering: ``multiply_add_fusion``.
        line, file: where the user's code asks for it; the folders before the file differ from checkout to checkout.
        shape: as compiled; ``scaled`` has ``B`` in place of dimensions that are the batch.
    """

    row: BufferRow
    at_peak: bool
    kind: tuple[str, str, str]
    stem: str
    line: str
    file: str
    scaled: tuple[int | str, ...]

    @property
    def named(self) -> bool:
        """Something tells whose it is, even without its shape."""
        return bool(self.row.layer or self.row.source)


Level = Callable[[Described], Hashable]
"""What must agree; None for a buffer that this level does not speak of."""

# The same operation, and the same array.
_SAME: tuple[Level, ...] = (
    # What a step carries on is the same before and after its update, by whatever operation it came to lie there.
    lambda one: (one.row.role, one.row.layer, one.row.dtype, one.row.shape) if one.row.role in STATE_ROLES else None,
    lambda one: (one.kind, one.row.opcode, one.stem, one.line, one.row.dtype, one.row.shape),
    # Lines move when somebody edits the file above them; fusions are named after what is in them.
    lambda one: (one.kind, one.row.opcode, one.stem, one.file, one.row.dtype, one.row.shape),
    lambda one: (one.kind, one.row.opcode, one.row.dtype, one.row.shape),
)
# The same with another batch size.
_SCALED: tuple[Level, ...] = (
    lambda one: (one.kind, one.row.opcode, one.stem, one.line, one.row.dtype, one.scaled),
    lambda one: (one.kind, one.row.opcode, one.row.dtype, one.scaled),
)
# The same operation, and an array of another size. Without a layer or a line that would be no identity.
_RESIZED: tuple[Level, ...] = (
    lambda one: (
        (one.kind, one.row.opcode, one.stem, one.line, one.row.dtype, len(one.row.shape)) if one.named else None
    ),
    lambda one: (one.kind, one.row.opcode, one.stem, one.file, len(one.row.shape)) if one.named else None,
)
# The same array by another operation, as another compiler or device chooses it.
_REWRITTEN: tuple[Level, ...] = (
    lambda one: (one.kind, one.row.dtype, one.row.shape),
    lambda one: (one.kind, one.row.dtype, one.scaled),
    lambda one: (one.kind, one.row.opcode, one.file, len(one.row.shape)) if one.named else None,
)

Match = tuple[Described | None, Described | None]


def match_buffers(old: Side, new: Side) -> Iterator[Match]:
    """Pairs of an old and a new buffer; with None where there is no partner."""
    rest_old, rest_new = _described(old), _described(new)
    scaled = _SCALED if old.program.batch_size != new.program.batch_size else ()
    for level in (*_SAME, *scaled, *_RESIZED, *_REWRITTEN):
        groups_old, groups_new = _grouped(level, rest_old), _grouped(level, rest_new)
        matched: set[int] = set()
        for key, members in groups_old.items():
            for first, second in _paired(members, groups_new.get(key, ())):
                matched |= {id(first), id(second)}
                yield first, second
        rest_old = [one for one in rest_old if id(one) not in matched]
        rest_new = [one for one in rest_new if id(one) not in matched]
    yield from ((one, None) for one in rest_old)
    yield from ((None, one) for one in rest_new)


def _described(side: Side) -> list[Described]:
    """The buffers of a side in the order of the program."""
    batch, count = side.program.batch_size, side.device.device_count
    batches = {batch, batch // count} - {0, 1} if batch else set()
    described = [
        Described(
            row=row,
            at_peak=at_peak,
            kind=(row.role, row.layer, row.phase),
            stem=_NUMBERING.sub("", row.instruction),
            line=(line := row.source.replace("\\", "/").rsplit("/", 1)[-1]),
            file=line.rsplit(":", 1)[0],
            scaled=tuple("B" if size in batches else size for size in row.shape),
        )
        for rows, at_peak in ((side.peak_buffers, True), (side.other_buffers, False))
        for row in rows
    ]
    return sorted(described, key=lambda one: (one.row.start, one.row.end, one.row.allocation, one.row.offset))


def _grouped(level: Level, buffers: Sequence[Described]) -> dict[Hashable, list[Described]]:
    groups: dict[Hashable, list[Described]] = {}
    for one in buffers:
        if (key := level(one)) is not None:
            groups.setdefault(key, []).append(one)
    return groups


def _paired(old: Sequence[Described], new: Sequence[Described]) -> Iterator[tuple[Described, Described]]:
    """In program order: first those live at both peaks, then those at one, then the others.

    Of equals it does not matter which is which, and so no equal is told as gone where another has come.
    """
    old_peak, new_peak = [one for one in old if one.at_peak], [one for one in new if one.at_peak]
    old_other, new_other = [one for one in old if not one.at_peak], [one for one in new if not one.at_peak]
    both = min(len(old_peak), len(new_peak))
    yield from zip(old_peak, new_peak, strict=False)
    arrived = min(len(new_peak) - both, len(old_other))
    yield from zip(old_other, new_peak[both:], strict=False)
    left = min(len(old_peak) - both, len(new_other))
    yield from zip(old_peak[both:], new_other, strict=False)
    yield from zip(old_other[arrived:], new_other[left:], strict=False)
