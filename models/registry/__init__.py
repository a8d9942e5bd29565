"""The catalogue: every network that can be named, and every option that a program can be built with.

Reading it imports neither JAX nor Flax. Counts are of numbers, not of bytes. Other installed packages add networks of their
own: see `jaxmem_models.registry.entry_points`.
"""

import difflib
from collections.abc import Iterable
from typing import TypeVar

from jaxmem_models.registry.entry_points import RegistrationError, added_models, check_names
from jaxmem_models.registry.model import Model
from jaxmem_models.registry.networks import MODELS
from jaxmem_models.registry.options import (
    MODES,
    OPTIMIZERS,
    POOLS,
    PRECISIONS,
    REMAT_POLICIES,
    SHARDINGS,
    Optimizer,
    Precision,
)

__all__ = [
    "MODELS", "MODES", "OPTIMIZERS", "POOLS", "PRECISIONS", "REMAT_POLICIES", "SHARDINGS", "Model", "Optimizer", "Precision",
    "RegistrationError", "UnknownNameError", "all_models", "constructor_of", "find", "find_optimizer", "find_precision",
    "nearest",
]  # fmt: skip


class UnknownNameError(ValueError):
    """A name that stands in none of the tables; the message names the nearest ones."""


_Row = TypeVar("_Row", Model, Optimizer, Precision)


def _find(rows: Iterable[_Row], kind: str, name: str) -> _Row:
    by_name = {row.name: row for row in rows}
    if name in by_name:
        return by_name[name]
    raise UnknownNameError(f"There is no {kind} called {name!r}. {nearest(name, by_name)}")


def nearest(name: str, names: Iterable[str]) -> str:
    """A sentence with the names most like ``name``, or with all of them where none is alike."""
    names = tuple(names)
    alike = difflib.get_close_matches(name.lower(), names, n=3, cutoff=0.5)
    return f"The nearest: {', '.join(alike)}." if alike else f"There are: {', '.join(names)}."


def all_models() -> tuple[Model, ...]:
    """This package's networks, and those that other installed packages add.

    Raises:
        RegistrationError: see `jaxmem_models.entry_points`.
    """
    added = added_models()
    check_names(MODELS, added)
    return (*MODELS, *(row for _, row in added))


def constructor_of(row: Model) -> tuple[str, str]:
    """The full name of the constructor's module, and its name there."""
    module, _, name = row.constructor.partition(":")
    return (f"jaxmem_models.{module}" if row in MODELS else module), name


def find(name: str) -> Model:
    """The network of that name. Raises UnknownNameError with the nearest names, RegistrationError as `all_models`."""
    return _find(all_models(), "model", name)


def find_optimizer(name: str) -> Optimizer:
    """The optimizer of that name. Raises UnknownNameError with the nearest names."""
    return _find(OPTIMIZERS, "optimizer", name)


def find_precision(name: str) -> Precision:
    """The number formats of that name. Raises UnknownNameError with the nearest names."""
    return _find(PRECISIONS, "dtype", name)
