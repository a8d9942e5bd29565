"""What was tried, and what was seen."""

from dataclasses import dataclass

from benchmarks.records import Setting


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One kind of fault.

    Attributes:
        trials: how often it was brought about; ``good`` how often all was as it should be.
        found: what was seen.
    """

    part: str
    fault: str
    trials: int
    good: int
    found: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """Everything that was tried."""

    setting: Setting
    dates: tuple[str, ...]
    rows: tuple[Row, ...]
