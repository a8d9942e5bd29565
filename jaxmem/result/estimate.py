"""The formula's answer alone, without a compile."""

from dataclasses import dataclass, replace
from typing import Literal

from jaxmem.errors import InvariantError
from jaxmem.lowering import ProgramFacts
from jaxmem.result.facts import DeviceFacts
from jaxmem.result.ledger import Estimate
from jaxmem.result.shown import Shown

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


@dataclass(frozen=True, slots=True, kw_only=True)
class ScalingRow:
    """What one term contributes: ``fixed_bytes`` whatever the batch size, ``bytes_per_example`` for each example."""

    term: str
    fixed_bytes: int
    bytes_per_example: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ScalingLaw:
    """bytes(B) = a + b·B, the line through the estimates at two batch sizes; it says nothing of those beyond.

    Attributes:
        lower_batch_size, upper_batch_size: the two.
        rows: a and b term by term, in whole bytes; they add up to those of the line.
        batch_size: one between the two.
        bend_bytes: by how much the estimate at ``batch_size`` lies above the line: 0 where the formula is a line there. It
            bends where the peak moves to another moment, or one term is lent the memory of another.
    """

    lower_batch_size: int
    upper_batch_size: int
    rows: tuple[ScalingRow, ...]
    batch_size: int
    bend_bytes: int

    @property
    def fixed_bytes(self) -> int:
        """a: what does not depend on the batch size."""
        return sum(row.fixed_bytes for row in self.rows)

    @property
    def bytes_per_example(self) -> int:
        """b: what each example adds."""
        return sum(row.bytes_per_example for row in self.rows)

    def bytes_at(self, batch_size: int) -> int:
        """What the line says."""
        return self.fixed_bytes + self.bytes_per_example * batch_size


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class EstimateReport(Shown):
    """The formula alone, without a compile.

    Attributes:
        rows: the terms that add up to ``total_bytes``.
        estimates: the same question answered by other formulas; jaxmem's own first.
        notes: what a reader must know besides, one sentence each.
        scaling: how it grows with the batch size, where that was asked for.

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
    scaling: ScalingLaw | None = None

    def __post_init__(self) -> None:
        total = sum(row.bytes for row in self.rows)
        if total != self.total_bytes:
            raise InvariantError(
                f"the rows of the estimate add up to {total} B, but the total is {self.total_bytes} B."
            )

    def _in_file(self) -> "EstimateReports":
        return EstimateReports(reports=(self,))


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class EstimateReports(Shown):
    """The estimates of one request: one per program, mode, device and batch size."""

    schema: Literal["jaxmem.estimate/1"] = ESTIMATE_SCHEMA
    reports: tuple[EstimateReport, ...]


def scaling_law(lower: EstimateReport, middle: EstimateReport, upper: EstimateReport) -> ScalingLaw:
    """The line through two estimates of one program that differ in the batch size alone, and how far a third is from it.

    Raises:
        InvariantError: the batch sizes are not known, or not in this order.
    """
    sizes = [report.program.batch_size or 0 for report in (lower, middle, upper)]
    if not 0 < sizes[0] <= sizes[1] <= sizes[2] or sizes[0] == sizes[2]:
        raise InvariantError(f"no line goes through estimates at the batch sizes {sizes}.")
    terms = dict.fromkeys(row.term for report in (lower, upper) for row in report.rows)
    rows = []
    for term in terms:
        least, most = (sum(row.bytes for row in report.rows if row.term == term) for report in (lower, upper))
        for_each = (most - least) // (sizes[2] - sizes[0])
        rows.append(ScalingRow(term=term, fixed_bytes=least - for_each * sizes[0], bytes_per_example=for_each))
    law = ScalingLaw(
        lower_batch_size=sizes[0], upper_batch_size=sizes[2], rows=tuple(rows), batch_size=sizes[1], bend_bytes=0
    )
    return replace(law, bend_bytes=middle.total_bytes - law.bytes_at(sizes[1]))
