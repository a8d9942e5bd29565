"""A result as a diff sees it: its account by role and layer, and the buffers that are live at its peak."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from jaxmem.errors import InvariantError
from jaxmem.lowering import ProgramFacts
from jaxmem.result import BufferRow, DeviceFacts, DiffSide, Report, Versions
from jaxmem.roles import Role

Account = Mapping[tuple[Role, str], int]
"""(role, layer) → bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One of two results.

    Attributes:
        name: what the person called it.
        account: sums to ``required_bytes``.
        peak_buffers: live at the peak.
        other_buffers: the rest of the program's; empty where they were not kept.
        kept_from_bytes: smaller buffers than this were not kept; 0 where all were.

    Raises:
        InvariantError: the account does not sum to what is required.
    """

    name: str
    program: ProgramFacts
    device: DeviceFacts
    versions: Versions
    required_bytes: int
    required_is_lower_bound: bool
    account: Account
    peak_buffers: tuple[BufferRow, ...]
    other_buffers: tuple[BufferRow, ...] = ()
    kept_from_bytes: int = 0

    def __post_init__(self) -> None:
        total = sum(self.account.values())
        if total != self.required_bytes:
            raise InvariantError(f"the account of {self.name} adds up to {total} B, not to {self.required_bytes} B.")

    @property
    def facts(self) -> DiffSide:
        """What a diff keeps of it."""
        return DiffSide(
            name=self.name,
            program=self.program,
            device=self.device,
            versions=self.versions,
            required_bytes=self.required_bytes,
            required_is_lower_bound=self.required_is_lower_bound,
        )


def side_of(report: Report, name: str) -> Side:
    """A report as a side. Its account is the compiled side of the ledger, whose rows are one role in one layer each."""
    account: dict[tuple[Role, str], int] = {}
    for row in report.ledger:
        key = (_role(row.term), row.layer)
        account[key] = account.get(key, 0) + row.compiled_bytes
    at_peak = Counter(report.peak_buffers)
    others = []
    for buffer in report.buffers.rows():
        if at_peak[buffer]:
            at_peak[buffer] -= 1
        else:
            others.append(buffer)
    return Side(
        name=name,
        program=report.program,
        device=report.device,
        versions=report.versions,
        required_bytes=report.required_bytes,
        required_is_lower_bound=report.required_is_lower_bound,
        account=account,
        peak_buffers=report.peak_buffers,
        other_buffers=tuple(others),
    )


def _role(term: str) -> Role:
    """The role that a row of the ledger is about. Only a ledger of somebody else's making has other terms."""
    try:
        return Role(term.replace(" ", "_"))
    except ValueError:
        return Role.UNATTRIBUTED
