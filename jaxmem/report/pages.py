"""What a page says: result data → document. The one place that chooses words, order and what is left out."""

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
from jaxmem.report.phrases import (
    LAYER_COLUMNS,
    SHOWN_LAYERS,
    estimates_section,
    facts,
    file_name,
    known_or_missing,
    largest,
    left_out_line,
    reasons,
    title,
)
from jaxmem.result import LayerRow, Report
from jaxmem.units import format_bytes
from jaxmem.unknown import Unknown

_SHOWN_BUFFERS = 10
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
        Heading(title(report.program, report.device), 1),
        *facts(report.program),
        _headline(report),
        *_gemm_range(report),
        *_measured(report),
        _verdict(report),
        Heading("Where the bytes go"),
        _roles(report),
        *ledger_section(report, detail=detail),
        *estimates_section(report.estimates, "Estimates", report.required_bytes),
        *_xla_section(report),
        *_hidden_section(report, detail=detail),
        *_other_memories_section(report),
        *_peak_section(report, detail=detail),
        *_layer_section(report, detail=detail),
        *_notes_section(report),
    ]
    return Document(tuple(parts))


def brief_page(report: Report) -> Document:
    """The headline, the verdict, the roles and the largest buffers of one report."""
    parts: list[Part] = [
        Heading(title(report.program, report.device), 1),
        _headline(report),
        _verdict(report),
        Heading("Where the bytes go"),
        _roles(report),
        *_peak_section(report, detail=False),
    ]
    return Document(tuple(parts))


# --- the top of the page ---------------------------------------------------------------------------------------------


def _headline(report: Report) -> Paragraph:
    required = Size(report.required_bytes, "strong", at_least=report.required_is_lower_bound, exact=True)
    if report.hidden.bytes is None:
        split = f"= {format_bytes(report.reserved_bytes)} reserved + hidden memory that is not known"
    elif report.hidden.bytes == 0:
        split = "= all of it reserved, none hidden"
    else:
        split = f"= {format_bytes(report.reserved_bytes)} reserved + {format_bytes(report.hidden.bytes)} hidden"
    return Paragraph((Text("Required", "strong"), required, Text(split, "quiet")))


def _gemm_range(report: Report) -> list[Part]:
    if report.gemm_range is None:
        return []
    least, most = report.gemm_range.least, report.gemm_range.most
    cells: list[Cell] = [
        Text("Range", "strong"),
        Size(report.gemm_range.least_bytes),
        Text(f"with {_BACKENDS[least]}'s matrix products"),
    ]
    if most != least:
        cells += [Text("to"), Size(report.gemm_range.most_bytes), Text(f"with {_BACKENDS[most]}'s")]
        cells.append(Text("· on the card XLA times both and takes the faster, product by product", "quiet"))
    return [Paragraph(tuple(cells)), *reasons(variant.required_bytes for variant in report.gemm_range.variants)]


_BACKENDS = {"triton": "Triton", "cublas": "cuBLAS"}


def _measured(report: Report) -> list[Paragraph]:
    if report.measured is None:
        return []
    measured = report.measured
    if isinstance(measured.bytes, Unknown):
        return [Paragraph((Text("Measured", "strong"), Text(measured.bytes.reason, "bad")))]
    cells: list[Cell] = [
        Text("Measured", "strong"),
        Size(measured.bytes, "strong", exact=True),
        Text(f"({measured.what})", "quiet"),
    ]
    if isinstance(measured.error_percent, Unknown):
        cells.append(Text(f"· not compared: {measured.error_percent.reason}", "warning"))
    else:
        cells += [Text("· required is off by", "quiet"), Percent(measured.error_percent, signed=True)]
    if isinstance(measured.driver_bytes, int):
        cells += [Text("· the driver counts", "quiet"), Size(measured.driver_bytes)]
    if measured.runs_in_pool is False:
        cells.append(Text("· it did not run in the pool that JAX takes at the start", "bad"))
    elif measured.runs_in_pool is True:
        cells.append(Text("· it ran in the pool that JAX takes at the start", "good"))
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
        # A TPU program can be refused for its code, whose size the compiler then does not tell.
        besides = ", too little for the program's code" if verdict.headroom_bytes >= 0 and not verdict.fits else ""
        cells += [
            Size(abs(verdict.headroom_bytes)),
            Text(f"{outcome} {format_bytes(verdict.usable_bytes)} usable{besides}", "quiet"),
        ]
    if verdict.resident_bytes:
        cells.append(Text(f"· beside {format_bytes(verdict.resident_bytes)} resident", "quiet"))
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


def _xla_section(report: Report) -> list[Part]:
    xla = report.xla
    rows = [
        Row(cells=(Text(name), known_or_missing(size), Text(meaning, "quiet")))
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
        *reasons(getattr(xla, name) for name in ("argument_bytes", "temp_bytes", "reported_peak_bytes")),
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
    where = [Text(f"in {count} call{'s' * (count != 1)} of libraries.", "plain")] if count else []
    parts.append(Paragraph((size, *where, Text(said, "quiet"))))
    if hidden.fusions:
        known = [(fusion, fusion.bytes if isinstance(fusion.bytes, int) else -1) for fusion in hidden.fusions]
        shown, left_out = largest(known, lambda pair: pair[1], _SHOWN_FUSIONS, detail)
        rows = tuple(
            Row(
                cells=(
                    Text(fusion.layer or "(no layer)"),
                    Text(fusion.instruction, "quiet"),
                    known_or_missing(fusion.bytes),
                )
            )
            for fusion, _ in shown
        )
        columns = (
            Column(title="layer", align="left", flexible="shorten"),
            Column(title="call", align="left", flexible="shorten"),
            Column(title="bytes"),
        )
        parts += [Table(columns=columns, rows=rows), *left_out_line(left_out, "calls")]
    return parts


def _other_memories_section(report: Report) -> list[Part]:
    if not report.other_memories:
        return []
    rows = [
        Row(cells=(Text(memory.name), Size(memory.reserved_bytes), Size(memory.live_peak_bytes)))
        for memory in report.other_memories
    ]
    return [
        Heading("Other memories, not part of required", 2),
        Table(
            columns=(Column(title="memory", align="left"), Column(title="reserved"), Column(title="live peak")),
            rows=tuple(rows),
        ),
    ]


def _peak_section(report: Report, *, detail: bool) -> list[Part]:
    if not report.peak_buffers:
        return []
    shown, left_out = largest(report.peak_buffers, lambda buffer: buffer.bytes, _SHOWN_BUFFERS, detail)
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
                Text(file_name(buffer.source), "quiet"),
            )
        )
        for buffer in shown
    )
    return [Heading("Largest at the peak"), Table(columns=columns, rows=rows), *left_out_line(left_out, "buffers")]


def _layer_section(report: Report, *, detail: bool) -> list[Part]:
    if not report.layers:
        return []

    def compiled(layer: LayerRow) -> tuple[int, ...]:
        compared = (layer.parameters, layer.gradients, layer.optimizer, layer.activations)
        return tuple(each.compiled_bytes for each in compared)

    shown, left_out = largest(report.layers, lambda layer: sum(compiled(layer)), SHOWN_LAYERS, detail)
    rows: list[Row] = []
    for layer in shown:
        rows.append(Row(cells=(Text(layer.layer or "(no layer)"), *(Size(size) for size in compiled(layer)))))
        if detail:
            formula = (layer.parameters, layer.gradients, layer.optimizer, layer.activations)
            rows.append(
                Row(
                    cells=(
                        Text("by the formula", "quiet"),
                        *(known_or_missing(each.formula_bytes) for each in formula),
                    ),
                    inset=True,
                )
            )
    return [
        Heading("Layers, as compiled"),
        Table(columns=LAYER_COLUMNS, rows=tuple(rows)),
        *left_out_line(left_out, "layers"),
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
    sentences = (*report.notes, report.verdict.rule, *report.verdict.assumptions)
    said = [*(sentence[:1].upper() + sentence[1:] for sentence in sentences if sentence), " · ".join(used)]
    return [Heading("Notes"), *(Paragraph((Text(sentence, "quiet"),)) for sentence in said)]
