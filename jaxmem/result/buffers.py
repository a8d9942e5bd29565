"""The buffers of a compiled program, by rows and by columns."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields

from jaxmem.errors import InvariantError
from jaxmem.roles import Phase, Role


@dataclass(frozen=True, slots=True, kw_only=True)
class BufferRow:
    """One buffer of the compiled program.

    Attributes:
        bytes: what it occupies; ``logical_bytes`` without padding.
        role, layer, phase: what it is for, whose it is, when it is made. ``rule`` names the rule that decided.
        instruction, opcode: the HLO instruction whose value it holds.
        shape, dtype: of the value; dtype by XLA's name.
        source: ``file:line`` of the user's code, empty where the compiler kept none.
        start, end: positions in the schedule between which it is live, both included.
        allocation, offset: where it lies.
    """

    bytes: int
    logical_bytes: int
    role: Role
    layer: str
    phase: Phase
    instruction: str
    opcode: str
    shape: tuple[int, ...]
    dtype: str
    source: str
    start: int
    end: int
    allocation: int
    offset: int
    rule: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BufferTable:
    """Every buffer, by columns of one length: the fields of `BufferRow`, entry i of each for buffer i."""

    bytes: tuple[int, ...] = ()
    logical_bytes: tuple[int, ...] = ()
    role: tuple[Role, ...] = ()
    layer: tuple[str, ...] = ()
    phase: tuple[Phase, ...] = ()
    instruction: tuple[str, ...] = ()
    opcode: tuple[str, ...] = ()
    shape: tuple[tuple[int, ...], ...] = ()
    dtype: tuple[str, ...] = ()
    source: tuple[str, ...] = ()
    start: tuple[int, ...] = ()
    end: tuple[int, ...] = ()
    allocation: tuple[int, ...] = ()
    offset: tuple[int, ...] = ()
    rule: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        lengths = {column.name: len(getattr(self, column.name)) for column in fields(self)}
        if len(set(lengths.values())) > 1:
            raise InvariantError(f"the columns of the buffer table differ in length: {lengths}.")

    @classmethod
    def from_rows(cls, rows: Iterable[BufferRow]) -> "BufferTable":
        """Turn rows into columns."""
        rows = tuple(rows)
        return cls(**{column.name: tuple(getattr(row, column.name) for row in rows) for column in fields(cls)})

    def rows(self) -> Iterator[BufferRow]:
        """The buffers one by one."""
        names = [column.name for column in fields(self)]
        for values in zip(*(getattr(self, name) for name in names), strict=True):
            yield BufferRow(**dict(zip(names, values, strict=True)))

    def row(self, number: int) -> BufferRow:
        """One buffer."""
        return BufferRow(**{column.name: getattr(self, column.name)[number] for column in fields(self)})

    def __len__(self) -> int:
        return len(self.bytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """When and where the buffers live: what `BufferTable` counts its positions and allocations by.

    Attributes:
        length: number of positions; bodies of loops and branches stand once.
        peak_position: where the most is live.
        live_at_peak: which entries of the buffer table hold bytes there, ascending.
        allocation, allocation_bytes: the allocations by number, and the size of each; they sum to what the compiler reserves.
    """

    length: int
    peak_position: int
    live_at_peak: tuple[int, ...]
    allocation: tuple[int, ...]
    allocation_bytes: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.allocation) != len(self.allocation_bytes):
            raise InvariantError(
                f"there are {len(self.allocation)} allocations and {len(self.allocation_bytes)} sizes of them."
            )
