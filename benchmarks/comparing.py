"""A comparison on one worker and on two, interrupted and resumed, and on a Dask cluster that loses a worker.

    python -m benchmarks.comparing

Six networks, three GPUs, two batch sizes: 36 cells, every time from an empty cache. Needs the compiler for GPUs and Dask:
``pip install "jaxmem[cuda,test]"``. Each run is written down as it is done; an interrupted command goes on with the next.

- *one at a time*, *two at a time*: ``jaxmem compare`` with ``--jobs 1`` and ``--jobs 2``, by the clock.
- *interrupted*: the same command, sent an interrupt in the middle and started again over the same cache.
- *cluster*: `jaxmem.compare` on a local Dask cluster of two workers, one of which is killed in the middle.
"""

import argparse
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import Executor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.records import RESULTS, Setting, in_words, read, table, this_setting, today, write
from jaxmem.analysis import Target, compare_targets
from jaxmem.result import Comparison, ComparisonCell, from_json

FILE = RESULTS / "comparing.json"
NETWORKS = ("alexnet", "vgg11", "resnet18", "squeezenet1_0", "mobilenet_v2", "shufflenet_v2_x1_0")
DEVICES = ("h100-sxm", "a100-sxm-80", "rtx-4090")
BATCH_SIZES = (1, 8)
MODE = "infer"
CELLS = len(NETWORKS) * len(DEVICES) * len(BATCH_SIZES)


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One comparison from an empty cache.

    Attributes:
        name: of the kind of run.
        seconds: by the clock, both halves of an interrupted run together; ``processor_seconds`` of all its processes.
        load: of the machine as the run began: processes that wanted a processor, over the last minute.
        done_before: cells that were kept when the run was interrupted, or the worker killed; None where neither happened.
        compiled_after: captures that were added after an interrupt.
        cells: the table that came out.
    """

    name: str
    seconds: float
    processor_seconds: float
    load: float
    done_before: int | None = None
    compiled_after: int | None = None
    cells: tuple[ComparisonCell, ...]
    date: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """All runs, and where they were made."""

    setting: Setting
    runs: tuple[Run, ...]


def command(jobs: int) -> list[str]:
    """``jaxmem compare`` of all cells."""
    options = ("--mode", MODE, "-b", ",".join(map(str, BATCH_SIZES)), "-d", ",".join(DEVICES))
    return [sys.executable, "-m", "jaxmem", "compare", *NETWORKS, *options, "--jobs", str(jobs), "--format", "json"]


def captures(folder: Path) -> int:
    """How many compiles the cache holds."""
    return len(list(folder.glob("captures/*.jaxmem")))


def cells_of(text: str) -> tuple[ComparisonCell, ...]:
    """The table that a command printed."""
    found = from_json(text, "the output of jaxmem compare")
    assert isinstance(found, Comparison)
    return found.cells


def straight(jobs: int) -> dict[str, Any]:
    """One run from beginning to end."""
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            command(jobs), env=os.environ | {"JAXMEM_CACHE_DIR": folder}, stdout=subprocess.PIPE, text=True, check=True
        )
        return {"cells": cells_of(done.stdout)}


def interrupted() -> dict[str, Any]:
    """Interrupted when half the cells are there, and started again."""
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {"JAXMEM_CACHE_DIR": folder}
        with subprocess.Popen(
            command(2), env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
        ) as process:
            assert process.stderr is not None
            for line in process.stderr:
                if f"{CELLS // 2} of {CELLS}" in line:
                    process.send_signal(signal.SIGINT)
                    break
            process.stderr.read()
            code = process.wait()
        if code != 130:
            raise SystemExit(f"The interrupted command ended with {code} instead of 130.")
        before = captures(Path(folder))
        done = subprocess.run(command(2), env=environment, stdout=subprocess.PIPE, text=True, check=True)
        return {
            "cells": cells_of(done.stdout),
            "done_before": before,
            "compiled_after": captures(Path(folder)) - before,
        }


def targets() -> list[Target]:
    """The cells of `command`, in its order."""
    return [
        Target(text=network, mode=MODE, batch_size=batch_size, device=device)
        for network in NETWORKS
        for batch_size in BATCH_SIZES
        for device in DEVICES
    ]


def on_a_cluster() -> dict[str, Any]:
    """On two workers, one of which is killed when half the cells are there; another takes its place."""
    import distributed

    killed: list[int] = []
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        os.environ["JAXMEM_CACHE_DIR"] = folder
        options: dict[str, Any] = {"threads_per_worker": 1, "dashboard_address": None, "silence_logs": 50}
        cluster = stack.enter_context(distributed.LocalCluster(n_workers=2, **options))
        client: Any = stack.enter_context(distributed.Client(cluster))
        executor: Executor = client.get_executor()
        workers = client.run(os.getpid)

        def kill_one(cell: ComparisonCell, done: int, total: int) -> None:
            print(f"{done} of {total}: {cell.program}", file=sys.stderr, flush=True)
            if done == total // 2:
                killed.append(next(iter(workers.values())))
                os.kill(killed[0], signal.SIGKILL)

        comparison = compare_targets(targets(), executor=executor, on_cell=kill_one)
        if killed[0] in client.run(os.getpid).values():
            raise SystemExit("The killed worker is still there.")
        return {"cells": comparison.cells, "done_before": CELLS // 2}


RUNS: dict[str, Callable[[], dict[str, Any]]] = {
    "one at a time": lambda: straight(1),
    "two at a time": lambda: straight(2),
    "interrupted": interrupted,
    "cluster": on_a_cluster,
}


def measured(name: str) -> Run:
    """One run with its times."""

    def processor() -> float:
        parts = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        return sum(part.ru_utime + part.ru_stime for part in parts)

    load, began, spent = os.getloadavg()[0], time.perf_counter(), processor()
    found = RUNS[name]()
    return Run(
        name=name,
        seconds=round(time.perf_counter() - began, 1),
        processor_seconds=round(processor() - spent, 1),
        load=round(load, 2),
        date=today(),
        **found,
    )


def page(results: Results) -> str:
    """The runs, and the table that all of them gave."""
    runs = {run.name: run for run in results.runs}
    first = runs.get("one at a time")
    rows = []
    for run in results.runs:
        happened = ""
        if run.name == "interrupted":
            happened = f"{run.done_before} kept at the interrupt, {run.compiled_after} compiled after it"
        elif run.name == "cluster":
            happened = f"a worker killed after {run.done_before} cells"
        same = "" if first is None or run is first else "yes" if run.cells == first.cells else "**no**"
        faster = "" if first is None else f"{first.seconds / run.seconds:.2f}"
        rows.append(
            (run.name, happened, same, f"{run.seconds:.1f}", faster, f"{run.processor_seconds:.1f}", f"{run.load:.1f}")
        )
    header = ("run", "on the way", "same table", "seconds", "times as fast", "processor seconds", "load before")
    text = f"""# A comparison of {CELLS} cells

{in_words(results.setting, tuple(run.date for run in results.runs))}

    python -m benchmarks.comparing

{len(NETWORKS)} networks, {len(DEVICES)} GPUs, {len(BATCH_SIZES)} batch sizes, inference; every run from an empty cache.

{table(header, rows, left=3)}

XLA itself uses more than one processor for a part of each compile, so two at a time cannot be twice as fast on two
processors. Processor seconds of the cluster leave out the worker that was killed.
"""
    if first is not None:
        cells = [
            (cell.program, cell.device, str(cell.batch_size), f"{cell.required_bytes:,}", "yes" if cell.fits else "no")
            for cell in first.cells
        ]
        header = ("network", "device", "batch", "required, bytes", "fits")
        text += f"\n## The table\n\n{table(header, cells, left=2)}\n"
    return text


def main() -> int:
    """Make the runs that are missing, and write the page."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.comparing",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--run", choices=RUNS, action="append", help="one of them, or several; all by default")
    parser.add_argument("--again", action="store_true", help="also those that are there")
    options = parser.parse_args()
    # A shell's background jobs ignore interrupts, and so would the command that is interrupted here.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    known = read(Results, FILE) or Results(setting=this_setting(), runs=())
    for name in options.run or RUNS:
        if not options.again and any(run.name == name for run in known.runs):
            continue
        print(name, file=sys.stderr, flush=True)
        runs = {run.name: run for run in known.runs} | {name: measured(name)}
        known = replace(known, setting=this_setting(), runs=tuple(runs[each] for each in RUNS if each in runs))
        write(known, FILE, page(known))
    print(page(known))
    return 0


if __name__ == "__main__":
    sys.exit(main())
