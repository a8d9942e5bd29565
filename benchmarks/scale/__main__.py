"""What everything after the compile takes, as programs grow: time and memory, beside XProf's native converter.

    python -m benchmarks.scale            # whatever is missing
    python -m benchmarks.scale --again    # all of it anew
    python -m benchmarks.scale --pages    # the pages and the plot from what is there

A training step of a small network (convolutions, pooling, attention, normalization, dense layers; Adam, donated) is compiled
for the processor, and repeated (`benchmarks.scale.repeat`) until the program has the size. Each measurement is a process of its
own, jaxmem and XProf in three turns on the same file, and the one in the middle counts. Two more files have half a gigabyte:
one of few instructions, with values of constants, and one of many, with long names.
"""

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

from benchmarks.records import RESULTS, read, this_setting, today, write
from benchmarks.scale.measure import Command, Ours, Part, Theirs, in_a_process, instructions_of
from benchmarks.scale.page import page, plot
from benchmarks.scale.profiled import profile_page
from benchmarks.scale.repeat import repeated
from benchmarks.scale.rows import LargeRow, Results, Row
from jaxmem.capture import Capture, save
from jaxmem.files import write_whole

FILE = RESULTS / "scale.json"
PROFILE = RESULTS / "scale_profile.md"
SIZES = (2_000, 8_000, 25_000, 100_000, 200_000)
"""Instructions, fusions' own included; whole repetitions that come nearest from below."""
TURNS = 3
PROFILED = 100_000
LARGE_BYTES = 500_000_000

M = TypeVar("M", Ours, Theirs, Part)


@dataclass(frozen=True, slots=True, kw_only=True)
class Large:
    """A large dump: ``size`` as in `SIZES`, and what fills the rest."""

    what: str
    size: int
    constants: bool


LARGE = (
    Large(what="values of constants", size=6_000, constants=True),
    Large(what="names of 5 KB, all different", size=100_000, constants=False),
)


class Step:
    """The compiled step that all programs repeat."""

    def __init__(self) -> None:
        from benchmarks.random_programs.check import capture_of, in_this_process
        from benchmarks.random_programs.plan import Block, Plan
        from jaxmem.xla import read_hlo_proto

        names = ("conv", "relu", "max_pool", "conv", "relu", "attention", "layer_norm", "mlp", "dense", "softmax")
        plan = Plan(
            seed=0,
            mode="train",
            batch=4,
            width=48,
            dtype="float32",
            blocks=tuple(Block(name=name, width=16) for name in names),
            optimizer="adam",
            donated=("parameters", "state"),
        )
        with in_this_process():
            self.capture = capture_of(plan, "cpu")
        module, _ = read_hlo_proto(self.capture.hlo_proto, origin="the step")
        self.instructions = len(module.instructions)
        self.constants = sum(each.opcode == "constant" for each in module.instructions.values())

    def program(self, size: int) -> Capture:
        """Of about so many instructions."""
        return repeated(self.capture, max(1, size // self.instructions))

    def dump(self, large: Large) -> bytes:
        """Half a gigabyte."""
        times = large.size // self.instructions
        fillers = times * (self.constants if large.constants else self.instructions)
        size = LARGE_BYTES // fillers
        filled = {"literal_bytes": size} if large.constants else {"name_bytes": size}
        return repeated(self.capture, times, **filled).hlo_proto


@contextmanager
def file_of(name: str) -> Iterator[Path]:
    """A file that is gone afterwards."""
    with TemporaryDirectory(prefix="jaxmem-scale-") as folder:
        yield Path(folder) / name


def row_of(step: Step, size: int) -> Row:
    """One program, measured."""
    capture = step.program(size)
    with file_of("program.jaxmem") as file:
        save(capture, file)
        turns = [(in_a_process(Ours, file), in_a_process(Theirs, file), in_a_process(Part, file)) for _ in range(TURNS)]
    return Row(
        size=size,
        file_bytes=len(capture.hlo_proto),
        ours=median([ours for ours, _, _ in turns]),
        theirs=median([theirs for _, theirs, _ in turns]),
        part=median([part for _, _, part in turns]),
    )


def median(measured: Sequence[M]) -> M:
    """The measurement in the middle, by processor time."""
    return sorted(measured, key=lambda one: one.processor)[len(measured) // 2]


def large_row_of(step: Step, large: Large) -> LargeRow:
    """One large dump, measured."""
    with file_of("module_0.jit_train.cpu_after_optimizations.hlo.pb") as file:
        file.write_bytes(step.dump(large))
        return LargeRow(
            what=large.what,
            instructions=instructions_of(file.read_bytes()),
            file_bytes=file.stat().st_size,
            ours=in_a_process(Command, file),
            theirs=in_a_process(Theirs, file),
        )


def run(*, again: bool) -> None:
    """Whatever is missing, smallest first; written as each is done."""
    results = (None if again else read(Results, FILE)) or Results(setting=this_setting(), date="", load=0.0)
    results = replace(results, setting=this_setting(), date=today(), load=os.getloadavg()[0])
    step = Step()

    def keep(results: Results) -> Results:
        write(results, FILE, page(results))
        plot(results, FILE.with_suffix(".svg"))
        return results

    for size in SIZES:
        if size not in {row.size for row in results.rows}:
            row = row_of(step, size)
            print(f"{row.ours.instructions} instructions: {row.ours.processor:.2f} s", file=sys.stderr, flush=True)
            results = keep(replace(results, rows=(*results.rows, row)))
            if size == PROFILED:
                write_whole(PROFILE, profile_page(step.program(size), results.setting, results.date), force=True)
    for large in LARGE:
        if large.what not in {row.what for row in results.large}:
            row = large_row_of(step, large)
            print(f"{large.what}: {row.ours.peak_bytes / 2**20:.0f} MiB", file=sys.stderr, flush=True)
            results = keep(replace(results, large=(*results.large, row)))


def main() -> int:
    """Measure what is missing, and write the pages."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scale", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--again", action="store_true", help="measure everything anew")
    parser.add_argument("--pages", action="store_true", help="only write the page and the plot anew")
    options = parser.parse_args()
    os.environ |= {"JAX_PLATFORMS": "cpu", "JAX_ENABLE_COMPILATION_CACHE": "false"}
    if not options.pages:
        run(again=options.again)
    elif (results := read(Results, FILE)) is not None:
        write(results, FILE, page(results))
        plot(results, FILE.with_suffix(".svg"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
