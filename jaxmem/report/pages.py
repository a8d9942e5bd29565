"""What a page says: result data → document. The one place that chooses words, order and what is left out."""

from collections.abc import Iterable

from jaxmem.lowering import ProgramFacts
from jaxmem.report.document import (
    Cell,
    Column,
    Document,
    Heading,
    Missing,
    Paragraph,
    Part,
    Percent,
    Row,
    Share,
    Size,
    Table,
    Text,
)
from jaxmem.report.ledger_page import ledger_section
from jaxmem.result import DeviceFacts, Estimate, EstimateReport, LayerRow, Report
from jaxmem.units import format_bytes
from jaxmem.unknown import Unknown

_SHOWN_BUFFERS = 10
_SHOWN_LAYERS = 12
_SHOWN_FUSIONS = 5

WHAT_TO_COMPARE = {
    "cpu": (
        "Compare required with the growth of the process: its largest resident memory during a step, less that "
        "before the arguments were made. JAX's own peak on CPU leaves the temporaries out, and memory_stats() is not "
        "kept there."
    ),
    "cuda": (
        "Compare required with memory_stats()['peak_bytes_in_use']. nvidia-smi shows the pool that JAX reserves at "
        "the start, three quarters of the card unless XLA_PYTHON_CLIENT_PREALLOCATE=false."
    ),
    "tpu": (
        "Compare required with memory_stats()['peak_bytes_in_use']. JAX's own peak mixes the memories of a TPU, "
        "so it is not a number of HBM."
    ),
}
"""Which number of the real machine a report speaks of, by platform."""


def report_page(report: Report, *, detail: bool = False) -> Document:
    """The page of one report. ``detail`` adds every layer, every buffer of the peak and every item of the ledger."""
    parts: list[Part] = [
        Heading(_title(report.program, report.device), 1),
        *_facts(report.program),
        _headline(report),
        *_measured(report),
        _verdict(report),
        Heading("Where the bytes go"),
        _roles(report),
        *ledger_section(report, detail=detail),
        *_estimates_section(report.estimates, "Estimates", report.required_bytes),
        *_xla_section(report),
        *_hidden_section(report, detail=detail),
        *_peak_section(report, detail=detail),
        *_layer_section(report, detail=detail),
        *_notes_section(report),
    ]
    return Document(tuple(parts))


def estimate_page(report: EstimateReport, *, detail: bool = False) -> Document:
    """The page of one estimate. ``detail`` adds every layer."""
    rows = [
        Row(cells=(Text(_in_layer(row.term, row.layer)), Text(row.symbol), Text(row.formula), Size(row.bytes)))
        for row in report.rows
    ]
    total = Row(cells=(Text("total"), Text(""), Text(""), Size(report.total_bytes)), total=True)
    columns = (
        Column(title="term", align="left", flexible="wrap"),
        Column(title="symbol", align="left", flexible="wrap"),
        Column(title="with numbers", align="left", flexible="wrap"),
        Column(title="bytes"),
    )
    parts: list[Part] = [
        Heading(_title(report.program, report.device), 1),
        *_facts(report.program),
        Paragraph(
            (
                Text("Estimated", "strong"),
                Size(report.total_bytes, "strong", exact=True),
                Text("by the formula alone; nothing was compiled.", "quiet"),
            )
        ),
        Heading("The formula"),
        Table(columns=columns, rows=(*rows, total)),
        *_estimates_section(report.estimates, "Estimates", None),
    ]
    layers = [
        (layer.layer, (layer.parameter_bytes, layer.gradient_bytes, layer.optimizer_bytes, layer.activation_bytes))
        for layer in report.layers
    ]
    if layers:
        shown, left_out = _largest(layers, lambda layer: sum(layer[1]), _SHOWN_LAYERS, detail)
        cells = [Row(cells=(Text(name or "(no layer)"), *(Size(size) for size in sizes))) for name, sizes in shown]
        parts += [Heading("Layers"), Table(columns=_LAYER_COLUMNS, rows=tuple(cells)), *_left_out(left_out, "layers")]
    parts += [Paragraph((Text(note, "quiet"),)) for note in report.notes]
    return Document(tuple(parts))


# --- the top of the page ---------------------------------------------------------------------------------------------


def _title(program: ProgramFacts, device: DeviceFacts) -> str:
    count = "" if device.device_count == 1 else f" × {device.device_count}"
    batch = "" if program.batch_size is None else f"batch {program.batch_size}"
    return " · ".join(filter(None, (program.name, _MODES.get(program.mode or "", program.mode), batch))) + (
        f" on {device.name}{count}"
    )


_MODES = {"train": "training", "infer": "inference"}


def _facts(program: ProgramFacts) -> list[Paragraph]:
    parameters = None if program.parameter_count is None else f"{program.parameter_count:,} parameters"
    donated = "state donated" if program.donated else None
    facts = [fact for fact in (parameters, program.dtype, program.optimizer, donated, program.source) if fact]
    return [Paragraph((Text(" · ".join(facts), "quiet"),))] if facts else []


def _headline(report: Report) -> Paragraph:
    required = Size(report.required_bytes, "strong", at_least=report.required_is_lower_bound, exact=True)
    if report.hidden.bytes is None:
        split = f"= {format_bytes(report.reserved_bytes)} reserved + hidden memory that is not known"
    elif report.hidden.bytes == 0:
        split = "= all of it reserved, none hidden"
    else:
        split = f"= {format_bytes(report.reserved_bytes)} reserved + {format_bytes(report.hidden.bytes)} hidden"
    return Paragraph((Text("Required", "strong"), required, Text(split, "quiet")))


def _measured(report: Report) -> list[Paragraph]:
    if report.measured is None:
        return []
    measured = report.measured
    cells: list[Cell] = [
        Text("Measured", "strong"),
        Size(measured.bytes, "strong", exact=True),
        Text(measured.what, "quiet"),
    ]
    if not isinstance(measured.error_percent, Unknown):
        cells += [Text("required is off by", "quiet"), Percent(measured.error_percent, signed=True)]
    return [Paragraph(tuple(cells))]


def _verdict(report: Report) -> Paragraph:
    verdict = report.verdict
    cells: list[Cell]
    if isinstance(verdict.fits, Unknown):
        cells = [Text("Fit not known", "warning"), Text(f"({verdict.fits.reason})", "quiet")]
    elif verdict.fits:
        cells = [Text("Fits:", "good")]
    else:
        cells = [Text("Does not fit:", "bad")]
    if isinstance(verdict.usable_bytes, int) and isinstance(verdict.headroom_bytes, int):
        outcome = "left of" if verdict.headroom_bytes >= 0 else "too much for"
        cells += [
            Size(abs(verdict.headroom_bytes)),
            Text(f"{outcome} {format_bytes(verdict.usable_bytes)} usable", "quiet"),
        ]
    if verdict.limit_bytes is not None:
        over = report.required_bytes - verdict.limit_bytes
        limit = format_bytes(verdict.limit_bytes)
        cells.append(
            Text(f"· over the limit of {limit} by {format_bytes(over)}", "bad")
            if over > 0
            else Text(f"· within the limit of {limit}", "good")
        )
    return Paragraph(tuple(cells))


# --- sections --------------------------------------------------------------------------------------------------------


def _roles(report: Report) -> Table:
    total = report.required_bytes
    rows = [
        Row(
            cells=(
                Text(role.value.replace("_", " "), "warning" if role == "unattributed" else "plain"),
                Size(size),
                Percent(100 * size / total if total else 0.0),
                Share(size / total if total else 0.0),
            )
        )
        for role, size in sorted(report.roles.items(), key=lambda pair: -pair[1])
        if size
    ]
    sum_row = Row(cells=(Text("required"), Size(total), Percent(100.0 if total else 0.0), Text("")), total=True)
    columns = (
        Column(title="role", align="left"),
        Column(title="bytes"),
        Column(title="share"),
        Column(title="", align="left"),
    )
    return Table(columns=columns, rows=(*rows, sum_row))


def _estimates_section(estimates: tuple[Estimate, ...], title: str, required_bytes: int | None) -> list[Part]:
    if not estimates:
        return []
    columns = [
        Column(title="formula", align="left", flexible="wrap"),
        Column(title="with numbers", align="left", flexible="wrap"),
        Column(title="bytes"),
    ]
    rows = []
    for estimate in estimates:
        cells: list[Cell] = [Text(estimate.name), Text(estimate.formula), _size(estimate.bytes)]
        if required_bytes is not None:
            cells.append(
                Missing(estimate.error_percent.reason)
                if isinstance(estimate.error_percent, Unknown)
                else Percent(estimate.error_percent, signed=True)
            )
        rows.append(Row(cells=tuple(cells)))
    if required_bytes is not None:
        columns.append(Column(title="error"))
        rows.append(
            Row(cells=(Text("required, by the compiler"), Text(""), Size(required_bytes), Text("")), total=True)
        )
    reasons = _reasons(value for estimate in estimates for value in (estimate.bytes, estimate.error_percent))
    quiet = [] if required_bytes is None else reasons
    return [Heading(title), Table(columns=tuple(columns), rows=tuple(rows)), *quiet]


def _xla_section(report: Report) -> list[Part]:
    xla = report.xla
    rows = [
        Row(cells=(Text(name), _size(size), Text(meaning, "quiet")))
        for name, size, meaning in (
            ("arguments", xla.argument_bytes, "what the caller hands in"),
            ("outputs", xla.output_bytes, "what the program returns"),
            ("aliased", xla.alias_bytes, "donated arguments that outputs take over: counted in both"),
            ("temporaries", xla.temp_bytes, "everything in between"),
            ("program code", xla.generated_code_bytes, "the compiled program itself"),
            ("peak, as reported", xla.reported_peak_bytes, _REPORTED_PEAK.get(report.device.platform, "")),
        )
    ]
    static = (xla.argument_bytes, xla.output_bytes, xla.alias_bytes, xla.temp_bytes)
    if all(isinstance(size, int) for size in static):
        arguments, outputs, aliased, temporaries = (size for size in static if isinstance(size, int))
        rows.append(
            Row(
                cells=(
                    Text("arguments + outputs − aliased + temporaries"),
                    Size(arguments + outputs - aliased + temporaries),
                    Text("the sum people make of them", "quiet"),
                )
            )
        )
    rows += [
        Row(
            cells=(Text("live peak"), Size(report.live_peak_bytes), Text("the heap trace, replayed by jaxmem", "quiet"))
        ),
        Row(cells=(Text("reserved"), Size(report.reserved_bytes), Text("what the runtime must allocate", "quiet"))),
    ]
    columns = (
        Column(title="memory_analysis()", align="left", flexible="wrap"),
        Column(title="bytes"),
        Column(title="", align="left", flexible="wrap"),
    )
    advice = WHAT_TO_COMPARE.get(report.device.platform)
    return [
        Heading("The compiler's own numbers"),
        Table(columns=columns, rows=tuple(rows)),
        *_reasons(getattr(xla, name) for name in ("argument_bytes", "temp_bytes", "reported_peak_bytes")),
        *([Paragraph((Text(advice, "quiet"),))] if advice else []),
    ]


_REPORTED_PEAK = {
    "cpu": "without the temporaries on this backend",
    "tpu": "several memories in one number",
}


def _hidden_section(report: Report, *, detail: bool) -> list[Part]:
    hidden = report.hidden
    parts: list[Part] = [Heading("What the compiler cannot see")]
    count = len(hidden.fusions)
    said = hidden.reason[:1].upper() + hidden.reason[1:].rstrip(".") + "."
    size: Cell = Missing(hidden.reason) if hidden.bytes is None else Size(hidden.bytes, "strong")
    parts.append(
        Paragraph((size, Text(f"in {count} opaque fusion{'s' * (count != 1)}.", "plain"), Text(said, "quiet")))
    )
    if hidden.fusions:
        known = [(fusion, fusion.bytes if isinstance(fusion.bytes, int) else -1) for fusion in hidden.fusions]
        shown, left_out = _largest(known, lambda pair: pair[1], _SHOWN_FUSIONS, detail)
        rows = tuple(
            Row(cells=(Text(fusion.layer or "(no layer)"), Text(fusion.instruction, "quiet"), _size(fusion.bytes)))
            for fusion, _ in shown
        )
        columns = (
            Column(title="layer", align="left", flexible="shorten"),
            Column(title="fusion", align="left", flexible="shorten"),
            Column(title="bytes"),
        )
        parts += [Table(columns=columns, rows=rows), *_left_out(left_out, "fusions")]
    return parts


def _peak_section(report: Report, *, detail: bool) -> list[Part]:
    if not report.peak_buffers:
        return []
    shown, left_out = _largest(report.peak_buffers, lambda buffer: buffer.bytes, _SHOWN_BUFFERS, detail)
    columns = (
        Column(title="bytes"),
        Column(title="role", align="left"),
        Column(title="layer", align="left", flexible="shorten"),
        Column(title="shape", align="left"),
        Column(title="instruction", align="left", flexible="shorten", optional=True),
        Column(title="source", align="left", flexible="shorten", optional=True),
    )
    rows = tuple(
        Row(
            cells=(
                Size(buffer.bytes),
                Text(buffer.role.value.replace("_", " ")),
                Text(buffer.layer),
                Text(f"{buffer.dtype}[{','.join(map(str, buffer.shape))}]"),
                Text(buffer.instruction, "quiet"),
                Text(_last_part(buffer.source), "quiet"),
            )
        )
        for buffer in shown
    )
    return [Heading("Largest at the peak"), Table(columns=columns, rows=rows), *_left_out(left_out, "buffers")]


_LAYER_COLUMNS = (
    Column(title="layer", align="left", flexible="shorten"),
    Column(title="parameters"),
    Column(title="gradients"),
    Column(title="optimizer"),
    Column(title="activations"),
)


def _layer_section(report: Report, *, detail: bool) -> list[Part]:
    if not report.layers:
        return []

    def compiled(layer: LayerRow) -> tuple[int, ...]:
        compared = (layer.parameters, layer.gradients, layer.optimizer, layer.activations)
        return tuple(each.compiled_bytes for each in compared)

    shown, left_out = _largest(report.layers, lambda layer: sum(compiled(layer)), _SHOWN_LAYERS, detail)
    rows: list[Row] = []
    for layer in shown:
        rows.append(Row(cells=(Text(layer.layer or "(no layer)"), *(Size(size) for size in compiled(layer)))))
        if detail:
            formula = (layer.parameters, layer.gradients, layer.optimizer, layer.activations)
            rows.append(
                Row(
                    cells=(Text("by the formula", "quiet"), *(_size(each.formula_bytes) for each in formula)),
                    inset=True,
                )
            )
    return [
        Heading("Layers, as compiled"),
        Table(columns=_LAYER_COLUMNS, rows=tuple(rows)),
        *_left_out(left_out, "layers"),
    ]


def _notes_section(report: Report) -> list[Part]:
    versions = report.versions
    used = [
        f"{name} {version}"
        for name, version in (
            ("jaxmem", versions.jaxmem),
            ("jax", versions.jax),
            ("jaxlib", versions.jaxlib),
            ("libtpu", versions.libtpu),
        )
        if isinstance(version, str)
    ]
    used += [f"{name}={value}" for name, value in versions.compiler_options]
    sentences = [*report.notes, report.verdict.rule, *report.verdict.assumptions, " · ".join(used)]
    return [Heading("Notes"), *(Paragraph((Text(sentence, "quiet"),)) for sentence in sentences if sentence)]


# --- small things ----------------------------------------------------------------------------------------------------


def _size(size: int | Unknown) -> Cell:
    return Missing(size.reason) if isinstance(size, Unknown) else Size(size)


def _in_layer(term: str, layer: str) -> str:
    return f"{term}  {layer}" if layer else term


def _last_part(source: str) -> str:
    """``/home/me/models/vgg.py:81`` → ``vgg.py:81``."""
    return source.replace("\\", "/").rsplit("/", 1)[-1]


def _largest(rows, size_of, count: int, detail: bool):
    """The ``count`` largest rows in their own order, and how many were left out; all of them with ``detail``."""
    if detail or len(rows) <= count + 1:  # a line that says "1 more" is no shorter than that one
        return tuple(rows), 0
    kept = sorted(sorted(range(len(rows)), key=lambda index: -size_of(rows[index]))[:count])
    return tuple(rows[index] for index in kept), len(rows) - count


def _left_out(count: int, what: str) -> list[Part]:
    return [Paragraph((Text(f"and {count} smaller {what}: -v shows them all", "quiet"),))] if count else []


def _reasons(values: Iterable[object]) -> list[Part]:
    """Why numbers are not known, each reason once."""
    reasons = dict.fromkeys(value.reason for value in values if isinstance(value, Unknown))
    return [Paragraph((Text(f"Unknown: {reason}.", "quiet"),)) for reason in reasons]
