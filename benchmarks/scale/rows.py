"""What is kept of each file that was measured."""

from dataclasses import dataclass
from math import log

from benchmarks.records import Setting
from benchmarks.scale.measure import Command, Ours, Part, Theirs


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One program. ``size``: what was wanted."""

    size: int
    file_bytes: int
    ours: Ours
    part: Part
    theirs: Theirs


@dataclass(frozen=True, slots=True, kw_only=True)
class LargeRow:
    """One large dump. ``what`` most of it is."""

    what: str
    instructions: int
    file_bytes: int
    ours: Command
    theirs: Theirs


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """All rows. ``load`` is the system's load average as the command began for the last time."""

    setting: Setting
    date: str
    load: float
    rows: tuple[Row, ...] = ()
    large: tuple[LargeRow, ...] = ()

    @property
    def exponent(self) -> float | None:
        """Of the growth of processor time, from the smallest program of at least 5,000 instructions to the largest."""
        grown = sorted((row for row in self.rows if row.size >= 5_000), key=lambda row: row.size)
        if len(grown) < 2:
            return None
        first, last = grown[0].ours, grown[-1].ours
        return log(last.processor / first.processor) / log(last.instructions / first.instructions)
