"""A document as GitHub-flavoured Markdown, for an issue or a pull request.

Long tables are folded. Every text goes through `_inert`, the one leaf that knows what Markdown, HTML and GitHub's own
additions make of it. One report without ``detail`` stays well below the 65,536 characters that GitHub takes in a comment.
"""

import re
from collections.abc import Iterable
from itertools import groupby

from jaxmem.report.document import Cell, Column, Document, Heading, Paragraph, Part, Row, Share, Table, Text
from jaxmem.report.spelling import shortened, spelled, visible

_UNFOLDED_ROWS = 16
_WIDEST_CELL = 160
_WIDEST_TEXT = 2000
_BREAK = "&#8203;"
"""A space of no width: in the page it is not seen, and what GitHub looks for (``@name``, ``#12``) is not there."""


def to_markdown(document: Document) -> str:
    """The document as Markdown text, without a newline at its end."""
    # Paragraphs that follow one another are lines of one.
    blocks = [
        _lines(list(parts)) if together else "\n\n".join(map(_block, parts))
        for together, parts in groupby(document.parts, key=lambda part: isinstance(part, Paragraph))
    ]
    return "\n\n".join(filter(None, blocks))


def _lines(parts: list[Part]) -> str:
    lines = [" ".join(filter(None, map(_toned, part.cells))) for part in parts if isinstance(part, Paragraph)]
    return "\\\n".join(filter(None, lines))


def _block(part: Part) -> str:
    match part:
        case Heading(text=text, level=level):
            return f"{'#' * (level + 1)} {_inert(shortened(text, _WIDEST_TEXT))}"
        case Table():
            return _table(part)
        case Paragraph():
            return _lines([part])


def _table(table: Table) -> str:
    # A column without a word in it is not shown.
    shown = [
        index
        for index, column in enumerate(table.columns)
        if column.title or any(spelled(row.cells[index]) for row in table.rows)
    ]
    columns = [table.columns[index] for index in shown]
    lines = [
        _line(_inert(column.title) for column in columns),
        _line("---:" if column.align == "right" else "---" for column in columns),
        *(_row(row, shown, columns) for row in table.rows),
    ]
    text = "\n".join(lines)
    if len(table.rows) <= _UNFOLDED_ROWS:
        return text
    return f"<details><summary>{len(table.rows)} rows</summary>\n\n{text}\n\n</details>"


def _row(row: Row, shown: list[int], columns: list[Column]) -> str:
    cells = [
        _table_cell(row.cells[index], column, total=row.total) for index, column in zip(shown, columns, strict=True)
    ]
    if row.inset and cells:
        cells[0] = f"&emsp;{cells[0]}"
    notes = "".join(f"<br><sub>{_inert(shortened(note, _WIDEST_TEXT))}</sub>" for note in row.notes)
    return _line([cells[0] + notes, *cells[1:]] if cells else [])


def _table_cell(cell: Cell, column: Column, *, total: bool) -> str:
    if isinstance(cell, Text) and column.flexible != "wrap":
        cell = Text(shortened(visible(cell.text), _WIDEST_CELL), cell.tone)
    return _toned(cell, strong=total)


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _toned(cell: Cell, *, strong: bool = False) -> str:
    text = _inert(shortened(spelled(cell), _WIDEST_TEXT))
    marked = strong or getattr(cell, "tone", "plain") in ("strong", "good", "bad", "warning")
    return f"**{text}**" if text and marked and not isinstance(cell, Share) else text


# --- the leaf --------------------------------------------------------------------------------------------------------

_HTML = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
_ACTING = re.compile(
    r"""
    [&<>]                                 # HTML
    | [\\`*\[\]~|!]                       # Markdown; a pipe ends a cell
    | _ (?! [A-Za-z0-9] ) | (?<! [A-Za-z0-9] ) _  # emphasis, but not within a word
    | ^ (?: [-=] (?= [-=\s] | $) | \+ (?= \s | $) | \d+ [.)] (?= \s | $) )  # a list, the line below a heading
    | \# \d? | (?<= \b GH ) - | @         # GitHub: issues and people
    | : (?= / | [\w+-]+ : )               # addresses, :emoji:
    | \b www (?= \. )
    | \$                                  # GitHub: mathematics
    """,
    re.VERBOSE | re.IGNORECASE,
)


def _inert(text: str) -> str:
    """The text as Markdown that shows exactly this text, on one line, in a paragraph as in a cell."""
    return _ACTING.sub(_escaped, visible(text).strip(" "))


def _escaped(found: re.Match[str]) -> str:
    text = found[0]
    match text[0]:
        case "&" | "<" | ">":
            return _HTML[text]
        case "@" | ":" | "w" | "W":
            return text + _BREAK
        case "#" if len(text) > 1:
            return f"#{_BREAK}{text[1:]}"
        case "-" if found.start():
            return text + _BREAK
        case "$":
            return "<span>$</span>"
        case first if first.isdigit():
            return f"{text[:-1]}\\{text[-1]}"
    return f"\\{text}"
