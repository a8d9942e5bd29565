"""The formula alone: what the program should need, term by term, without a compile.

The textbook answers to the same question stand beside it. Ends with 1 where the estimate is above --limit.
"""

import argparse
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from jaxmem.cli import options as shared
from jaxmem.cli.analysis_protocol import AnalysisLoader
from jaxmem.cli.output import check_output, hand_over
from jaxmem.cli.progress import progress
from jaxmem.cli.request import Kind, kind_of, requested
from jaxmem.errors import UsageError

if TYPE_CHECKING:
    from jaxmem.result import EstimateReport


def add_options(parser: argparse.ArgumentParser) -> None:
    """What this command takes."""
    shared.add_program_options(parser)
    shared.add_cache_option(parser, "derive it even if this estimate of a zoo model was made before")
    parser.add_argument(
        "--limit", metavar="SIZE", type=shared.size, help="a budget, e.g. 2GiB: exit 1 where the estimate is above it"
    )
    group = shared.add_output_options(parser, file_help="write the answer to a file instead of stdout")
    shared.add_format_option(group)
    group.add_argument("--scaling", action="store_true", help="bytes = a + b·B around the batch size, term by term")
    group.add_argument("-v", "--verbose", action="store_true", help="every layer")


def run(options: argparse.Namespace, load_analysis: AnalysisLoader) -> int:
    """Estimate and print."""
    check_output(options)
    if kind_of(options.program) is Kind.REPORT:
        raise UsageError(f"{options.program} is a saved report. Print it with: jaxmem report {options.program}")
    analysis = load_analysis()
    reports = []
    for request in requested(options, analysis):
        with progress(request.label, quiet=options.quiet) as tell:
            report = analysis.estimate_target(request.target, progress=tell)
            if options.scaling:
                report = _with_scaling(
                    report, request.target, lambda target: analysis.estimate_target(target, progress=tell)
                )
            reports.append(report if options.limit is None else _with_limit(report, options.limit))
    from jaxmem.result import EstimateReports

    hand_over(EstimateReports(reports=tuple(reports)), options)
    return int(options.limit is not None and any(report.total_bytes > options.limit for report in reports))


def _with_limit(report: "EstimateReport", limit_bytes: int) -> "EstimateReport":
    """The report with a note on how far it is from the limit."""
    from jaxmem.units import format_bytes

    over = report.total_bytes - limit_bytes
    side = (
        f"over the limit of {format_bytes(limit_bytes)}"
        if over > 0
        else f"below the limit of {format_bytes(limit_bytes)}"
    )
    note = f"The estimate is {format_bytes(abs(over))} {side}; a formula is no upper bound, `jaxmem report` compiles."
    return replace(report, notes=(*report.notes, note))


def _with_scaling(
    report: "EstimateReport", target: Any, estimate: "Callable[[Any], EstimateReport]"
) -> "EstimateReport":
    """The report with the line through a quarter fewer and a quarter more examples."""
    from jaxmem.result import scaling_law

    batch_size = report.program.batch_size
    if not batch_size or target.text.lower().endswith(".jaxmem"):
        raise UsageError(
            f"--scaling needs a program that can be traced at other batch sizes; {target.text} has one of its own."
        )
    step = max(1, batch_size // 4)
    around = (max(1, batch_size - step), batch_size + step)
    lower, upper = (estimate(replace(target, batch_size=size)) for size in around)
    if (lower.program.batch_size, upper.program.batch_size) != around:
        raise UsageError(f"--scaling: {target.text} takes no batch size.")
    return replace(report, scaling=scaling_law(lower, report, upper))
