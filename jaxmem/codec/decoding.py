"""JSON values → a dataclass, every value checked by a function that was built from its annotation."""

import math
import reprlib
import types
from collections.abc import Callable, Collection, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from enum import Enum
from functools import cache
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from jaxmem.codec.kinds import PLAIN, SCALARS, Mismatch
from jaxmem.unknown import Unknown

T = TypeVar("T")

_SHORT = reprlib.Repr()  # of a value of any size and depth
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 80
_LARGEST_NUMBER = 2**128
"""No number of bytes or operations comes near; beyond, numbers have no ratio and no spelling."""


def decode(
    kind: type[T], values: object, *, members: Mapping[str, bytes] | None = None, columns: Collection[type] = ()
) -> T:
    """Turn JSON values back into ``kind``, checking every one.

    Args:
        kind: a dataclass, or any other annotation of the table above.
        values: what `encode` returned, or ``json.loads`` of it.
        members: the bytes fields by name.
        columns: as given to `encode`.

    Raises:
        Mismatch: keys, types or members are not those of ``kind``.
    """
    reader = _Reader(members=dict(members or {}), read_members=set())
    result = _decoder(kind, frozenset(columns))(values, reader)
    if unused := sorted(reader.members.keys() - reader.read_members):
        raise Mismatch(f"members that nothing refers to: {', '.join(unused)}")
    return result


@dataclass(frozen=True, slots=True, kw_only=True)
class _Reader:
    """The members at hand while decoding, and those already taken."""

    members: dict[str, bytes]
    read_members: set[str]


_Decoder = Callable[[Any, _Reader], Any]


@cache
def _decoder(kind: Any, columns: frozenset[type]) -> _Decoder:
    """The function that reads one annotation. Built once for each, so that reading 10^5 rows inspects no annotation."""
    origin = get_origin(kind)
    if kind is None or kind in SCALARS:
        return _scalar_decoder(types.NoneType if kind is None else kind)
    if kind is bytes:
        return _decode_member
    if kind is Unknown:
        return _decode_unknown
    if origin in (Union, types.UnionType):
        return _union_decoder(kind, columns)
    if origin is Literal:
        return _literal_decoder(get_args(kind))
    if origin is tuple:
        return _tuple_decoder(get_args(kind), columns)
    if origin is dict or (isinstance(origin, type) and issubclass(origin, Mapping)):
        return _mapping_decoder(get_args(kind)[1], columns)
    if isinstance(kind, type) and issubclass(kind, Enum):
        return _enum_decoder(kind)
    if is_dataclass(kind):
        return _dataclass_decoder(kind, columns)
    raise TypeError(f"the codec does not know the annotation {kind!r}")


def _name(kind: Any) -> str:
    if kind in (None, types.NoneType):
        return "null"
    return kind.__name__ if isinstance(kind, type) and get_origin(kind) is None else str(kind)


def _expected(what: str, value: object) -> Mismatch:
    found = _SHORT.repr(value)
    return Mismatch(f"expected {what}, found {found if len(found) <= 60 else found[:57] + '...'}")


def _scalar_decoder(kind: type) -> _Decoder:
    def decode_scalar(value: Any, reader: _Reader) -> Any:
        if type(value) is int and abs(value) > _LARGEST_NUMBER:
            raise Mismatch(f"a number of {value.bit_length()} bits, at most {_LARGEST_NUMBER.bit_length()} are read")
        if type(value) is kind and (kind is not float or math.isfinite(value)):
            return value
        if kind is float and type(value) is int:
            return float(value)
        raise _expected(_name(kind), value)

    return decode_scalar


def _decode_member(value: Any, reader: _Reader) -> bytes:
    if not isinstance(value, dict) or value.keys() != {"member"} or not isinstance(value["member"], str):
        raise _expected('{"member": name}', value)
    name = value["member"]
    if name not in reader.members:
        raise Mismatch(f"the member {name!r} is missing")
    reader.read_members.add(name)
    return reader.members[name]


def _decode_unknown(value: Any, reader: _Reader) -> Unknown:
    if not isinstance(value, dict) or value.keys() != {"unknown"} or not isinstance(value["unknown"], str):
        raise _expected('{"unknown": reason}', value)
    if not value["unknown"].strip():
        raise Mismatch("an unknown value without a reason")
    return Unknown(value["unknown"])


def _literal_decoder(choices: tuple[Any, ...]) -> _Decoder:
    def decode_literal(value: Any, reader: _Reader) -> Any:
        if any(type(value) is type(choice) and value == choice for choice in choices):
            return value
        raise _expected(f"one of {', '.join(map(repr, choices))}", value)

    return decode_literal


def _enum_decoder(kind: type[Enum]) -> _Decoder:
    by_value = {member.value: member for member in kind}

    def decode_enum(value: Any, reader: _Reader) -> Any:
        if isinstance(value, str | int) and value in by_value:
            return by_value[value]
        raise _expected(f"a {kind.__name__}", value)

    return decode_enum


def _union_decoder(kind: Any, columns: frozenset[type]) -> _Decoder:
    choices = [(choice, _decoder(choice, columns)) for choice in get_args(kind)]

    def decode_union(value: Any, reader: _Reader) -> Any:
        mismatches = []
        for choice, decode_choice in choices:
            try:
                return decode_choice(value, reader)
            except Mismatch as mismatch:
                mismatches.append((choice, mismatch))
        # The choice that came furthest knows best what is wrong.
        deepest = max(mismatches, key=lambda pair: len(pair[1].path))[1]
        if deepest.path:
            raise deepest
        raise _expected(" or ".join(_name(choice) for choice, _ in choices), value)

    return decode_union


def _tuple_decoder(arguments: tuple[Any, ...], columns: frozenset[type]) -> _Decoder:
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        item_kind = arguments[0]
        if item_kind in columns:
            return _columns_decoder(item_kind, columns)
        decode_item = _decoder(item_kind, columns)

        def decode_sequence(value: Any, reader: _Reader) -> Any:
            if not isinstance(value, list | tuple):
                raise _expected("an array", value)
            return tuple(_decode_items(value, [decode_item] * len(value), reader))

        return decode_sequence

    decoders = [_decoder(argument, columns) for argument in arguments]

    def decode_fixed(value: Any, reader: _Reader) -> Any:
        if not isinstance(value, list | tuple) or len(value) != len(decoders):
            raise _expected(f"an array of {len(decoders)}", value)
        return tuple(_decode_items(value, decoders, reader))

    return decode_fixed


def _decode_items(values: Collection[Any], decoders: Collection[_Decoder], reader: _Reader) -> list[Any]:
    result: list[Any] = []
    try:
        for value, decode_item in zip(values, decoders, strict=True):
            result.append(decode_item(value, reader))
    except Mismatch as mismatch:
        raise mismatch.inside(f"[{len(result)}]") from None
    return result


def _mapping_decoder(kind: Any, columns: frozenset[type]) -> _Decoder:
    decode_item = _decoder(kind, columns)

    def decode_mapping(value: Any, reader: _Reader) -> Any:
        if not isinstance(value, dict):
            raise _expected("an object", value)
        result = {}
        for key, item in value.items():
            try:
                result[key] = decode_item(item, reader)
            except Mismatch as mismatch:
                raise mismatch.inside(key) from None
        return result

    return decode_mapping


def _field_decoders(kind: Any, columns: frozenset[type]) -> dict[str, _Decoder]:
    hints = get_type_hints(kind)
    return {field.name: _decoder(hints[field.name], columns) for field in fields(kind) if field.init}


def _check_keys(kind: Any, found: Mapping[str, Any], wanted: Collection[str]) -> None:
    # A field that came later has a default, so that what an earlier version wrote is still read.
    may_lack = {
        field.name for field in fields(kind) if field.default is not MISSING or field.default_factory is not MISSING
    }
    if missing := [name for name in wanted if name not in found and name not in may_lack]:
        raise Mismatch(f"{kind.__name__} lacks {', '.join(missing)}")
    if unknown := [str(name) for name in found if name not in wanted]:
        raise Mismatch(f"{kind.__name__} has no {', '.join(unknown)}")


def _dataclass_decoder(kind: Any, columns: frozenset[type]) -> _Decoder:
    decoders = _field_decoders(kind, columns)

    def decode_dataclass(value: Any, reader: _Reader) -> Any:
        if not isinstance(value, dict):
            raise _expected(f"a {kind.__name__}", value)
        _check_keys(kind, value, decoders)
        arguments = {}
        for name, decode_field in decoders.items():
            if name not in value:
                continue
            try:
                arguments[name] = decode_field(value[name], reader)
            except Mismatch as mismatch:
                raise mismatch.inside(name) from None
        try:
            return kind(**arguments)
        except ValueError as error:  # an invariant that the class checks at birth
            raise Mismatch(str(error)) from error

    return decode_dataclass


def _is_sequence(kind: Any) -> bool:
    return get_origin(kind) is tuple and get_args(kind)[1:] == (Ellipsis,)


def _plain_kinds(kind: Any) -> frozenset[type]:
    """The types that a value of this annotation may have, where looking at the type is all there is to check."""
    choices = get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)
    return frozenset(choices) if frozenset(choices) <= PLAIN else frozenset()


def _has_large_number(values: list[Any], kinds: set[type]) -> bool:
    if int not in kinds:
        return False
    numbers = values if kinds == {int} else [value for value in values if type(value) is int]
    return max(numbers) > _LARGEST_NUMBER or min(numbers) < -_LARGEST_NUMBER


def _columns_decoder(kind: Any, columns: frozenset[type]) -> _Decoder:
    decoders = _field_decoders(kind, columns)
    hints = get_type_hints(kind)

    plain = {name: _plain_kinds(hints[name]) for name in decoders}
    plain_items = {name: _plain_kinds(get_args(hints[name])[0]) for name in decoders if _is_sequence(hints[name])}

    def decode_column(name: str, column: list[Any], reader: _Reader) -> list[Any]:
        # Looking at the set of types in a column is many times faster than at each value.
        kinds = set(map(type, column))
        if kinds <= plain[name] and not _has_large_number(column, kinds):
            return column
        if kinds == {list}:
            items = [item for value in column for item in value]
            kinds = set(map(type, items))
            if kinds <= plain_items.get(name, frozenset()) and not _has_large_number(items, kinds):
                return list(map(tuple, column))
        return _decode_items(column, [decoders[name]] * len(column), reader)

    def decode_columns(value: Any, reader: _Reader) -> Any:
        if value == []:  # an empty tuple has no columns
            return ()
        if not isinstance(value, dict):
            raise _expected(f"columns of {kind.__name__}", value)
        _check_keys(kind, value, decoders)
        if not all(isinstance(column, list) for column in value.values()):
            raise Mismatch("a column is an array")
        if len({len(column) for column in value.values()}) > 1:
            raise Mismatch("columns of different lengths")
        decoded = []
        given = [name for name in decoders if name in value]
        for name in given:
            try:
                decoded.append(decode_column(name, value[name], reader))
            except Mismatch as mismatch:
                raise mismatch.inside(name) from None
        try:
            return tuple([kind(**dict(zip(given, row, strict=True))) for row in zip(*decoded, strict=True)])
        except ValueError as error:
            raise Mismatch(str(error)) from error

    return decode_columns
