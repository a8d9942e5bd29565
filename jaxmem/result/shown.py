"""What every result can do for the person who holds it: show itself, and be kept in a file."""

from pathlib import Path
from typing import Any


class Shown:
    """A result: readable text in a terminal, a page in a notebook, JSON in a file."""

    __slots__ = ()

    def __repr__(self) -> str:
        from jaxmem.report import as_text  # the renderers are needed only when somebody looks

        return as_text(self)  # pyright: ignore[reportArgumentType]: each result has a page

    def _repr_html_(self) -> str:
        from jaxmem.report import in_notebook

        return in_notebook(self)  # pyright: ignore[reportArgumentType]: as above

    def save(self, path: str | Path, *, force: bool = False) -> None:
        """Write it to a JSON file, which `jaxmem.load` and ``jaxmem report`` read.

        Args:
            force: replace an existing file.

        Raises:
            UsageError: the file exists, or its folder does not.
            EnvironmentFailure: the disk is full or the folder not writable.
        """
        from jaxmem.result.json_text import save

        save(self._in_file(), path, force=force)

    def _in_file(self) -> Any:
        """What a file holds: a result of several, even where there is one."""
        return self
