"""JSON Schema (2020-12) of every answer, derived from the dataclasses that the JSON is made from.

Types come from the annotations, descriptions from the docstrings, so neither can be forgotten. The schemas are published
as ``jaxmem/result/schemas/NAME.json`` and by ``jaxmem schema NAME``; a test asks that they are what this module derives.

A schema describes what this version writes: every key is there, and no other. A later version may add keys to the same
schema; one that changes or takes away any has a new number.
"""

import json
import re
import types
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from importlib.resources import files
from inspect import cleandoc
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from jaxmem.errors import UsageError
from jaxmem.result.json_text import FIT_AT_THE_TOP, SCHEMAS
from jaxmem.unknown import Unknown

DIALECT = "https://json-schema.org/draft/2020-12/schema"

NAMES = {schema.removeprefix("jaxmem.").split("/")[0]: schema for schema in SCHEMAS}
"""Name of each schema, and what a file of it has under ``schema``."""


def published(name: str) -> str:
    """The text of a published schema.

    Args:
        name: ``report``, ``estimate``, ``fit``, ...

    Raises:
        UsageError: there is none of that name.
    """
    if name not in NAMES:
        raise UsageError(f"There is no schema {name!r}. Schemas: {', '.join(NAMES)}.")
    return (files("jaxmem.result") / "schemas" / f"{name}.json").read_text(encoding="utf-8")


def derived(name: str) -> str:
    """The text of a schema as the dataclasses have it now."""
    schema = NAMES[name]
    definitions: dict[str, Any] = {}
    whole = _schema(SCHEMAS[schema], definitions)
    _add_what_json_text_adds(definitions)
    head = {"$schema": DIALECT, "$id": f"urn:{schema.replace('.', ':').replace('/', ':')}", "title": schema}
    return json.dumps(head | whole | {"$defs": dict(sorted(definitions.items()))}, indent=2, ensure_ascii=False) + "\n"


# --- annotations -----------------------------------------------------------------------------------------------------

_TYPES: dict[Any, str] = {
    bool: "boolean",
    int: "integer",
    float: "number",
    str: "string",
    None: "null",
    types.NoneType: "null",
}


def _schema(kind: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    """The schema of one annotation; classes are put among the definitions and referred to. As `jaxmem.codec` writes them."""
    origin, arguments = get_origin(kind), get_args(kind)
    if kind in _TYPES:
        return {"type": _TYPES[kind]}
    if origin is Literal:
        return {"const": arguments[0]} if len(arguments) == 1 else {"enum": list(arguments)}
    if origin in (Union, types.UnionType):
        return {"anyOf": [_schema(argument, definitions) for argument in arguments]}
    if origin is tuple and arguments[1:] == (Ellipsis,):
        return {"type": "array", "items": _schema(arguments[0], definitions)}
    if isinstance(origin, type) and issubclass(origin, Mapping):
        key, value = arguments
        keys = [member.value for member in key] if isinstance(key, type) and issubclass(key, Enum) else None
        return _mapping(keys, _schema(value, definitions))
    if not isinstance(kind, type):
        raise TypeError(f"no schema is known for the annotation {kind!r}")
    if kind.__name__ not in definitions:
        definitions[kind.__name__] = {}  # taken, so that a class within itself ends
        definitions[kind.__name__] = _definition(kind, definitions)
    return {"$ref": f"#/$defs/{kind.__name__}"}


def _definition(kind: type, definitions: dict[str, Any]) -> dict[str, Any]:
    described = {"description": _summary(kind)}
    if kind is Unknown:
        return described | _object({"unknown": {"type": "string", "pattern": r"\S"}})
    if issubclass(kind, Enum):
        return described | {"enum": [member.value for member in kind]}
    if is_dataclass(kind):
        hints, said = get_type_hints(kind), _descriptions(kind)
        return described | _object(
            {
                field.name: ({"description": said[field.name]} if field.name in said else {})
                | _schema(_spelled_out(hints[field.name]), definitions)
                for field in fields(kind)
                if field.init
            }
        )
    raise TypeError(f"no schema is known for {kind.__name__}")


def _spelled_out(annotation: Any) -> Any:
    """Pairs of a name and a value; `json_text` makes objects of them."""
    if get_origin(annotation) is tuple and get_args(annotation)[1:] == (Ellipsis,):
        pair = get_args(annotation)[0]
        if get_origin(pair) is tuple and len(get_args(pair)) == 2 and get_args(pair)[0] is str:
            return Mapping[str, get_args(pair)[1]]
    return annotation


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _mapping(keys: Iterable[str] | None, value: dict[str, Any]) -> dict[str, Any]:
    """Any names; or exactly these keys, as the roles are all there."""
    return {"type": "object", "additionalProperties": value} if keys is None else _object(dict.fromkeys(keys, value))


def _add_what_json_text_adds(definitions: dict[str, Any]) -> None:
    if "LedgerRow" in definitions:
        row = definitions["LedgerRow"]
        row["properties"]["difference_bytes"] = {"description": "Compiled minus formula."} | row["properties"][
            "formula_bytes"
        ]
        row["required"].append("difference_bytes")
    if "Fits" in definitions:
        fit = definitions["Fit"]["properties"]
        for part in FIT_AT_THE_TOP:
            definitions["Fits"]["properties"][part] = fit[part] | {"description": "That of the only report."}


# --- docstrings ------------------------------------------------------------------------------------------------------

_SECTION = re.compile(r"^(Attributes|Raises):\n((?:    .*\n?|\n)*)", re.MULTILINE)
_ENTRY = re.compile(r"^(\w+(?:, \w+)*): (.*(?:\n    .*)*)", re.MULTILINE)


def _summary(kind: type) -> str:
    """What stands before the sections of a docstring."""
    return _plain(_SECTION.sub("", cleandoc(kind.__doc__ or "")))


def _descriptions(kind: type) -> dict[str, str]:
    """The section ``Attributes`` of a docstring: what it says of each field. ``a, b: text`` says it of both."""
    for title, body in _SECTION.findall(cleandoc(kind.__doc__ or "")):
        if title == "Attributes":
            entries = _ENTRY.findall(cleandoc(body))
            return {name: _plain(text) for names, text in entries for name in names.split(", ")}
    return {}


def _plain(text: str) -> str:
    return re.sub(r"\s+", " ", text.replace("``", "`")).strip()
