"""Formula, compile and reconciliation: what the program needs, and where every byte goes.

The program is compiled, never run, and nothing is allocated on a device, unless --measure asks for it. A saved report
is printed again. An XLA dump (*.hlo.pb, or the folder of xla_dump_to) of any framework is read as it is: --roles says what its
arguments are for, -d for which device it was compiled; of a folder with several modules, they are listed.
Ends with 1 where the program needs more than --limit, or does not fit a device named with -d.
"""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from jaxmem.cli import options as shared
from jaxmem.cli.analysis_protocol import AnalysisLoader
from jaxmem.cli.output import check_output, hand_over
from jaxmem.cli.progress import progress
from jaxmem.cli.request import Kind, kind_of, refuse_options, requested
from jaxmem.errors import UsageError

if TYPE_CHECKING:
    from jaxmem.result import Report, Reports
    from jaxmem.result.json_text import Results


def add_options(parser: argparse.ArgumentParser) -> None:
    """What this command takes."""
    shared.add_program_options(parser)
    shared.add_compiler_options(parser, gemm=("triton", "cublas", "both"))
    parser.add_argument("--limit", metavar="SIZE", type=shared.size, help="a budget, e.g. 2GiB: exit 1 above it")
    shared.add_usable_options(parser)
    parser.add_argument(
        "--roles", metavar="FILE", type=Path, help="what the arguments of a dump are for, in TOML or JSON"
    )
    parser.add_argument(
        "--measure",
        action="store_true",
        help="also run it once on the attached device, in a fresh process, and lay the measured peak beside the rest",
    )
    group = shared.add_output_options(parser, file_help="write the answer to a file instead of stdout")
    shared.add_format_option(group)
    group.add_argument("-v", "--verbose", action="store_true", help="every layer, every item of the ledger")


def run(options: argparse.Namespace, load_analysis: AnalysisLoader) -> int:
    """Analyse, print, and answer with the exit code."""
    check_output(options)
    results = _results(options, load_analysis)
    hand_over(results, options)
    from jaxmem.result import Reports

    return int(isinstance(results, Reports) and any(_answer_is_no(report, options) for report in results.reports))


def _results(options: argparse.Namespace, load_analysis: AnalysisLoader) -> "Results":
    kind = kind_of(options.program)
    if kind is Kind.REPORT and options.roles is None:
        refuse_options(options, Kind.REPORT)
        from jaxmem.result import Reports, load

        results = load(options.program)
        return (
            _judged(_at_fraction(results, options.memory_fraction), options)
            if isinstance(results, Reports)
            else results
        )
    if kind is Kind.DUMP:
        return _of_dump(options, load_analysis)
    if options.roles is not None:
        raise UsageError(f"--roles is for XLA dumps. {options.program} is {kind.value}, which knows its arguments.")
    analysis = load_analysis()
    reports = []
    for request in requested(options, analysis):
        with progress(request.label, quiet=options.quiet) as tell:
            reports.append(analysis.analyze_target(request.target, progress=tell))
    from jaxmem.result import Reports

    return _judged(Reports(reports=tuple(reports)), options)


def _of_dump(options: argparse.Namespace, load_analysis: AnalysisLoader) -> "Results":
    """A report for each device that is named, or one without a verdict; of a folder of several modules, their list."""
    refuse_options(options, Kind.DUMP)
    analysis = load_analysis()
    from jaxmem.result import Report, Reports

    if options.memory_fraction is not None and options.device is None:
        raise UsageError("--memory-fraction needs to know the card, and a dump does not tell. Name it: -d h100-sxm.")
    reports = []
    for device in options.device or (None,):
        result = analysis.analyze_dump(
            options.program, device=device, roles=options.roles, memory_fraction=options.memory_fraction
        )
        if not isinstance(result, Report):
            return result
        reports.append(result)
    return _judged(Reports(reports=tuple(reports)), options)


def _at_fraction(results: "Reports", fraction: float | None) -> "Reports":
    """Saved reports under --memory-fraction."""
    if fraction is None:
        return results
    from jaxmem.devices import refuse_bad_fraction
    from jaxmem.verdict import with_memory_fraction

    platforms = {report.device.platform for report in results.reports}
    refuse_bad_fraction(fraction, platforms, found="no report here is of one")
    return replace(results, reports=tuple(with_memory_fraction(report, fraction) for report in results.reports))


def _judged(results: "Reports", options: argparse.Namespace) -> "Reports":
    """The verdicts under --limit and --resident; a saved report keeps its own where they are not given."""
    from jaxmem.verdict import beside

    def judged(report: "Report") -> "Report":
        verdict = beside(report.verdict, options.resident)
        return replace(
            report, verdict=verdict if options.limit is None else replace(verdict, limit_bytes=options.limit)
        )

    return replace(results, reports=tuple(map(judged, results.reports)))


def _answer_is_no(report: "Report", options: argparse.Namespace) -> bool:
    over_limit = options.limit is not None and report.required_bytes > options.limit
    # Without -d nobody asked whether it fits this machine.
    return over_limit or (options.device is not None and report.verdict.fits is False)
