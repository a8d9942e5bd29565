"""What is kept of each comparison, and what many of them add up to."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from math import ceil
from statistics import median

from benchmarks.accuracy.programs import Question, side
from benchmarks.accuracy.rules import FOUR_TIMES, TORCHINFO, four_times_bytes, torchinfo_bytes
from benchmarks.records import Setting
from jaxmem.capture import Capture
from jaxmem.result import EstimateReport, Report
from jaxmem.roles import Role


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """The term in which formula and compiler differ most: compiled minus formula, and what the difference consists of."""

    term: str
    bytes: int
    items: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What one rule says of one program."""

    name: str
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One program on one device.

    Attributes:
        family: of the network.
        required_bytes: of the compile; ``is_lower_bound`` where a part of it is not known.
        answers: jaxmem's estimate first, then the other rules.
        unexplained_bytes: of the report; None where the estimate was made anew from a trace, without a capture beside it.
        unattributed_bytes: of the report.
        gap: where estimate and compiler differ most.
        compile_seconds: inside the compiler.
    """

    network: str
    family: str
    mode: str
    batch_size: int
    device: str
    required_bytes: int
    is_lower_bound: bool
    answers: tuple[Answer, ...]
    unexplained_bytes: int | None
    unattributed_bytes: int
    gap: Gap | None
    compile_seconds: float
    date: str

    @property
    def question(self) -> Question:
        """What it answers."""
        return Question(network=self.network, mode=self.mode, batch_size=self.batch_size, device=self.device)

    def error_percent(self, name: str) -> float | None:
        """By how much one answer is off, positive where it says more; None where that rule says nothing of this program."""
        said = next((answer.bytes for answer in self.answers if answer.name == name), None)
        return None if said is None else 100 * (said - self.required_bytes) / self.required_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A program that could not be compared, and why."""

    network: str
    mode: str
    batch_size: int
    device: str
    reason: str

    @property
    def question(self) -> Question:
        """What it does not answer."""
        return Question(network=self.network, mode=self.mode, batch_size=self.batch_size, device=self.device)


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """All rows of one device, and where they were made."""

    setting: Setting
    rows: tuple[Row, ...]
    failures: tuple[Failure, ...] = ()


def row_of(report: Report, capture: Capture, question: Question, family: str, date: str) -> Row:
    """The figures of one report."""
    unexplained = report.unexplained_bytes
    assert isinstance(unexplained, int)
    assert capture.layer_table is not None
    answers = [
        Answer(name=estimate.name, bytes=estimate.bytes)
        for estimate in report.estimates
        if isinstance(estimate.bytes, int)
    ]
    answers.append(Answer(name=TORCHINFO, bytes=torchinfo_bytes(capture.layer_table, capture.arguments)))
    answers.append(Answer(name=FOUR_TIMES, bytes=four_times_bytes(capture.arguments)))
    return Row(
        network=question.network,
        family=family,
        mode=question.mode,
        batch_size=question.batch_size,
        device=question.device,
        required_bytes=report.required_bytes,
        is_lower_bound=report.required_is_lower_bound,
        answers=tuple(answers),
        unexplained_bytes=unexplained,
        unattributed_bytes=report.roles[Role.UNATTRIBUTED],
        gap=_largest_gap(report),
        compile_seconds=round(capture.compile_seconds, 1),
        date=date,
    )


def estimated_again(row: Row, estimate: EstimateReport) -> Row:
    """A row with the formula's estimate made anew, of a program whose capture was not kept: its ledger is not known."""
    own = {each.name: each.bytes for each in estimate.estimates if isinstance(each.bytes, int)}
    answers = tuple(replace(answer, bytes=own.get(answer.name, answer.bytes)) for answer in row.answers)
    return replace(row, answers=answers, unexplained_bytes=None, gap=None)


def _largest_gap(report: Report) -> Gap | None:
    terms: dict[str, int] = {}
    items: dict[str, dict[str, int]] = {}
    for row in report.ledger:
        if isinstance(row.difference_bytes, int):
            terms[row.term] = terms.get(row.term, 0) + row.difference_bytes
            of_term = items.setdefault(row.term, {})
            for item in row.items:
                of_term[item.kind] = of_term.get(item.kind, 0) + item.bytes
    if not any(terms.values()):
        return None
    term = max(terms, key=lambda name: abs(terms[name]))
    largest = sorted(items[term].items(), key=lambda pair: -abs(pair[1]))[:3]
    return Gap(term=term, bytes=terms[term], items=tuple(largest))


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What many errors of one rule amount to, in percent of what the compile requires.

    Attributes:
        programs: how many.
        median, ninth_decile, largest: of the absolute error. The ninth decile is the smallest error that at least nine
            tenths of the programs do not exceed.
        too_low: share of the programs of which the rule says less than the compile requires.
    """

    programs: int
    median: float
    ninth_decile: float
    largest: float
    too_low: float


def summarize(rows: Iterable[Row], name: str) -> Summary | None:
    """The errors of one rule; None where it answers none of the programs."""
    errors = [error for row in rows if (error := row.error_percent(name)) is not None]
    if not errors:
        return None
    sizes = sorted(abs(error) for error in errors)
    return Summary(
        programs=len(errors),
        median=median(sizes),
        ninth_decile=sizes[ceil(0.9 * len(sizes)) - 1],
        largest=sizes[-1],
        too_low=100 * sum(error < 0 for error in errors) / len(errors),
    )


def on_side(rows: Sequence[Row], device: str, mode: str, chosen: str) -> tuple[Row, ...]:
    """The rows of one device, mode and side of the split (``development`` or ``held out``)."""
    return tuple(row for row in rows if row.device == device and row.mode == mode and side(row.family) == chosen)
