"""Markdown as GitHub reads it: `cmarkgfm` is its own parser, and what it makes of a page must say what the page says."""

import html
import re
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from jaxmem.report import as_markdown, as_text
from jaxmem.report.document import Cell, Column, Document, Heading, Missing, Paragraph, Row, Size, Table, Text
from jaxmem.report.markdown import to_markdown
from jaxmem.report.spelling import visible
from jaxmem.result import EstimateReport, Report

GOLDEN = Path(__file__).parent / "golden"

HOSTILE = (
    "<script>alert(1)</script>",
    "<!-- x --> <![CDATA[ &amp; &#60;",
    "| a | b |\n| --- | --- |",
    "`code` ``two`` *bold* _em_ __strong__ ~~gone~~ [link](https://x.example) ![i](http://x.example/p.png)",
    "https://x.example www.example.com somebody@example.com ftp://x.example",
    "$x^2$ $$y$$ :smile: #12 GH-12 owner/repo#3 @someone @org/team",
    "# heading", "- item", "+ item", "1. item", "2) item", "> quote", "===", "---", "    code", "\\", "\\`", "a\\|b",
    "\u202eright to left\u202c \u2067isolated\u2069 \x1b[31mred\x07 \x00",
    "line\nline\r\nline\u2028line\ttab",
    "\ud800 half",
    "a_b _c_ d__e f_ _",
    "[x]: https://x.example",
    "[^1]",
)  # fmt: skip


@pytest.fixture(scope="module")
def github() -> ModuleType:
    return pytest.importorskip("cmarkgfm")


def shown(markdown: str, github: ModuleType) -> str:
    """The page that GitHub's parser makes of it, raw HTML let through as GitHub does before it sanitizes."""
    from cmarkgfm.cmark import Options

    return github.github_flavored_markdown_to_html(markdown, options=Options.CMARK_OPT_UNSAFE)


def cells(page: str, tag: str = "td") -> list[str]:
    """The text of each cell; a tag that stands in it stays, so that none goes unseen."""
    return [
        html.unescape(found.replace("<span>$</span>", "$"))
        for found in re.findall(rf"<{tag}[^>]*>(.*?)</{tag}>", page, re.S)
    ]


def one_cell(text: str) -> Document:
    columns = (Column(title="name", align="left", flexible="wrap"), Column(title="bytes"))
    return Document((Table(columns=columns, rows=(Row(cells=(Text(text), Size(12))),)),))


def said(text: str) -> str:
    """What a reader of the page is to see: one line, runs of spaces as one."""
    return re.sub(" +", " ", visible(text)).strip(" ")


def without_breaks(text: str) -> str:
    return re.sub(" +", " ", text.replace("\u200b", "")).strip(" ")


WORDS = st.text(
    st.one_of(st.sampled_from("`*_[]<>&|\\~!#@:$-+=./ \n1aGHw()"), st.characters(exclude_characters="\u200b")),
    max_size=40,
)


@given(WORDS)
@example("")
@example("x www.example.com/a_b")
def test_a_cell_shows_its_text_and_nothing_else(text: str) -> None:
    import cmarkgfm

    shown_cells = cells(shown(to_markdown(one_cell(text)), cmarkgfm))
    assert [without_breaks(cell) for cell in shown_cells] == [said(text), "12 B"]


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_is_inert(text: str, github: ModuleType) -> None:
    page = shown(
        to_markdown(Document((Heading(text), Paragraph((Text(text), Text("end"))), *one_cell(text).parts))), github
    )
    assert [without_breaks(cell) for cell in cells(page)] == [said(text), "12 B"]
    assert [without_breaks(cell) for cell in cells(page, "h3")] == [said(text)]
    assert [without_breaks(cell) for cell in cells(page, "p")] == [said(f"{text} end")]
    assert set(re.findall(r"</?(\w+)", page)) == {"h3", "p", "table", "thead", "tbody", "tr", "th", "td"} | (
        {"span"} if "$" in text else set()
    )
    # What GitHub itself looks for in the text of the finished page: people, issues, smileys.
    plain = html.unescape(re.sub("<[^>]*>", "", page))
    assert not re.search(r"@\w|#\d|GH-\d|:[\w+-]+:|[\u202a-\u202e\u2066-\u2069\x00-\x08\x1b]", plain)
    page.encode()


def test_names_are_readable_in_the_source() -> None:
    assert "| block1/conv_1 | 12 B |" in to_markdown(one_cell("block1/conv_1"))


def test_a_very_long_name_is_shortened() -> None:
    columns = (Column(title="name", align="left", flexible="shorten"),)
    name = "begin" + "x" * 10_000 + "end"
    text = to_markdown(Document((Heading(name, 1), Table(columns=columns, rows=(Row(cells=(Text(name),)),)))))
    heading, _, _, _, row = text.splitlines()
    assert heading.startswith("## beginxxx")
    assert len(heading) < 2100
    assert row.startswith("| beginxxx")
    assert row.endswith("xxxend |")
    assert len(row) < 170


def test_a_long_table_is_folded(github: ModuleType) -> None:
    def page(rows: int) -> str:
        table = Table(columns=(Column(title="n"),), rows=tuple(Row(cells=(Size(index),)) for index in range(rows)))
        return shown(to_markdown(Document((Heading("Layers"), table))), github)

    assert "<details>" not in page(16)
    assert "<details><summary>17 rows</summary>\n<table>" in page(17)
    assert page(17).rstrip().endswith("</table>\n</details>")


def test_rows_that_sum_up_notes_and_unknowns(github: ModuleType) -> None:
    rows = (
        Row(cells=(Text("a"), Size(2048, exact=True)), notes=("why | not", "and")),
        Row(cells=(Text("detail"), Missing("nobody said")), inset=True),
        Row(cells=(Text("all", "bad"), Size(2048, "strong", at_least=True)), total=True),
    )
    columns = (Column(title="term", align="left"), Column(title="bytes"))
    page = shown(to_markdown(Document((Table(columns=columns, rows=rows),))), github)
    assert cells(page) == [
        "a<br><sub>why | not</sub><br><sub>and</sub>",
        "2.00 KiB (2,048 B)",
        "\u2003detail",
        "unknown",
        "<strong>all</strong>",
        "<strong>≥ 2.00 KiB</strong>",
    ]


@pytest.mark.parametrize("tone", ["plain", "strong", "quiet", "good", "bad", "warning"])
def test_paragraphs_that_follow_one_another_are_lines_of_one(tone, github: ModuleType) -> None:
    cell: Cell = Text("Fits:", tone)
    page = shown(to_markdown(Document((Paragraph((cell, Size(1))), Paragraph((Text("next"),))))), github)
    first = "Fits:" if tone in ("plain", "quiet") else "<strong>Fits:</strong>"
    assert page == f"<p>{first} 1 B<br />\nnext</p>\n"


@pytest.mark.parametrize("page", ["report", "report_detail", "estimate"])
def test_golden(page: str, report: Report, estimate_report: EstimateReport, update_golden: bool) -> None:
    results = estimate_report if page == "estimate" else report
    text = as_markdown(results, detail=page == "report_detail") + "\n"
    path = GOLDEN / f"{page}.md"
    if update_golden:
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8"), "run pytest with --update-golden if the page is meant to change"


def test_a_hostile_report(report: Report, github: ModuleType) -> None:
    text = " ".join(HOSTILE)
    hostile = replace(
        report,
        program=replace(report.program, name=text),
        ledger=tuple(replace(row, layer=text, reason=text) for row in report.ledger),
        peak_buffers=tuple(replace(row, layer=text, instruction=text, source=text) for row in report.peak_buffers),
        layers=tuple(replace(row, layer=text) for row in report.layers),
        notes=(text,),
    )
    page = shown(as_markdown(hostile, detail=True), github)
    allowed = {"h2", "h3", "p", "br", "sub", "span", "strong", "table", "thead", "tbody", "tr", "th", "td"}
    assert set(re.findall(r"</?(\w+)", page)) <= allowed
    assert page.count("<table>") == shown(as_markdown(report, detail=True), github).count("<table>") > 5
    assert "\x1b" not in as_text(hostile, detail=True)
    as_text(hostile, detail=True).encode()
