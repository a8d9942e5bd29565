"""A person's own code, and what it raises."""

import traceback
from pathlib import Path


def user_traceback(error: BaseException) -> str:
    """The traceback of ``error`` as Python prints it, without the frames of jaxmem and of the libraries beneath it."""
    frames = traceback.extract_tb(error.__traceback__)
    if isinstance(error, SyntaxError):
        frames = traceback.StackSummary()
    kept = [frame for frame in frames if not _is_library(frame.filename)]
    lines = ["Traceback (most recent call last):\n", *traceback.format_list(kept)] if kept else []
    final = traceback.TracebackException(type(error), error, None).format_exception_only()
    # JAX adds notes about frames it removed; they would speak of a traceback that is not shown.
    notes = {f"{line}\n" for note in getattr(error, "__notes__", ()) for line in note.split("\n")}
    return "".join([*lines, *(line for line in final if line not in notes)]).rstrip()


_OWN_FOLDER = str(Path(__file__).parents[1])
_LIBRARIES = ("jax", "jaxlib", "flax", "optax", "equinox", "haiku")


def _is_library(filename: str) -> bool:
    if filename.startswith((_OWN_FOLDER, "<frozen ")):
        return True
    parts = Path(filename).parts
    below = parts[len(parts) - 1 - parts[::-1].index("site-packages") :][1:2] if "site-packages" in parts else ()
    return bool(below) and below[0] in _LIBRARIES
