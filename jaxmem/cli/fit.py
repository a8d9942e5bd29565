"""Does it fit, what is the largest batch, and what would change that: every answer compiled, nothing extrapolated.

Searches for the largest batch that fits and the next one that does not, and compiles both. Then changes are tried:
donation, number formats, recomputation, optimizers, several devices; each is compiled at the batch asked about with -b,
else at the smallest that does not fit. Ends with 1 where the batch of -b, or without it any batch, does not fit.

A program of your own is a callable with the keyword batch_size that returns a jaxmem.Program.
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
    shared.add_compiler_options(parser)
    group = parser.add_argument_group("the search")
    group.add_argument(
        "--multiple-of",
        metavar="N",
        type=shared.positive_integer,
        default=1,
        help="try only multiples of N (default: 1, or the number of devices)",
    )
    group.add_argument("--max-batch", metavar="N", type=shared.positive_integer, help="do not look beyond")
    group.add_argument(
        "--limit", metavar="SIZE", type=shared.size, help="what the program may take (default: what the device has)"
    )
    shared.add_usable_options(group)
    group.add_argument(
        "--margin", metavar="SIZE", type=shared.size, default=0, help="what is to stay free (default: 0)"
    )
    group.add_argument(
        "--advice",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="try changes as well, each a compile (default: yes)",
    )
    output = shared.add_output_options(parser, file_help="write the answer to a file instead of stdout")
    shared.add_format_option(output)
    output.add_argument("-v", "--verbose", action="store_true", help="every array of the donation audit")


def run(options: argparse.Namespace, load_analysis: AnalysisLoader) -> int:
    """Search, print, and answer with the exit code."""
    check_output(options)
    kind = kind_of(options.program)
    if kind in (Kind.CAPTURE, Kind.REPORT):
        raise UsageError(
            f"{options.program} is {kind.value} of one batch size, and no other can be tried. "
            "Name the program that it was made from."
        )
    if kind is Kind.ZOO and options.mode is None:
        options.mode = "train"
    analysis = load_analysis()
    question = analysis.Question(
        multiple_of=options.multiple_of,
        max_batch=options.max_batch,
        limit_bytes=options.limit,
        resident_bytes=options.resident,
        margin_bytes=options.margin,
        advice=options.advice,
    )
    answers = []
    for request in requested(options, analysis, open_batch=True):
        with progress(request.label, quiet=options.quiet) as tell:
            answers.append(analysis.fit_target(request.target, question, progress=tell))
    from jaxmem.result import Fits

    hand_over(Fits(reports=tuple(answers)), options)
    return int(not all(answer.fits for answer in answers))
