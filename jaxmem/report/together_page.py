"""The page of a whole training run: what lives on the device at once."""

from jaxmem.report.document import Cell, Column, Document, Heading, Paragraph, Part, Row, Size, Table, Text
from jaxmem.result import Moment, Together
from jaxmem.unknown import Unknown


def together_page(together: Together) -> Document:
    """The headline, and every moment with what lives beside its program."""
    most = next(moment for moment in together.moments if moment.name == together.largest)
    device = together.device
    count = "" if device.device_count == 1 else f" × {device.device_count}"
    parts: list[Part] = [
        Heading(f"A training run on {device.name}{count}", 1),
        Paragraph(
            (
                Text("Required", "strong"),
                Size(together.required_bytes, "strong", at_least=most.is_lower_bound, exact=True),
                Text(f"at most, in {together.largest}; the state is", "quiet"),
                Size(together.state_bytes, "quiet"),
                Text("of it" if together.largest != "init" else "once it is made", "quiet"),
            )
        ),
        _fits(together),
        Heading("Moment by moment"),
        Table(
            columns=(Column(title="", align="left", flexible="wrap"), Column(title="bytes")),
            rows=tuple(row for moment in together.moments for row in _rows(moment)),
        ),
        Heading("Notes"),
    ]
    sentences = (together.verdict.rule, *together.verdict.assumptions)
    parts += [Paragraph((Text(sentence[:1].upper() + sentence[1:], "quiet"),)) for sentence in sentences]
    return Document(tuple(parts))


def _fits(together: Together) -> Paragraph:
    verdict = together.verdict
    if isinstance(verdict.fits, Unknown):
        return Paragraph((Text("Fit not known", "warning"), Text(f"({verdict.fits.reason})", "quiet")))
    cells: list[Cell] = [Text("Fits:", "good") if verdict.fits else Text("Does not fit:", "bad")]
    if isinstance(verdict.headroom_bytes, int) and isinstance(verdict.usable_bytes, int):
        left = verdict.headroom_bytes >= 0
        cells += [
            Size(abs(verdict.headroom_bytes)),
            Text("left of" if left else "too much for", "quiet"),
            Size(verdict.usable_bytes, "quiet"),
            Text("usable", "quiet"),
        ]
    return Paragraph(tuple(cells))


def _rows(moment: Moment) -> list[Row]:
    return [
        Row(cells=(Text(moment.name, "strong"), Size(moment.required_bytes, "strong", at_least=moment.is_lower_bound))),
        Row(cells=(Text(f"the program {moment.program.name}"), Size(moment.program_bytes)), inset=True),
        *(Row(cells=(Text(part.name), Size(part.bytes)), inset=True) for part in moment.beside),
    ]
