"""The page of a fit: the boundary and its proof, what each change gives, what became of donations."""

from jaxmem.report.document import (
    Cell,
    Column,
    Difference,
    Document,
    Heading,
    Missing,
    Paragraph,
    Part,
    Row,
    Size,
    Table,
    Text,
)
from jaxmem.report.phrases import facts, known_or_missing, largest, left_out_line, reasons, title
from jaxmem.result import Advice, DonationLeaf, Fit
from jaxmem.units import format_bytes
from jaxmem.unknown import Unknown

_SHOWN_LEAVES = 5


def fit_page(fit: Fit, *, detail: bool = False) -> Document:
    """The page of one fit. ``detail`` shows every array of the donation audit."""
    parts: list[Part] = [
        Heading(title(fit.program, fit.device), 1),
        *facts(fit.program),
        _headline(fit),
        Paragraph((Text(fit.boundary.answer),)),
        *_asked(fit),
        _budget(fit),
        Heading("Proof"),
        _proof(fit),
        *_advice(fit),
        *_donation(fit, detail=detail),
        Heading("Notes"),
        *(Paragraph((Text(note, "quiet"),)) for note in (f"{fit.rule[:1].upper()}{fit.rule[1:]}.", *fit.notes)),
    ]
    return Document(tuple(parts))


def _headline(fit: Fit) -> Paragraph:
    boundary = fit.boundary
    size = Text("none", "bad") if boundary.largest_batch is None else Text(f"{boundary.largest_batch:,}", "good")
    return Paragraph((Text("Largest batch:", "strong"), size))


def _asked(fit: Fit) -> list[Part]:
    if fit.asked_batch is None:
        return []
    probe = next(probe for probe in fit.boundary.proof if probe.batch_size == fit.asked_batch)
    said = Text("fits:", "good") if probe.fits else Text("does not fit:", "bad")
    return [Paragraph((Text(f"Batch {fit.asked_batch}", "strong"), said, Size(probe.required_bytes, exact=True)))]


def _budget(fit: Fit) -> Paragraph:
    less = [
        f"less {format_bytes(size)} {what}"
        for size, what in ((fit.resident_bytes, "resident"), (fit.margin_bytes, "margin"))
        if size
    ]
    whose = "usable" if fit.limit_bytes is None else "the limit asked for"
    return Paragraph(
        (Text("The program may take"), Size(fit.budget_bytes), Text(f"({', '.join((whose, *less))})", "quiet"))
    )


def _proof(fit: Fit) -> Table:
    columns = (
        Column(title="batch"),
        Column(title="required"),
        Column(title="left"),
        Column(title="fits", align="left"),
        Column(title="compiled", align="left"),
    )
    rows = []
    for probe in sorted(fit.boundary.proof, key=lambda probe: probe.batch_size):
        order = f"{fit.boundary.proof.index(probe) + 1} of {fit.boundary.compiles}"
        rows.append(
            Row(
                cells=(
                    Text(f"{probe.batch_size:,}"),
                    Size(probe.required_bytes),
                    Difference(fit.budget_bytes - probe.judged_bytes),
                    Text("yes", "good") if probe.fits else Text("no", "bad"),
                    Text(f"{order}, from the cache" if probe.from_cache else order, "quiet"),
                )
            )
        )
    return Table(columns=columns, rows=tuple(rows))


def _advice(fit: Fit) -> list[Part]:
    if fit.advised_batch is None:
        return []
    if not fit.advice:
        return [Heading("What to change"), Paragraph((Text("Nothing that could be tried from outside.", "quiet"),))]
    columns = (
        Column(title="change", align="left", flexible="wrap"),
        Column(title="how", align="left", flexible="wrap", optional=True),
        Column(title="after"),
        Column(title="saves"),
        Column(title="extra FLOPs"),
        Column(title="fits", align="left"),
    )
    rows = tuple(_advice_row(advice) for advice in fit.advice)
    return [
        Heading("What to change"),
        Paragraph(
            (
                Text(f"Each compiled at batch {fit.advised_batch}, which needs"),
                Size(fit.advice[0].before_bytes, "strong"),
            )
        ),
        Table(columns=columns, rows=rows),
        *reasons(value for advice in fit.advice for value in (advice.after_bytes, advice.extra_flops)),
        Paragraph(
            (
                Text(
                    "FLOPs are those of matrix products and convolutions, of one step on all devices together.", "quiet"
                ),
            )
        ),
    ]


def _advice_row(advice: Advice) -> Row:
    after = advice.after_bytes
    if isinstance(after, Unknown):
        verdict = Text("did not compile", "warning")
    elif not advice.helps:
        verdict = Text("no help", "warning")
    else:
        verdict = Text("fits", "good") if advice.fits else Text("still not", "bad")
    saved = advice.saved_bytes
    cells: tuple[Cell, ...] = (
        Text(advice.change),
        Text(advice.how, "quiet"),
        known_or_missing(after),
        Missing(saved.reason) if isinstance(saved, Unknown) else Difference(saved),
        _flops(advice.extra_flops),
        verdict,
    )
    return Row(cells=cells, notes=(advice.note,) if advice.note else ())


def _flops(count: int | Unknown) -> Cell:
    if isinstance(count, Unknown):
        return Missing(count.reason)
    if count == 0:
        return Text("0")
    size, unit = abs(float(count)), 0
    while size >= 1000 and unit < 5:
        size, unit = size / 1000, unit + 1
    return Text(f"{'-' if count < 0 else '+'}{size:.1f}{('', ' k', ' M', ' G', ' T', ' P')[unit]}")


def _donation(fit: Fit, *, detail: bool) -> list[Part]:
    """What was asked for and done needs one line; what was not is shown array by array."""
    if not fit.donation:
        return []
    aliased = [leaf for leaf in fit.donation if leaf.outcome == "aliased"]
    lost = [leaf for leaf in fit.donation if leaf.outcome != "aliased"]
    lines: list[Part] = [Heading("Donation")]
    if aliased:
        lines.append(_sum_line(aliased, "donated, and a result is written over each", "good"))
    for outcome, said in (
        ("copied", "donated in vain: no result takes the memory"),
        ("not requested", "not donated, although a result replaces each"),
    ):
        leaves = [leaf for leaf in lost if leaf.outcome == outcome]
        if leaves:
            lines.append(_sum_line(leaves, said, "warning"))
    shown, left_out = largest(fit.donation if detail else lost, lambda leaf: leaf.bytes, _SHOWN_LEAVES, detail)
    if shown:
        columns = (
            Column(title="argument", align="left", flexible="shorten"),
            Column(title="role", align="left", optional=True),
            Column(title="bytes"),
            Column(title="outcome", align="left"),
            Column(title="why", align="left", flexible="wrap"),
        )
        rows = tuple(
            Row(
                cells=(
                    Text(leaf.path),
                    Text(leaf.role.value.replace("_", " ")),
                    Size(leaf.bytes),
                    Text(leaf.outcome, "good" if leaf.outcome == "aliased" else "warning"),
                    Text(leaf.reason, "quiet"),
                )
            )
            for leaf in shown
        )
        lines += [Table(columns=columns, rows=rows), *left_out_line(left_out, "arrays")]
    return lines


def _sum_line(leaves: list[DonationLeaf], said: str, tone: str) -> Paragraph:
    count = f"{len(leaves)} array{'s' * (len(leaves) != 1)}"
    return Paragraph(
        (
            Size(sum(leaf.bytes for leaf in leaves), "strong"),
            Text(f"in {count}:"),
            Text(f"{said}.", "good" if tone == "good" else "warning"),
        )
    )
