"""From result data to pages for people: data → a small document → a terminal, or Markdown.

`document` is the form in between, `pages` and its neighbours write it, `terminal` and `markdown` show it. Another form
of output is another renderer beside them; renderers do not know one another.
"""

from collections.abc import Iterable
from io import StringIO

from jaxmem.report.comparison_page import comparison_page
from jaxmem.report.diff_page import diff_page, diff_pages
from jaxmem.report.document import Document
from jaxmem.report.dump_folder_page import dump_folder_page
from jaxmem.report.estimate_page import estimate_page
from jaxmem.report.fit_page import fit_page
from jaxmem.report.out_of_memory_page import out_of_memory_page
from jaxmem.report.pages import brief_page, report_page
from jaxmem.report.together_page import together_page
from jaxmem.result import (
    Comparison,
    Diff,
    Diffs,
    DumpFolder,
    EstimateReport,
    EstimateReports,
    Fit,
    Fits,
    OutOfMemory,
    Report,
    Reports,
    Together,
)

Shown = (
    Report
    | Reports
    | EstimateReport
    | EstimateReports
    | Fit
    | Fits
    | Comparison
    | OutOfMemory
    | Together
    | Diff
    | Diffs
    | DumpFolder
)
"""What there is a page for."""


def pages_of(results: Shown, *, detail: bool = False) -> tuple[Document, ...]:
    """One document per report. ``detail`` leaves nothing out: every layer, every item of the ledger."""
    match results:
        case Report():
            return (report_page(results, detail=detail),)
        case EstimateReport():
            return (estimate_page(results, detail=detail),)
        case Fit():
            return (fit_page(results, detail=detail),)
        case Comparison():
            return (comparison_page(results, detail=detail),)
        case OutOfMemory():
            return (out_of_memory_page(results, detail=detail),)
        case DumpFolder():
            return (dump_folder_page(results),)
        case Together():
            return (together_page(results),)
        case Diff():
            return (diff_page(results, detail=detail),)
        case Diffs():
            return diff_pages(results, detail=detail)
    return tuple(page for report in results.reports for page in pages_of(report, detail=detail))


def as_text(results: Shown, *, detail: bool = False, width: int = 100) -> str:
    """The pages as plain text, without colour, at most ``width`` columns wide."""
    return _plain(pages_of(results, detail=detail), width)


def brief_text(report: Report, *, width: int = 100) -> str:
    """How much, of what, and the largest buffers: the page of a report for one who asked about its size only."""
    return _plain((brief_page(report),), width)


def _plain(documents: Iterable[Document], width: int) -> str:
    from jaxmem.report.terminal import print_document

    stream = StringIO()
    for document in documents:
        print_document(document, stream, width=width, colour=False)
    return stream.getvalue().rstrip("\n")


def as_markdown(results: Shown, *, detail: bool = False) -> str:
    """The pages as GitHub-flavoured Markdown, for an issue or a pull request."""
    from jaxmem.report.markdown import to_markdown

    return "\n\n".join(to_markdown(document) for document in pages_of(results, detail=detail))


def as_html(results: Shown) -> str:
    """The pages as one HTML file that needs nothing beside itself.

    Raises:
        EnvironmentFailure: a report has charts, and the library that draws them is not installed.
    """
    from jaxmem.report.html import documents_as_html, reports_as_html

    match results:
        case Report():
            return reports_as_html((results,))
        case Reports():
            return reports_as_html(results.reports)
    return documents_as_html(pages_of(results, detail=True))


def in_notebook(results: Shown) -> str:
    """The same page as an element for the output of a notebook's cell: tall where there are charts."""
    from jaxmem.report.html import framed

    return framed(as_html(results), height=900 if isinstance(results, Report | Reports) else 420)
