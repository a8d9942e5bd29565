"""Where the time after the compile goes, function by function."""

import cProfile
import pstats
from pathlib import Path

from benchmarks.records import Setting, in_words, table
from jaxmem.capture import Capture

ROOT = Path(__file__).parents[2]
SHOWN = 40


def profile_page(capture: Capture, setting: Setting, date: str) -> str:
    """A profile of one report, as Markdown: the functions that take most by themselves."""
    from jaxmem.assemble import read_report
    from jaxmem.report import as_text
    from jaxmem.result import Reports, to_json

    profiler = cProfile.Profile()
    with profiler:
        results = Reports(reports=(read_report(capture),))
        to_json(results)
        as_text(results)
    # What pstats keeps of each function: calls without and with those from itself, seconds of its own, and with what it calls.
    found = pstats.Stats(profiler).stats.items()  # pyright: ignore[reportAttributeAccessIssue]
    total = sum(own for _, (_, _, own, _, _) in found)
    rows = [
        (_place(file, line, name), f"{calls:,}", f"{100 * own / total:.1f} %", f"{100 * whole / total:.1f} %")
        for (file, line, name), (_, calls, own, whole, _) in sorted(found, key=lambda pair: -pair[1][2])[:SHOWN]
    ]
    return "\n\n".join(
        (
            "# Where the time after the compile goes",
            in_words(setting, (date,)),
            "`python -m benchmarks.scale --again` makes this page beside [the table](scale.md). Shares of one report of about "
            "100,000 instructions under cProfile, which makes calls of small functions look dearer than they are.",
            table(("function", "calls", "its own", "with what it calls"), rows),
            "",
        )
    )


def _place(file: str, line: int, name: str) -> str:
    if file == "~":
        return f"`{name}`"
    path = Path(file)
    return f"`{path.relative_to(ROOT) if path.is_relative_to(ROOT) else path.name}:{line} {name}`"
