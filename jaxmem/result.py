"""The answer as data: one `Report` per program, mode, device and batch size.

The dataclasses here are the JSON of ``--format json``: the same names, the same nesting. `jaxmem.result_json` turns them
into text and back, `jaxmem.report` into pages for people. Data only, without JAX.

Whatever must add up is checked when a value is made, so a report that exists is a report that closes.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Literal

from jaxmem.errors import InvariantError
from jaxmem.lowering import ProgramFacts
from jaxmem.roles import Phase, Role
from jaxmem.unknown import Unknown

REPORT_SCHEMA = "jaxmem.report/1"
ESTIMATE_SCHEMA = "jaxmem.estimate/1"

EvidenceValue = str | int | tuple[int, ...] | tuple[str, ...]
Evidence = tuple[tuple[str, EvidenceValue], ...]
"""What an item of the ledger points at, as (what, which) pairs: ``(("buffer", "fusion.7"), ("live", (12, 80)))``."""


def _sum_known(sizes: Iterable[int | Unknown]) -> int | Unknown:
    """The sum; the first unknown one where any is unknown."""
    total = 0
    for size in sizes:
        if isinstance(size, Unknown):
            return size
        total += size
    return total


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceFacts:
    """The device that the program was compiled for.

    Attributes:
        name: as in ``-d``, e.g. ``cpu`` or ``h100-sxm``.
        platform: ``cpu``, ``cuda`` or ``tpu``.
        memory_bytes: what XLA is told the device has.
        usable_bytes: what a program may take of it.
        device_count: devices the program is spread over; every size is for one of them.
        attached: the device is in this machine, not a description of one.
    """

    name: str
    platform: str
    memory_bytes: int | Unknown
    usable_bytes: int | Unknown
    device_count: int = 1
    attached: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Versions:
    """What the numbers depend on besides the program. ``compiler_options`` are (name, value) pairs, sorted by name."""

    jaxmem: str
    jax: str | Unknown
    jaxlib: str | Unknown
    libtpu: str | Unknown = Unknown("libtpu takes no part on this platform")
    compiler_options: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class XlaNumbers:
    """What JAX's ``memory_analysis()`` reports of the compiled program, untouched."""

    argument_bytes: int | Unknown
    output_bytes: int | Unknown
    alias_bytes: int | Unknown
    temp_bytes: int | Unknown
    generated_code_bytes: int | Unknown
    reported_peak_bytes: int | Unknown


@dataclass(frozen=True, slots=True, kw_only=True)
class HiddenFusion:
    """One fusion that the compiler hands to a library, which allocates unseen. ``bytes`` is its need while it runs."""

    instruction: str
    layer: str
    bytes: int | Unknown


@dataclass(frozen=True, slots=True, kw_only=True)
class Hidden:
    """Memory that the compiler cannot see.

    Attributes:
        bytes: the largest need at any moment; None where it is not known.
        reason: where it comes from, or why it is not known.
        fusions: every opaque fusion of the program, in the order of the schedule.
    """

    bytes: int | None
    reason: str
    fusions: tuple[HiddenFusion, ...] = ()


@dataclass(frozen=True, slots=True, init=False, eq=False)
class RoleBytes(Mapping[Role, int]):
    """Bytes by role, in the order of `Role`; every role is there, zero where it has nothing.

    ``RoleBytes({Role.PARAMETERS: 12})["parameters"] == 12``.
    """

    sizes: tuple[int, ...]

    def __init__(self, sizes: Mapping[Role, int]) -> None:
        strangers = [str(key) for key in sizes if key not in _ROLE_POSITION]
        if strangers:
            raise ValueError(f"not a role: {', '.join(strangers)}")
        object.__setattr__(self, "sizes", tuple(sizes.get(role, 0) for role in Role))

    def __getitem__(self, role: str) -> int:
        return self.sizes[_ROLE_POSITION[role]]

    def __iter__(self) -> Iterator[Role]:
        return iter(Role)

    def __len__(self) -> int:
        return len(self.sizes)

    def __hash__(self) -> int:
        return hash(self.sizes)


_ROLE_POSITION: dict[str, int] = {role: position for position, role in enumerate(Role)}


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerItem:
    """One named part of the difference between formula and compiler.

    Attributes:
        kind: from the closed list of `jaxmem.reconcile`.
        bytes: signed; what this adds to the formula's number.
        evidence: what on the compiled side, or in the formula, shows it.
    """

    kind: str
    bytes: int
    evidence: Evidence = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerRow:
    """One row of formula against compiler.

    Attributes:
        term: what the row is about, for people: ``parameters``, ``saved activations``.
        symbol: the term as the formula writes it: ``w``, ``2w + 4``, ``B·saved``.
        layer: layer path; empty where the row belongs to the whole program.
        formula_bytes: what the formula says; unknown where there is no program to derive it from.
        compiled_bytes: what the compiled program has.
        items: what the difference consists of.
        reason: the same in a sentence.
    """

    term: str
    symbol: str
    layer: str = ""
    formula_bytes: int | Unknown
    compiled_bytes: int
    items: tuple[LedgerItem, ...] = ()
    reason: str = ""

    @property
    def difference_bytes(self) -> int | Unknown:
        """Compiled minus formula."""
        return (
            self.formula_bytes if isinstance(self.formula_bytes, Unknown) else self.compiled_bytes - self.formula_bytes
        )

    @property
    def unexplained_bytes(self) -> int | Unknown:
        """By how much difference and items disagree, in absolute value."""
        difference = self.difference_bytes
        return (
            difference if isinstance(difference, Unknown) else abs(difference - sum(item.bytes for item in self.items))
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """One formula's answer beside the compiler's.

    Attributes:
        name: ``jaxmem``, or ``textbook: 4w + B·ΣF``.
        formula: with the numbers put in.
        error_percent: against ``required_bytes``, positive where the formula says more.
    """

    name: str
    formula: str
    bytes: int | Unknown
    error_percent: float | Unknown


def error_percent(estimated_bytes: int | Unknown, true_bytes: int) -> float | Unknown:
    """How far an estimate is off, in percent of the truth; positive where it says more."""
    if isinstance(estimated_bytes, Unknown):
        return estimated_bytes
    if true_bytes == 0:
        return Unknown("the program needs no memory, so there is no percentage of it")
    return round(100 * (estimated_bytes - true_bytes) / true_bytes, 3)


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """The same bytes by the formula and by the compiler."""

    formula_bytes: int | Unknown
    compiled_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerRow:
    """What one layer takes. ``layer`` is its path; empty for what belongs to no layer."""

    layer: str
    parameters: Compared
    gradients: Compared
    optimizer: Compared
    activations: Compared


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
    """Every buffer, by columns of one length; entry i of each column belongs to buffer i. The columns are those of `BufferRow`."""

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

    def __len__(self) -> int:
        return len(self.bytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Does it fit?

    Attributes:
        fits: unknown where the device's memory is.
        judged_bytes: what was held against ``usable_bytes``.
        headroom_bytes: usable minus judged, negative where it does not fit.
        rule: whose check it is, in a sentence.
        assumptions: what was taken for granted, one sentence each.
        limit_bytes: the budget asked for with ``--limit``; None where none was.
    """

    fits: bool | Unknown
    judged_bytes: int
    usable_bytes: int | Unknown
    headroom_bytes: int | Unknown
    rule: str
    assumptions: tuple[str, ...] = ()
    limit_bytes: int | None = None

    def __post_init__(self) -> None:
        expected = (
            self.usable_bytes if isinstance(self.usable_bytes, Unknown) else self.usable_bytes - self.judged_bytes
        )
        if isinstance(expected, int) and expected != self.headroom_bytes:
            raise InvariantError(f"the headroom is {self.headroom_bytes} B, but usable minus judged is {expected} B.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """A real run. ``what`` says which counter was read; ``error_percent`` is that of ``required_bytes`` against it."""

    bytes: int
    what: str
    error_percent: float | Unknown


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Report:
    """How much memory one program needs on one device, and where every byte goes. Sizes are for one device.

    Attributes:
        xla: the compiler's own numbers, as JAX reports them.
        live_peak_bytes: the most that is live at any moment, in main memory, from the replayed heap trace.
        reserved_bytes: what the runtime must allocate.
        hidden: memory that the compiler cannot see.
        required_bytes: the headline: reserved plus hidden where that is known.
        required_is_lower_bound: hidden is not known, so the need is at least ``required_bytes``.
        roles: the same bytes by what they are for.
        ledger: the same bytes against the formula, row by row.
        unexplained_bytes: the sum over the rows of what difference and items disagree by, each in absolute value;
            unknown where a row has no formula.
        estimates: formulas beside the compiler; jaxmem's own first.
        layers: per layer path.
        peak_buffers: what is live at the peak, largest first.
        buffers: every buffer.
        verdict: does it fit?
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
    roles: RoleBytes
    ledger: tuple[LedgerRow, ...]
    unexplained_bytes: int | Unknown
    estimates: tuple[Estimate, ...] = ()
    layers: tuple[LayerRow, ...] = ()
    peak_buffers: tuple[BufferRow, ...] = ()
    buffers: BufferTable = BufferTable()
    verdict: Verdict
    measured: Measured | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
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

    def __repr__(self) -> str:
        from jaxmem.report import as_text  # the renderer is needed only when somebody looks

        return as_text(self)

    def save(self, path: str | Path, *, force: bool = False) -> None:
        """Write the report to a file that `jaxmem.load` and ``jaxmem report`` read.

        Args:
            force: replace an existing file.

        Raises:
            UsageError: the file exists, or its folder does not.
            EnvironmentFailure: the disk is full or the folder not writable.
        """
        Reports(reports=(self,)).save(path, force=force)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reports:
    """The reports of one request: one per program, mode, device and batch size."""

    schema: Literal["jaxmem.report/1"] = REPORT_SCHEMA
    reports: tuple[Report, ...]

    def save(self, path: str | Path, *, force: bool = False) -> None:
        """Write the reports to one file; see `Report.save`."""
        from jaxmem.result_json import save

        save(self, path, force=force)


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
    notes: tuple[str, ...] = field(default=())

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
        from jaxmem.result_json import save

        save(self, path, force=force)
