"""The page as it is printed: whole lines, whatever the width, the stream or its encoding."""

from io import BytesIO, StringIO, TextIOWrapper
from pathlib import Path

import pytest
from rich.cells import cell_len

from jaxmem.report import as_text, pages_of
from jaxmem.report.document import Column, Document, Missing, Paragraph, Percent, Row, Share, Size, Table, Text
from jaxmem.report.terminal import print_document
from jaxmem.result import EstimateReport, Report

GOLDEN = Path(__file__).parent / "golden"


def rendered(document: Document, width: int = 80) -> list[str]:
    stream = StringIO()
    print_document(document, stream, width=width, colour=False)
    return stream.getvalue().splitlines()


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("page", ["report", "report_detail", "estimate"])
def test_golden(page: str, width: int, report: Report, estimate_report: EstimateReport, update_golden: bool) -> None:
    results = estimate_report if page == "estimate" else report
    text = as_text(results, detail=page == "report_detail", width=width) + "\n"
    path = GOLDEN / f"{page}_{width}.txt"
    if update_golden:
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8"), "run pytest with --update-golden if the page is meant to change"


@pytest.mark.parametrize("width", range(60, 131, 7))
@pytest.mark.parametrize("detail", [False, True])
def test_no_line_is_wider_than_the_page(report: Report, width: int, detail: bool) -> None:
    lines = as_text(report, detail=detail, width=width).splitlines()
    # The ledger has four columns of numbers, which nothing can make narrower.
    assert max(cell_len(line) for line in lines) <= max(width, 79)
    assert not [line for line in lines if line != line.rstrip()]


def test_repr_is_the_page(report: Report, estimate_report: EstimateReport) -> None:
    assert repr(report) == as_text(report)
    assert repr(report).startswith("two_layers · training · batch 32 on cpu\n")
    assert "\x1b" not in repr(report)
    assert repr(estimate_report) == as_text(estimate_report)


def test_columns_align() -> None:
    columns = (Column(title="name", align="left"), Column(title="bytes"))
    rows = (
        Row(cells=(Text("a"), Size(10 * 2**20))),
        Row(cells=(Text("long"), Size(12))),
        Row(cells=(Text("b"), Missing("?"))),
    )
    assert rendered(Document((Table(columns=columns, rows=rows),))) == [
        "name      bytes",
        "a     10.00 MiB",
        "long       12 B",
        "b       unknown",
        "",
    ]


def test_a_narrow_page_shortens_the_middle_and_drops_optional_columns() -> None:
    columns = (
        Column(title="path", align="left", flexible="shorten"),
        Column(title="bytes"),
        Column(title="extra", align="left", optional=True),
    )
    rows = (Row(cells=(Text("encoder/" + "x" * 60 + "/kernel"), Size(1), Text("y" * 50))),)
    header, line, _ = rendered(Document((Table(columns=columns, rows=rows),)), 60)
    assert header.split() == ["path", "bytes"]
    assert line.startswith("encoder/xxx")
    assert line.endswith("xxx/kernel    1 B")
    assert len(line) == 60


def test_words_wrap_between_words() -> None:
    lines = rendered(Document((Paragraph((Text("word " * 30),)),)), 60)
    assert set(" ".join(lines).split()) == {"word"}
    assert max(map(len, lines)) <= 60


def test_a_word_longer_than_the_line_is_broken() -> None:
    lines = rendered(Document((Paragraph((Text("z" * 150),)),)), 60)
    assert sum(line.count("z") for line in lines) == 150
    assert max(map(len, lines)) <= 60


@pytest.mark.parametrize(
    ("fraction", "bar"), [(0.0, ""), (0.5, "█" * 10), (1.0, "█" * 20), (1 / 160, "▏"), (7.0, "█" * 20)]
)
def test_bars(fraction: float, bar: str) -> None:
    table = Table(columns=(Column(title="", align="left"),), rows=(Row(cells=(Share(fraction),)),))
    assert rendered(Document((table,)))[0] == bar


def test_percentages() -> None:
    assert (
        rendered(
            Document(
                (
                    Paragraph(
                        (Percent(-22.25, signed=True), Percent(7)),
                    ),
                )
            )
        )[0]
        == "-22.2 % 7.0 %"
    )


def test_a_stream_without_unicode_gets_plain_letters(report: Report) -> None:
    raw = BytesIO()
    stream = TextIOWrapper(raw, encoding="ascii")
    for document in pages_of(report, detail=True):
        print_document(document, stream)
    stream.flush()
    text = raw.getvalue().decode("ascii")
    assert "?" not in text
    assert "two_layers * training" in text
    assert "####" in text


def test_colour_only_when_asked(report: Report, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    (document,) = pages_of(report)
    coloured, piped = StringIO(), StringIO()
    monkeypatch.setenv("TERM", "xterm-256color")
    print_document(document, coloured, colour=True)
    print_document(document, piped)
    assert "\x1b[" in coloured.getvalue()
    assert "\x1b[" not in piped.getvalue()


def test_no_color_is_obeyed(report: Report, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.delenv("FORCE_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("NO_COLOR", "1")
    stream = Terminal()
    print_document(pages_of(report)[0], stream)
    # Colours are 30 to 37 and 90 to 97; bold and dim are no colours.
    assert "\x1b[36m" not in stream.getvalue()
    assert "\x1b[32m" not in stream.getvalue()
