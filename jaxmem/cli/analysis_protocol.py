"""What the command line asks of `jaxmem.analysis`, and nothing more."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol, cast

if TYPE_CHECKING:
    from pathlib import Path

    from jaxmem.capture import Capture
    from jaxmem.result import Comparison, DumpFolder, EstimateReport, Fit, Report

Progress = Callable[[str, float], None]
"""Told what is being done, and for how many seconds the work has run."""


class TargetType(Protocol):
    """Makes a target: one program, for one device.

    ``text`` is what the user wrote. ``mode``, ``batch_size`` and ``device`` are None where the target has its own, as a
    saved capture does. ``settings`` are the ``--set`` pairs and the options that stand for them. ``mesh`` has an
    (axis, devices) pair for each of its axes, and none on one device; ``sharding`` is what of a zoo model is divided over it.
    ``gemm`` is the backend of a GPU's matrix products, or ``both``; ``memory_fraction`` what JAX's allocator takes of a GPU,
    None for its default.
    """

    def __call__(
        self,
        *,
        text: str,
        mode: str | None,
        batch_size: int | None,
        device: str | None,
        settings: tuple[tuple[str, str], ...],
        compiler_options: tuple[tuple[str, str], ...],
        mesh: tuple[tuple[str, int], ...],
        sharding: str | None,
        gemm: str | None,
        use_cache: bool,
        measure: bool,
        memory_fraction: float | None,
    ) -> Any: ...


class QuestionType(Protocol):
    """Makes what ``fit`` asks about the programs of a target."""

    def __call__(
        self,
        *,
        multiple_of: int,
        max_batch: int | None,
        limit_bytes: int | None,
        resident_bytes: int,
        margin_bytes: int,
        advice: bool,
    ) -> Any: ...


class Analysis(Protocol):
    """The part of `jaxmem.analysis` that commands call."""

    @property
    def Target(self) -> TargetType: ...

    @property
    def Question(self) -> QuestionType: ...

    def fit_target(self, target: Any, question: Any, *, progress: Progress) -> "Fit": ...

    def analyze_target(self, target: Any, *, progress: Progress) -> "Report": ...

    def estimate_target(self, target: Any, *, progress: Progress) -> "EstimateReport": ...

    def analyze_dump(
        self, path: str, *, device: str | None, roles: "Path | None", memory_fraction: float | None = None
    ) -> "Report | DumpFolder": ...

    def capture_target(self, target: Any, *, progress: Progress) -> "Capture": ...

    def compare_targets(self, targets: Sequence[Any], **options: Any) -> "Comparison": ...


AnalysisLoader = Callable[[], Analysis]


def load_analysis() -> Analysis:
    """Import `jaxmem.analysis`: late, because even without JAX it costs more than asking for help may."""
    import importlib

    return cast(Analysis, importlib.import_module("jaxmem.analysis"))
