"""The small document that every page is made of, before anybody decides how it looks.

`jaxmem.report.pages` writes it, a renderer lowers it to a terminal or to a file. A cell keeps its number,
not its spelling: tests ask the document what it says, and a renderer chooses units, alignment and colour.
"""

from dataclasses import dataclass
from typing import Literal

Tone = Literal["plain", "strong", "quiet", "good", "bad", "warning"]
Align = Literal["left", "right"]

NO_BREAK = "\N{NO-BREAK SPACE}"
"""A space at which no line ends; shown as a plain one."""


@dataclass(frozen=True, slots=True)
class Text:
    """Words, with what they mean for the reader."""

    text: str
    tone: Tone = "plain"


@dataclass(frozen=True, slots=True)
class Size:
    """A number of bytes. ``at_least`` puts ≥ before it; ``exact`` adds the bytes themselves."""

    bytes: int
    tone: Tone = "plain"
    at_least: bool = False
    exact: bool = False


@dataclass(frozen=True, slots=True)
class Difference:
    """A signed number of bytes."""

    bytes: int
    tone: Tone = "plain"


@dataclass(frozen=True, slots=True)
class Percent:
    """A percentage; ``signed`` shows a plus."""

    value: float
    signed: bool = False


@dataclass(frozen=True, slots=True)
class Share:
    """A fraction of a whole, between 0 and 1, drawn as a bar."""

    fraction: float


@dataclass(frozen=True, slots=True)
class Missing:
    """A number that is not known. The table says so; the reason is said once, beside it."""

    reason: str


Cell = Text | Size | Difference | Percent | Share | Missing


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column of a table.

    Attributes:
        flexible: gives up width on a narrow page: ``wrap`` goes on in the next line, ``shorten`` leaves out the middle.
        optional: left out altogether where the page is too narrow even so, the last one first.
    """

    title: str
    align: Align = "right"
    flexible: Literal["", "wrap", "shorten"] = ""
    optional: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A row of a table.

    Attributes:
        notes: lines below the row, each over the whole width.
        total: the row sums up those above it.
        inset: the row details the one above it.
    """

    cells: tuple[Cell, ...]
    notes: tuple[str, ...] = ()
    total: bool = False
    inset: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Rows under columns; every row has a cell for each column."""

    columns: tuple[Column, ...]
    rows: tuple[Row, ...]

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row.cells) != len(self.columns):
                raise ValueError(
                    f"a row has {len(row.cells)} cells, the table {len(self.columns)} columns: {row.cells}"
                )


@dataclass(frozen=True, slots=True)
class Heading:
    """The title of a page (level 1) or of a section (level 2)."""

    text: str
    level: Literal[1, 2] = 2


@dataclass(frozen=True, slots=True)
class Paragraph:
    """Running text; the cells follow one another with a space between."""

    cells: tuple[Cell, ...]


Part = Heading | Paragraph | Table


@dataclass(frozen=True, slots=True)
class Document:
    """A page: its parts from top to bottom."""

    parts: tuple[Part, ...]

    def section(self, title: str) -> tuple[Part, ...]:
        """The parts under the heading ``title``, up to the next heading.

        Raises:
            KeyError: there is no such heading.
        """
        for start, part in enumerate(self.parts):
            if isinstance(part, Heading) and part.text == title:
                rest = self.parts[start + 1 :]
                end = next((index for index, later in enumerate(rest) if isinstance(later, Heading)), len(rest))
                return rest[:end]
        raise KeyError(title)
