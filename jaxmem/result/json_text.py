"""Reports as JSON text, and back.

The form of every value follows from the type of its field:

| Python | JSON |
|---|---|
| dataclass | object with the fields as keys, and the derived numbers of `_DERIVED` |
| tuple | array |
| tuple of (name, value) pairs, `RoleBytes` | object |
| `Unknown` | ``{"unknown": reason}`` |
| enum | its value |

Reading is strict: a key too many or too few, a wrong type, a sum that does not close: each is an error that names the place.
"""

import json
from dataclasses import fields, is_dataclass
from enum import StrEnum
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from jaxmem.errors import InputError, InvariantError
from jaxmem.files import write_whole
from jaxmem.result.estimate import ESTIMATE_SCHEMA, EstimateReports
from jaxmem.result.facts import RoleBytes
from jaxmem.result.ledger import LedgerRow
from jaxmem.result.report import REPORT_SCHEMA, Reports
from jaxmem.unknown import Unknown

_DERIVED: dict[type, tuple[str, ...]] = {LedgerRow: ("difference_bytes",)}
"""Properties that the JSON carries for its readers. On the way back they are compared, not believed."""

_SCHEMAS: dict[str, type[Reports] | type[EstimateReports]] = {REPORT_SCHEMA: Reports, ESTIMATE_SCHEMA: EstimateReports}


def to_json(reports: Reports | EstimateReports) -> str:
    """Write reports as JSON: objects indented, and every list of plain numbers or words on one line."""
    return _layout(_encode(type(reports), reports)) + "\n"


def from_json(text: str, origin: str) -> Reports | EstimateReports:
    """Read what `to_json` wrote.

    Args:
        origin: where the text comes from, for messages: usually the name of a file.

    Raises:
        InputError: the text is cut off, is no report, comes from a newer jaxmem, or does not close.
    """
    try:
        data = json.loads(text, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        found = f"line {error.lineno}, column {error.colno}: {error.msg}"
        raise InputError(
            f"{origin} is not complete JSON ({found}). If it was copied or downloaded, part of it is missing; "
            "`jaxmem report PROGRAM --format json -o FILE` writes it anew."
        ) from error
    except (_Mismatch, RecursionError) as error:
        raise InputError(f"{origin} is not a report that jaxmem wrote: {error}.") from error
    reports_type = _schema_type(data, origin)
    try:
        return _decode(reports_type, data, "")
    except _Mismatch as error:
        raise InputError(
            f"{origin} is damaged: {error}. Write it again with `jaxmem report PROGRAM --format json -o FILE`."
        ) from error


def save(reports: Reports | EstimateReports, path: str | Path, *, force: bool = False) -> None:
    """Write reports to a file, whole or not at all.

    Raises:
        UsageError: the file exists and ``force`` is not given, or its folder does not exist.
        EnvironmentFailure: the disk is full or the folder not writable.
    """
    write_whole(path, to_json(reports), force=force)


def load(path: str | Path) -> Reports | EstimateReports:
    """Read a file that `save` wrote.

    Raises:
        InputError: there is no such file, or as `from_json`.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}.") from error
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path} is not a report: byte {error.start} is not UTF-8 text. A saved capture ends in .jaxmem."
        ) from error
    return from_json(text, str(path))


class _Mismatch(Exception):
    """The data does not have the form that the types ask for. The message names the place."""


def _refuse_constant(name: str) -> float:
    raise _Mismatch(f"it contains {name}, which is no number in JSON")


def _schema_type(data: object, origin: str) -> type[Reports] | type[EstimateReports]:
    schema = data.get("schema") if isinstance(data, dict) else None
    if isinstance(schema, str) and schema in _SCHEMAS:
        return _SCHEMAS[schema]
    expected = " or ".join(_SCHEMAS)
    if isinstance(schema, str) and schema.startswith("jaxmem."):
        raise InputError(
            f"{origin} has the schema {schema!r}, and this jaxmem reads {expected}. "
            "If a newer jaxmem wrote it, read it with that one: pip install --upgrade jaxmem."
        )
    found = f"its schema is {schema!r}" if schema is not None else "it names no schema"
    raise InputError(f"{origin} is JSON but not a report of jaxmem: {found}, where {expected} is expected.")


# --- by type ---------------------------------------------------------------------------------------------------------


@cache
def _hints(dataclass_type: type) -> dict[str, Any]:
    hints = get_type_hints(dataclass_type)
    return {field.name: hints[field.name] for field in fields(dataclass_type)}


@cache
def _pair_value_type(hint: Any) -> Any | None:
    """The type of the values where ``hint`` is a tuple of (name, value) pairs."""
    arguments = get_args(hint)
    if get_origin(hint) is tuple and len(arguments) == 2 and arguments[1] is Ellipsis:
        pair = get_args(arguments[0])
        if get_origin(arguments[0]) is tuple and len(pair) == 2 and pair[0] is str and pair[1] is not Ellipsis:
            return pair[1]
    return None


def _encode(hint: Any, value: Any) -> Any:
    if isinstance(value, Unknown):
        return {"unknown": value.reason}
    if isinstance(value, RoleBytes):
        return {role.value: size for role, size in value.items()}
    if is_dataclass(value):
        data = {name: _encode(inner, getattr(value, name)) for name, inner in _hints(type(value)).items()}
        return data | {name: _encode(None, getattr(value, name)) for name in _DERIVED.get(type(value), ())}
    if isinstance(value, tuple):
        pair_value_type = _pair_value_type(hint)
        if pair_value_type is not None:
            return {name: _encode(pair_value_type, inner) for name, inner in value}
        item_type = get_args(hint)[0] if get_origin(hint) is tuple else None
        return [_encode(item_type, item) for item in value]
    return value.value if isinstance(value, StrEnum) else value


def _decode(hint: Any, value: Any, place: str) -> Any:
    origin = get_origin(hint)
    if origin in (UnionType, Union):
        return _decode_union(get_args(hint), value, place)
    if origin is Literal:
        if value not in get_args(hint):
            raise _Mismatch(f"{place} is {_shown(value)}, expected {' or '.join(map(repr, get_args(hint)))}")
        return value
    if origin is tuple:
        return _decode_tuple(hint, value, place)
    if hint is Unknown:
        return _decode_unknown(value, place)
    if hint is RoleBytes:
        return _decode_roles(value, place)
    if isinstance(hint, type) and is_dataclass(hint):
        return _decode_dataclass(hint, value, place)
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        try:
            return hint(value)
        except ValueError:
            raise _Mismatch(f"{place} is {_shown(value)}, which is no {hint.__name__.lower()}") from None
    if hint is float and type(value) is int:
        return float(value)
    if type(value) is not hint:
        raise _Mismatch(f"{place} is {_shown(value)}, expected {_named(hint)}")
    return value


def _decode_union(alternatives: tuple[Any, ...], value: Any, place: str) -> Any:
    for alternative in alternatives:
        try:
            return _decode(alternative, value, place)
        except _Mismatch:
            continue
    raise _Mismatch(f"{place} is {_shown(value)}, expected {' or '.join(map(_named, alternatives))}")


def _decode_tuple(hint: Any, value: Any, place: str) -> tuple[Any, ...]:
    pair_value_type = _pair_value_type(hint)
    if pair_value_type is not None:
        if not isinstance(value, dict):
            raise _Mismatch(f"{place} is {_shown(value)}, expected an object")
        return tuple((name, _decode(pair_value_type, inner, f"{place}.{name}")) for name, inner in value.items())
    if not isinstance(value, list):
        raise _Mismatch(f"{place} is {_shown(value)}, expected an array")
    item_type = get_args(hint)[0]
    # The columns of the buffer table are long: plain numbers and words are checked without a call for each.
    if item_type in (int, str) and all(type(item) is item_type for item in value):
        return tuple(value)
    return tuple(_decode(item_type, item, f"{place}[{index}]") for index, item in enumerate(value))


def _decode_unknown(value: Any, place: str) -> Unknown:
    if isinstance(value, dict) and value.keys() == {"unknown"} and isinstance(value["unknown"], str):
        try:
            return Unknown(value["unknown"])
        except ValueError as error:
            raise _Mismatch(f"{place}: {error}") from error
    raise _Mismatch(f"{place} is {_shown(value)}, expected {_named(Unknown)}")


def _decode_roles(value: Any, place: str) -> RoleBytes:
    expected = [role.value for role in RoleBytes({})]
    _check_keys(value, expected, place)
    return RoleBytes({role: _decode(int, value[role], f"{place}.{role}") for role in RoleBytes({})})


def _decode_dataclass(hint: type, value: Any, place: str) -> Any:
    hints, derived = _hints(hint), _DERIVED.get(hint, ())
    _check_keys(value, [*hints, *derived], place)
    arguments = {name: _decode(inner, value[name], f"{place}.{name}".lstrip(".")) for name, inner in hints.items()}
    try:
        result = hint(**arguments)
    except (InvariantError, ValueError) as error:
        raise _Mismatch(f"{place or 'the file'} does not close: {str(error).splitlines()[0]}") from error
    for name in derived:
        if _encode(None, getattr(result, name)) != value[name]:
            raise _Mismatch(f"{place}.{name} is {_shown(value[name])}, but the row makes it {getattr(result, name)}")
    return result


def _check_keys(value: Any, expected: list[str], place: str) -> None:
    if not isinstance(value, dict):
        raise _Mismatch(f"{place} is {_shown(value)}, expected an object")
    wrong = [f"{name!r} is missing" for name in expected if name not in value]
    wrong += [f"{name!r} is not known" for name in value if name not in expected]
    if wrong:
        raise _Mismatch(f"{place or 'the file'}: " + ", ".join(wrong))


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _named(hint: Any) -> str:
    names = {int: "an integer", float: "a number", str: "text", bool: "true or false", NoneType: "null"}
    return '{"unknown": reason}' if hint is Unknown else names.get(hint, "an object or array")


# --- layout ----------------------------------------------------------------------------------------------------------


def _layout(value: Any, indent: str = "") -> str:
    """JSON text in which a list or object of scalars takes one line, so that columns do not fill pages."""
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    if not any(isinstance(item, dict | list) for item in items) or _is_matrix(value):
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    deeper = indent + "  "
    if isinstance(value, dict):
        lines = [
            f"{deeper}{json.dumps(name, ensure_ascii=False)}: {_layout(item, deeper)}" for name, item in value.items()
        ]
        return "{\n" + ",\n".join(lines) + f"\n{indent}}}"
    return "[\n" + ",\n".join(deeper + _layout(item, deeper) for item in value) + f"\n{indent}]"


def _is_matrix(value: Any) -> bool:
    """Shapes: a list of lists of numbers."""
    return isinstance(value, list) and all(
        isinstance(row, list) and all(isinstance(size, int) for size in row) for row in value
    )
