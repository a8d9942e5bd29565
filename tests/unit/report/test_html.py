"""The HTML file as text: it needs nothing beside itself, nothing in it acts, and its data is that of the report."""

import base64
import gzip
import hashlib
import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from jaxmem.errors import EnvironmentFailure
from jaxmem.report import as_html, as_text, in_notebook
from jaxmem.report.document import Column, Difference, Document, Heading, Missing, Paragraph, Row, Size, Table, Text
from jaxmem.report.html import documents_as_html, libraries
from jaxmem.report.html.escape import inert, isolated
from jaxmem.report.html.moments import peak_of
from jaxmem.result import BufferRow, BufferTable, EstimateReport, EstimateReports, Report, Reports, Schedule
from jaxmem.roles import Role
from jaxmem.unknown import Unknown

HOSTILE = "</script><img src=x onerror=alert(1)>\"'`&\u202egnp.exe\u2028\x00 שלום 🦊 $$x^2$$ " + "a" * 10_000


class Reader(HTMLParser):
    """Elements with their attributes, and text by the element around it."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self._inside = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._inside = tag

    def handle_data(self, data: str) -> None:
        self.texts.setdefault(self._inside, []).append(data)

    @property
    def all_text(self) -> str:
        return " ".join(text for tag, texts in self.texts.items() if tag not in ("script", "style") for text in texts)


def data_of(page: str) -> dict:
    (packed,) = re.findall(r'id="jaxmem-data">([^<]*)<', page)
    return json.loads(gzip.decompress(base64.b64decode(packed)))


@pytest.fixture
def hostile(report: Report, buffer: BufferRow) -> Report:
    named = replace(buffer, layer=HOSTILE, instruction=HOSTILE, source=HOSTILE, opcode=HOSTILE, rule=HOSTILE)
    return replace(
        report,
        program=replace(report.program, name=HOSTILE, source=HOSTILE, dtype=HOSTILE),
        device=replace(report.device, name=HOSTILE),
        ledger=tuple(replace(row, layer=HOSTILE, symbol=HOSTILE, reason=HOSTILE) for row in report.ledger),
        layers=tuple(replace(row, layer=HOSTILE) for row in report.layers),
        buffers=BufferTable.from_rows((named,)),
        peak_buffers=(named,),
        notes=(HOSTILE,),
    )


def test_the_page_needs_nothing_beside_itself(report: Report) -> None:
    page = Reader(as_html(report))
    assert page.elements[0] == ("html", {"lang": "en"})
    assert {name for _, attributes in page.elements for name in attributes} & {"src", "srcset", "action"} == set()
    assert {attributes["href"] for _, attributes in page.elements if "href" in attributes} == {"data:,", "#main"}
    assert page.texts["title"][:1] == ["two_layers · training · batch 32 on cpu · jaxmem"]


def test_its_policy_lets_run_exactly_what_is_in_it(report: Report) -> None:
    page = as_html(report)
    (policy,) = [each["content"] for tag, each in Reader(page).elements if each.get("http-equiv")]
    assert policy is not None
    scripts = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    hashes = {f"'sha256-{base64.b64encode(hashlib.sha256(one.encode()).digest()).decode()}'" for one in scripts}
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert set(rules["script-src"].split()) == hashes
    assert rules["default-src"] == "'none'"
    assert len(scripts) == 4


def test_names_are_only_ever_text(hostile: Report) -> None:
    page = as_html(Reports(reports=(hostile, hostile)))
    read = Reader(page)
    assert "img" not in {tag for tag, _ in read.elements}
    assert not [name for _, attributes in read.elements for name in attributes if name.startswith("on")]
    assert "</script><img src=x onerror=alert(1)>\"'`&\\u202egnp.exe" in read.all_text
    assert not re.search("[\u202e\u2028\x00]", page)
    assert len(re.findall("</script>", page)) == len(re.findall("<script", page))
    (word,) = {
        word for word in data_of(page)["words"] if "onerror" in word and "two" not in word and " on " not in word
    }
    assert len(word) == 2000


def test_a_frame_in_a_notebook_holds_the_whole_page(report: Report) -> None:
    (frame,) = Reader(in_notebook(report)).elements
    assert frame[0] == "iframe"
    assert frame[1]["sandbox"] == "allow-scripts"
    assert frame[1]["srcdoc"] == as_html(report)


def test_what_jupyter_shows(report: Report, estimate_report: EstimateReport) -> None:
    for one in (report, Reports(reports=(report,)), estimate_report, EstimateReports(reports=(estimate_report,))):
        assert one._repr_html_() == in_notebook(one)
        assert repr(one) == as_text(one)


def test_a_file_gets_the_same_page_twice(report: Report) -> None:
    assert as_html(report) == as_html(report)


def test_the_data_is_that_of_the_report(report: Report, buffer: BufferRow) -> None:
    schedule = Schedule(
        length=90, peak_position=41, live_at_peak=(0,), allocation=(3,), allocation_bytes=(buffer.bytes + 64,)
    )
    data = data_of(as_html(replace(report, schedule=schedule)))
    (drawn,) = data["reports"]
    assert (drawn["length"], drawn["peak"], drawn["live"]) == (90, 41, [0])
    assert (drawn["required"], drawn["reserved"]) == (report.required_bytes, report.reserved_bytes)
    columns = drawn["buffers"]
    assert (columns["bytes"], columns["padding"]) == ([buffer.bytes], [buffer.bytes - buffer.logical_bytes])
    assert data["roles"][columns["role"][0]] == Role.SAVED_ACTIVATIONS
    assert data["words"][columns["layer"][0]] == "block1/conv2"
    assert sum(row[4] for row in drawn["ledger"]) == report.required_bytes


def test_a_report_without_schedule_has_its_peak_where_the_live_ranges_make_it(
    report: Report, buffer: BufferRow
) -> None:
    ranges = ((10, 0, 9), (20, 3, 5), (5, 5, 7), (100, 8, 8), (7, 8, 9))
    rows = tuple(replace(buffer, bytes=size, logical_bytes=size, start=a, end=b) for size, a, b in ranges)
    peak = peak_of(replace(report, buffers=BufferTable.from_rows(rows), schedule=None))
    assert (peak.position, peak.length, peak.buffers) == (8, 10, (0, 3, 4))


def test_a_report_without_buffers_says_so(report: Report) -> None:
    page = Reader(as_html(replace(report, buffers=BufferTable(), peak_buffers=(), layers=())))
    assert "This report has no buffers to draw." in page.all_text


def test_what_is_not_known_says_why(report: Report) -> None:
    reason = Unknown("a bare dump has no program")
    bare = replace(
        report,
        ledger=tuple(replace(row, formula_bytes=reason, items=()) for row in report.ledger),
        layers=tuple(replace(row, parameters=replace(row.parameters, formula_bytes=reason)) for row in report.layers),
        unexplained_bytes=reason,
        estimates=(),
        verdict=replace(report.verdict, fits=reason, usable_bytes=reason, headroom_bytes=reason),
    )
    page = as_html(bare)
    text = Reader(page).all_text
    assert "Unknown: a bare dump has no program." in text
    assert "Usable memory unknown: a bare dump has no program." in text
    assert {row[3] for row in data_of(page)["reports"][0]["ledger"]} == {None}


def test_other_pages_have_one_script(estimate_report: EstimateReport) -> None:
    page = as_html(estimate_report)
    assert page.count("<script>") == 1
    assert "two_layers · training · batch 32 on cpu" in Reader(page).all_text
    assert len(page) < 40_000


def test_every_part_of_a_document() -> None:
    columns = (Column(title="name", align="left"), Column(title="bytes"), Column(title=""))
    rows = (
        Row(cells=(Text("a & b"), Size(2048), Text("")), notes=("because",)),
        Row(cells=(Text("c"), Missing('no "reason"'), Text("")), inset=True),
        Row(cells=(Text("all"), Difference(-3), Text("")), total=True),
    )
    page = documents_as_html(
        (Document((Heading("A page", 1), Paragraph((Text("so", "bad"),)), Table(columns=columns, rows=rows))),)
    )
    assert "<h1>A page</h1>" in page
    assert '<p><span class="bad">so</span></p>' in page
    assert '<th scope="row" class="left">a &amp; b</th>' in page
    assert '<span title="2,048 B">2.00 KiB</span>' in page
    assert '<span class="missing" title="no &quot;reason&quot;">unknown</span>' in page
    assert '<tr class="note"><td colspan="2">because</td></tr>' in page


def test_text_from_right_to_left_stands_by_itself() -> None:
    assert isolated("שלום") == "<bdi>שלום</bdi>"
    assert isolated("plain") == "plain"
    assert inert("a<b>\u202e'\ud800") == "a&lt;b&gt;\\u202e&#x27;\\ud800"


def test_a_missing_library_is_told(monkeypatch: pytest.MonkeyPatch, report: Report) -> None:
    monkeypatch.setattr(libraries, "find_spec", lambda name: None)
    with pytest.raises(EnvironmentFailure, match=r"Bokeh, which is not installed\. Install it: pip install"):
        as_html(report)
