"""Formula, compile and reconciliation: the main job."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from jaxmem.analysis.captures import Pending, finished, finished_beside_formula, prepare, prepare_target
from jaxmem.analysis.gemm import Gemm, gemm_options, with_gemm_range
from jaxmem.analysis.measuring import refuse_early, with_measurement
from jaxmem.analysis.targets import Progress, Target, program_from, silent
from jaxmem.assemble import read_report
from jaxmem.capture import Capture, CaptureCache
from jaxmem.devices import find_device
from jaxmem.lowering import AUTOTUNE_RESULTS_OPTION
from jaxmem.measure import refuse_elsewhere
from jaxmem.result import Report


def analyze_target(target: Target, *, progress: Progress = silent) -> Report:
    """Formula, compile and reconciliation of what a person named."""
    if target.measure:
        refuse_early(target)
    capture, formula = finished_beside_formula(prepare_target(target, progress=progress), progress)
    progress("reading what the compiler left", 0.0)
    report = read_report(capture, origin=target.text, formula=formula)
    if target.measure:
        report = with_measurement(report, capture, progress)
    if target.gemm != "both":
        return report
    return with_gemm_range(report, capture, lambda: capture_target(replace(target, gemm="cublas"), progress=progress))


def capture_target(target: Target, *, progress: Progress = silent) -> Capture:
    """The capture of what a person named: loaded, from the cache, or compiled now."""
    return finished(prepare_target(target, progress=progress), progress)


def analyze(
    fn: Any,
    /,
    *args: Any,
    device: str = "cpu",
    gemm: Gemm | None = None,
    autotune_results: str | Path | None = None,
    measure: bool = False,
    memory_fraction: float | None = None,
    use_cache: bool = True,
    progress: Progress = silent,
    **keywords: Any,
) -> Report:
    """How much memory a function needs on a device, and where every byte goes.

    Nothing is run or allocated, unless measuring is asked for.

    Args:
        fn: a function and its arguments as `Program` takes them (plain or jitted, NNX and Equinox modules, arrays or
            ``ShapeDtypeStruct``), or a finished `Program`.
        device: as in ``jaxmem devices``.
        gemm: on a GPU, the backend of matrix products: ``"triton"``, ``"cublas"``, or ``"both"`` for a range of required
            bytes, which takes a second compile; None leaves it to XLA.
        autotune_results: a file that XLA wrote on the card (``xla_gpu_dump_autotune_results_to``).
        measure: also run the program once, on the attached device, in a fresh process; its arguments are made there, of
            zeros and small constants.
        memory_fraction: what JAX's allocator takes of a GPU; None for its default, 0.75.
        use_cache: look for, and keep, the capture in the user's cache.
        progress: told what is being done.
        keywords: those of `Program` (``donate_argnums``, ``roles``, ``name``, ...), and the function's own.

    Raises:
        UsageError, InputError, EnvironmentFailure: see `jaxmem.errors`.
    """
    cache = CaptureCache() if use_cache else None
    program, target = program_from(fn, args, keywords), find_device(device, memory_fraction)
    if measure:
        refuse_elsewhere(target)
    if autotune_results is not None:
        program = program.with_compiler_options([(AUTOTUNE_RESULTS_OPTION, str(autotune_results))])

    def prepare_with(gemm: Gemm | None) -> Capture | Pending:
        added = gemm_options(gemm, target.platform, program.compiler_options)
        chosen = program.with_compiler_options(added) if added else program
        return prepare(chosen, target, cache, progress=progress)

    capture, formula = finished_beside_formula(prepare_with(gemm), progress)
    report = read_report(capture, formula=formula)
    if measure:
        report = with_measurement(report, capture, progress)
    if gemm != "both":
        return report
    return with_gemm_range(report, capture, lambda: finished(prepare_with("cublas"), progress))
