"""Handing over the answer: to stdout or to a file, as text or as JSON."""

import argparse
import sys
from typing import TYPE_CHECKING

from jaxmem.files import check_writable, write_whole

if TYPE_CHECKING:
    from jaxmem.result.json_text import Results

_FILE_WIDTH = 120


def check_output(options: argparse.Namespace) -> None:
    """Refuse a file that must not be written, before the work and not after it."""
    if options.output is not None:
        check_writable(options.output, force=options.force)


def chosen_format(options: argparse.Namespace) -> str:
    """The format asked for; without one, a file that is called .json gets JSON."""
    if options.format is not None:
        return options.format
    return "json" if options.output is not None and options.output.suffix.lower() == ".json" else "text"


def hand_over(results: "Results", options: argparse.Namespace) -> None:
    """Write the answer, whole."""
    if chosen_format(options) == "json":
        from jaxmem.result import to_json

        _write(to_json(results), options)
        return
    from jaxmem.report import as_text, pages_of
    from jaxmem.report.terminal import print_document

    if options.output is not None:
        _write(as_text(results, detail=options.verbose, width=_FILE_WIDTH) + "\n", options)
        return
    for document in pages_of(results, detail=options.verbose):
        print_document(document, sys.stdout)


def _write(text: str, options: argparse.Namespace) -> None:
    if options.output is None:
        sys.stdout.write(text)
    else:
        write_whole(options.output, text, force=options.force)
