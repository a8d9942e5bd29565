"""The formula alone: traced, never compiled; found in the cache where a model of the zoo was asked for before."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxmem.analysis.requests import zoo_request
from jaxmem.analysis.targets import Progress, Target, is_zoo, program_from, program_of, silent
from jaxmem.assemble import device_facts, program_facts
from jaxmem.capture import Capture, CaptureCache, Host, this_host
from jaxmem.capture import load as load_capture
from jaxmem.devices import Device, find_device
from jaxmem.errors import InputError, UsageError
from jaxmem.layer_table import LayerTable
from jaxmem.lowering import ProgramFacts
from jaxmem.pause import collecting_paused
from jaxmem.program import Program
from jaxmem.quiet import start_jax
from jaxmem.result import DeviceFacts, EstimateReport, EstimateReports, from_json, to_json

if TYPE_CHECKING:
    from jaxmem.tracing import Traced


def estimate_target(target: Target, *, progress: Progress = silent) -> EstimateReport:
    """The formula of what a person named, without a compile."""
    return _shown(_estimate_target(target, progress))


def _shown(report: EstimateReport) -> EstimateReport:
    return replace(report, program=program_facts(report.program))


def _estimate_target(target: Target, progress: Progress) -> EstimateReport:
    if target.text.lower().endswith(".jaxmem"):
        return _estimate_capture(target)
    device = target.find_device()
    if not (is_zoo(target) and target.use_cache):
        return _estimate_now(target, device, progress)
    cache, request = CaptureCache(), zoo_request(target, device, "estimate")
    if (known := _known(cache, request)) is not None:
        progress("found in the cache", 0.0)
        # The memory of this machine today, not of the day of the estimate.
        return replace(known, device=device_facts(device, known.device.device_count))
    report = _estimate_now(target, device, progress)
    cache.put_estimate(request, to_json(EstimateReports(reports=(report,))))
    return report


def estimate(fn: Any, /, *args: Any, device: str = "cpu", **keywords: Any) -> EstimateReport:
    """The formula of a function alone: traced, never compiled. Arguments as in `analyze`."""
    return _shown(_estimate(program_from(fn, args, keywords), find_device(device)))


def _estimate_capture(target: Target) -> EstimateReport:
    capture = load_capture(Path(target.text))
    if capture.layer_table is None:
        raise UsageError(
            f"{target.text} was captured from a program that was already lowered: its operations are not known, so "
            "there is no formula. `jaxmem report` shows the compiled side."
        )
    return _derive(
        capture.layer_table,
        capture,
        capture.program,
        device_facts(capture.device, capture.device_count),
        host=capture.host,
    )


def _known(cache: CaptureCache, request: str) -> EstimateReport | None:
    text = cache.get_estimate(request)
    if text is None:
        return None
    try:
        found = from_json(text, "the cache")
    except InputError:
        return None
    return found.reports[0] if isinstance(found, EstimateReports) and found.reports else None


def _estimate_now(target: Target, device: Device, progress: Progress) -> EstimateReport:
    progress("tracing", 0.0)
    with collecting_paused():  # of what is imported and built, all stays
        start_jax()
        return _estimate(program_of(target), device)


@collecting_paused()
def _estimate(program: Program, device: Device) -> EstimateReport:
    from jaxmem.tracing import trace

    traced = trace(program, platforms=(device.platform,))
    if traced.layer_table is None:
        raise UsageError(f"There is no formula for this program: {traced.without_jaxpr}.")
    facts = device_facts(device, traced.device_count)
    return _derive(traced.layer_table, traced, traced.facts, facts, host=this_host())


def _derive(
    table: LayerTable, tables: "Capture | Traced", program: ProgramFacts, device: DeviceFacts, *, host: Host
) -> EstimateReport:
    from jaxmem.assemble import estimate_report, formula_on  # what is found in the cache has no use for the formula

    formula = formula_on(host, table, tables.arguments, tables.outputs, program, platform=device.platform)
    return estimate_report(formula, program, device)
