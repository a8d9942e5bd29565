"""The page of a fit: what is said of the boundary, of changes that help and do not, and of donations."""

import io
from dataclasses import replace

import pytest

from jaxmem.lowering import ProgramFacts
from jaxmem.report import as_text, pages_of
from jaxmem.report.document import Difference, Missing, Paragraph, Size, Table, Text
from jaxmem.report.terminal import print_document
from jaxmem.result import (
    Advice,
    Boundary,
    DeviceFacts,
    DonationLeaf,
    DonationOutcome,
    Fit,
    Fits,
    Probe,
    from_json,
    to_json,
)
from jaxmem.roles import Role
from jaxmem.unknown import Unknown

MIB = 1 << 20


def probe(batch: int, size: int, *, fits: bool) -> Probe:
    return Probe(batch_size=batch, required_bytes=size, judged_bytes=size, fits=fits)


def advice(change: str, after: int | Unknown, flops: int | Unknown = 0) -> Advice:
    known = isinstance(after, int)
    return Advice(
        change=change,
        how=f"--{change}",
        before_bytes=12 * MIB,
        after_bytes=after,
        saved_bytes=12 * MIB - after if isinstance(after, int) else after,
        extra_flops=flops,
        helps=known and after < 12 * MIB,
        fits=known and after <= 10 * MIB,
    )


def leaf(path: str, size: int, outcome: DonationOutcome) -> DonationLeaf:
    return DonationLeaf(path=path, role=Role.PARAMETERS, bytes=size, outcome=outcome, reason=f"because of {path}")


BROKEN = Unknown("it did not compile: the compiler died")
FIT = Fit(
    program=ProgramFacts(name="net", mode="train"),
    device=DeviceFacts(name="card", platform="cuda", memory_bytes=16 * MIB, usable_bytes=12 * MIB),
    budget_bytes=10 * MIB,
    limit_bytes=None,
    resident_bytes=MIB,
    margin_bytes=MIB,
    rule="required against usable",
    asked_batch=12,
    fits=False,
    boundary=Boundary(
        largest_batch=10,
        next_batch=11,
        multiple_of=1,
        searched_to=12,
        compiles=3,
        monotone=True,
        proof=(probe(12, 12 * MIB, fits=False), probe(10, 10 * MIB, fits=True), probe(11, 11 * MIB, fits=False)),
        answer="Batch 10 fits, batch 11 does not; both were compiled.",
    ),
    advised_batch=12,
    advice=(
        advice("halve", 6 * MIB, 3_500_000),
        advice("shave", 11 * MIB),
        advice("vain", 13 * MIB),
        advice("broken", BROKEN, BROKEN),
    ),
    donation=(leaf("w", 900, "aliased"), leaf("v", 800, "copied"), leaf("u", 700, "not requested")),
)


def table(title: str, fit: Fit = FIT) -> Table:
    (page,) = pages_of(fit)
    return next(part for part in page.section(title) if isinstance(part, Table))


def test_the_proof_is_in_the_order_of_the_batches_and_says_in_which_they_were_compiled() -> None:
    rows = [row.cells for row in table("Proof").rows]
    assert [(cells[0], cells[2], cells[4]) for cells in rows] == [
        (Text("10"), Difference(0), Text("2 of 3", "quiet")),
        (Text("11"), Difference(-MIB), Text("3 of 3", "quiet")),
        (Text("12"), Difference(-2 * MIB), Text("1 of 3", "quiet")),
    ]


def test_the_budget_says_what_was_taken_from_it() -> None:
    text = as_text(FIT)
    assert "The program may take 10.00 MiB (usable, less 1.00 MiB resident, less 1.00 MiB margin)" in text
    assert "Largest batch: 10" in text
    assert "Batch 12 does not fit: 12.00 MiB" in text


def test_advice_says_what_helps_what_does_not_and_what_did_not_compile() -> None:
    rows = {row.cells[0]: row.cells for row in table("What to change").rows}
    assert rows[Text("halve")][2:] == (
        Size(6 * MIB),
        Difference(6 * MIB),
        Text("+3.5 M"),
        Text("fits", "good"),
    )
    assert rows[Text("shave")][-1] == Text("still not", "bad")
    assert rows[Text("vain")][-1] == Text("no help", "warning")
    assert rows[Text("vain")][3] == Difference(-MIB)
    assert rows[Text("broken")][2:] == (
        *[Missing(BROKEN.reason)] * 3,
        Text("did not compile", "warning"),
    )
    assert BROKEN.reason in as_text(FIT)


def test_donation_shows_what_went_wrong_and_in_detail_everything() -> None:
    (page,) = pages_of(FIT)
    sums = [part.cells[0] for part in page.section("Donation") if isinstance(part, Paragraph)]
    assert sums == [Size(900, "strong"), Size(800, "strong"), Size(700, "strong")]
    assert [row.cells[0] for row in table("Donation").rows] == [Text("v"), Text("u")]
    (detailed,) = pages_of(FIT, detail=True)
    shown = next(part for part in detailed.section("Donation") if isinstance(part, Table))
    assert [row.cells[0] for row in shown.rows] == [Text("w"), Text("v"), Text("u")]


def test_without_advice_and_donations_there_are_no_such_sections() -> None:
    (page,) = pages_of(replace(FIT, advised_batch=None, advice=(), donation=()))
    for title in ("What to change", "Donation"):
        with pytest.raises(KeyError):
            page.section(title)


@pytest.mark.parametrize("width", [60, 80, 120])
def test_no_line_is_wider_than_the_page(width: int) -> None:
    stream = io.StringIO()
    for page in pages_of(FIT, detail=True):
        print_document(page, stream, width=width, colour=False)
    assert max(len(line) for line in stream.getvalue().splitlines()) <= width


def test_json_and_back() -> None:
    for fits in (Fits(reports=(FIT,)), Fits(reports=(FIT, FIT))):
        assert from_json(to_json(fits), "the test") == fits
