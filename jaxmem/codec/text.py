"""Text → JSON values, strictly."""

import json
import re
from typing import Any

_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def parse_json(text: str) -> Any:
    """JSON values, strictly: no key twice, no NaN, no text that is none.

    Raises:
        json.JSONDecodeError: it is cut off or no JSON.
        ValueError: it is nested too deep, or breaks one of these rules.
    """
    try:
        values = json.loads(text, object_pairs_hook=_each_key_once, parse_constant=_refuse_constant)
    except RecursionError as error:
        raise ValueError("it is nested without end") from error
    if _SURROGATE.search(text):  # half a pair of them is no character, and cannot be written anywhere
        json.dumps(values, ensure_ascii=False).encode()
    return values


def _each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"it has the key {next(key for key in keys if keys.count(key) > 1)!r} twice")
    return values


def _refuse_constant(name: str) -> None:
    raise ValueError(f"it has {name}, which is no number")
