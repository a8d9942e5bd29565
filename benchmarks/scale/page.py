"""The page of all rows, and the plot."""

from pathlib import Path

from benchmarks.records import in_words, table
from benchmarks.scale.measure import STEPS
from benchmarks.scale.rows import Results, Row
from jaxmem.units import format_bytes

STEPS_OF = 100_000
"""The program whose time is shown step by step."""
MOST_RATIO = 3
"""The most that everything may take at that size, in times of XProf's converter."""


def page(results: Results) -> str:
    """Markdown."""
    parts = [
        "# As programs grow",
        in_words(results.setting, (results.date,)) + f" Load average {results.load:.1f}.",
        "`python -m benchmarks.scale --again` makes this page. Seconds are of the processor · by the clock; ratios are of the "
        "processor, to XProf's. *Everything*: module and assignment read, profile, attribution, ledger, JSON and the page as "
        "text. *Formula*: derived while the compiler works, in its own process; of a capture that is read from a file it comes "
        "on top. *XProf's part*: what XProf's memory viewer does as well, that is the dump read, every heap trace "
        "replayed, and what is live at the peak. *XProf*: its native converter to the memory viewer. The one in the middle of "
        "three, in turns; imports are in neither's time. Memory is the growth of the process.",
        _programs(results),
    ]
    if (exponent := results.exponent) is not None:
        parts.append(
            f"Processor time of everything grows with the power {exponent:.2f} of the number of instructions, from 5,000 up."
        )
    stepped = [row for row in results.rows if row.size == STEPS_OF]
    if stepped:
        parts.append(_wanted(stepped[0]))
    parts.append("![Seconds and memory by number of instructions](scale.svg)")
    if stepped:
        parts += ["## Where the time goes", _steps(stepped[0]), "[Function by function](scale_profile.md)."]
    if results.large:
        parts += [
            "## Dumps of half a gigabyte",
            "`jaxmem report FILE.hlo.pb`: all memory of its process, the interpreter and its imports included. A dump of more "
            "than 64 MiB is gone through once, and the values of constants pass by as a digest: no more of the file is held "
            "than what is read. Names are kept. XProf: the growth of its process.",
            _large(results),
        ]
    return "\n\n".join(parts) + "\n"


def _wanted(row: Row) -> str:
    """Whether everything is within the limit that was set for it."""
    everything, part = (ours.processor / row.theirs.processor for ours in (row.ours, row.part))
    with_formula = (row.ours.processor + row.ours.formula) / row.theirs.processor
    reached = "which is reached" if everything <= MOST_RATIO else "which is not reached"
    return (
        f"Wanted is everything within {MOST_RATIO} times XProf's time at 100,000 instructions, {reached}: it takes "
        f"{everything:.1f} times, {with_formula:.1f} with the formula. XProf's part of it takes {part:.1f} times. What is "
        "beyond that part, XProf does not do."
    )


def _programs(results: Results) -> str:
    header = (
        "instructions", "file", "everything, s", "ratio", "formula, s", "XProf's part, s", "ratio", "XProf, s",
        "everything, memory", "× file", "XProf's part, memory", "XProf, memory",
    )  # fmt: skip
    rows = [
        (
            f"{row.ours.instructions:,}",
            format_bytes(row.file_bytes),
            f"{row.ours.processor:.2f} · {row.ours.clock:.2f}",
            f"{row.ours.processor / row.theirs.processor:.1f}",
            f"{row.ours.formula:.2f}",
            f"{row.part.processor:.2f} · {row.part.clock:.2f}",
            f"{row.part.processor / row.theirs.processor:.1f}",
            f"{row.theirs.processor:.2f} · {row.theirs.clock:.2f}",
            format_bytes(row.ours.peak_bytes),
            f"{row.ours.peak_bytes / row.file_bytes:.1f}",
            format_bytes(row.part.peak_bytes),
            format_bytes(row.theirs.peak_bytes),
        )
        for row in results.rows
    ]
    return table(header, rows, left=0)


def _steps(row: Row) -> str:
    total = row.ours.processor
    named = sorted(((STEPS.get(step, step), seconds) for step, seconds in row.ours.steps), key=lambda pair: -pair[1])
    cells = [(name, f"{seconds:.2f}", f"{100 * seconds / total:.0f} %") for name, seconds in named]
    return table((f"of {row.ours.instructions:,} instructions", "processor, s", "share"), cells)


def _large(results: Results) -> str:
    header = ("most of it", "instructions", "file", "jaxmem report, s", "memory", "× file", "XProf, s", "memory")
    rows = [
        (
            row.what,
            f"{row.instructions:,}",
            format_bytes(row.file_bytes),
            f"{row.ours.processor:.2f} · {row.ours.clock:.2f}",
            format_bytes(row.ours.peak_bytes),
            f"{row.ours.peak_bytes / row.file_bytes:.2f}",
            f"{row.theirs.processor:.2f} · {row.theirs.clock:.2f}",
            format_bytes(row.theirs.peak_bytes),
        )
        for row in results.large
    ]
    return table(header, rows)


def plot(results: Results, path: Path) -> None:
    """Write an SVG: processor time and memory by the number of instructions, both sides, logarithmic."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    matplotlib.rcParams["svg.hashsalt"] = "jaxmem"  # the same points give the same file
    x = [row.ours.instructions for row in results.rows]
    figure, (times, memory) = pyplot.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    lines = (("ours", "o-", "#0072b2", "jaxmem, everything"), ("part", "s--", "#56b4e9", "jaxmem, XProf's part"))
    for side, marks, color, label in (*lines, ("theirs", "^-", "#d55e00", "XProf, memory viewer")):
        measured = [getattr(row, side) for row in results.rows]
        times.plot(x, [one.processor for one in measured], marks, color=color, label=label)
        memory.plot(x, [one.peak_bytes for one in measured], marks, color=color, label=label)
    for axes, unit in ((times, "processor, s"), (memory, "memory, bytes")):
        axes.set(xscale="log", yscale="log", xlabel="instructions", ylabel=unit)
        axes.grid(alpha=0.3)
    times.legend(fontsize=8)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
