"""Names that would act on their reader: on every page they are plain to see, and take a few lines at most."""

import json
import re
from dataclasses import replace
from typing import Any

import pytest
from rich.cells import cell_len

from jaxmem.cli import main
from jaxmem.difference import diff_reports
from jaxmem.report import as_markdown, as_text, brief_text
from jaxmem.result import (
    Compared,
    Comparison,
    ComparisonCell,
    EstimateLayer,
    EstimateReport,
    EstimateRow,
    LargeBuffer,
    LayerRow,
    LedgerItem,
    NamedSize,
    OutOfMemory,
    Reports,
    from_json,
    to_json,
)
from jaxmem.result.json_text import inert
from jaxmem.unknown import Unknown
from reports_by_hand import KIB, buffer, report_of

NAMES = {
    "HTML": '<script>alert("1")</script>',
    "terminal": "a\x1b[31m\x1b]0;title\x07b\x9b2J\x08c",
    "direction": "a\u202egnp.exe\u2066b\u061c",
    "lines": "a\nb\r\nc\td\u2028e\x85f",
    "long": "block/" * 1667,
    "long words": "word " * 2000,
    "wide": "語" * 5000,
    "emoji": "👩‍👩‍👧‍👦🏳️‍🌈" * 300,
    "combining": "e" + "\u0301" * 10_000,
    "right to left": "שלום/" * 2000,
    "brackets": "[bold red]x[/] **y** | `z` \\",
}
ACTING = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\u061c\ud800-\udfff]")


def pages(name: str) -> dict[str, Any]:
    """Every kind of page in which a stranger names things, with the name wherever there is room for one."""
    one = Compared(formula_bytes=1, compiled_bytes=1)
    row = buffer(name, KIB, layer=name, opcode=name, dtype=name, source=name)
    report = report_of(row, name=name, device=name)
    report = replace(
        report,
        program=replace(report.program, optimizer=name, dtype=name, source=name),
        ledger=tuple(
            replace(row, symbol=name, reason=name, items=(LedgerItem(kind=name, bytes=1, evidence=((name, name),)),))
            for row in report.ledger
        ),
        unexplained_bytes=len(report.ledger),
        hidden=replace(report.hidden, reason=name),
        notes=(name,),
        layers=(LayerRow(layer=name, parameters=one, gradients=one, optimizer=one, activations=one),),
    )
    grown = report_of(replace(row, bytes=2 * KIB), name=name, device=name)
    estimate = EstimateReport(
        program=report.program,
        device=report.device,
        rows=(EstimateRow(term=name, symbol=name, formula=name, bytes=1),),
        total_bytes=1,
        layers=(EstimateLayer(layer=name, parameter_bytes=1, gradient_bytes=1, optimizer_bytes=1, activation_bytes=1),),
        notes=(name,),
    )
    nothing = Unknown(name if name.strip() else "nothing")
    cell = ComparisonCell(
        program=name, mode=name, batch_size=1, device=name, required_bytes=nothing, fits=nothing, usable_bytes=nothing,
        headroom_bytes=nothing, formula_bytes=nothing, formula_error_percent=nothing, failure=name,
    )  # fmt: skip
    memory = OutOfMemory(
        failure="GPU run", program=name, evidence=name, requested_bytes=1, required_bytes=2, available_bytes=3,
        free_bytes=nothing, sizes_are_rounded=True, parts=(NamedSize(name=name, bytes=2),),
        buffers=(LargeBuffer(bytes=8, role=nothing, layer=name, operation=name, source=name, shape=name),),
        advice=(name,), notes=(name,),
    )  # fmt: skip
    return {
        "report": report,
        "diff": diff_reports((report,), (grown,), old_name=name, new_name=name),
        "diff without partners": diff_reports((report, report), (grown,), old_name=name, new_name=name),
        "estimate": estimate,
        "comparison": Comparison(cells=(cell,)),
        "oom": memory,
    }


@pytest.mark.parametrize("kind", NAMES)
def test_every_page_is_inert_and_of_a_size(kind: str) -> None:
    for page, shown in pages(NAMES[kind]).items():
        for detail in (False, True):
            text = as_text(shown, detail=detail, width=100)
            assert not ACTING.search(text), page
            lines = text.splitlines()
            # The first page of a report alone has tables whose numbers need 79 columns.
            assert max(map(cell_len, lines)) <= 100, page
            assert len(lines) < (1000 if detail else 400), page
            assert not ACTING.search(as_markdown(shown, detail=detail)), page


@pytest.mark.parametrize("kind", NAMES)
def test_the_brief_page_too(kind: str) -> None:
    text = brief_text(pages(NAMES[kind])["report"], width=80)
    assert not ACTING.search(text)
    assert max(map(cell_len, text.splitlines())) <= 80
    assert len(text.splitlines()) < 60


@pytest.mark.parametrize("kind", NAMES)
def test_json_acts_on_nobody_and_keeps_the_name(kind: str) -> None:
    row = buffer(NAMES[kind], KIB, layer=NAMES[kind])
    reports = Reports(reports=(report_of(row, name=NAMES[kind]),))
    text = to_json(reports)
    assert not ACTING.search(text)
    assert from_json(text, "here") == reports


def test_half_a_character_can_be_written_and_read() -> None:
    """A file's name may hold a byte that is no UTF-8; Python then has half a character for it."""
    text = inert(json.dumps({"source": "caf\udce9.py:3"}, ensure_ascii=False))
    assert text.encode() == b'{"source": "caf\\udce9.py:3"}'
    assert json.loads(text) == {"source": "caf\udce9.py:3"}


def test_an_error_is_inert(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "no\x1b[31m\u202esuch.json"]) == 3
    assert "jaxmem: no\\x1b[31m\\u202esuch.json cannot be read" in capsys.readouterr().err


def test_both_ends_of_a_long_name_are_shown() -> None:
    text = as_text(
        diff_reports(
            (report_of(),),
            (report_of(buffer("fusion.1", KIB, layer="first/" + "x" * 10_000 + "/last")),),
            old_name="a",
            new_name="b",
        )
    )
    assert "  first/xxx" in text
    assert "xxx/last saved activations f32[256] new +1.00 KiB" in " ".join(text.split())
    assert len(text) < 2000
