"""What the pages say, asked of the document and not of its rendering."""

from dataclasses import replace

import pytest

from jaxmem.report import Document, pages_of
from jaxmem.report.document import (
    Cell,
    Column,
    Difference,
    Heading,
    Missing,
    Paragraph,
    Percent,
    Row,
    Size,
    Table,
    Text,
)
from jaxmem.report.estimate_page import estimate_page
from jaxmem.report.pages import report_page
from jaxmem.result import BufferTable, EstimateReport, Hidden, Report, Reports
from jaxmem.roles import Role
from jaxmem.unknown import Unknown


def table(document: Document, section: str) -> Table:
    (found,) = [part for part in document.section(section) if isinstance(part, Table)]
    return found


def row(found: Table, name: str) -> Row:
    (match,) = [row for row in found.rows if isinstance(row.cells[0], Text) and row.cells[0].text.startswith(name)]
    return match


def words(document: Document) -> str:
    return " ".join(
        cell.text
        for part in document.parts
        if isinstance(part, Paragraph)
        for cell in part.cells
        if isinstance(cell, Text)
    )


def cells_of(document: Document) -> list[Cell]:
    return [cell for part in document.parts if isinstance(part, Table) for each in part.rows for cell in each.cells] + [
        cell for part in document.parts if isinstance(part, Paragraph) for cell in part.cells
    ]


def test_the_headline(report: Report) -> None:
    document = report_page(report)
    assert document.parts[0] == Heading("two_layers · training · batch 32 on cpu", 1)
    assert Size(report.required_bytes, "strong", exact=True) in cells_of(document)
    assert Text("Fits:", "good") in cells_of(document)


def test_a_lower_bound_is_shown_as_one(report: Report) -> None:
    ledger = report.ledger[:-1]
    bound = replace(
        report,
        hidden=Hidden(bytes=None, reason="nobody knows"),
        required_bytes=report.reserved_bytes,
        required_is_lower_bound=True,
        roles={**report.roles, Role.HIDDEN: 0},
        ledger=ledger,
        verdict=replace(
            report.verdict,
            judged_bytes=report.reserved_bytes,
            headroom_bytes=20 * 2**30 - report.reserved_bytes,
        ),
    )
    document = report_page(bound)
    assert Size(report.reserved_bytes, "strong", at_least=True, exact=True) in cells_of(document)
    assert document.section("What the compiler cannot see")[0] == Paragraph(
        (Missing("nobody knows"), Text("Nobody knows.", "quiet"))
    )


def test_does_not_fit(report: Report) -> None:
    verdict = replace(report.verdict, fits=False, usable_bytes=100, headroom_bytes=100 - report.required_bytes)
    document = report_page(replace(report, verdict=verdict))
    assert Text("Does not fit:", "bad") in cells_of(document)
    assert Size(report.required_bytes - 100) in cells_of(document)


@pytest.mark.parametrize(
    ("limit", "said"), [(2**20, "over the limit of 1.00 MiB by 13.78 MiB"), (2**30, "within the limit")]
)
def test_the_limit(report: Report, limit: int, said: str) -> None:
    assert said in words(report_page(replace(report, verdict=replace(report.verdict, limit_bytes=limit))))


def test_roles_are_sorted_and_closed(report: Report) -> None:
    found = table(report_page(report), "Where the bytes go")
    sizes = [each.cells[1].bytes for each in found.rows if isinstance(each.cells[1], Size)]
    *parts, total = sizes
    assert parts == sorted(parts, reverse=True)
    assert sum(parts) == total == report.required_bytes
    assert len(parts) == sum(1 for size in report.roles.values() if size)


def test_the_ledger_is_one_line_a_term(report: Report) -> None:
    found = table(report_page(report), "Formula against compiler")
    assert [each.cells[0] for each in found.rows] == [
        Text(term) for term in ("parameters", "Adam moments", "saved activations", "workspace", "hidden", "total")
    ]
    saved = row(found, "saved activations")
    assert saved.cells[2:] == (Size(12_000_000), Size(11_960_024), Difference(-39_976), Size(0, "quiet"))
    assert saved.notes == ("2 layers: fused away -39.06\N{NO-BREAK SPACE}KiB · padding +24\N{NO-BREAK SPACE}B",)
    assert row(found, "workspace").notes == (report.ledger[4].reason,)
    assert row(found, "parameters").notes == ()
    total = row(found, "total")
    assert total.cells[3] == Size(report.required_bytes)
    assert total.cells[5] == Size(0, "good")


def test_detail_shows_every_row_and_item(report: Report) -> None:
    found = table(report_page(report, detail=True), "Formula against compiler")
    assert [each.cells[0] for each in found.rows if each.inset] == [
        Text(kind, "quiet") for kind in ("fused away", "padding", "workspace", "hidden in fusion")
    ]
    assert row(found, "saved activations  block1/conv1").notes == (report.ledger[2].reason,)
    assert row(found, "fused away").notes == ("formula relu mask of conv1, instruction fusion.7",)
    assert row(found, "padding").notes == ("buffer convolution.2, live 12–80",)


def test_what_is_unexplained_is_red(report: Report) -> None:
    ledger = (*report.ledger[:2], replace(report.ledger[2], items=()), *report.ledger[3:])
    document = report_page(replace(report, ledger=ledger, unexplained_bytes=40_000))
    found = table(document, "Formula against compiler")
    assert row(found, "saved activations").cells[5] == Size(40_000, "bad")
    assert row(found, "total").cells[5] == Size(40_000, "bad")


def test_a_bare_dump_says_why_there_is_no_formula(report: Report) -> None:
    why = Unknown("a bare dump has no program")
    ledger = tuple(replace(each, formula_bytes=why, items=()) for each in report.ledger)
    document = report_page(replace(report, ledger=ledger, unexplained_bytes=why))
    found = table(document, "Formula against compiler")
    assert row(found, "total").cells[2] == Missing("a bare dump has no program")
    assert "Unknown: a bare dump has no program." in words(document)


def test_estimates_stand_beside_required(report: Report) -> None:
    found = table(report_page(report), "Estimates")
    assert row(found, "textbook: 4w + B·ΣF").cells[2:] == (Size(12_048_000), Percent(-22.251, signed=True))
    assert row(found, "required, by the compiler").cells[2] == Size(report.required_bytes)


def test_the_sum_that_people_make_of_xla(report: Report) -> None:
    found = table(report_page(report), "The compiler's own numbers")
    assert row(found, "arguments + outputs").cells[1] == Size(report.reserved_bytes)
    assert "growth of the process" in words(report_page(report))


def test_what_xla_did_not_report(report: Report) -> None:
    xla = replace(report.xla, temp_bytes=Unknown("not reported by this backend"))
    document = report_page(replace(report, xla=xla))
    found = table(document, "The compiler's own numbers")
    assert row(found, "temporaries").cells[1] == Missing("not reported by this backend")
    assert not [each for each in found.rows if each.cells[0] == Text("arguments + outputs − aliased + temporaries")]
    assert "Unknown: not reported by this backend." in words(document)


def test_long_lists_show_the_largest(report: Report) -> None:
    buffers = tuple(replace(report.peak_buffers[0], bytes=size) for size in range(100, 140))
    long = replace(report, peak_buffers=buffers, buffers=BufferTable.from_rows(buffers))
    found = table(report_page(long), "Largest at the peak")
    assert [each.cells[0] for each in found.rows] == [Size(size) for size in range(130, 140)]
    assert "and 30 smaller buffers: -v shows them all" in words(report_page(long))
    assert len(table(report_page(long, detail=True), "Largest at the peak").rows) == 40


def test_the_estimate_page(estimate_report: EstimateReport) -> None:
    document = estimate_page(estimate_report)
    found = table(document, "The formula")
    assert row(found, "Adam moments").cells[1:] == (Text("2w + 4"), Text("2 × 12,000 B + 4 B"), Size(24_004))
    assert row(found, "total").cells[3] == Size(estimate_report.total_bytes)
    assert "nothing was compiled" in words(document)


def test_a_term_of_several_layers_is_one_line_of_the_estimate(estimate_report: EstimateReport) -> None:
    saved = estimate_report.rows[-1]
    halves = tuple(replace(saved, layer=layer, bytes=saved.bytes // 2) for layer in ("conv1", "conv2"))
    split = replace(estimate_report, rows=(*estimate_report.rows[:-1], *halves))
    short, long = (table(estimate_page(split, detail=detail), "The formula") for detail in (False, True))
    assert row(short, "saved activations").cells[2:] == (Text("2 layers", "quiet"), Size(saved.bytes))
    assert row(long, "saved activations  conv2").cells[2:] == (Text(saved.formula), Size(saved.bytes // 2))


def test_one_page_a_report(report: Report) -> None:
    assert len(pages_of(Reports(reports=(report, report)))) == 2


def test_a_table_refuses_a_row_of_another_length() -> None:
    with pytest.raises(ValueError, match="a row has 1 cells, the table 2 columns"):
        Table(columns=(Column(title="a"), Column(title="b")), rows=(Row(cells=(Text("x"),)),))


def test_a_section_that_is_not_there(report: Report) -> None:
    with pytest.raises(KeyError):
        report_page(report).section("Weather")
