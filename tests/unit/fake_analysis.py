"""A stand-in for the analysis behind the command line: it compiles nothing, and remembers what it was asked."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jaxmem.lowering import ProgramFacts
from jaxmem.result import (
    Boundary,
    Comparison,
    ComparisonCell,
    DeviceFacts,
    EstimateReport,
    EstimateRow,
    Fit,
    Hidden,
    LedgerRow,
    Probe,
    Report,
    Verdict,
    Versions,
    XlaNumbers,
)
from jaxmem.roles import Role
from jaxmem.unknown import Unknown

REQUIRED = 3 * 2**30


@dataclass(frozen=True, slots=True, kw_only=True)
class FakeTarget:
    text: str
    mode: str | None
    batch_size: int | None
    device: str | None
    settings: tuple[tuple[str, str], ...]
    compiler_options: tuple[tuple[str, str], ...]
    use_cache: bool
    mesh: tuple[tuple[str, int], ...] = ()
    sharding: str | None = None
    gemm: str | None = None
    measure: bool = False
    memory_fraction: float | None = None


def a_report(target: FakeTarget, *, fits: bool = True) -> Report:
    usable = REQUIRED + 100 if fits else REQUIRED - 100
    return Report(
        program=ProgramFacts(name=target.text, mode=target.mode, batch_size=target.batch_size),
        device=DeviceFacts(name=target.device or "cpu", platform="cpu", memory_bytes=usable, usable_bytes=usable),
        versions=Versions(jaxmem="0", jax="0", jaxlib="0"),
        xla=XlaNumbers(
            argument_bytes=0,
            output_bytes=0,
            alias_bytes=0,
            temp_bytes=REQUIRED,
            generated_code_bytes=0,
            reported_peak_bytes=0,
        ),
        live_peak_bytes=REQUIRED,
        reserved_bytes=REQUIRED,
        hidden=Hidden(bytes=0, reason="no opaque fusions"),
        required_bytes=REQUIRED,
        required_is_lower_bound=False,
        roles={Role.TRANSIENT: REQUIRED},
        ledger=(LedgerRow(term="all", symbol="", formula_bytes=REQUIRED, compiled_bytes=REQUIRED),),
        unexplained_bytes=0,
        verdict=Verdict(
            fits=fits, judged_bytes=REQUIRED, usable_bytes=usable, headroom_bytes=usable - REQUIRED, rule="a rule"
        ),
    )


def a_cell(target: FakeTarget, failure: BaseException | None) -> ComparisonCell:
    size = REQUIRED if failure is None else Unknown("it failed")
    return ComparisonCell(
        program=target.text,
        mode=target.mode,
        batch_size=target.batch_size,
        device=target.device or "cpu",
        required_bytes=size,
        fits=size if isinstance(size, Unknown) else True,
        usable_bytes=size,
        headroom_bytes=size,
        formula_bytes=size,
        formula_error_percent=size,
        failure=None if failure is None else str(failure),
    )


def a_fit(target: FakeTarget, *, fits: bool) -> Fit:
    report = a_report(target)
    probe = Probe(batch_size=1, required_bytes=REQUIRED, judged_bytes=REQUIRED, fits=fits)
    return Fit(
        program=report.program,
        device=report.device,
        budget_bytes=REQUIRED,
        limit_bytes=None,
        resident_bytes=0,
        margin_bytes=0,
        rule="a rule",
        asked_batch=None,
        fits=fits,
        boundary=Boundary(
            largest_batch=1 if fits else None,
            next_batch=None if fits else 1,
            multiple_of=1,
            searched_to=1,
            compiles=1,
            monotone=True,
            proof=(probe,),
            answer="An answer.",
        ),
        advised_batch=None,
        advice=(),
        donation=(),
    )


@dataclass
class FakeAnalysis:
    """Remembers what it was asked, and answers or fails as told."""

    Target: Any = FakeTarget
    fits: bool = True
    failure: BaseException | None = None
    targets: list[FakeTarget] = field(default_factory=list)
    compare_options: dict[str, Any] = field(default_factory=dict)
    questions: list[dict[str, Any]] = field(default_factory=list)
    dumps: list[tuple[str, str | None, Path | None]] = field(default_factory=list)

    def _work(self, target: FakeTarget, progress: Callable[[str, float], None]) -> None:
        self.targets.append(target)
        progress("compiling", 0.0)
        progress("compiling", 1.0)
        progress("reading", 2.0)
        if self.failure is not None:
            raise self.failure

    def analyze_target(self, target: FakeTarget, *, progress: Callable[[str, float], None]) -> Report:
        self._work(target, progress)
        return a_report(target, fits=self.fits)

    def estimate_target(self, target: FakeTarget, *, progress: Callable[[str, float], None]) -> EstimateReport:
        self._work(target, progress)
        report = a_report(target)
        row = EstimateRow(term="all", symbol="w", formula="3 GiB", bytes=REQUIRED)
        return EstimateReport(program=report.program, device=report.device, rows=(row,), total_bytes=REQUIRED)

    def analyze_dump(
        self, path: str, *, device: str | None, roles: Path | None, memory_fraction: float | None = None
    ) -> Report:
        self.dumps.append((path, device, roles))
        if self.failure is not None:
            raise self.failure
        target = FakeTarget(
            text=path,
            mode=None,
            batch_size=None,
            device=device or "cpu",
            settings=(),
            compiler_options=(),
            use_cache=True,
        )
        return a_report(target, fits=self.fits)

    def capture_target(self, target: FakeTarget, *, progress: Callable[[str, float], None]) -> Any:
        self._work(target, progress)
        return target

    def Question(self, **options: Any) -> dict[str, Any]:
        return options

    def fit_target(
        self, target: FakeTarget, question: dict[str, Any], *, progress: Callable[[str, float], None]
    ) -> Fit:
        self._work(target, progress)
        self.questions.append(question)
        return a_fit(target, fits=self.fits)

    def compare_targets(self, targets: Sequence[FakeTarget], *, on_cell: Any, **options: Any) -> Comparison:
        self.targets += targets
        self.compare_options = options
        cells = tuple(a_cell(target, self.failure) for target in targets)
        for number, cell in enumerate(cells, start=1):
            on_cell(cell, number, len(cells))
        return Comparison(cells=cells)
