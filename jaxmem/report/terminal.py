"""A document in a terminal, a pipe or a log.

Colour follows the stream and ``NO_COLOR``. Without a terminal the page is plain text of 80 columns, or ``COLUMNS``.
Nothing is wider than the page, so no terminal breaks a line of a table.
"""

import errno
from typing import IO

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text as StyledText

from jaxmem.report.document import (
    NO_BREAK,
    Cell,
    Column,
    Difference,
    Document,
    Heading,
    Missing,
    Paragraph,
    Percent,
    Share,
    Size,
    Table,
    Text,
    Tone,
)
from jaxmem.report.spelling import PARTIAL_BLOCKS, shortened, spelled, visible

_WIDEST = 120
"""Lines longer than this are hard to follow, however wide the terminal is."""
_NARROWEST = 60
_GAP = "  "
_LEAST_WIDTH = 12
"""Below this a path or an instruction's name tells nothing."""

_WIDEST_RIGID = 40
"""No number and no word of ours is as wide: it is a name where none was expected, and gives way like others."""
_LONGEST_WORD, _LONGEST_TEXT = 200, 1000
"""Nobody reads more of one name, or of one sentence: the middle is left out."""

_STYLES: dict[Tone, str] = {
    "plain": "",
    "strong": "bold",
    "quiet": "dim",
    "good": "green",
    "bad": "bold red",
    "warning": "yellow",
}

_ASCII = str.maketrans(
    {"≥": ">=", "·": "*", "×": "x", "−": "-", "–": "-", "→": "->", "Σ": "sum ", "…": "~", "█": "#", "─": "-", "²": "^2"}
    | dict.fromkeys(PARTIAL_BLOCKS[1:], "")
)
"""For streams that cannot carry Unicode."""


class _Console(Console):
    def on_broken_pipe(self) -> None:
        # rich would end the process with 1; here whoever called decides.
        raise BrokenPipeError(errno.EPIPE, "nobody reads the output any more")


def print_document(
    document: Document, stream: IO[str], *, width: int | None = None, colour: bool | None = None
) -> None:
    """Write a document to a stream.

    Args:
        width: columns; by default the terminal's, or ``COLUMNS``, or 80.
        colour: by default as the stream can and ``NO_COLOR`` allows.
    """
    console = _Console(
        file=stream,
        width=width,
        highlight=False,
        markup=False,
        emoji=False,
        soft_wrap=True,
        no_color=None if colour is None else not colour,
        force_terminal=colour,
        force_jupyter=False,
    )
    page_width = max(_NARROWEST, min(console.width, _WIDEST))
    ascii_only = not _carries_unicode(stream)
    for line in _lines(document, page_width):
        line.rstrip()
        line.plain = line.plain.replace(NO_BREAK, " ")
        if ascii_only:
            line = StyledText(line.plain.translate(_ASCII).encode("ascii", "replace").decode("ascii"))
        console.print(line, soft_wrap=True)


def _carries_unicode(stream: IO[str]) -> bool:
    encoding = getattr(stream, "encoding", None)
    if encoding is None:
        return True
    try:
        "≥·×Σ█".encode(encoding)
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def _lines(document: Document, width: int) -> list[StyledText]:
    """The page as lines, none wider than ``width``."""
    lines: list[StyledText] = []
    for index, part in enumerate(document.parts):
        previous = document.parts[index - 1] if index else None
        if previous is not None and not isinstance(previous, Heading) and not _both_paragraphs(previous, part):
            lines.append(StyledText())
        match part:
            case Heading(text=text, level=level):
                lines += _wrapped(StyledText(_readable(visible(text)), "bold" if level == 2 else "bold cyan"), width)
            case Paragraph(cells=cells):
                lines += _wrapped(StyledText(" ").join(_styled(cell) for cell in cells), width, hanging="  ")
            case Table():
                lines += _table_lines(part, width)
    return [*lines, StyledText()]


def _both_paragraphs(first: object, second: object) -> bool:
    return isinstance(first, Paragraph) and isinstance(second, Paragraph)


def _styled(cell: Cell) -> StyledText:
    match cell:
        case Share():
            style = "cyan"
        case Missing():
            style = "dim"
        case Percent():
            style = ""
        case Text() | Size() | Difference():
            style = _STYLES[cell.tone]
    return StyledText(_readable(spelled(cell)), style)


def _readable(text: str) -> str:
    return shortened(_short_words(text), _LONGEST_TEXT)


def _short_words(text: str) -> str:
    if len(text) <= _LONGEST_WORD:
        return text
    return " ".join(shortened(word, _LONGEST_WORD) for word in text.split(" "))


# --- tables ----------------------------------------------------------------------------------------------------------


def _table_lines(table: Table, width: int) -> list[StyledText]:
    styled = [[_styled(cell) for cell in row.cells] for row in table.rows]
    for row, cells in zip(table.rows, styled, strict=True):
        if row.inset:
            cells[0] = StyledText("  ") + cells[0]
    shown, widths = _layout(table.columns, styled, width)
    columns = [table.columns[index] for index in shown]
    lines: list[StyledText] = []
    if any(column.title for column in columns):
        lines = _row_lines([StyledText(column.title, "dim") for column in columns], columns, widths)
    for row, cells in zip(table.rows, styled, strict=True):
        cells = [cells[index] for index in shown]
        if row.total:
            lines.append(StyledText("─" * (sum(widths) + len(_GAP) * (len(widths) - 1)), "dim"))
            for cell in cells:
                cell.stylize("bold")
        lines += _row_lines(cells, columns, widths)
        for note in row.notes:
            lines += _wrapped(StyledText(_short_words(visible(note)), "dim"), width, first="    ", hanging="    ")
    return lines


def _layout(
    columns: tuple[Column, ...], rows: list[list[StyledText]], width: int
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Which columns are shown, by index, and how wide each is."""
    natural = [
        max([cell_len(column.title), *(row[index].cell_len for row in rows)]) for index, column in enumerate(columns)
    ]
    # A column without a word in it is not shown.
    shown = [index for index in range(len(columns)) if natural[index]]
    while True:
        widths = {index: natural[index] for index in shown}
        least = {index: min(natural[index], max(_LEAST_WIDTH, cell_len(columns[index].title))) for index in shown}
        flexible = [
            index
            for index in shown
            if columns[index].flexible or (natural[index] > _WIDEST_RIGID and not columns[index].optional)
        ]
        excess = sum(widths.values()) + len(_GAP) * (len(shown) - 1) - width
        while excess > 0 and any(widths[index] > least[index] for index in flexible):
            # The widest gives way first, so that all end up alike.
            widths[max(flexible, key=lambda index: widths[index] - least[index])] -= 1
            excess -= 1
        optional = [index for index in shown if columns[index].optional]
        if excess <= 0 or not optional:
            return tuple(shown), tuple(widths.values())
        shown.remove(optional[-1])


def _row_lines(cells: list[StyledText], columns: list[Column], widths: tuple[int, ...]) -> list[StyledText]:
    stacks = [
        _fitted(cell, column, column_width) for cell, column, column_width in zip(cells, columns, widths, strict=True)
    ]
    lines = []
    for level in range(max(map(len, stacks), default=0)):
        line = StyledText()
        for index, (stack, column, column_width) in enumerate(zip(stacks, columns, widths, strict=True)):
            cell = stack[level] if level < len(stack) else StyledText()
            padding = " " * (column_width - cell.cell_len)
            line += StyledText(_GAP if index else "")
            line += StyledText(padding) + cell if column.align == "right" else cell + StyledText(padding)
        lines.append(line)
    return lines


def _fitted(cell: StyledText, column: Column, width: int) -> list[StyledText]:
    if cell.cell_len <= width:
        return [cell]
    if column.flexible == "wrap":
        indent = " " * (len(cell.plain) - len(cell.plain.lstrip()))
        return _wrapped(cell, width, hanging=indent)
    return [StyledText(_narrowed(cell.plain, width), cell.style)]


def _narrowed(text: str, width: int) -> str:
    """The middle left out; a character may be two columns wide, or none."""
    count = min(len(text), width)
    while cell_len(short := shortened(text, count)) > width and count > 1:
        count -= 1
    return short


def _end_of_line(text: str, start: int, room: int) -> int:
    """Up to where ``room`` columns hold the text from ``start`` on: one character at least."""
    end = min(start + room, len(text))
    if text.isascii():
        return end
    taken = 0
    for place in range(start, len(text)):
        taken += cell_len(text[place])
        if taken > room:
            return max(place, start + 1)
    return len(text)


def _wrapped(text: StyledText, width: int, *, first: str = "", hanging: str = "") -> list[StyledText]:
    """Break between words; a word longer than the line is broken inside."""
    lines: list[StyledText] = []
    prefix, start = first, 0
    plain = text.plain
    while start < len(plain):
        room = width - len(prefix)
        end = _end_of_line(plain, start, room)
        if end < len(plain):
            space = plain.rfind(" ", start + 1, end + 1)
            end = space if space > start and plain[start:space].strip() else end
        lines.append(StyledText(prefix) + text[start:end])
        start = end
        while start < len(plain) and plain[start] == " ":
            start += 1
        prefix = hanging
    return lines or [StyledText()]
