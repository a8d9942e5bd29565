"""What changed between two results: by role, by layer, by buffer."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from jaxmem.errors import InvariantError
from jaxmem.lowering import ProgramFacts
from jaxmem.result.buffers import BufferRow
from jaxmem.result.facts import DeviceFacts, Versions
from jaxmem.result.shown import Shown
from jaxmem.roles import Role

DIFF_SCHEMA = "jaxmem.diff/1"

Change = Literal["grew", "shrank", "new", "gone", "arrived", "left"]
"""What became of a buffer. ``new`` and ``gone``: it has no partner on the other side. ``arrived`` and ``left``: it is there,
but not live at the peak; or that side kept its largest buffers only, and nobody knows."""

_PARTNERS = {"grew": (True, True), "shrank": (True, True), "new": (False, True), "gone": (True, False)}
"""Whether the buffer is on the old and on the new side. Where a side kept its largest buffers only, the rest may lack one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DiffSide:
    """One of the two results.

    Attributes:
        name: what the person called it, usually a file.
        required_bytes, required_is_lower_bound: as in a `Report`.
    """

    name: str
    program: ProgramFacts
    device: DeviceFacts
    versions: Versions
    required_bytes: int
    required_is_lower_bound: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class RoleChange:
    """The bytes of one role, on both sides. ``difference_bytes`` is new minus old, here as everywhere in a diff."""

    role: Role
    old_bytes: int
    new_bytes: int
    difference_bytes: int

    def __post_init__(self) -> None:
        _check_difference(self.role, self.old_bytes, self.new_bytes, self.difference_bytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerChange:
    """The bytes of one layer, on both sides. ``layer`` is empty for what belongs to none; ``roles`` are those that changed."""

    layer: str
    old_bytes: int
    new_bytes: int
    difference_bytes: int
    roles: tuple[RoleChange, ...] = ()

    def __post_init__(self) -> None:
        _check_difference(self.layer, self.old_bytes, self.new_bytes, self.difference_bytes)
        _check_sum(f"roles of the layer {self.layer!r}", self.roles, self.difference_bytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class BufferChange:
    """One buffer that takes more or less at the peak than before, with the operation that makes it.

    Attributes:
        change: what became of it.
        old_bytes, new_bytes: what it takes at the peak; 0 where it is not there, or not live then.
        old, new: the buffer on each side; None where it has no partner there.
    """

    change: Change
    old_bytes: int
    new_bytes: int
    difference_bytes: int
    old: BufferRow | None
    new: BufferRow | None

    def __post_init__(self) -> None:
        _check_difference("a buffer", self.old_bytes, self.new_bytes, self.difference_bytes)
        there = (self.old is not None, self.new is not None)
        if not any(there) or (self.old_bytes and not there[0]) or (self.new_bytes and not there[1]):
            raise InvariantError("a changed buffer is not on the side on which it takes bytes.")
        if self.change in _PARTNERS and there != _PARTNERS[self.change]:
            raise InvariantError(f"a buffer is told as {self.change!r} and has old and new: {there}.")

    @property
    def row(self) -> BufferRow:
        """The buffer as it is now; as it was, where it is gone."""
        row = self.new or self.old
        assert row is not None  # checked at birth
        return row


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Diff(Shown):
    """What changed between two results. Every difference is new minus old, and largest changes come first.

    Attributes:
        difference_bytes: of what is required.
        allowed_bytes: by how much it may grow; ``exceeded`` says that it grew by more.
        roles: every role that either side has; their differences sum to ``difference_bytes``.
        layers: likewise.
        buffers: those that take more or less at the peak; ``unchanged_buffers`` is how many take the same.
        notes: what a reader must know besides, one sentence each.

    Raises:
        InvariantError: the parts do not add up.
    """

    old: DiffSide
    new: DiffSide
    difference_bytes: int
    allowed_bytes: int
    exceeded: bool
    roles: tuple[RoleChange, ...]
    layers: tuple[LayerChange, ...]
    buffers: tuple[BufferChange, ...]
    unchanged_buffers: int
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _check_difference("required", self.old.required_bytes, self.new.required_bytes, self.difference_bytes)
        _check_sum("roles", self.roles, self.difference_bytes)
        _check_sum("layers", self.layers, self.difference_bytes)
        if self.exceeded != (self.difference_bytes > self.allowed_bytes):
            raise InvariantError("a diff is over its tolerance exactly where it grew by more than is allowed.")
        for name, rows in (("roles", self.roles), ("layers", self.layers), ("buffers", self.buffers)):
            sizes = [abs(row.difference_bytes) for row in rows]
            if sizes != sorted(sizes, reverse=True):
                raise InvariantError(f"the {name} of the diff are not sorted by how much they changed.")

    def _in_file(self) -> "Diffs":
        return Diffs(reports=(self,))


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Diffs(Shown):
    """The diffs of two files: one for each pair of program, mode, device and batch size that both have.

    Attributes:
        only_old, only_new: what has no partner on the other side, as a person reads it.
    """

    schema: Literal["jaxmem.diff/1"] = DIFF_SCHEMA
    reports: tuple[Diff, ...]
    only_old: tuple[str, ...] = ()
    only_new: tuple[str, ...] = ()


def _check_difference(what: str, old_bytes: int, new_bytes: int, difference_bytes: int) -> None:
    if new_bytes - old_bytes != difference_bytes:
        raise InvariantError(
            f"the difference of {what} is {difference_bytes} B, but {new_bytes} B less {old_bytes} B are "
            f"{new_bytes - old_bytes} B."
        )


def _check_sum(what: str, rows: Iterable[RoleChange] | Sequence[LayerChange], difference_bytes: int) -> None:
    total = sum(row.difference_bytes for row in rows)
    if total != difference_bytes:
        raise InvariantError(f"the {what} changed by {total} B in all, but should by {difference_bytes} B.")
