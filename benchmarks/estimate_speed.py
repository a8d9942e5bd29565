"""How fast the formula alone is: against ``import jax``, against the compile that it saves, and as networks grow deeper.

    python -m benchmarks.estimate_speed                # whatever is missing
    python -m benchmarks.estimate_speed --again        # all of it anew
    python -m benchmarks.estimate_speed --pairs 5      # more of each

- *programs*: the whole process of ``jaxmem estimate``, in turns with ``python -c "import jax"``; and once the whole process
  in which JAX traces, lowers and compiles the same program for the CPU, unless that takes longer than its limit.
- *depths*: `jaxmem.estimate` of a training step of GPT-2 with 12, 24, 48 and 96 blocks, imports and the building of the
  network left out; each time in a fresh process, the depths in turns.

Everything is written down as it is measured; an interrupted command goes on where it stopped.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass, replace
from typing import Any

from benchmarks.overhead import IMPORT_JAX, Spent, environment, finished, middle, spent_here, spent_on
from benchmarks.records import RESULTS, Setting, in_words, read, table, this_setting, today, write
from jaxmem.codec import decode, encode
from jaxmem.errors import JaxmemError

FILE = RESULTS / "estimate_speed.json"
COMPILE_LIMIT = 120.0
"""Seconds after which a compile is given up."""

PROGRAMS: tuple[tuple[str, ...], ...] = (
    ("vgg16", "--mode", "train"),
    ("gpt2_xl", "--mode", "train", "-b", "1"),
    ("llama3_8b", "--mode", "infer", "--dtype", "bfloat16"),
    ("llama3_8b", "--mode", "train", "-b", "1", "--dtype", "mixed", "--remat", "blocks"),
    ("llama3_8b", "--mode", "train", "-b", "1", "--dtype", "mixed", "--remat", "blocks", "--set", "scan=True"),
)
"""Arguments of ``jaxmem estimate``."""

BLOCKS = 12
DEPTHS = tuple(BLOCKS * times for times in (1, 2, 4, 8))


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgramRow:
    """One program; whole processes, one item for each pair.

    Attributes:
        compiled: the one compile; None where it was given up or has not been tried.
        gave_up: it took longer than COMPILE_LIMIT.
    """

    arguments: tuple[str, ...]
    import_jax: tuple[Spent, ...] = ()
    estimate: tuple[Spent, ...] = ()
    compiled: Spent | None = None
    gave_up: bool = False

    @property
    def ratio(self) -> Spent:
        """Of the estimate to the import."""
        return middle(ours.over(theirs) for ours, theirs in zip(self.estimate, self.import_jax, strict=True))


@dataclass(frozen=True, slots=True, kw_only=True)
class DepthRow:
    """GPT-2 with so many blocks; one item of ``estimate`` for each round."""

    depth: int
    operations: int = 0
    estimate: tuple[Spent, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """All rows. ``load`` is the system's load average as the command began for the last time: what else the machine did."""

    setting: Setting
    date: str
    load: float
    programs: tuple[ProgramRow, ...] = tuple(ProgramRow(arguments=arguments) for arguments in PROGRAMS)
    depths: tuple[DepthRow, ...] = tuple(DepthRow(depth=depth) for depth in DEPTHS)


# What runs in a process of its own.


def compile_here(arguments: tuple[str, ...]) -> None:
    """Trace, lower and compile by JAX alone what ``jaxmem estimate`` is told by these arguments."""
    from jaxmem_models.programs import build

    network, *options = arguments
    given = dict(zip(options[::2], options[1::2], strict=True))
    settings: dict[str, Any] = {"scan": True} if given.get("--set") == "scan=True" else {}
    spec = build(
        network,
        mode=given["--mode"],
        batch_size=int(given.get("-b", {"train": 32, "infer": 1}[given["--mode"]])),
        dtype=given.get("--dtype", "float32"),
        remat=given.get("--remat"),
        **settings,
    )
    spec.function.lower(*spec.arguments).compile()


def depth_here(depth: int) -> tuple[int, Spent]:
    """Operations of the layer table, and what an estimate takes once everything is imported."""
    import jax
    import jax.numpy as jnp
    import optax
    from flax import nnx

    import jaxmem
    from jaxmem.tracing import trace
    from jaxmem.tracing.layers import layer_table
    from jaxmem_models.programs import abstract_model
    from jaxmem_models.steps import language_step

    def program(blocks: int) -> jaxmem.Program:
        model = abstract_model("gpt2", depth=blocks)
        model.train()
        optimizer = nnx.eval_shape(lambda model: nnx.Optimizer(model, optax.adam(1e-3), wrt=nnx.Param), model)
        tokens = jax.ShapeDtypeStruct((1, 1024), jnp.int32)
        return jaxmem.Program(nnx.jit(language_step, donate_argnums=(0, 1)), model, optimizer, tokens)

    jaxmem.estimate(program(1))  # what is imported and cached on first use
    whole = program(depth)
    begun = spent_here()
    jaxmem.estimate(whole)
    spent = spent_here() - begun
    traced = trace(whole, platforms=("cpu",))
    return len(layer_table(traced.closed_jaxpr, traced.arguments).operations), spent


# The rows.


def measure_program(row: ProgramRow, pairs: int, variables: dict[str, str]) -> ProgramRow:
    """One more pair, or the compile when all pairs are there."""
    ours = (sys.executable, "-m", "jaxmem", "estimate", *row.arguments, "-q")
    if len(row.estimate) < pairs:
        if not row.estimate:
            for command in (IMPORT_JAX, ours):  # to fill the system's caches
                finished(command, variables)
        theirs = spent_on(IMPORT_JAX, variables)
        return replace(row, import_jax=(*row.import_jax, theirs), estimate=(*row.estimate, spent_on(ours, variables)))
    command = (sys.executable, "-m", "benchmarks.estimate_speed", "--compile", json.dumps(row.arguments))
    try:
        return replace(row, compiled=spent_on(command, variables, limit=COMPILE_LIMIT))
    except subprocess.TimeoutExpired:
        return replace(row, gave_up=True)


def measure_depth(row: DepthRow, variables: dict[str, str]) -> DepthRow:
    """One more round."""
    command = (sys.executable, "-m", "benchmarks.estimate_speed", "--depth", str(row.depth))
    operations, spent = decode(tuple[int, Spent], json.loads(finished(command, variables).splitlines()[-1]))
    return replace(row, operations=operations, estimate=(*row.estimate, spent))


def is_missing(row: ProgramRow, pairs: int) -> bool:
    """Whether there is something left to measure."""
    return len(row.estimate) < pairs or (row.compiled is None and not row.gave_up)


def page(results: Results) -> str:
    """Two tables of what has been measured."""
    programs = [
        (
            f"`{' '.join(row.arguments)}`",
            _both(middle(row.import_jax)),
            _both(middle(row.estimate)),
            f"**{_both(row.ratio)}**",
            f"over {COMPILE_LIMIT:.0f}" if row.gave_up else _both(row.compiled) if row.compiled else "",
            _both(row.compiled.over(middle(row.estimate))) if row.compiled else "",
            str(len(row.estimate)),
        )
        for row in results.programs
        if row.estimate
    ]
    measured = [row for row in results.depths if row.estimate]
    depths = [
        (
            str(row.depth),
            f"{row.operations:,}",
            _both(middle(row.estimate)),
            f"{row.depth / measured[0].depth:.0f}",
            f"**{_both(middle(row.estimate).over(middle(measured[0].estimate)))}**",
            str(len(row.estimate)),
        )
        for row in measured
    ]
    program_header = ("program", "import jax, s", "estimate, s", "ratio", "compile, s", "compile / estimate", "pairs")
    depth_header = ("blocks", "operations", "estimate, s", "times deeper", "times slower", "rounds")
    return f"""# How fast an estimate is

{in_words(results.setting, (results.date,))}
Load average as it last began: {results.load:.1f}.

    python -m benchmarks.estimate_speed

Every cell has two numbers: by the clock, and in seconds of processors, which other programs on the machine hardly change.
Seconds are medians.

## Against the import of JAX, and against the compile that it saves

Whole processes, imports and the building of the network included. An estimate and the import run in turns; a ratio is the
median of the pairs' ratios. The compile, by JAX alone and for the CPU, ran once.

{table(program_header, programs)}

## As networks grow deeper

`jaxmem.estimate` of a training step of GPT-2, one sequence of 1024 tokens: traced, read and derived, without imports and
without the building of the network. One part grows with the square of the depth, in every trace, with or without jaxmem: each
dropout of Flax asks a traced array for its sharding, and JAX's answer looks through all that was traced before.

{table(depth_header, depths)}
"""


def _both(spent: Spent) -> str:
    return f"{spent.clock:.2f} · {spent.processor:.2f}"


def main() -> int:
    """Measure what is missing, and write the page."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.estimate_speed",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--pairs", type=int, default=3, metavar="N", help="pairs of a program, rounds of the depths")
    parser.add_argument("--again", action="store_true", help="measure everything anew")
    parser.add_argument("--compile", help=argparse.SUPPRESS)
    parser.add_argument("--depth", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.compile is not None:
        compile_here(tuple(json.loads(options.compile)))
        return 0
    if options.depth is not None:
        print(json.dumps(encode(depth_here(options.depth))[0]))
        return 0
    try:
        run(options.pairs, again=options.again)
    except JaxmemError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def run(pairs: int, *, again: bool) -> None:
    """Whatever is missing, the quick things first; written as each is done."""
    results = None if again else read(Results, FILE)
    results = replace(
        results or Results(setting=this_setting(), date="", load=0.0),
        setting=this_setting(),
        date=today(),
        load=os.getloadavg()[0],
    )
    with tempfile.TemporaryDirectory(prefix="jaxmem-estimate-speed-") as cache:
        variables = environment(cache)
        while row := min(results.depths, key=lambda row: (len(row.estimate), row.depth)):
            if len(row.estimate) >= pairs:
                break
            new = measure_depth(row, variables)
            print(f"{new.depth} blocks: {_both(new.estimate[-1])}", file=sys.stderr, flush=True)
            results = replace(results, depths=tuple(new if each == row else each for each in results.depths))
            write(results, FILE, page(results))
        while missing := [row for row in results.programs if is_missing(row, pairs)]:
            row = min(missing, key=lambda row: len(row.estimate))
            new = measure_program(row, pairs, variables)
            print(f"{' '.join(new.arguments)}: {_both(new.estimate[-1])}", file=sys.stderr, flush=True)
            results = replace(results, programs=tuple(new if each == row else each for each in results.programs))
            write(results, FILE, page(results))


if __name__ == "__main__":
    sys.exit(main())
