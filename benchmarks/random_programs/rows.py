"""What is written down of each program."""

from dataclasses import dataclass

from benchmarks.records import RESULTS, Setting

FILE = RESULTS / "random_programs.json"

HELD_OUT = 7_000
"""From this seed on, no program was looked into when rules of the formula and the ledger were written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One program on one device.

    Attributes:
        unexplained: the rows of its ledger that stay open, in words.
        broken: the laws that do not hold.
        refused: what the compiler said, where it does not take the program.
        viewed: XProf's memory viewer was compared.
    """

    device: str
    seed: int
    instructions: int = 0
    required_bytes: int = 0
    unexplained_bytes: int = 0
    unattributed_bytes: int = 0
    unexplained: tuple[str, ...] = ()
    broken: tuple[str, ...] = ()
    refused: str | None = None
    viewed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """All rows, by device and seed."""

    setting: Setting
    date: str
    rows: tuple[Row, ...] = ()
