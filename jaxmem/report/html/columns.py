"""Report → the data of its charts and long tables, small enough for ten thousand buffers.

Words stand once, in one list for all reports of a file; columns hold their places in it. The scripts of the page turn
this back into boxes and rows.
"""

from collections.abc import Iterable
from typing import Any

from jaxmem.report.html.escape import LONGEST
from jaxmem.report.html.moments import peak_of
from jaxmem.report.html.palette import ROLES
from jaxmem.report.phrases import title
from jaxmem.report.spelling import shortened, visible
from jaxmem.result import LedgerItem, LedgerRow, Report
from jaxmem.roles import Phase, Role
from jaxmem.unknown import Unknown

_ROLES = {role: place for place, role in enumerate(Role)}
_PHASES = {phase: place for place, phase in enumerate(Phase)}


class Words:
    """Each text once, by the order in which it is first said."""

    def __init__(self) -> None:
        self._places: dict[str, int] = {}

    def place(self, text: str) -> int:
        """Where in the list the text stands."""
        return self._places.setdefault(shortened(visible(text), LONGEST), len(self._places))

    def column(self, texts: Iterable[str]) -> list[int]:
        """A column of texts as a column of places."""
        return [self.place(text) for text in texts]

    @property
    def all(self) -> list[str]:
        """The list."""
        return list(self._places)


def charts_of(reports: Iterable[Report]) -> dict[str, Any]:
    """What the scripts of a page need of all its reports."""
    words = Words()
    columns = [_columns(report, words) for report in reports]
    return {
        "words": words.all,
        "roles": [role.value for role in Role],
        "hatches": [ROLES[role].hatch for role in Role],
        "phases": [phase.value for phase in Phase],
        "reports": columns,
    }


def _columns(report: Report, words: Words) -> dict[str, Any]:
    peak, schedule = peak_of(report), report.schedule
    usable = report.verdict.usable_bytes
    return {
        "title": words.place(title(report.program, report.device)),
        "required": report.required_bytes,
        "reserved": report.reserved_bytes,
        "usable": None if isinstance(usable, Unknown) else usable,
        "length": peak.length,
        "peak": peak.position,
        "live": list(peak.buffers),
        "allocation": list(schedule.allocation) if schedule else [],
        "allocationBytes": list(schedule.allocation_bytes) if schedule else [],
        "buffers": _buffers(report, words),
        "ledger": [_ledger_row(row, words) for row in report.ledger],
        "layers": [
            [
                words.place(layer.layer),
                *(
                    number
                    for each in (layer.parameters, layer.gradients, layer.optimizer, layer.activations)
                    for number in (_number(each.formula_bytes), each.compiled_bytes)
                ),
            ]
            for layer in report.layers
        ],
    }


def _buffers(report: Report, words: Words) -> dict[str, list[int]]:
    table = report.buffers
    return {
        "bytes": list(table.bytes),
        "padding": [size - logical for size, logical in zip(table.bytes, table.logical_bytes, strict=True)],
        "role": [_ROLES[role] for role in table.role],
        "phase": [_PHASES[phase] for phase in table.phase],
        "layer": words.column(table.layer),
        "instruction": words.column(table.instruction),
        "opcode": words.column(table.opcode),
        "shape": words.column(f"[{','.join(map(str, shape))}]" for shape in table.shape),
        "dtype": words.column(table.dtype),
        "source": words.column(table.source),
        "rule": words.column(table.rule),
        "start": list(table.start),
        "end": list(table.end),
        "allocation": list(table.allocation),
        "offset": list(table.offset),
    }


def _ledger_row(row: LedgerRow, words: Words) -> list[Any]:
    return [
        words.place(row.term),
        words.place(row.symbol),
        words.place(row.layer),
        _number(row.formula_bytes),
        row.compiled_bytes,
        _number(row.unexplained_bytes),
        words.place(row.reason),
        [_item(item, words) for item in row.items],
    ]


def _item(item: LedgerItem, words: Words) -> list[int]:
    evidence = ", ".join(
        f"{name} {' '.join(map(str, value)) if isinstance(value, tuple) else value}" for name, value in item.evidence
    )
    return [words.place(item.kind.replace("_", " ")), item.bytes, words.place(evidence)]


def _number(size: int | Unknown) -> int | None:
    """None is for the scripts; the page says beside it why the number is not known."""
    return None if isinstance(size, Unknown) else size
