"""Phrases and small sections that several pages share."""

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from jaxmem.lowering import ProgramFacts
from jaxmem.report.document import Cell, Column, Heading, Missing, Paragraph, Part, Percent, Row, Size, Table, Text
from jaxmem.result import DeviceFacts, Estimate
from jaxmem.unknown import Unknown

SHOWN_LAYERS = 12

T = TypeVar("T")


def title(program: ProgramFacts, device: DeviceFacts) -> str:
    """``vgg16 · training · batch 32 on cpu``."""
    count = "" if device.device_count == 1 else f" × {device.device_count}"
    batch = "" if program.batch_size is None else f"batch {program.batch_size}"
    return " · ".join(filter(None, (program.name, _MODES.get(program.mode or "", program.mode), batch))) + (
        f" on {device.name}{count}"
    )


_MODES = {"train": "training", "infer": "inference"}


def facts(program: ProgramFacts) -> list[Paragraph]:
    """What else is known of the program, in one line; nothing where nothing is."""
    parameters = None if program.parameter_count is None else f"{program.parameter_count:,} parameters"
    donated = "state donated" if program.donated else None
    source = file_name(program.source or "")
    known = [fact for fact in (parameters, program.dtype, program.optimizer, donated, source) if fact]
    return [Paragraph((Text(" · ".join(known), "quiet"),))] if known else []


def estimates_section(estimates: tuple[Estimate, ...], title: str, required_bytes: int | None) -> list[Part]:
    """Formulas side by side; with ``required_bytes``, how far each is off."""
    if not estimates:
        return []
    columns = [
        Column(title="formula", align="left", flexible="wrap"),
        Column(title="with numbers", align="left", flexible="wrap"),
        Column(title="bytes"),
    ]
    rows = []
    for estimate in estimates:
        cells: list[Cell] = [Text(estimate.name), Text(estimate.formula), known_or_missing(estimate.bytes)]
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
    missing = reasons(value for estimate in estimates for value in (estimate.bytes, estimate.error_percent))
    quiet = [] if required_bytes is None else missing
    return [Heading(title), Table(columns=tuple(columns), rows=tuple(rows)), *quiet]


LAYER_COLUMNS = (
    Column(title="layer", align="left", flexible="shorten"),
    Column(title="parameters"),
    Column(title="gradients"),
    Column(title="optimizer"),
    Column(title="activations"),
)


def known_or_missing(size: int | Unknown) -> Cell:
    """A size, or that there is none."""
    return Missing(size.reason) if isinstance(size, Unknown) else Size(size)


def in_layer(term: str, layer: str) -> str:
    """The term, and its layer where it has one."""
    return f"{term}  {layer}" if layer else term


def file_name(source: str) -> str:
    """``/home/me/models/vgg.py:81`` → ``vgg.py:81``."""
    return source.replace("\\", "/").rsplit("/", 1)[-1]


def largest(rows: Sequence[T], size_of: Callable[[T], int], count: int, detail: bool) -> tuple[tuple[T, ...], int]:
    """The ``count`` largest rows in their own order, and how many were left out; all of them with ``detail``."""
    if detail or len(rows) <= count + 1:  # a line that says "1 more" is no shorter than that one
        return tuple(rows), 0
    kept = sorted(sorted(range(len(rows)), key=lambda index: -size_of(rows[index]))[:count])
    return tuple(rows[index] for index in kept), len(rows) - count


def left_out_line(count: int, what: str) -> list[Part]:
    """How many rows are not shown, and how to see them."""
    return [Paragraph((Text(f"and {count} smaller {what}: -v shows them all", "quiet"),))] if count else []


def reasons(values: Iterable[object]) -> list[Part]:
    """Why numbers are not known, each reason once."""
    reasons = dict.fromkeys(value.reason for value in values if isinstance(value, Unknown))
    return [Paragraph((Text(f"Unknown: {reason}.", "quiet"),)) for reason in reasons]
