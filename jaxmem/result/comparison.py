"""Programs × devices × batch sizes in one table."""

from dataclasses import dataclass
from typing import Literal

from jaxmem.errors import InvariantError
from jaxmem.result.shown import Shown
from jaxmem.unknown import Unknown

COMPARISON_SCHEMA = "jaxmem.compare/1"


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparisonCell:
    """One program on one device with one batch size. Sizes are for one device.

    Attributes:
        program, mode, batch_size: what was compiled; the last two None where the program does not say.
        device, device_count: for what.
        required_bytes, required_is_lower_bound: as in a `Report`.
        fits, usable_bytes, headroom_bytes: its verdict.
        formula_bytes, formula_error_percent: jaxmem's formula, and how far it is off; positive where it says more.
        largest_batch: the largest batch that fits, where it was asked for and found.
        failure: why there is no answer; None where there is one.

    Raises:
        InvariantError: a cell with a failure has numbers, or one without has none.
    """

    program: str
    mode: str | None
    batch_size: int | None
    device: str
    device_count: int = 1
    required_bytes: int | Unknown
    required_is_lower_bound: bool = False
    fits: bool | Unknown
    usable_bytes: int | Unknown
    headroom_bytes: int | Unknown
    formula_bytes: int | Unknown
    formula_error_percent: float | Unknown
    largest_batch: int | Unknown | None = None
    failure: str | None = None

    def __post_init__(self) -> None:
        if isinstance(self.required_bytes, Unknown) != (self.failure is not None):
            raise InvariantError("a cell of a comparison has either a failure or what the program requires.")


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Comparison(Shown):
    """Every cell that was asked for, in the order of the request."""

    schema: Literal["jaxmem.compare/1"] = COMPARISON_SCHEMA
    cells: tuple[ComparisonCell, ...]
