"""One more round of a row, each in processes of their own."""

import json
import subprocess
import sys
import time
from dataclasses import replace

from benchmarks.estimate_speed.rows import (
    COMPILE_LIMIT,
    DepthRow,
    ProgramRow,
)
from benchmarks.overhead import IMPORT_JAX, Spent, finished, spent_and_said, spent_by_children, spent_on
from jaxmem.codec import decode


def measure_program(row: ProgramRow, pairs: int, variables: dict[str, str]) -> ProgramRow:
    """One more round, or the compile when all rounds are there."""
    derived = (sys.executable, "-m", "jaxmem", "estimate", *row.arguments, "-q", "--no-cache")
    cached = derived[:-1]
    if len(row.estimate) < pairs:
        if not row.estimate:
            for command in (IMPORT_JAX, derived, cached):  # to fill the system's caches, and jaxmem's
                finished(command, variables)
        return replace(
            row,
            import_jax=(*row.import_jax, spent_on(IMPORT_JAX, variables)),
            estimate=(*row.estimate, spent_on(derived, variables)),
            cached=(*row.cached, spent_on(cached, variables)),
            inside=(*row.inside, _inside("--inside", row.arguments, variables)[1]),
        )
    report = (sys.executable, "-m", "jaxmem", "report", *row.arguments, "-q", "--no-cache")
    if row.is_for_cpu and row.compiled is None:
        begun = Spent(clock=time.perf_counter(), processor=spent_by_children())
        try:
            compiled, inside = _inside("--compile", row.arguments, variables, limit=COMPILE_LIMIT)
        except subprocess.TimeoutExpired:
            return replace(row, gave_up=Spent(clock=time.perf_counter(), processor=spent_by_children()) - begun)
        row = replace(row, compiled=compiled, compiled_inside=inside)
    return replace(row, reported=spent_on(report, variables))


def _inside(
    side: str, arguments: tuple[str, ...], variables: dict[str, str], *, limit: float | None = None
) -> tuple[Spent, Spent]:
    """What the whole process of one side takes, and what it takes when all is imported."""
    command = (sys.executable, "-m", "benchmarks.estimate_speed", side, json.dumps(arguments))
    whole, said = spent_and_said(command, variables, limit=limit)
    return whole, decode(Spent, json.loads(said.splitlines()[-1]))


def measure_depth(row: DepthRow, variables: dict[str, str]) -> DepthRow:
    """One more round."""
    command = (sys.executable, "-m", "benchmarks.estimate_speed", "--depth", str(row.depth))
    operations, spent = decode(tuple[int, Spent], json.loads(finished(command, variables).splitlines()[-1]))
    return replace(row, operations=operations, estimate=(*row.estimate, spent))


def is_missing(row: ProgramRow, pairs: int) -> bool:
    """Whether there is something left to measure."""
    return len(row.estimate) < pairs or not row.is_known
