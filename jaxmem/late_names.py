"""Names of a package that live in its modules and are looked up when they are first used: importing it imports nothing else."""

from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from typing import Any


def looked_up_late(package: str, names: Mapping[str, Iterable[str]]) -> Callable[[str], Any]:
    """The ``__getattr__`` of a package.

    Args:
        package: its ``__name__``.
        names: by the module that has them.
    """
    homes = {name: module for module, ours in names.items() for name in ours}

    def look_up(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(homes[name]), name)

    return look_up
