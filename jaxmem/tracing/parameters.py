"""The parameters of an equation as plain data."""

import hashlib
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

_DOT_PARTS = ("lhs_contracting", "rhs_contracting", "lhs_batch", "rhs_batch")
_CONVOLUTION_PARTS = ("lhs_spec", "rhs_spec", "out_spec")


Sizes = tuple[tuple[str, tuple[int, ...]], ...]
"""Whole numbers by the name of their parameter."""


def whole_numbers(parameters: Mapping[str, Any]) -> Sizes:
    """The parameters that are whole numbers or sequences of them, flattened; each part of dimension numbers by its name."""
    found: dict[str, tuple[int, ...]] = {}
    for name, value in parameters.items():
        if name == "dimension_numbers":
            found.update(_dimension_numbers(value))
        elif (numbers := _flattened(value)) is not None:
            found[name] = numbers
    return tuple(found.items())


def in_words(parameters: Mapping[str, Any]) -> str:
    """JAX's text of the parameters, sorted by name."""
    return str(sorted(parameters.items(), key=lambda item: item[0]))


def digest(equation: Any, parameters: str) -> str:
    """What two equations have in common that differ at most in their operands; empty where JAX's text does not tell.

    A parameter that prints the address of an object in memory says nothing about what it is.

    Args:
        equation: of a jaxpr.
        parameters: its own, `in_words`.
    """
    literals = [""] * len(equation.invars)
    for position, atom in enumerate(equation.invars):
        if hasattr(atom, "val"):
            if getattr(atom.val, "shape", ()):
                return ""  # the text of a long array leaves numbers out
            literals[position] = f"{atom.aval} {atom.val}"
    return _digest_of(f"{equation.primitive.name} {parameters} {literals}")


@lru_cache(maxsize=4096)
def _digest_of(text: str) -> str:
    return "" if " at 0x" in text else hashlib.sha256(text.encode()).hexdigest()[:16]


def _dimension_numbers(value: Any) -> dict[str, tuple[int, ...]]:
    if all(hasattr(value, part) for part in _CONVOLUTION_PARTS):
        return {part: tuple(getattr(value, part)) for part in _CONVOLUTION_PARTS}
    flat = [part for pair in value for part in pair] if isinstance(value, tuple) and len(value) == 2 else []
    if len(flat) == len(_DOT_PARTS):
        return {name: tuple(int(number) for number in part) for name, part in zip(_DOT_PARTS, flat, strict=True)}
    return {}


def _flattened(value: Any) -> tuple[int, ...] | None:
    """All whole numbers of a nest, in order; None where it holds anything else. True and False are no numbers."""
    if isinstance(value, bool):
        return None
    if hasattr(value, "__index__") and not getattr(value, "shape", ()):
        return (int(value),)
    if not isinstance(value, Sequence) or isinstance(value, str):
        return None
    parts = [_flattened(part) for part in value]
    return None if None in parts else tuple(number for part in parts if part is not None for number in part)
