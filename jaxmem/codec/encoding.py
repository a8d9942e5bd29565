"""A dataclass → JSON values."""

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from itertools import chain
from typing import Any

from jaxmem.codec.kinds import PLAIN, SCALARS
from jaxmem.unknown import Unknown


def encode(value: object, *, columns: Collection[type] = ()) -> tuple[Any, dict[str, bytes]]:
    """Turn a dataclass into JSON values.

    Args:
        value: a dataclass of the kinds listed above.
        columns: the dataclasses whose tuples are written by columns.

    Returns:
        The JSON values, and the bytes fields by the path at which they were found (``lowering.stablehlo``).

    Raises:
        TypeError: the value holds something the codec does not know; that is a mistake in the program.
    """
    members: dict[str, bytes] = {}
    return _encode(value, "", members, frozenset(columns)), members


def _encode(value: Any, path: str, members: dict[str, bytes], columns: frozenset[type]) -> Any:
    kind = type(value)
    if isinstance(value, Enum):  # before the scalars: a StrEnum is a str
        return value.value
    if kind is float and not math.isfinite(value):
        raise TypeError(f"{path}: {value} has no JSON form")
    if kind in SCALARS:
        return value
    if kind is bytes:
        members[path] = value
        return {"member": path}
    if kind is Unknown:
        return {"unknown": value.reason}
    if kind is tuple or kind is list:
        if value and type(value[0]) in columns and all(type(row) is type(value[0]) for row in value):
            return _encode_columns(value, path, members, columns)
        kinds = set(map(type, value))
        if kinds <= {int, str}:
            return list(value)
        if kinds == {tuple} and _are_plain(value):
            return list(map(list, value))
        if all(issubclass(kind, Enum) for kind in kinds):
            return [item.value for item in value]
        return [_encode(item, f"{path}[{index}]", members, columns) for index, item in enumerate(value)]
    if isinstance(value, Mapping):
        return {key: _encode(item, f"{path}.{key}" if path else key, members, columns) for key, item in value.items()}
    if is_dataclass(value):
        prefix = f"{path}." if path else ""
        return {
            field.name: _encode(getattr(value, field.name), f"{prefix}{field.name}", members, columns)
            for field in fields(value)
            if field.init
        }
    raise TypeError(f"{path}: the codec does not know {kind.__name__}")


def _encode_columns(
    rows: tuple[Any, ...], path: str, members: dict[str, bytes], columns: frozenset[type]
) -> dict[str, list[Any]]:
    return {
        field.name: _encode_column(
            [getattr(row, field.name) for row in rows], f"{path}[].{field.name}", members, columns
        )
        for field in fields(rows[0])
        if field.init
    }


def _encode_column(column: list[Any], path: str, members: dict[str, bytes], columns: frozenset[type]) -> list[Any]:
    kinds = set(map(type, column))
    if kinds <= PLAIN:
        return column
    if kinds == {tuple} and _are_plain(column):
        return column  # json writes a tuple as an array
    return [_encode(value, f"{path}[{index}]", members, columns) for index, value in enumerate(column)]


def _are_plain(tuples: Iterable[tuple[Any, ...]]) -> bool:
    """Whether JSON writes all that stands in some tuples as it is."""
    return set(map(type, chain.from_iterable(tuples))) <= PLAIN
