"""A document as HTML elements: headings, paragraphs, tables. Whatever has a page has HTML through this."""

from collections.abc import Iterable
from dataclasses import replace
from itertools import groupby

from jaxmem.report.document import (
    Cell,
    Column,
    Difference,
    Document,
    Heading,
    Missing,
    Paragraph,
    Part,
    Percent,
    Row,
    Share,
    Size,
    Table,
    Text,
)
from jaxmem.report.html.escape import inert, isolated
from jaxmem.report.spelling import spelled


def document_html(document: Document) -> str:
    """The whole document, top to bottom."""
    return parts_html(document.parts)


def parts_html(parts: Iterable[Part]) -> str:
    """Parts one below the other; paragraphs that follow one another are lines of one."""
    blocks = []
    for together, group in groupby(parts, key=lambda part: isinstance(part, Paragraph)):
        written = [part_html(part) for part in group]
        blocks.append(f'<div class="lines">{"".join(written)}</div>' if together else "".join(written))
    return "\n".join(blocks)


def part_html(part: Part) -> str:
    """One part."""
    match part:
        case Heading(text=text, level=level):
            return f"<h{level}>{isolated(text)}</h{level}>"
        case Paragraph(cells=cells):
            return f"<p>{' '.join(filter(None, map(cell_html, cells)))}</p>"
        case Table():
            return table_html(part)


def cell_html(cell: Cell) -> str:
    """What a cell says, marked with its tone; the exact number of bytes is the title of a size."""
    match cell:
        case Text(tone=tone):
            return _toned(isolated(spelled(cell)), tone)
        case Size(bytes=size, tone=tone, exact=exact):
            short = _toned(inert(spelled(replace(cell, exact=False))), tone, f"{size:,} B")
            return f"{short} <small>({size:,} B)</small>" if exact and abs(size) >= 1024 else short
        case Difference(bytes=size, tone=tone):
            return _toned(inert(spelled(cell)), tone, f"{size:+,} B")
        case Percent():
            return inert(spelled(cell))
        case Share(fraction=fraction):
            return f'<span class="share" style="--share:{max(0.0, min(1.0, fraction)):.5f}"></span>'
        case Missing(reason=reason):
            return f'<span class="missing" title="{inert(reason)}">unknown</span>'


def _toned(content: str, tone: str, title: str = "") -> str:
    if not content or (tone == "plain" and not title):
        return content
    named = "" if tone == "plain" else f' class="{tone}"'
    said = f' title="{title}"' if title else ""
    element = "strong" if tone == "strong" else "span"
    return f"<{element}{named}{said}>{content}</{element}>"


def table_html(table: Table, *, caption: str = "", row_classes: tuple[str, ...] = ()) -> str:
    """A table that scrolls by itself where the page is narrower.

    Args:
        caption: what the table is, for those who hear it.
        row_classes: a class for each row, in their order; rows beyond them have none.
    """
    # A column without a word in it is not shown.
    shown = [
        index
        for index, column in enumerate(table.columns)
        if column.title or any(spelled(row.cells[index]) for row in table.rows)
    ]
    head = "".join(_head(table.columns[index]) for index in shown)
    has_titles = any(table.columns[index].title for index in shown)
    body = "".join(
        _row(row, table.columns, shown, row_classes[number] if number < len(row_classes) else "")
        for number, row in enumerate(table.rows)
    )
    named = f"<caption>{inert(caption)}</caption>" if caption else ""
    heading = f"<thead><tr>{head}</tr></thead>" if has_titles else ""
    return (
        f'<div class="scrolls" tabindex="0" role="group" aria-label="{inert(caption or "table")}">'
        f"<table>{named}{heading}<tbody>{body}</tbody></table></div>"
    )


def _head(column: Column) -> str:
    return f'<th scope="col" class="{column.align}">{inert(column.title)}</th>'


def _row(row: Row, columns: tuple[Column, ...], shown: list[int], named: str) -> str:
    kinds = " ".join(
        filter(None, (named, "total" if row.total else "", "inset" if row.inset else "", "noted" if row.notes else ""))
    )
    cells = []
    for place, index in enumerate(shown):
        column = columns[index]
        look = f"{column.align} {column.flexible}".strip()
        element = 'th scope="row"' if place == 0 and column.align == "left" else "td"
        cells.append(f'<{element} class="{look}">{cell_html(row.cells[index])}</{element.split()[0]}>')
    notes = "".join(f'<tr class="note"><td colspan="{len(shown)}">{isolated(note)}</td></tr>' for note in row.notes)
    attribute = f' class="{kinds}"' if kinds else ""
    return f"<tr{attribute}>{''.join(cells)}</tr>{notes}"
