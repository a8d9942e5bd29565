"""How values of a person's program are spoken of."""

import difflib
from collections.abc import Iterable
from typing import Any


def near(name: str, names: Iterable[str]) -> str:
    """A sentence with the names most like ``name``; nothing where none is alike."""
    close = difflib.get_close_matches(name, list(names), n=3)
    return f" Did you mean {' or '.join(close)}?" if close else ""


def describe(value: Any) -> str:
    """A value in a few words, with its type."""
    if value is None:
        return "None"
    kind = type(value)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    text = repr(value)
    return f"{text} ({name})" if len(text) <= 40 and "\n" not in text else f"a {name}"
