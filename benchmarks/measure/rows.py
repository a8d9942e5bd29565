"""What is kept of each program that was measured."""

from dataclasses import dataclass, replace
from statistics import median

from benchmarks.accuracy.programs import Question
from benchmarks.records import Setting
from jaxmem.result import Boundary
from jaxmem.unknown import Unknown

NOT_COMPILED = Unknown("the processor's compile is the only one")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One program, predicted and measured.

    Attributes:
        device: its name, or the kind of the card.
        formula_bytes: jaxmem's estimate, without a compile.
        required_bytes: of the compile without the device; of it ``hidden_bytes``, and ``argument_bytes`` handed in.
        statistics_bytes: argument + output − alias + temp, by the same compile.
        on_device_bytes: argument + output − alias + temp of the compile on the device.
        workspace_bytes: the largest that a library's call is given there (convolutions of cuDNN, products of cuBLAS).
        peak_bytes: measured, arguments included: one number for each fresh process.
        step_bytes: of it what the run took besides the arguments, likewise.
        driver_bytes: what the driver said the process held.
        out_of_memory: the device's words where it did not run; None where it did.
        date: of the last measurement.
    """

    network: str
    family: str
    mode: str
    batch_size: int
    device: str
    formula_bytes: int | Unknown
    required_bytes: int
    hidden_bytes: int | Unknown
    argument_bytes: int
    statistics_bytes: int
    on_device_bytes: int | Unknown = NOT_COMPILED
    workspace_bytes: int | Unknown = NOT_COMPILED
    peak_bytes: tuple[int, ...] = ()
    step_bytes: tuple[int, ...] = ()
    driver_bytes: int | Unknown = NOT_COMPILED
    out_of_memory: str | None = None
    date: str

    @property
    def question(self) -> Question:
        """What it answers."""
        return Question(network=self.network, mode=self.mode, batch_size=self.batch_size, device=self.device)

    @property
    def measured_bytes(self) -> int | None:
        """The median of the processes; None where none ran."""
        return round(median(self.peak_bytes)) if self.peak_bytes else None

    @property
    def growth_bytes(self) -> int | None:
        """The median of what the run took besides the arguments."""
        return round(median(self.step_bytes)) if self.step_bytes else None

    def error_percent(self, said: int | Unknown) -> float | None:
        """By how much a prediction is off, positive where it says more."""
        measured = self.measured_bytes
        return 100 * (said - measured) / measured if measured and isinstance(said, int) else None

    def with_process(self, peak_bytes: int, step_bytes: int, date: str) -> "Row":
        """The same, with the measurement of one more process."""
        return replace(
            self, peak_bytes=(*self.peak_bytes, peak_bytes), step_bytes=(*self.step_bytes, step_bytes), date=date
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """The largest batch of one program: predicted by compiles without the device, and found by running."""

    network: str
    mode: str
    predicted: Boundary
    found: Boundary


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """All rows of one device, and where they were measured."""

    setting: Setting
    device: str
    rows: tuple[Row, ...] = ()
    boundary: Ended | None = None

    def with_row(self, row: Row) -> "Results":
        """The same, with a row added or replaced."""
        others = [each for each in self.rows if each.question != row.question]
        return replace(self, rows=tuple(sorted((*others, row), key=lambda each: each.question)))
