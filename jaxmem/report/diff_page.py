"""The page of a diff: what grew, whose it is, and which operation owns it."""

from collections.abc import Sequence
from typing import TypeVar

from jaxmem.report.document import (
    Cell,
    Column,
    Difference,
    Document,
    Heading,
    Paragraph,
    Part,
    Percent,
    Row,
    Size,
    Table,
    Text,
    Tone,
)
from jaxmem.report.phrases import SHOWN_LAYERS, file_name, left_out_line, title
from jaxmem.result import BufferChange, BufferRow, Diff, Diffs, DiffSide, LayerChange, RoleChange
from jaxmem.units import format_bytes, format_difference
from jaxmem.unknown import Unknown

_SHOWN_BUFFERS = 12
_ELSEWHERE = ("arrived", "left")

T = TypeVar("T")

_ROLE_COLUMNS = (
    Column(title="role", align="left"),
    Column(title="old"),
    Column(title="new"),
    Column(title="difference"),
)
_LAYER_COLUMNS = (
    Column(title="layer", align="left", flexible="shorten"),
    Column(title="old"),
    Column(title="new"),
    Column(title="difference"),
)
_BUFFER_COLUMNS = (
    Column(title="layer", align="left", flexible="shorten"),
    Column(title="role", align="left"),
    Column(title="shape", align="left", flexible="wrap"),
    Column(title="", align="left"),
    Column(title="difference"),
)


def diff_page(diff: Diff, *, detail: bool = False) -> Document:
    """The page of one diff. ``detail`` shows every layer and every buffer that changed."""
    parts: list[Part] = [
        Heading(_title(diff), 1),
        *_varied(diff),
        _headline(diff),
        *_guilty(diff),
        *_roles(diff),
        *_layers(diff, detail=detail),
        *_buffers(diff, detail=detail),
        *(Paragraph((Text(note, "quiet"),)) for note in diff.notes),
    ]
    return Document(tuple(parts))


def diff_pages(diffs: Diffs, *, detail: bool = False) -> tuple[Document, ...]:
    """A page for each pair, and one of what has no partner."""
    pages = [diff_page(diff, detail=detail) for diff in diffs.reports]
    alone = [
        *((name, "only in the old, nothing to compare it with") for name in diffs.only_old),
        *((name, "only in the new, nothing to compare it with") for name in diffs.only_new),
    ]
    if alone:
        paragraphs = (Paragraph((Text(name), Text(where, "quiet"))) for name, where in alone)
        pages.append(Document((Heading("Without a partner", 1), *paragraphs)))
    return tuple(pages)


# --- the top of the page ---------------------------------------------------------------------------------------------


def _title(diff: Diff) -> str:
    old, new = title(diff.old.program, diff.old.device), title(diff.new.program, diff.new.device)
    return new if old == new else f"{old} → {new}"


def _varied(diff: Diff) -> list[Part]:
    """What is not the same on both sides, besides the memory."""
    pairs = [
        f"{name} {old} → {new}" if name else f"{old} → {new}"
        for (name, old), (_, new) in zip(_facts(diff.old), _facts(diff.new), strict=True)
        if old != new
    ]
    return [Paragraph((Text(" · ".join(pairs), "quiet"),))] if pairs else []


def _facts(side: DiffSide) -> tuple[tuple[str, str], ...]:
    program, versions = side.program, side.versions
    parameters = "" if program.parameter_count is None else f"{program.parameter_count:,}"
    named = (
        ("", side.name),
        ("parameters", parameters),
        ("dtype", program.dtype),
        ("optimizer", program.optimizer),
        ("donated", "yes" if program.donated else "no"),
        ("jaxmem", versions.jaxmem),
        ("jax", versions.jax),
        ("jaxlib", versions.jaxlib),
        ("libtpu", versions.libtpu),
        ("compiler options", " ".join(f"{name}={value}" for name, value in versions.compiler_options)),
    )
    return tuple((name, "–" if not value or isinstance(value, Unknown) else value) for name, value in named)


def _headline(diff: Diff) -> Paragraph:
    old, new = diff.old, diff.new
    cells: list[Cell] = [
        Text("Required", "strong"),
        Size(old.required_bytes, at_least=old.required_is_lower_bound),
        Text("→"),
        Size(new.required_bytes, "strong", at_least=new.required_is_lower_bound),
    ]
    if not diff.difference_bytes:
        return Paragraph((*cells, Text("the same" if not diff.buffers else "the same in total", "good")))
    cells.append(Difference(diff.difference_bytes, "bad" if diff.exceeded else "strong"))
    if old.required_bytes:
        cells.append(Percent(100 * diff.difference_bytes / old.required_bytes, signed=True))
    if diff.exceeded:
        allowed = format_bytes(diff.allowed_bytes)
        cells.append(Text(f"· more than the {allowed} allowed" if diff.allowed_bytes else "· no growth allowed", "bad"))
    elif diff.difference_bytes > 0:
        cells.append(Text(f"· within the {format_bytes(diff.allowed_bytes)} allowed", "good"))
    return Paragraph(tuple(cells))


def _guilty(diff: Diff) -> list[Part]:
    """The layer that changed most in the direction of the whole, and the buffer in it that did."""
    layer = next((one for one in diff.layers if one.difference_bytes * diff.difference_bytes > 0), None)
    if layer is None:
        return []
    sign = 1 if diff.difference_bytes > 0 else -1
    role = next(one for one in layer.roles if one.difference_bytes * sign > 0)
    cells: list[Cell] = [
        Text("Most of it in" if 2 * abs(layer.difference_bytes) > abs(diff.difference_bytes) else "The most in"),
        Text(layer.layer or "(no layer)", "strong"),
        Text(f"({_role(role)})"),
        Difference(layer.difference_bytes, "strong"),
    ]
    own = (one for one in diff.buffers if (one.row.layer, one.row.role) == (layer.layer, role.role))
    buffer = next((one for one in own if one.difference_bytes * sign > 0), None)
    if buffer is not None:
        row = buffer.row
        cells += [
            Text("·"),
            Text(f"{_shapes(buffer)} by {_made_by(row)}"),
            Text(f"{buffer.change}:"),
            Difference(buffer.difference_bytes),
        ]
    return [Paragraph(tuple(cells))]


# --- sections --------------------------------------------------------------------------------------------------------


def _roles(diff: Diff) -> list[Part]:
    rows = [_change_row(Text(_role(one)), one) for one in diff.roles if one.difference_bytes]
    if not rows:
        return []
    rest = [one for one in diff.roles if not one.difference_bytes]
    if rest:
        same = sum(one.old_bytes for one in rest)
        rows.append(
            Row(cells=(Text(f"{_count(len(rest), 'other role')}", "quiet"), Size(same), Size(same), Difference(0)))
        )
    return [Heading("By role"), Table(columns=_ROLE_COLUMNS, rows=(*rows, _total(diff)))]


def _layers(diff: Diff, *, detail: bool) -> list[Part]:
    changed = [one for one in diff.layers if one.difference_bytes or one.roles]
    if not changed:
        return []
    shown, left_out = _first(changed, SHOWN_LAYERS, detail)
    rows = [_change_row(Text(one.layer or "(no layer)"), one, notes=_role_notes(one)) for one in shown]
    names = {one.layer for one in shown}
    rest = [one for one in diff.layers if one.layer not in names]
    if rest:
        before, after = sum(one.old_bytes for one in rest), sum(one.new_bytes for one in rest)
        cells = (
            Text(_count(len(rest), "other layer"), "quiet"),
            Size(before),
            Size(after),
            Difference(after - before),
        )
        rows.append(Row(cells=cells))
    return [
        Heading("By layer"),
        Table(columns=_LAYER_COLUMNS, rows=(*rows, _total(diff))),
        *left_out_line(left_out, "changes"),
    ]


def _role_notes(layer: LayerChange) -> tuple[str, ...]:
    if len(layer.roles) < 2:
        return tuple(_role(one) for one in layer.roles)
    return (" · ".join(f"{_role(one)} {format_difference(one.difference_bytes)}" for one in layer.roles),)


def _buffers(diff: Diff, *, detail: bool) -> list[Part]:
    if not diff.buffers:
        return []
    shown, left_out = _first(diff.buffers, _SHOWN_BUFFERS, detail)
    rows = tuple(
        Row(
            cells=(
                Text(one.row.layer or "(no layer)"),
                Text(one.row.role.value.replace("_", " ")),
                Text(_shapes(one)),
                Text(one.change),
                Difference(one.difference_bytes, _tone(one.difference_bytes)),
            ),
            notes=(_made_by(one.row),),
        )
        for one in shown
    )
    said = [
        f"{_count(diff.unchanged_buffers, 'buffer')} at the peak {'is' if diff.unchanged_buffers == 1 else 'are'} the same."
    ]
    if any(one.change in _ELSEWHERE for one in shown):
        said.append("Arrived, left: it may be live on the other side too, but not at the peak.")
    return [
        Heading("By buffer, live at the peak"),
        Table(columns=_BUFFER_COLUMNS, rows=rows),
        *left_out_line(left_out, "changes"),
        *(Paragraph((Text(sentence, "quiet"),)) for sentence in said),
    ]


def _shapes(change: BufferChange) -> str:
    """``f32[8,4] → f32[16,4]`` where it was resized; one array where it was not."""
    resized = change.old is not None and change.new is not None and change.old_bytes and change.new_bytes
    if resized and change.old is not None and change.new is not None and _array(change.old) != _array(change.new):
        return f"{_array(change.old)} → {_array(change.new)}"
    return _array(change.row)


def _array(row: BufferRow) -> str:
    return f"{row.dtype}[{','.join(map(str, row.shape))}]"


def _made_by(row: BufferRow) -> str:
    """The operation and the line that asks for it: ``fusion multiply_add_fusion.3 at layers.py:88``."""
    # The name of an instruction begins with its opcode, or says more.
    operation = row.instruction if row.instruction.startswith(row.opcode) else f"{row.opcode} {row.instruction}"
    return f"{operation} at {file_name(row.source)}" if row.source else operation


def _change_row(name: Text, change: RoleChange | LayerChange, notes: tuple[str, ...] = ()) -> Row:
    difference = Difference(change.difference_bytes, _tone(change.difference_bytes))
    return Row(cells=(name, Size(change.old_bytes), Size(change.new_bytes), difference), notes=notes)


def _total(diff: Diff) -> Row:
    cells = (
        Text("required"),
        Size(diff.old.required_bytes, at_least=diff.old.required_is_lower_bound),
        Size(diff.new.required_bytes, at_least=diff.new.required_is_lower_bound),
        Difference(diff.difference_bytes),
    )
    return Row(cells=cells, total=True)


def _tone(difference_bytes: int) -> Tone:
    return "bad" if difference_bytes > 0 else "good" if difference_bytes < 0 else "quiet"


def _role(change: RoleChange) -> str:
    return change.role.value.replace("_", " ")


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _first(rows: Sequence[T], count: int, detail: bool) -> tuple[Sequence[T], int]:
    """The first rows, which are the largest; all of them with ``detail``."""
    if detail or len(rows) <= count + 1:
        return rows, 0
    return rows[:count], len(rows) - count
