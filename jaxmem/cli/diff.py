"""What grew between two results, and who owns it: by role, layer and buffer, with the operation that makes it.

OLD and NEW are saved reports (*.json), captures (*.jaxmem) or XLA dumps, made with another batch size, commit, compiler or
device; or programs, which are compiled now, with the options below. Files with several reports are compared pair by pair: same
program, mode, device and batch size. Ends with 1 where a program needs more than before, by more than --tolerance.
"""

import argparse
from typing import TYPE_CHECKING

from jaxmem.cli import options as shared
from jaxmem.cli.analysis_protocol import Analysis, AnalysisLoader
from jaxmem.cli.output import check_output, hand_over
from jaxmem.cli.progress import progress
from jaxmem.cli.request import Kind, kind_of, refuse_options, requested
from jaxmem.errors import InputError

if TYPE_CHECKING:
    from jaxmem.result import Report

_SAVED = (Kind.REPORT, Kind.CAPTURE, Kind.DUMP)


def add_options(parser: argparse.ArgumentParser) -> None:
    """What this command takes."""
    parser.add_argument("old", metavar="OLD", help="*.json, *.jaxmem, *.hlo.pb, or a program")
    parser.add_argument("new", metavar="NEW", help="likewise")
    parser.add_argument(
        "--tolerance",
        metavar="SIZE|PERCENT",
        type=shared.tolerance,
        default="0",
        help="how much each program may grow, e.g. 64MiB or 1%% of the old size: exit 1 above it (default: 0)",
    )
    _add_variants(parser)
    group = shared.add_output_options(parser, file_help="write the answer to a file instead of stdout")
    shared.add_format_option(group)
    group.add_argument("-v", "--verbose", action="store_true", help="every layer and every buffer that changed")


def run(options: argparse.Namespace, load_analysis: AnalysisLoader) -> int:
    """Compare, print, and answer with the exit code."""
    check_output(options)
    kinds = {text: kind_of(text) for text in (options.old, options.new)}
    if all(kind in _SAVED for kind in kinds.values()):
        refuse_options(argparse.Namespace(**{**vars(options), "program": options.old}), kinds[options.old])
    sides = [_reports(text, kinds[text], options, load_analysis) for text in (options.old, options.new)]
    from jaxmem.difference import diff_reports

    diffs = diff_reports(*sides, old_name=options.old, new_name=options.new, tolerance=options.tolerance)
    if not diffs.reports:
        raise InputError(
            f"{options.old} and {options.new} have nothing in common to compare. The old has "
            f"{_listed(diffs.only_old)}; the new has {_listed(diffs.only_new)}."
        )
    hand_over(diffs, options)
    return int(any(diff.exceeded for diff in diffs.reports))


def _add_variants(parser: argparse.ArgumentParser) -> None:
    shared.add_variant_options(parser)
    shared.add_compiler_options(parser)


def _reports(text: str, kind: Kind, options: argparse.Namespace, load_analysis: AnalysisLoader) -> tuple["Report", ...]:
    """The reports of one side: loaded, or made now. Options that make variants are those of programs."""
    if kind is Kind.REPORT:
        from jaxmem.result import Reports, load

        loaded = load(text)
        if not isinstance(loaded, Reports):
            raise InputError(
                f"{text} holds {loaded.schema}, and a diff compares reports. Write one with: "
                "jaxmem report PROGRAM --format json -o FILE"
            )
        return loaded.reports
    chosen = argparse.Namespace(**{**vars(options), "program": text})
    if kind in _SAVED:
        plain = argparse.ArgumentParser()
        _add_variants(plain)
        vars(chosen).update(vars(plain.parse_args([])))
    analysis = load_analysis()
    if kind is Kind.DUMP:
        return (_of_dump(text, analysis),)
    reports = []
    for request in requested(chosen, analysis):
        with progress(request.label, quiet=options.quiet) as tell:
            reports.append(analysis.analyze_target(request.target, progress=tell))
    return tuple(reports)


def _of_dump(text: str, analysis: Analysis) -> "Report":
    from jaxmem.result import Report

    result = analysis.analyze_dump(text, device=None, roles=None)
    if not isinstance(result, Report):
        raise InputError(
            f"{text} holds several compiled modules, which `jaxmem report {text}` lists. Name one of them."
        )
    return result


def _listed(labels: tuple[str, ...]) -> str:
    return ", ".join(labels) or "no report"
