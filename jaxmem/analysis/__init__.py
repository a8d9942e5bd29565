"""The only room that knows the order: wiring, no logic. Behind the Python API and the command line.

A program of the zoo whose capture is in the cache is reported without importing JAX; a user's program is traced again each
time, since what it imports may have changed, and finds its capture by what it lowers to.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from jaxmem.analysis.captures import finished, layer_table_of, prepare, prepare_target
from jaxmem.analysis.comparing import compare, compare_targets
from jaxmem.analysis.diffing import diff
from jaxmem.analysis.explaining import explain_oom
from jaxmem.analysis.gemm import Gemm, gemm_options, with_gemm_range
from jaxmem.analysis.measuring import refuse_early, with_measurement
from jaxmem.analysis.planning import Question, fit, fit_target
from jaxmem.analysis.targets import Progress, Target, program_of, silent
from jaxmem.analysis.together import analyze_together
from jaxmem.assemble import device_facts, estimate_report, list_dumps, read_dump_report, read_report
from jaxmem.capture import Capture, CaptureCache, this_host
from jaxmem.capture import load as load_capture
from jaxmem.devices import Device, find_device
from jaxmem.dump.files import Dump, modules_in
from jaxmem.dump.names import is_dump
from jaxmem.dump.roles import read_roles
from jaxmem.errors import UsageError
from jaxmem.formula import derive_formula
from jaxmem.lowering import AUTOTUNE_RESULTS_OPTION
from jaxmem.measure import refuse_elsewhere
from jaxmem.program import Program
from jaxmem.quiet import start_jax
from jaxmem.result import DumpFolder, EstimateReport, Report, Reports
from jaxmem.result import load as load_result

__all__ = [
    "Progress",
    "Question",
    "Target",
    "analyze",
    "analyze_dump",
    "analyze_target",
    "analyze_together",
    "capture_target",
    "compare",
    "compare_targets",
    "diff",
    "estimate",
    "estimate_target",
    "explain_oom",
    "fit",
    "fit_target",
    "load",
    "program_of",
]


def analyze_target(target: Target, *, progress: Progress = silent) -> Report:
    """Formula, compile and reconciliation of what a person named."""
    if target.measure:
        refuse_early(target)
    capture = capture_target(target, progress=progress)
    progress("reading what the compiler left", 0.0)
    report = read_report(capture, origin=target.text)
    if target.measure:
        report = with_measurement(report, capture, progress)
    if target.gemm != "both":
        return report
    return with_gemm_range(report, capture, lambda: capture_target(replace(target, gemm="cublas"), progress=progress))


def capture_target(target: Target, *, progress: Progress = silent) -> Capture:
    """The capture of what a person named: loaded, from the cache, or compiled now."""
    return finished(prepare_target(target, progress=progress), progress)


def estimate_target(target: Target, *, progress: Progress = silent) -> EstimateReport:
    """The formula of what a person named, without a compile."""
    if target.text.lower().endswith(".jaxmem"):
        capture = load_capture(Path(target.text))
        if capture.layer_table is None:
            raise UsageError(
                f"{target.text} was captured from a program that was already lowered: its operations are not known, so "
                "there is no formula. `jaxmem report` shows the compiled side."
            )
        formula = derive_formula(
            capture.layer_table,
            capture.arguments,
            capture.outputs,
            capture.program,
            platform=capture.device.platform,
            threads=capture.host.threads,
        )
        return estimate_report(formula, capture.program, device_facts(capture.device, capture.device_count))
    device = target.find_device()
    progress("tracing", 0.0)
    start_jax()
    return _estimate(program_of(target), device)


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
    program, target = _program(fn, args, keywords), find_device(device, memory_fraction)
    if measure:
        refuse_elsewhere(target)
    if autotune_results is not None:
        program = program.with_compiler_options([(AUTOTUNE_RESULTS_OPTION, str(autotune_results))])

    def capture_with(gemm: Gemm | None) -> Capture:
        added = gemm_options(gemm, target.platform, program.compiler_options)
        chosen = program.with_compiler_options(added) if added else program
        return finished(prepare(chosen, target, cache, progress=progress), progress)

    capture = capture_with(gemm)
    report = read_report(capture)
    if measure:
        report = with_measurement(report, capture, progress)
    return with_gemm_range(report, capture, lambda: capture_with("cublas")) if gemm == "both" else report


def estimate(fn: Any, /, *args: Any, device: str = "cpu", **keywords: Any) -> EstimateReport:
    """The formula of a function alone: traced, never compiled. Arguments as in `analyze`."""
    return _estimate(_program(fn, args, keywords), find_device(device))


def analyze_dump(
    path: str | Path,
    *,
    device: str | None = None,
    roles: str | Path | None = None,
    memory_fraction: float | None = None,
) -> Report | DumpFolder:
    """What an XLA dump says of a compiled program, whichever framework had it compiled; nothing is imported from any.

    Args:
        path: an ``*.hlo.pb`` or ``*.hlo.pb.gz``, or the folder that ``xla_dump_to`` named; one that has several compiled
            modules comes as their list.
        device: what it was compiled for, for the verdict; the dump does not tell.
        roles: a file that says what the arguments are for; see `jaxmem.dump.roles`.
        memory_fraction: what JAX's allocator takes of a GPU; None for its default, 0.75.

    Raises:
        InputError: there is no compiled module with a buffer assignment, it is damaged, or the file of roles is.
        UsageError: the device is of another platform than the compiler, or one device or file of roles is to serve several
            modules.
    """
    path, target = Path(path), None if device is None else find_device(device, memory_fraction)
    table = None if roles is None else read_roles(Path(roles))
    found = list(modules_in(path, None if target is None else target.platform))
    if len(found) > 1:
        if target is not None or table is not None:
            raise UsageError(
                f"{path} has {len(found)} compiled modules, and a device or a file of roles is for one. Name its file; "
                "without these the modules are listed."
            )
        return list_dumps(path, found)
    if not isinstance(dump := found[0], Dump):
        raise dump.error
    if target is not None and target.platform != dump.platform:
        raise UsageError(
            f"{dump.path} was written by the compiler for {dump.platform}, and {target.name} is of the platform "
            f"{target.platform}."
        )
    return read_dump_report(dump, target, table)


def load(path: str | Path) -> Report | Reports | Any:
    """A saved report (``.json``), capture (``.jaxmem``) or XLA dump as a report; several in one file come as `Reports`."""
    if is_dump(str(path)):
        return analyze_dump(path)
    if str(path).lower().endswith(".jaxmem"):
        return read_report(load_capture(Path(path)), origin=str(path))
    results = load_result(path)
    return results.reports[0] if isinstance(results, Reports) and len(results.reports) == 1 else results


def _program(fn: Any, args: tuple[Any, ...], keywords: Mapping[str, Any]) -> Program:
    if not isinstance(fn, Program):
        return Program(fn, *args, **keywords)
    if args or keywords:
        raise UsageError("A Program already has its arguments. Pass the Program alone, or the function with them.")
    return fn


def _estimate(program: Program, device: Device) -> EstimateReport:
    from jaxmem.tracing import trace

    traced = trace(program, platforms=(device.platform,))
    table = layer_table_of(traced)
    if table is None:
        raise UsageError(f"There is no formula for this program: {traced.without_jaxpr}.")
    formula = derive_formula(
        table,
        traced.arguments,
        traced.outputs,
        traced.facts,
        platform=device.platform,
        threads=this_host().threads,
    )
    return estimate_report(formula, traced.facts, device_facts(device, traced.device_count))
