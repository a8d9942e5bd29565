"""Lines of source as a result names them: without the folders of whoever ran the program, where something shorter says as
much."""

import os
from collections.abc import Callable
from functools import cache

_INSTALLED = ("/site-packages/", "/dist-packages/")


def short_source(source: str) -> str:
    """One line of source, as `short_sources` has it."""
    return short_sources()(source)


def short_sources() -> Callable[[str], str]:
    """What shortens ``file:line``: a file of an installed package begins with the package, one below the folder that the
    process works in begins there; any other stays whole, for nothing shorter would find it."""
    try:
        here = f"{_slashes(os.getcwd()).rstrip('/')}/"
    except OSError:  # the folder is gone
        here = ""

    @cache
    def short(source: str) -> str:
        path = _slashes(source)
        for folder in _INSTALLED:
            if folder in path:
                return path.rpartition(folder)[2]
        return path.removeprefix(here) if here and path.startswith(here) else source

    return short


def _slashes(path: str) -> str:
    return path.replace("\\", "/")
