"""The formula alone: what the program should need, term by term, without a compile.

The textbook answers to the same question stand beside it.
"""

import argparse

from jaxmem.cli import options as shared
from jaxmem.cli.analysis_protocol import AnalysisLoader
from jaxmem.cli.output import check_output, hand_over
from jaxmem.cli.progress import progress
from jaxmem.cli.request import Kind, kind_of, requested
from jaxmem.errors import UsageError


def add_options(parser: argparse.ArgumentParser) -> None:
    """What this command takes."""
    shared.add_program_options(parser)
    group = shared.add_output_options(parser, file_help="write the answer to a file instead of stdout")
    shared.add_format_option(group)
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
            reports.append(analysis.estimate_target(request.target, progress=tell))
    from jaxmem.result import EstimateReports

    hand_over(EstimateReports(reports=tuple(reports)), options)
    return 0
