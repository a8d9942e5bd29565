"""The formula alone: what the program should need, term by term, without a compile.

The textbook answers to the same question stand beside it.
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
            reports.append(report)
    from jaxmem.result import EstimateReports

    hand_over(EstimateReports(reports=tuple(reports)), options)
    return 0


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
