"""The page of a comparison: one table."""

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
    Size,
    Table,
    Text,
)
from jaxmem.report.phrases import reasons
from jaxmem.result import Comparison, ComparisonCell
from jaxmem.unknown import Unknown

_COLUMNS = (
    Column(title="program", align="left", flexible="shorten"),
    Column(title="mode", align="left", optional=True),
    Column(title="batch"),
    Column(title="device", align="left"),
    Column(title="required"),
    Column(title="fits", align="left"),
    Column(title="headroom"),
    Column(title="formula off by"),
)
_LARGEST_BATCH = Column(title="largest batch")
"""Only where it was asked for."""


def comparison_page(comparison: Comparison, *, detail: bool = False) -> Document:
    """The page of a comparison: a row for each cell, a failure below its row. ``detail`` quotes failures whole."""
    columns = _COLUMNS
    if any(cell.largest_batch is not None for cell in comparison.cells):
        columns += (_LARGEST_BATCH,)
    failed = sum(cell.failure is not None for cell in comparison.cells)
    count = f"{len(comparison.cells)} cells" + (f", {failed} of them failed" if failed else "")
    parts: list[Part] = [
        Heading("Comparison", 1),
        Paragraph((Text(count, "warning" if failed else "quiet"),)),
        Table(columns=columns, rows=tuple(_row(cell, len(columns), detail) for cell in comparison.cells)),
        *reasons(
            value
            for cell in comparison.cells
            if cell.failure is None
            for value in (cell.fits, cell.headroom_bytes, cell.formula_error_percent, cell.largest_batch)
        ),
    ]
    return Document(tuple(parts))


def _row(cell: ComparisonCell, columns: int, detail: bool) -> Row:
    device = f"{cell.device} × {cell.device_count}" if cell.device_count > 1 else cell.device
    named: tuple[Cell, ...] = (
        Text(cell.program),
        Text(cell.mode or ""),
        Text("" if cell.batch_size is None else f"{cell.batch_size:,}"),
        Text(device),
    )
    if cell.failure is not None:
        lines = [line for line in cell.failure.splitlines() if line.strip()]
        # The first line says what failed, the last of a traceback why.
        shown = lines if detail else [*lines[:1], *lines[1:][-1:]]
        return Row(cells=(*named, Text("failed", "bad"), *(Text(""),) * (columns - len(named) - 1)), notes=tuple(shown))
    cells = (
        *named,
        Missing(cell.required_bytes.reason)
        if isinstance(cell.required_bytes, Unknown)
        else Size(cell.required_bytes, at_least=cell.required_is_lower_bound),
        _fits(cell.fits),
        Missing(cell.headroom_bytes.reason)
        if isinstance(cell.headroom_bytes, Unknown)
        else Difference(cell.headroom_bytes, "bad" if cell.headroom_bytes < 0 else "plain"),
        Missing(cell.formula_error_percent.reason)
        if isinstance(cell.formula_error_percent, Unknown)
        else Percent(cell.formula_error_percent, signed=True),
        _batch(cell.largest_batch),
    )
    return Row(cells=cells[:columns])


def _fits(fits: bool | Unknown) -> Cell:
    if isinstance(fits, Unknown):
        return Missing(fits.reason)
    return Text("yes", "good") if fits else Text("no", "bad")


def _batch(largest: int | Unknown | None) -> Cell:
    if isinstance(largest, Unknown):
        return Missing(largest.reason)
    return Text("" if largest is None else f"{largest:,}")
