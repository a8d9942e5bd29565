"""The page of an estimate: the formula alone."""

from itertools import groupby

from jaxmem.report.document import Column, Document, Heading, Paragraph, Part, Row, Size, Table, Text
from jaxmem.report.phrases import (
    LAYER_COLUMNS,
    SHOWN_LAYERS,
    estimates_section,
    facts,
    in_layer,
    largest,
    left_out_line,
    title,
)
from jaxmem.result import EstimateReport, EstimateRow, ScalingLaw

_COLUMNS = (
    Column(title="term", align="left", flexible="wrap"),
    Column(title="symbol", align="left", flexible="wrap"),
    Column(title="with numbers", align="left", flexible="wrap"),
    Column(title="bytes"),
)


def estimate_page(report: EstimateReport, *, detail: bool = False) -> Document:
    """The page of one estimate. ``detail`` shows every layer."""
    groups = [tuple(rows) for _, rows in groupby(report.rows, key=lambda row: row.term)]
    rows = [_line(row) for row in report.rows] if detail else [_group_line(group) for group in groups]
    total = Row(cells=(Text("total"), Text(""), Text(""), Size(report.total_bytes)), total=True)
    parts: list[Part] = [
        Heading(title(report.program, report.device), 1),
        *facts(report.program),
        Paragraph(
            (
                Text("Estimated", "strong"),
                Size(report.total_bytes, "strong", exact=True),
                Text("by the formula alone; nothing was compiled.", "quiet"),
            )
        ),
        Heading("The formula"),
        Table(columns=_COLUMNS, rows=(*rows, total)),
        *estimates_section(report.estimates, "Estimates", None),
    ]
    layers = [
        (layer.layer, (layer.parameter_bytes, layer.gradient_bytes, layer.optimizer_bytes, layer.activation_bytes))
        for layer in report.layers
    ]
    if layers:
        shown, left_out = largest(layers, lambda layer: sum(layer[1]), SHOWN_LAYERS, detail)
        cells = [Row(cells=(Text(name or "(no layer)"), *(Size(size) for size in sizes))) for name, sizes in shown]
        parts += [
            Heading("Layers"),
            Table(columns=LAYER_COLUMNS, rows=tuple(cells)),
            *left_out_line(left_out, "layers"),
        ]
    if report.scaling is not None:
        parts += _scaling_section(report.scaling)
    parts += [Paragraph((Text(note, "quiet"),)) for note in report.notes]
    return Document(tuple(parts))


def _scaling_section(law: ScalingLaw) -> list[Part]:
    """a + b·B, and how far the formula is from the line between."""
    rows = [
        Row(cells=(Text(row.term), Size(row.fixed_bytes), Size(row.bytes_per_example)))
        for row in law.rows
        if row.fixed_bytes or row.bytes_per_example
    ]
    total = Row(cells=(Text("total"), Size(law.fixed_bytes), Size(law.bytes_per_example)), total=True)
    columns = (Column(title="term", align="left"), Column(title="a: fixed"), Column(title="b: for each example"))
    between = f"B from {law.lower_batch_size} to {law.upper_batch_size}, and not beyond"
    bend: tuple[Text | Size, ...] = (Text(f"At B = {law.batch_size} the formula lies on this line.", "quiet"),)
    if law.bend_bytes:
        side = "above" if law.bend_bytes > 0 else "below"
        bend = (
            Text(f"At B = {law.batch_size} the formula lies"),
            Size(abs(law.bend_bytes)),
            Text(f"{side} this line. It bends where the peak moves to another moment."),
        )
    return [
        Heading("a + b·B"),
        Paragraph((Text(f"The line through the estimates at both ends: {between}."),)),
        Table(columns=columns, rows=(*rows, total)),
        Paragraph(bend),
    ]


def _group_line(rows: tuple[EstimateRow, ...]) -> Row:
    """One line for a term that has a row for each layer."""
    if len(rows) == 1:
        return _line(rows[0])
    symbols = dict.fromkeys(row.symbol for row in rows)
    symbol = next(iter(symbols)) if len(symbols) == 1 else ""
    total_bytes = sum(row.bytes for row in rows)
    return Row(cells=(Text(rows[0].term), Text(symbol), Text(f"{len(rows)} layers", "quiet"), Size(total_bytes)))


def _line(row: EstimateRow) -> Row:
    return Row(cells=(Text(in_layer(row.term, row.layer)), Text(row.symbol), Text(row.formula), Size(row.bytes)))
