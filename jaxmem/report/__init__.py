"""From result data to pages for people: data → a small document → a terminal.

`document` is the form in between, `pages` and its neighbours write it, `terminal` shows it. Another form
of output is another renderer beside `terminal`; renderers do not know one another.
"""

from io import StringIO

from jaxmem.report.document import Document
from jaxmem.report.estimate_page import estimate_page
from jaxmem.report.pages import report_page
from jaxmem.result import EstimateReport, EstimateReports, Report, Reports


def pages_of(
    results: Report | Reports | EstimateReport | EstimateReports, *, detail: bool = False
) -> tuple[Document, ...]:
    """One document per report. ``detail`` leaves nothing out: every layer, every item of the ledger."""
    reports = results.reports if isinstance(results, Reports | EstimateReports) else (results,)
    return tuple(
        report_page(report, detail=detail) if isinstance(report, Report) else estimate_page(report, detail=detail)
        for report in reports
    )


def as_text(
    results: Report | Reports | EstimateReport | EstimateReports, *, detail: bool = False, width: int = 100
) -> str:
    """The pages as plain text, without colour, at most ``width`` columns wide."""
    from jaxmem.report.terminal import print_document

    stream = StringIO()
    for document in pages_of(results, detail=detail):
        print_document(document, stream, width=width, colour=False)
    return stream.getvalue().rstrip("\n")
