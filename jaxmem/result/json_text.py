"""Reports as JSON text, and back.

`jaxmem.codec` does it by the types; this module adds what makes the JSON good to read: pairs of name and value become
objects, and derived numbers stand beside those they derive from. Reading is strict: a key too many or too few, a wrong
type, a sum that does not close is an error that names the place.
"""

import json
import re
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from jaxmem.codec import Mismatch, decode, encode, parse_json
from jaxmem.errors import InputError, InvariantError
from jaxmem.files import read_bounded, write_whole
from jaxmem.result.comparison import COMPARISON_SCHEMA, Comparison
from jaxmem.result.diff import DIFF_SCHEMA, Diffs
from jaxmem.result.dump_folder import DUMP_FOLDER_SCHEMA, DumpFolder
from jaxmem.result.estimate import ESTIMATE_SCHEMA, EstimateReports
from jaxmem.result.fit import FIT_SCHEMA, Fits
from jaxmem.result.out_of_memory import OUT_OF_MEMORY_SCHEMA, OutOfMemory
from jaxmem.result.report import REPORT_SCHEMA, Reports
from jaxmem.result.together import TOGETHER_SCHEMA, Together
from jaxmem.unknown import Unknown

Results = Reports | EstimateReports | Fits | Comparison | OutOfMemory | Together | Diffs | DumpFolder

SCHEMAS: dict[str, type[Results]] = {
    REPORT_SCHEMA: Reports,
    ESTIMATE_SCHEMA: EstimateReports,
    FIT_SCHEMA: Fits,
    COMPARISON_SCHEMA: Comparison,
    OUT_OF_MEMORY_SCHEMA: OutOfMemory,
    TOGETHER_SCHEMA: Together,
    DIFF_SCHEMA: Diffs,
    DUMP_FOLDER_SCHEMA: DumpFolder,
}
"""What a file has under ``schema``, and what it is then."""

_LIMIT_BYTES = 256 * 2**20
"""The largest file of results that is read: that of a program of a million buffers is smaller."""

FIT_AT_THE_TOP = ("boundary", "advice")
"""The parts of a fit that a script asks for: where there is one report, they stand at the top of the JSON as well."""


def to_json(reports: Results) -> str:
    """Write reports as JSON: objects indented, and every list of plain numbers or words on one line."""
    return inert(layout(json_values(reports))) + "\n"


_ACTING = re.compile("[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")
"""What JSON may hold as it is, and should not: characters that act on a terminal, and halves of one that no file can hold."""


def inert(text: str) -> str:
    """The same JSON with such characters written as JSON escapes; they stand nowhere but in its strings."""
    return _ACTING.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def json_values(reports: Results) -> dict[str, Any]:
    """What the JSON of reports holds."""
    values, _ = encode(reports)
    if isinstance(reports, Reports | Diffs):
        for holder, key in (pair for report in values["reports"] for pair in _pairs(report)):
            holder[key] = dict(holder[key])
    if isinstance(reports, Reports):
        for report, report_values in zip(reports.reports, values["reports"], strict=True):
            for row, row_values in zip(report.ledger, report_values["ledger"], strict=True):
                row_values["difference_bytes"] = _number(row.difference_bytes)
    if isinstance(reports, Fits) and len(reports.reports) == 1:
        values |= {part: values["reports"][0][part] for part in FIT_AT_THE_TOP}
    return values


def from_json(text: str, origin: str) -> Results:
    """Read what `to_json` wrote.

    Args:
        origin: where the text comes from, for messages: usually the name of a file.

    Raises:
        InputError: the text is cut off, is no report, comes from a newer jaxmem, or does not close.
    """
    try:
        values = parse_json(text)
    except json.JSONDecodeError as error:
        found = f"line {error.lineno}, column {error.colno}: {error.msg}"
        raise InputError(
            f"{origin} is not complete JSON ({found}). If it was copied or downloaded, part of it is missing; "
            "`jaxmem report PROGRAM --format json -o FILE` writes it anew."
        ) from error
    except ValueError as error:
        raise InputError(f"{origin} is not a report that jaxmem wrote: {error}.") from error
    reports_type = _schema_type(values, origin)
    try:
        differences = _take_additions(values) if reports_type in (Reports, Diffs) else []
        if reports_type is Fits:
            values = {name: value for name, value in values.items() if name not in FIT_AT_THE_TOP}
        reports = decode(reports_type, values)
        if isinstance(reports, Reports):
            rows = [row for report in reports.reports for row in report.ledger]
            for row, difference in zip(rows, differences, strict=True):
                if (expected := _number(row.difference_bytes)) != difference or type(expected) is not type(difference):
                    raise Mismatch(
                        f"difference_bytes of {row.term!r} is {difference}, the row makes it {row.difference_bytes}"
                    )
    except Mismatch as error:
        problem = str(error)
    except InvariantError as error:
        # What a file says need not close; only what jaxmem itself makes must.
        problem = str(error).splitlines()[0].removeprefix("Internal check failed: ").rstrip(".")
    else:
        return reports
    raise InputError(
        f"{origin} is damaged: {problem}. Write it again with `jaxmem report PROGRAM --format json -o FILE`."
    )


def save(reports: Results, path: str | Path, *, force: bool = False) -> None:
    """Write reports to a file, whole or not at all.

    Raises:
        UsageError: the file exists and ``force`` is not given, or its folder does not exist.
        EnvironmentFailure: the disk is full or the folder not writable.
    """
    write_whole(path, to_json(reports), force=force)


def load(path: str | Path) -> Results:
    """Read a file that `save` wrote.

    Raises:
        InputError: there is no such file, or as `from_json`.
    """
    data = read_bounded(path, limit_bytes=_LIMIT_BYTES)
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path} is not a report: byte {error.start} is not UTF-8 text. A saved capture ends in .jaxmem."
        ) from error
    return from_json(text, str(path))


def _schema_type(data: object, origin: str) -> type[Results]:
    schema = data.get("schema") if isinstance(data, dict) else None
    if isinstance(schema, str) and schema in SCHEMAS:
        return SCHEMAS[schema]
    expected = " or ".join(SCHEMAS)
    if isinstance(schema, str) and schema.startswith("jaxmem."):
        raise InputError(
            f"{origin} has the schema {schema!r}, and this jaxmem reads {expected}. "
            "If a newer jaxmem wrote it, read it with that one: pip install --upgrade jaxmem."
        )
    found = f"its schema is {schema!r}" if schema is not None else "it names no schema"
    raise InputError(f"{origin} is JSON but not a report of jaxmem: {found}, where {expected} is expected.")


def _pairs(report: Any) -> Iterator[tuple[Any, str]]:
    """The places of one report's or diff's JSON values that hold (name, value) pairs: the holder and its key."""
    for holder in (report["old"], report["new"]) if "old" in report else (report,):
        yield holder["versions"], "compiler_options"
    for row in report.get("ledger", ()):
        for item in row["items"]:
            yield item, "evidence"


def _take_additions(values: Any) -> list[Any]:
    """Turn what `to_json` added back into what the codec knows; returns the differences that the file claims."""
    try:
        for report in values["reports"]:
            for holder, key in _pairs(report):
                holder[key] = [[name, value] for name, value in holder[key].items()]
        rows = [row for report in values["reports"] for row in report.get("ledger", ())]
        return [row.pop("difference_bytes") for row in rows]
    except KeyError as error:
        raise Mismatch(f"the key {error} is missing") from error
    except (TypeError, AttributeError) as error:
        raise Mismatch("the reports, their versions or their ledgers are not of the form that jaxmem writes") from error


def _number(size: int | Unknown) -> Any:
    return {"unknown": size.reason} if isinstance(size, Unknown) else size


_as_json = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode


def _one_line(value: Any) -> str:
    return str(value) if type(value) is int else _as_json(value)  # of plain numbers there are many


def layout(value: Any, indent: str = "") -> str:
    """JSON text in which small things and columns take one line each, however long the column."""
    if not isinstance(value, dict | list) or _is_column(value):
        return _one_line(value)
    children = value.values() if isinstance(value, dict) else value
    has_lines = any(isinstance(child, dict | list) and not _is_column(child) for child in children)
    deeper = indent + "  "
    if isinstance(value, dict):
        begin, end = "{}"
        parts = [f"{_one_line(name)}: {layout(child, deeper)}" for name, child in value.items()]
    else:
        begin, end = "[]"
        parts = [layout(child, deeper) for child in value]
    if not has_lines and sum(map(len, parts)) + 2 * len(parts) <= 160:
        return begin + ", ".join(parts) + end
    return f"{begin}\n{deeper}" + f",\n{deeper}".join(parts) + f"\n{indent}{end}"


def _is_column(value: Any) -> bool:
    """A list of numbers and words, or of shapes."""
    if not isinstance(value, list):
        return False
    kinds = set(map(type, value))
    inside = chain.from_iterable(child for child in value if type(child) is list) if list in kinds else ()
    return dict not in kinds and {dict, list}.isdisjoint(map(type, inside))
