"""Networks that other installed packages add to the zoo. Reading them imports neither JAX nor Flax of itself.

A package says so in its own metadata:

    [project.entry-points."jaxmem.models"]
    anything = "package.rows:MODELS"

where ``package.rows`` is a module that imports no JAX, and ``MODELS`` the rows, each a `Model`; or a function without arguments
that returns them. The constructors of these rows are written with the full name of their module: ``package.network:Network``.
"""

from collections.abc import Iterable
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from jaxmem_models.registry.model import Model

GROUP = "jaxmem.models"


class RegistrationError(ValueError):
    """What an installed package registers cannot be used; the message names the package."""


@cache
def added_models() -> tuple[tuple[str, Model], ...]:
    """(package, row) of every network that an installed package adds, by package.

    Raises:
        RegistrationError: an entry point cannot be read, or gives something other than rows.
    """
    found = sorted(set(entry_points(group=GROUP)), key=lambda point: (_package(point), point.name))
    return tuple((_package(point), row) for point in found for row in _rows(point))


def check_names(own: Iterable[Model], added: Iterable[tuple[str, Model]]) -> None:
    """Every name once, over this package's rows and those that others add.

    Raises:
        RegistrationError: a name that two packages register, or one package twice.
    """
    owner: dict[str, str] = {}
    for package, row in (*(("jaxmem", row) for row in own), *added):
        if row.name in owner:
            raise RegistrationError(
                f"Two models are called {row.name!r}: one of the package {owner[row.name]}, one of the package {package}. "
                f"Rename or uninstall one: {package} registers it under the entry point group {GROUP}."
            )
        owner[row.name] = package


def _package(point: EntryPoint) -> str:
    return point.dist.name if point.dist is not None else point.module


def _rows(point: EntryPoint) -> tuple[Model, ...]:
    said = f"The package {_package(point)} registers models with jaxmem as {point.name} = {point.value!r}"
    mend = "Mend or uninstall that package."
    try:
        given: Any = point.load()
        returned: Any = given() if callable(given) else given
        rows = tuple(returned)
    except Exception as error:
        raise RegistrationError(f"{said}, which cannot be read: {type(error).__name__}: {error}. {mend}") from error
    for row in rows:
        if not isinstance(row, Model):
            raise RegistrationError(f"{said}, which gives {row!r}: not a jaxmem_models.registry.Model. {mend}")
    return rows
