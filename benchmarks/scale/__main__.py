"""What everything after the compile takes, as programs grow: time and memory, beside XProf's native converter.

    python -m benchmarks.scale            # whatever is missing
    python -m benchmarks.scale --again    # all of it anew

A training step of a small network (convolutions, pooling, attention, normalization, dense layers; Adam, donated) is compiled
for the processor, and repeated (`benchmarks.scale.repeat`) until the program has the size. Each measurement is a process of its
own, jaxmem and XProf in turns on the same file. One more file is made large by the values of its constants.
"""

import argparse
import os
import sys
from dataclasses import dataclass, replace
from math import log
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.records import RESULTS, Setting, in_words, read, table, this_setting, today, write
from benchmarks.scale.measure import Ours, Theirs, in_a_process
from jaxmem.units import format_bytes

FILE = RESULTS / "scale.json"
SIZES = (2_000, 8_000, 25_000, 100_000, 200_000)
"""Instructions, fusions' own included; whole repetitions that come nearest from below."""
LARGE_INSTRUCTIONS, LARGE_BYTES = 6_000, 500_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One file. ``large``: most of it are the values of constants."""

    size: int
    large: bool
    file_bytes: int
    ours: Ours
    theirs: Theirs


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """All rows. ``load`` is the system's load average as the command began for the last time."""

    setting: Setting
    date: str
    load: float
    rows: tuple[Row, ...] = ()


def exponent(rows: tuple[Row, ...]) -> float:
    """Of the growth of processor time, between the smallest program of at least 5,000 instructions and the largest."""
    grown = sorted((row for row in rows if not row.large and row.size >= 5_000), key=lambda row: row.size)
    first, last = grown[0].ours, grown[-1].ours
    return log(last.processor / first.processor) / log(last.instructions / first.instructions)


def page(results: Results) -> str:
    """Markdown."""
    rows = [
        (
            f"{row.ours.instructions:,}",
            format_bytes(row.file_bytes),
            f"{row.ours.processor:.2f} · {row.ours.clock:.2f}",
            f"{row.ours.read:.2f}",
            f"{row.theirs.processor:.2f} · {row.theirs.clock:.2f}",
            f"{row.ours.processor / row.theirs.processor:.1f}",
            format_bytes(row.ours.peak_bytes),
            f"{row.ours.peak_bytes / row.file_bytes:.1f}",
            format_bytes(row.theirs.peak_bytes),
        )
        for row in results.rows
    ]
    header = (
        "instructions", "file", "jaxmem, s", "of it reading", "XProf, s", "ratio", "jaxmem, memory", "× file",
        "XProf, memory",
    )  # fmt: skip
    parts = [
        "# As programs grow",
        in_words(results.setting, (results.date,)) + f" Load average {results.load:.1f}.",
        "`python -m benchmarks.scale` makes this page. Seconds are of the processor · by the clock. jaxmem: module and "
        "assignment read, profile, attribution, formula, ledger, JSON and the page as text. XProf: its native converter to the "
        "memory viewer, which draws the heap's curve and lists the buffers at the peak. Memory is the growth of the process.",
        table(header, rows, left=0),
    ]
    if sum(not row.large and row.size >= 5_000 for row in results.rows) > 1:
        parts.append(
            f"Processor time grows with the power {exponent(results.rows):.2f} of the number of instructions, from 5,000 up."
        )
    parts.append("![Seconds and memory by number of instructions](scale.svg)")
    return "\n\n".join(parts) + "\n"


def plot(results: Results, path: Path) -> None:
    """Write an SVG: processor time and memory by the number of instructions, both sides, logarithmic."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    matplotlib.rcParams["svg.hashsalt"] = "jaxmem"  # the same points give the same file
    rows = [row for row in results.rows if not row.large]
    x = [row.ours.instructions for row in rows]
    figure, (times, memory) = pyplot.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    for axes, ours, theirs, unit in (
        (times, [row.ours.processor for row in rows], [row.theirs.processor for row in rows], "processor, s"),
        (memory, [row.ours.peak_bytes for row in rows], [row.theirs.peak_bytes for row in rows], "memory, bytes"),
    ):
        axes.plot(x, ours, "o-", color="#0072b2", label="jaxmem, everything")
        axes.plot(x, theirs, "^-", color="#d55e00", label="XProf, memory viewer")
        axes.set(xscale="log", yscale="log", xlabel="instructions", ylabel=unit)
        axes.grid(alpha=0.3)
    times.legend(fontsize=8)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


def run(*, again: bool) -> None:
    """Whatever is missing, smallest first; written as each is done."""
    from benchmarks.random_programs.check import capture_of, in_this_process
    from benchmarks.random_programs.plan import Block, Plan
    from benchmarks.scale.repeat import repeated
    from jaxmem.capture import save
    from jaxmem.xla import read_hlo_proto

    results = None if again else read(Results, FILE)
    results = results or Results(setting=this_setting(), date="", load=0.0)
    results = replace(results, setting=this_setting(), date=today(), load=os.getloadavg()[0])
    wanted = [(size, False) for size in SIZES] + [(LARGE_INSTRUCTIONS, True)]
    missing = [each for each in wanted if each not in {(row.size, row.large) for row in results.rows}]
    names = ("conv", "relu", "max_pool", "conv", "relu", "attention", "layer_norm", "mlp", "dense", "softmax")
    blocks = tuple(Block(name=name, width=16) for name in names)
    donated = ("parameters", "state")
    with in_this_process():
        step = capture_of(
            Plan(
                seed=0,
                mode="train",
                batch=4,
                width=48,
                dtype="float32",
                blocks=blocks,
                optimizer="adam",
                donated=donated,
            ),
            "cpu",
        )
    instructions = read_hlo_proto(step.hlo_proto, origin="the step")[0].instructions.values()
    constants = sum(instruction.opcode == "constant" for instruction in instructions)
    with TemporaryDirectory(prefix="jaxmem-scale-") as folder:
        for size, large in missing:
            times = max(1, size // len(instructions))
            literal_bytes = LARGE_BYTES // (times * constants) if large else 0
            capture = repeated(step, times, literal_bytes=literal_bytes)
            file = Path(folder) / f"{size}-{large}.jaxmem"
            save(capture, file)
            row = Row(
                size=size,
                large=large,
                file_bytes=len(capture.hlo_proto),
                ours=in_a_process(Ours, file),
                theirs=in_a_process(Theirs, file),
            )
            file.unlink()
            print(f"{row.ours.instructions} instructions: {row.ours.processor:.2f} s", file=sys.stderr, flush=True)
            results = replace(results, rows=(*results.rows, row))
            write(results, FILE, page(results))
            plot(results, FILE.with_suffix(".svg"))


def main() -> int:
    """Measure what is missing, and write the page."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scale", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--again", action="store_true", help="measure everything anew")
    options = parser.parse_args()
    os.environ |= {"JAX_PLATFORMS": "cpu", "JAX_ENABLE_COMPILATION_CACHE": "false"}
    run(again=options.again)
    return 0


if __name__ == "__main__":
    sys.exit(main())
