"""The ledger as a table: one line per term; with ``detail`` one per layer, and every item of each."""

from collections.abc import Iterable
from itertools import groupby

from jaxmem.report.document import (
    NO_BREAK,
    Cell,
    Column,
    Difference,
    Heading,
    Missing,
    Paragraph,
    Part,
    Row,
    Size,
    Table,
    Text,
)
from jaxmem.result import EvidenceValue, LedgerItem, LedgerRow, Report
from jaxmem.units import format_difference
from jaxmem.unknown import Unknown

_COLUMNS = (
    Column(title="term", align="left", flexible="wrap"),
    Column(title="symbol", align="left", flexible="wrap"),
    Column(title="formula"),
    Column(title="compiled"),
    Column(title="difference"),
    Column(title="unexplained"),
)


def ledger_section(report: Report, *, detail: bool) -> list[Part]:
    """Formula against compiler. Rows of one term that differ only in their layer are one line, unless ``detail``."""
    rows: list[Row] = []
    for term, group in groupby(report.ledger, key=lambda row: row.term):
        members = tuple(group)
        if detail:
            rows += [
                row for member in members for row in (_line(member, with_reason=True), *map(_item_line, member.items))
            ]
        else:
            rows.append(_line(members[0], with_reason=True) if len(members) == 1 else _group_line(term, members))
    rows.append(
        _cells(
            "total",
            "",
            _sum(row.formula_bytes for row in report.ledger),
            report.required_bytes,
            _sum(row.difference_bytes for row in report.ledger),
            report.unexplained_bytes,
            total=True,
        )
    )
    unknown = report.unexplained_bytes
    reason = [Paragraph((Text(f"Unknown: {unknown.reason}.", "quiet"),))] if isinstance(unknown, Unknown) else []
    return [Heading("Formula against compiler"), Table(columns=_COLUMNS, rows=tuple(rows)), *reason]


def _line(row: LedgerRow, *, with_reason: bool) -> Row:
    term = f"{row.term}  {row.layer}" if row.layer else row.term
    notes = (row.reason,) if with_reason and row.reason and row.difference_bytes != 0 else ()
    return _cells(
        term,
        row.symbol,
        row.formula_bytes,
        row.compiled_bytes,
        row.difference_bytes,
        row.unexplained_bytes,
        notes=notes,
    )


def _group_line(term: str, rows: tuple[LedgerRow, ...]) -> Row:
    symbols = dict.fromkeys(row.symbol for row in rows)
    layers = len({row.layer for row in rows})
    by_kind: dict[str, int] = {}
    for row in rows:
        for item in row.items:
            by_kind[item.kind] = by_kind.get(item.kind, 0) + item.bytes
    # A size is not torn apart at the end of a line.
    parts = [
        f"{kind.replace('_', ' ')} {format_difference(size).replace(' ', NO_BREAK)}"
        for kind, size in by_kind.items()
        if size
    ]
    return _cells(
        term,
        next(iter(symbols)) if len(symbols) == 1 else "",
        _sum(row.formula_bytes for row in rows),
        sum(row.compiled_bytes for row in rows),
        _sum(row.difference_bytes for row in rows),
        _sum(row.unexplained_bytes for row in rows),
        notes=(f"{layers} layers: " + " · ".join(parts),) if parts else (),
    )


def _item_line(item: LedgerItem) -> Row:
    evidence = ", ".join(f"{name} {_evidence(value)}" for name, value in item.evidence)
    return Row(
        cells=(
            Text(item.kind.replace("_", " "), "quiet"),
            Text(""),
            Text(""),
            Text(""),
            Difference(item.bytes, "quiet"),
            Text(""),
        ),
        notes=(evidence,) if evidence else (),
        inset=True,
    )


def _evidence(value: EvidenceValue) -> str:
    if not isinstance(value, tuple):
        return str(value)
    numbers = all(isinstance(part, int) for part in value)
    return ("–" if numbers and len(value) == 2 else " ").join(map(str, value))


def _cells(
    term: str,
    symbol: str,
    formula_bytes: int | Unknown,
    compiled_bytes: int,
    difference_bytes: int | Unknown,
    unexplained_bytes: int | Unknown,
    *,
    notes: tuple[str, ...] = (),
    total: bool = False,
) -> Row:
    unexplained: Cell
    if isinstance(unexplained_bytes, Unknown):
        unexplained = Missing(unexplained_bytes.reason)
    else:
        unexplained = Size(unexplained_bytes, "bad" if unexplained_bytes else "good" if total else "quiet")
    cells: tuple[Cell, ...] = (
        Text(term),
        Text(symbol, "quiet"),
        Missing(formula_bytes.reason) if isinstance(formula_bytes, Unknown) else Size(formula_bytes),
        Size(compiled_bytes),
        Missing(difference_bytes.reason) if isinstance(difference_bytes, Unknown) else Difference(difference_bytes),
        unexplained,
    )
    return Row(cells=cells, notes=notes, total=total)


def _sum(sizes: Iterable[int | Unknown]) -> int | Unknown:
    """The sum; where one is unknown, that."""
    total = 0
    for size in sizes:
        if isinstance(size, Unknown):
            return size
        total += size
    return total
