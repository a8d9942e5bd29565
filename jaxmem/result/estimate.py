"""The formula's answer alone, without a compile."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from jaxmem.errors import InvariantError
from jaxmem.lowering import ProgramFacts
from jaxmem.result.facts import DeviceFacts
from jaxmem.result.ledger import Estimate

ESTIMATE_SCHEMA = "jaxmem.estimate/1"


@dataclass(frozen=True, slots=True, kw_only=True)
class EstimateRow:
    """One term of the formula. ``formula`` has the numbers put in, e.g. ``4 B × 138,357,544``."""

    term: str
    symbol: str
    layer: str = ""
    formula: str
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EstimateLayer:
    """What the formula gives one layer. ``layer`` is empty for what belongs to no layer."""

    layer: str
    parameter_bytes: int
    gradient_bytes: int
    optimizer_bytes: int
    activation_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class EstimateReport:
    """The formula alone, without a compile.

    Attributes:
        rows: the terms that add up to ``total_bytes``.
        estimates: the same question answered by other formulas; jaxmem's own first.
        notes: what a reader must know besides, one sentence each.

    Raises:
        InvariantError: the rows do not add up to the total.
    """

    program: ProgramFacts
    device: DeviceFacts
    rows: tuple[EstimateRow, ...]
    total_bytes: int
    layers: tuple[EstimateLayer, ...] = ()
    estimates: tuple[Estimate, ...] = ()
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        total = sum(row.bytes for row in self.rows)
        if total != self.total_bytes:
            raise InvariantError(
                f"the rows of the estimate add up to {total} B, but the total is {self.total_bytes} B."
            )

    def __repr__(self) -> str:
        from jaxmem.report import as_text

        return as_text(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class EstimateReports:
    """The estimates of one request: one per program, mode, device and batch size."""

    schema: Literal["jaxmem.estimate/1"] = ESTIMATE_SCHEMA
    reports: tuple[EstimateReport, ...]

    def save(self, path: str | Path, *, force: bool = False) -> None:
        """Write the estimates to one file; see `Report.save`."""
        from jaxmem.result.json_text import save

        save(self, path, force=force)
