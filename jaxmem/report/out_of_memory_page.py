"""The page of an out-of-memory failure."""

from jaxmem.report.document import (
    NO_BREAK,
    Cell,
    Column,
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
from jaxmem.report.phrases import file_name, reasons
from jaxmem.result import LargeBuffer, OutOfMemory
from jaxmem.roles import Phase
from jaxmem.unknown import Unknown

_SHOWN_BUFFERS = 10
_ALWAYS_TOLD = ("the program needs", "there is")

_WHAT_FAILED = {
    "GPU run": "an allocation on a GPU, while it ran",
    "TPU compile": "the compile for a TPU: the program is too large for it",
    "TPU run": "an allocation on a TPU, while it ran",
    "CPU run": "an allocation on the processor, while it ran",
    "host memory": "the memory of the machine itself, not of a device",
    "compile": "a program, as it was compiled",
}


def out_of_memory_page(failure: OutOfMemory, *, detail: bool = False) -> Document:
    """What failed, the sizes, the largest buffers, what to try. ``detail`` shows every buffer."""
    program = "" if isinstance(failure.program, Unknown) else f" · {failure.program}"
    exact = not failure.sizes_are_rounded
    sizes = (
        ("asked for at once", failure.requested_bytes),
        ("the program needs", failure.required_bytes),
        ("there is", failure.available_bytes),
        ("was free", failure.free_bytes),
    )
    told = [(name, size) for name, size in sizes if isinstance(size, int) or name in _ALWAYS_TOLD]
    parts: list[Part] = [
        Heading(f"Out of memory{program}", 1),
        Paragraph((Text("Failed:", "bad"), Text(_WHAT_FAILED[failure.failure]))),
        Paragraph((Text(failure.evidence, "quiet"),)),
    ]
    columns = (Column(title="", align="left"), Column(title="bytes"))
    rows = [
        Row(cells=(Text(name), Missing(size.reason) if isinstance(size, Unknown) else Size(size, exact=exact)))
        for name, size in told
    ]
    if isinstance(failure.required_bytes, int) and isinstance(failure.available_bytes, int):
        over = failure.required_bytes - failure.available_bytes
        rows.append(
            Row(cells=(Text("too much by" if over > 0 else "left"), Size(abs(over), "bad" if over > 0 else "plain")))
        )
    parts += [Heading("How much"), Table(columns=columns, rows=tuple(rows)), *reasons(size for _, size in told)]
    if failure.parts:
        rows = [Row(cells=(Text(part.name), Size(part.bytes))) for part in failure.parts]
        parts += [Heading("Of what"), Table(columns=columns, rows=tuple(rows))]
    if failure.buffers:
        parts += _buffers(failure.buffers if detail else failure.buffers[:_SHOWN_BUFFERS])
    if failure.advice:
        parts += [
            Heading("What to try"),
            *(Paragraph((Text(f"-{NO_BREAK}{sentence}"),)) for sentence in failure.advice),
        ]
    rounded = ("Sizes are as the message rounds them.",) if failure.sizes_are_rounded else ()
    parts += [Paragraph((Text(note, "quiet"),)) for note in (*failure.notes, *rounded)]
    return Document(tuple(parts))


def _buffers(buffers: tuple[LargeBuffer, ...]) -> list[Part]:
    columns = (
        Column(title="bytes"),
        Column(title="padding", optional=True),
        Column(title="role", align="left"),
        Column(title="layer", align="left", flexible="shorten"),
        Column(title="phase", align="left", optional=True),
        Column(title="operation", align="left", flexible="shorten"),
        Column(title="shape", align="left", flexible="shorten"),
        Column(title="source", align="left", flexible="shorten", optional=True),
    )
    rows = [
        Row(
            cells=(
                Size(buffer.bytes),
                _padding(buffer.padding_bytes),
                Text("argument" if "an argument" in buffer.role.reason else "")
                if isinstance(buffer.role, Unknown)
                else Text(buffer.role.value.replace("_", " ")),
                Text(buffer.layer),
                Text("" if buffer.phase is Phase.UNKNOWN else buffer.phase.value),
                Text(buffer.operation),
                Text(buffer.shape, "quiet"),
                Text(file_name(buffer.source), "quiet"),
            )
        )
        for buffer in buffers
    ]
    kept = [
        index
        for index, column in enumerate(columns)
        if column.title == "bytes" or any(row.cells[index] != Text("") for row in rows)
    ]
    return [
        Heading("The largest buffers"),
        Table(
            columns=tuple(columns[index] for index in kept),
            rows=tuple(Row(cells=tuple(row.cells[index] for index in kept)) for row in rows),
        ),
    ]


def _padding(size: int) -> Cell:
    return Size(size) if size else Text("")
