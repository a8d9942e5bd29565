"""Handing over the answer: to stdout or to a file, in one of the forms of `FORMATS`."""

import argparse
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from jaxmem.files import check_writable, write_whole

if TYPE_CHECKING:
    from jaxmem.result.json_text import Results

_FILE_WIDTH = 120


def _text(results: "Results", detail: bool) -> str:
    from jaxmem.report import as_text

    return as_text(results, detail=detail, width=_FILE_WIDTH) + "\n"


def _json(results: "Results", detail: bool) -> str:
    from jaxmem.result import to_json

    return to_json(results)


def _markdown(results: "Results", detail: bool) -> str:
    from jaxmem.report import as_markdown

    return as_markdown(results, detail=detail) + "\n"


def _html(results: "Results", detail: bool) -> str:
    from jaxmem.report import as_html

    return as_html(results)  # it leaves nothing out in any case


FORMATS: dict[str, Callable[["Results", bool], str]] = {
    "text": _text,
    "json": _json,
    "markdown": _markdown,
    "html": _html,
}
"""The forms of an answer by name: from results, and whether nothing is left out, to text."""

SUFFIXES = {".json": "json", ".md": "markdown", ".html": "html"}
"""Which form a file of this name gets."""


def check_output(options: argparse.Namespace) -> None:
    """Refuse a file that must not be written, before the work and not after it."""
    if options.output is not None:
        check_writable(options.output, force=options.force)


def chosen_format(options: argparse.Namespace) -> str:
    """The format asked for; without one, what the file's name says."""
    if options.format is not None:
        return options.format
    return "text" if options.output is None else SUFFIXES.get(options.output.suffix.lower(), "text")


def hand_over(results: "Results", options: argparse.Namespace) -> None:
    """Write the answer, whole."""
    chosen = chosen_format(options)
    if options.output is not None:
        write_whole(options.output, FORMATS[chosen](results, options.verbose), force=options.force)
    elif chosen == "text":
        from jaxmem.report import pages_of
        from jaxmem.report.terminal import print_document

        for document in pages_of(results, detail=options.verbose):
            print_document(document, sys.stdout)
    else:
        sys.stdout.write(FORMATS[chosen](results, options.verbose))
