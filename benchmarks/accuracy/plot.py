"""The comparison as a picture: the error of each rule, program by program."""

from collections.abc import Sequence
from pathlib import Path

from benchmarks.accuracy.page import IN_WORDS, JAXMEM
from benchmarks.accuracy.programs import DEVICES, MODES, side
from benchmarks.accuracy.rows import Row

COLORS = {"held out": "#d55e00", "development": "#0072b2"}
"""Two that colour-blind people tell apart; the markers differ as well."""


def plot(rows: Sequence[Row], path: Path) -> None:
    """Write an SVG: for each device and mode the absolute error of every rule, one point a program, on a logarithmic scale.

    Errors below 0.01 % are drawn at 0.01 %.
    """
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    matplotlib.rcParams["svg.hashsalt"] = "jaxmem"  # the same points give the same file
    devices = [device for device in DEVICES if any(row.device == device for row in rows)]
    figure, grid = pyplot.subplots(
        len(devices), len(MODES), figsize=(12, 2.6 * len(devices)), squeeze=False, sharex=True, layout="constrained"
    )
    for line, device in zip(grid, devices, strict=True):
        for axes, mode in zip(line, MODES, strict=True):
            group = [row for row in rows if row.device == device and row.mode == mode]
            names = list(dict.fromkeys(answer.name for row in group for answer in row.answers))
            names.sort(key=lambda name: name != JAXMEM)
            for chosen, marker, shift in (("held out", "o", -0.15), ("development", "^", 0.15)):
                points = [
                    (max(abs(error), 0.01), place + shift)
                    for place, name in enumerate(names)
                    for row in group
                    if side(row.family) == chosen and (error := row.error_percent(name)) is not None
                ]
                if points:
                    x, y = zip(*points, strict=True)
                    axes.scatter(x, y, s=14, alpha=0.6, marker=marker, color=COLORS[chosen], label=chosen, linewidths=0)
            axes.set(title=f"{device}, {IN_WORDS[mode]}", xscale="log", xlim=(0.008, 5000))
            axes.set_yticks(range(len(names)), names)
            axes.invert_yaxis()
            axes.grid(axis="x", alpha=0.3)
    for axes in grid[-1]:
        axes.set_xlabel("absolute error, % of what the compile requires")
    grid[0][0].legend(loc="lower left", fontsize=8)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
