"""One table over programs × devices × batch sizes: required, fits, headroom, the formula's error.

Each cell is compiled in a process of its own and told on stderr as it is done; what fails is a cell that says why. Captures
are cached as they come, so that a comparison that was interrupted goes on where it was.
"""

import argparse
import sys
from typing import TYPE_CHECKING

from jaxmem.cli import options as shared
from jaxmem.cli.analysis_protocol import AnalysisLoader
from jaxmem.cli.output import check_output, hand_over
from jaxmem.cli.request import Kind, kind_of, requested
from jaxmem.errors import UsageError

if TYPE_CHECKING:
    from jaxmem.result import ComparisonCell


def add_options(parser: argparse.ArgumentParser) -> None:
    """What this command takes."""
    shared.add_program_options(parser, several=True)
    shared.add_compiler_options(parser)
    shared.add_usable_options(parser)
    group = parser.add_argument_group("the work")
    group.add_argument(
        "--boundary", action="store_true", help="the largest batch that fits as well, by further compiles"
    )
    group.add_argument(
        "--jobs", metavar="N", type=shared.positive_integer, help="compiles at once (default: half the processors)"
    )
    group.add_argument(
        "--timeout", metavar="SECONDS", type=shared.positive_number, help="for one compile (default: an hour)"
    )
    group = shared.add_output_options(parser, file_help="write the table to a file instead of stdout")
    shared.add_format_option(group)
    group.add_argument("-v", "--verbose", action="store_true", help="failures in full")


def run(options: argparse.Namespace, load_analysis: AnalysisLoader) -> int:
    """Compile every cell and print the table."""
    check_output(options)
    for program in options.program:
        if kind_of(program) is Kind.REPORT:
            raise UsageError(
                f"{program} is a saved report, and a table is made of programs and captures. "
                "Print it with: jaxmem report."
            )
    analysis = load_analysis()
    targets = [
        request.target
        for program in options.program
        for batch_size in options.batch_size or (None,)
        for request in requested(
            argparse.Namespace(**{**vars(options), "program": program, "batch_size": batch_size}), analysis
        )
    ]

    def tell(cell: "ComparisonCell", done: int, total: int) -> None:
        if not options.quiet:
            from jaxmem.report.spelling import visible

            print(f"jaxmem: {done} of {total}: {visible(_said(cell))}", file=sys.stderr, flush=True)

    timeout = {} if options.timeout is None else {"timeout": options.timeout}
    comparison = analysis.compare_targets(
        targets,
        jobs=options.jobs,
        resident_bytes=options.resident,
        boundary=options.boundary,
        on_cell=tell,
        **timeout,
    )
    hand_over(comparison, options)
    return 0


def _said(cell: "ComparisonCell") -> str:
    from jaxmem.units import format_bytes

    batch = None if cell.batch_size is None else f"batch {cell.batch_size}"
    name = " · ".join(word for word in (cell.program, cell.mode, batch, cell.device) if word)
    if cell.failure is not None:
        return f"{name}: failed: {cell.failure.splitlines()[0]}"
    assert isinstance(cell.required_bytes, int)
    outcome = {True: "fits", False: "does not fit"}.get(cell.fits is True, "") if isinstance(cell.fits, bool) else ""
    return f"{name}: {format_bytes(cell.required_bytes)}{', ' if outcome else ''}{outcome}"
