"""The report: how much memory one program needs on one device, and where every byte goes."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from jaxmem.errors import InvariantError
from jaxmem.lowering import ProgramFacts
from jaxmem.result.buffers import BufferRow, BufferTable, Schedule
from jaxmem.result.facts import (
    DeviceFacts,
    GemmRange,
    Hidden,
    Measured,
    OtherMemory,
    RoleBytes,
    Verdict,
    Versions,
    XlaNumbers,
)
from jaxmem.result.ledger import Estimate, LayerRow, LedgerRow
from jaxmem.result.shown import Shown
from jaxmem.roles import Role
from jaxmem.unknown import Unknown

REPORT_SCHEMA = "jaxmem.report/1"
NO_BUFFERS = BufferTable()


def _sum_known(sizes: Iterable[int | Unknown]) -> int | Unknown:
    """The sum; the first unknown one where any is unknown."""
    total = 0
    for size in sizes:
        if isinstance(size, Unknown):
            return size
        total += size
    return total


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Report(Shown):
    """How much memory one program needs on one device, and where every byte goes. Sizes are for one device.

    Attributes:
        xla: the compiler's own numbers, as JAX reports them.
        live_peak_bytes: the most that is live at any moment, in main memory, from the replayed heap trace.
        reserved_bytes: what the runtime must allocate.
        hidden: memory that the compiler cannot see.
        required_bytes: the headline: reserved plus hidden where that is known.
        required_is_lower_bound: hidden is not known, so the need is at least ``required_bytes``.
        roles: the same bytes by what they are for; kept as `RoleBytes`.
        ledger: the same bytes against the formula, row by row.
        unexplained_bytes: the sum over the rows of what difference and items disagree by, each in absolute value;
            unknown where a row has no formula.
        estimates: formulas beside the compiler; jaxmem's own first.
        layers: per layer path.
        peak_buffers: what is live at the peak, largest first.
        buffers: every buffer.
        schedule: what the positions of the buffers mean; None in older files.
        other_memories: what the program takes of on-chip and host memory, beside all that.
        verdict: does it fit?
        gemm_range: required by the backend of matrix products, where that was asked for; the rest is of the default.
        measured: a real run, where one was asked for.
        notes: what a reader must know besides, one sentence each.

    Raises:
        InvariantError: the parts do not add up.
    """

    program: ProgramFacts
    device: DeviceFacts
    versions: Versions
    xla: XlaNumbers
    live_peak_bytes: int
    reserved_bytes: int
    hidden: Hidden
    required_bytes: int
    required_is_lower_bound: bool
    roles: Mapping[Role, int]
    ledger: tuple[LedgerRow, ...]
    unexplained_bytes: int | Unknown
    estimates: tuple[Estimate, ...] = ()
    layers: tuple[LayerRow, ...] = ()
    peak_buffers: tuple[BufferRow, ...] = ()
    buffers: BufferTable = NO_BUFFERS
    schedule: Schedule | None = None
    other_memories: tuple[OtherMemory, ...] = ()
    verdict: Verdict
    gemm_range: GemmRange | None = None
    measured: Measured | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "roles", RoleBytes(self.roles))
        known = self.reserved_bytes + (self.hidden.bytes or 0)
        if known != self.required_bytes:
            raise InvariantError(f"required is {self.required_bytes} B, but reserved and hidden are {known} B.")
        if self.required_is_lower_bound != (self.hidden.bytes is None):
            raise InvariantError("required must be a lower bound exactly where the hidden memory is not known.")
        for name, total in (
            ("roles", sum(self.roles.values())),
            ("compiled column of the ledger", sum(row.compiled_bytes for row in self.ledger)),
        ):
            if total != self.required_bytes:
                raise InvariantError(
                    f"the {name} adds up to {total} B, but required is {self.required_bytes} B "
                    f"({total - self.required_bytes:+} B)."
                )
        unexplained = _sum_known(row.unexplained_bytes for row in self.ledger)
        if isinstance(unexplained, Unknown) != isinstance(self.unexplained_bytes, Unknown) or (
            isinstance(unexplained, int) and unexplained != self.unexplained_bytes
        ):
            raise InvariantError(
                f"unexplained is given as {self.unexplained_bytes}, but the rows of the ledger make it {unexplained}."
            )

    def _in_file(self) -> "Reports":
        return Reports(reports=(self,))


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Reports(Shown):
    """The reports of one request: one per program, mode, device and batch size."""

    schema: Literal["jaxmem.report/1"] = REPORT_SCHEMA
    reports: tuple[Report, ...]
