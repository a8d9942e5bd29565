"""What is said on the way, on stderr: a spinner in a terminal, a line a phase in a pipe, nothing with ``-q``."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from jaxmem.cli.analysis_protocol import Progress


@contextmanager
def progress(label: str, *, quiet: bool) -> Iterator[Progress]:
    """Something to tell phases to while one target is worked on."""
    if quiet:
        yield lambda phase, seconds: None
    elif sys.stderr.isatty():
        yield from _spinner(label)
    else:
        yield _lines(label)


def _lines(label: str) -> Progress:
    last = ""

    def tell(phase: str, seconds: float) -> None:
        nonlocal last
        if phase != last:
            print(f"jaxmem: {label}: {phase}", file=sys.stderr, flush=True)
        last = phase

    return tell


def _spinner(label: str) -> Iterator[Progress]:
    from rich.console import Console
    from rich.markup import escape

    console = Console(stderr=True, highlight=False)
    with console.status(escape(label)) as status:
        yield lambda phase, seconds: status.update(escape(f"{label}: {phase}"))
