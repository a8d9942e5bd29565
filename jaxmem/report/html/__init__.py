"""Results as one HTML file: reports with charts and tables to search, everything else as its page.

`elements` lowers any document; `report_article` arranges that of a report; `columns` is the data of its charts; the styles
and scripts are in ``assets``. `page` puts it all into one file, `escape` is the only place where text becomes HTML.
"""

from collections.abc import Sequence

from jaxmem.report.document import Document, Heading
from jaxmem.report.html.columns import charts_of
from jaxmem.report.html.elements import document_html
from jaxmem.report.html.libraries import bokeh_scripts
from jaxmem.report.html.notebook import framed
from jaxmem.report.html.page import html_page
from jaxmem.report.html.report_article import report_article, report_button
from jaxmem.report.phrases import title
from jaxmem.result import Report

__all__ = ["documents_as_html", "framed", "reports_as_html"]


def reports_as_html(reports: Sequence[Report]) -> str:
    """Reports in one page, one of them shown at a time.

    Raises:
        EnvironmentFailure: the charting library is not installed.
    """
    if not reports:
        return documents_as_html((Document((Heading("No reports", 1),)),))
    first = title(reports[0].program, reports[0].device)
    more = f" and {len(reports) - 1} more" if len(reports) > 1 else ""
    buttons = "".join(report_button(report, number) for number, report in enumerate(reports))
    return html_page(
        f"{first}{more} · jaxmem",
        "".join(report_article(report, number) for number, report in enumerate(reports)),
        navigation=f'<nav class="reports" aria-label="Reports in this file">{buttons if more else ""}</nav>',
        data=charts_of(reports),
        libraries=bokeh_scripts(),
    )


def documents_as_html(documents: Sequence[Document]) -> str:
    """Pages one below the other, without a script but that of light and dark."""
    titles = [part.text for document in documents for part in document.parts[:1] if isinstance(part, Heading)]
    return html_page(
        " · ".join([*titles[:1], "jaxmem"]),
        "".join(f"<article>{document_html(document)}</article>" for document in documents),
    )
