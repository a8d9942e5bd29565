"""The charting library that a page carries: BokehJS, from the package `bokeh` as it is installed. Read, never imported."""

from importlib.util import find_spec
from pathlib import Path

from jaxmem.errors import EnvironmentFailure

_FILES = ("bokeh.min.js", "bokeh-api.min.js")


def bokeh_scripts() -> tuple[str, ...]:
    """The sources of BokehJS.

    Raises:
        EnvironmentFailure: the package is not installed, or has no such files.
    """
    spec = find_spec("bokeh")
    folders = list(spec.submodule_search_locations or ()) if spec is not None else []
    for folder in folders:
        files = [Path(folder) / "server" / "static" / "js" / name for name in _FILES]
        if all(file.is_file() for file in files):
            return tuple(_without_source_map(file.read_text(encoding="utf-8")) for file in files)
    raise EnvironmentFailure(
        "The charts of an HTML report are drawn by Bokeh, which "
        + ("is installed without its scripts" if folders else "is not installed")
        + ". Install it: pip install --force-reinstall bokeh"
    )


def _without_source_map(script: str) -> str:
    """Without the line that sends a debugger for another file."""
    return "\n".join(line for line in script.splitlines() if not line.startswith("//# sourceMappingURL="))
