"""How fast the formula alone is: against ``import jax``, against the compile that it saves, and as networks grow deeper.

    python -m benchmarks.estimate_speed                # whatever is missing
    python -m benchmarks.estimate_speed --again        # all of it anew
    python -m benchmarks.estimate_speed --pairs 5      # more rounds of each

- *programs*: the whole process of ``jaxmem estimate``, derived and from the cache, in turns with ``python -c "import jax"``.
  Once each, the compile that it saves: the whole process in which JAX traces, lowers and compiles the same program for the
  CPU, and that of ``jaxmem report`` without its cache, unless they take longer than their limit. The estimate and the compile
  also without what both import.
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
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from importlib import import_module
from io import StringIO
from typing import Any

from benchmarks.overhead import (
    IMPORT_JAX,
    Spent,
    environment,
    finished,
    middle,
    spent_and_said,
    spent_by_children,
    spent_here,
    spent_on,
)
from benchmarks.records import RESULTS, Setting, in_words, read, table, this_setting, today, write
from jaxmem.codec import decode, encode
from jaxmem.errors import JaxmemError

FILE = RESULTS / "estimate_speed.json"
COMPILE_LIMIT = 600.0
"""Seconds by the clock after which a compile is given up. What it has taken by then is written down."""
BEYOND_LIMIT, SHARE_LIMIT = 1.0, 0.1
"""What is asked for: seconds beyond the import of JAX (VGG-16), and the share of the compile."""

PROGRAMS: tuple[tuple[str, ...], ...] = (
    ("vgg16", "--mode", "train"),
    ("vgg16", "--mode", "train", "-d", "h100-sxm"),
    ("llama3_8b", "--mode", "infer", "--dtype", "bfloat16"),
    ("llama3_8b", "--mode", "train", "-b", "1", "--dtype", "mixed", "--remat", "blocks"),
    ("llama3_8b", "--mode", "train", "-b", "1", "--dtype", "mixed", "--remat", "blocks", "--set", "scan=True"),
    ("gpt2_xl", "--mode", "train", "-b", "1"),
)
"""Arguments of ``jaxmem estimate``."""

BLOCKS = 12
DEPTHS = tuple(BLOCKS * times for times in (1, 2, 4, 8))


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgramRow:
    """One program; what has one item for each round is a tuple.

    Attributes:
        import_jax, estimate, cached: whole processes; the estimate is derived, or found in the cache.
        inside: the estimate without what it imports.
        compiled: the whole process of the one compile by JAX alone; None where it was given up, has not been tried, or is for
            a device that JAX alone does not compile for here.
        compiled_inside: the same without what it imports.
        reported: the whole process of one ``jaxmem report`` without its cache.
        gave_up: what a compile by JAX alone had taken when it was given up, after COMPILE_LIMIT.
    """

    arguments: tuple[str, ...]
    import_jax: tuple[Spent, ...] = ()
    estimate: tuple[Spent, ...] = ()
    cached: tuple[Spent, ...] = ()
    inside: tuple[Spent, ...] = ()
    compiled: Spent | None = None
    compiled_inside: Spent | None = None
    reported: Spent | None = None
    gave_up: Spent | None = None

    @property
    def is_for_cpu(self) -> bool:
        """Whether JAX alone can compile it here."""
        return "-d" not in self.arguments

    @property
    def is_known(self) -> bool:
        """Whether the compile that the estimate saves has been measured, or given up."""
        return self.gave_up is not None or self.reported is not None

    @property
    def ratio(self) -> Spent:
        """Of the estimate to the import."""
        return middle(ours.over(theirs) for ours, theirs in zip(self.estimate, self.import_jax, strict=True))

    @property
    def beyond(self) -> Spent:
        """Seconds of the estimate beyond the import."""
        return middle(ours - theirs for ours, theirs in zip(self.estimate, self.import_jax, strict=True))


@dataclass(frozen=True, slots=True, kw_only=True)
class DepthRow:
    """GPT-2 with so many blocks; one item of ``estimate`` for each round."""

    depth: int
    operations: int = 0
    estimate: tuple[Spent, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """All rows. ``load`` is the highest load average of the system as the command began: what else the machine did."""

    setting: Setting
    date: str
    load: float
    programs: tuple[ProgramRow, ...] = tuple(ProgramRow(arguments=arguments) for arguments in PROGRAMS)
    depths: tuple[DepthRow, ...] = tuple(DepthRow(depth=depth) for depth in DEPTHS)


# What runs in a process of its own.


def compile_here(arguments: tuple[str, ...]) -> Spent:
    """Trace, lower and compile by JAX alone what ``jaxmem estimate`` is told by these arguments; what it takes when all is
    imported.
    """
    import jax

    from jaxmem_models.programs import build

    network, *options = arguments
    given = dict(zip(options[::2], options[1::2], strict=True))
    settings: dict[str, Any] = {"scan": True} if given.get("--set") == "scan=True" else {}
    jax.devices()
    _import_network(network)
    begun = spent_here()
    spec = build(
        network,
        mode=given["--mode"],
        batch_size=int(given.get("-b", {"train": 32, "infer": 1}[given["--mode"]])),
        dtype=given.get("--dtype", "float32"),
        remat=given.get("--remat"),
        **settings,
    )
    spec.function.lower(*spec.arguments).compile()
    return spent_here() - begun


def estimate_here(arguments: tuple[str, ...]) -> Spent:
    """What ``jaxmem estimate`` takes when all is imported, up to its printed answer; nothing comes from the cache."""
    from jaxmem.cli import main
    from jaxmem.quiet import start_jax

    start_jax()
    import jaxmem.analysis.estimating
    import jaxmem.assemble.estimate
    import jaxmem.formula
    import jaxmem.report.terminal
    import jaxmem.tracing  # noqa: F401

    _import_network(arguments[0])
    begun = spent_here()
    with redirect_stdout(StringIO()):
        main(["estimate", *arguments, "-q", "--no-cache"])
    return spent_here() - begun


def _import_network(name: str) -> None:
    import jaxmem_models.programs  # noqa: F401
    from jaxmem_models.registry import constructor_of, find

    import_module(constructor_of(find(name))[0])


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


def page(results: Results) -> str:
    """Three tables of what has been measured."""
    rows = [row for row in results.programs if row.estimate]
    imports = [
        (
            f"`{' '.join(row.arguments)}`",
            _both(middle(row.import_jax)),
            _both(middle(row.estimate)),
            _both(row.beyond),
            f"**{_both(row.ratio)}**",
            _both(middle(row.cached)),
            str(len(row.estimate)),
        )
        for row in rows
    ]
    compiles = [
        (
            f"`{' '.join(row.arguments)}`",
            _both(middle(row.inside)),
            _taken(row.compiled_inside, row),
            f"**{_share(middle(row.inside), row.compiled_inside, row)}**",
            _taken(row.compiled, row),
            _share(middle(row.estimate), row.compiled, row),
            _share(middle(row.cached), row.compiled, row),
            _both(row.reported) if row.reported else "–",
            _share(middle(row.estimate), row.reported),
            _share(middle(row.cached), row.reported),
        )
        for row in rows
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
    import_header = (
        *("program", "import jax, s", "estimate, s", "beyond the import, s", "ratio", "from the cache, s", "rounds"),
    )
    compile_header = (
        *("program", "estimate, no imports, s", "compile, no imports, s", "share, %"),
        *("compile, s", "share, %", "from the cache, %", "report, s", "share, %", "from the cache, %"),
    )
    depth_header = ("blocks", "operations", "estimate, s", "times deeper", "times slower", "rounds")
    return f"""# How fast an estimate is

{in_words(results.setting, (results.date,))}
Load average as it began, at most: {results.load:.1f}.

    python -m benchmarks.estimate_speed

Every cell has two numbers: by the clock, and in seconds of processors, which other programs on the machine change little.
Seconds are medians. Where a compile uses both processors at once, its clock may be below its processor time.

## Against the import of JAX

Whole processes, imports and the building of the network included: derived, and found in the cache, which imports no JAX. All
run in turns with the import; differences and ratios are medians of the rounds' own.
Asked for: VGG-16 at most {BEYOND_LIMIT:g} s beyond the import. {_beyond_in_words(rows)}

{table(import_header, imports)}

## Against the compile that it saves

The compile ran once. *No imports*: from the building of the network to the printed estimate, and from the building to the
compiled program, by JAX alone, in processes that have imported everything. Then whole processes: JAX alone for the CPU,
and `jaxmem report` without its cache. A share is that of the derived estimate, or of the one from the cache, a whole process
too.
Asked for: at most {100 * SHARE_LIMIT:g} % of the compile. {_shares_in_words(rows)}

{table(compile_header, compiles)}

## As networks grow deeper

`jaxmem.estimate` of a training step of GPT-2, one sequence of 1024 tokens: traced, read and derived, without imports and
without the building of the network.

{table(depth_header, depths)}
"""


def _both(spent: Spent) -> str:
    return f"{spent.clock:.2f} · {spent.processor:.2f}"


def _taken(spent: Spent | None, row: ProgramRow) -> str:
    return _both(spent) if spent else f"over {_both(row.gave_up)}" if row.gave_up else "–"


def _share(ours: Spent, theirs: Spent | None, row: ProgramRow | None = None) -> str:
    """Of the compile, or of what it had taken when it was given up."""
    given_up = row.gave_up if row is not None and theirs is None else None
    if (theirs := theirs or given_up) is None:
        return "–"
    ratio = ours.over(theirs)
    return f"{'below ' if given_up else ''}{100 * ratio.clock:.1f} · {100 * ratio.processor:.1f}"


def _beyond_in_words(rows: Sequence[ProgramRow]) -> str:
    found = [row for row in rows if row.arguments[0] == "vgg16"]
    return "; ".join(f"`{' '.join(row.arguments)}` {_both(row.beyond)} s" for row in found) + "."


def _shares_in_words(rows: Sequence[ProgramRow]) -> str:
    """Which programs are above the share that was asked for in processor time, by each measure."""

    def above(ours: Callable[[ProgramRow], Iterable[Spent]], theirs: Callable[[ProgramRow], Spent | None]) -> str:
        pairs = [(row, theirs(row)) for row in rows]
        found = [
            f"`{' '.join(row.arguments)}`"
            for row, compiled in pairs
            if compiled is not None and middle(ours(row)).over(compiled).processor > SHARE_LIMIT
        ]
        return ", ".join(found) or "none"

    return f"""Above it in processor time:

- no imports on either side: {above(lambda row: row.inside, lambda row: row.compiled_inside or row.gave_up)};
- whole processes, JAX alone: {above(lambda row: row.estimate, lambda row: row.compiled or row.gave_up)};
- whole processes, `jaxmem report`: {above(lambda row: row.estimate, lambda row: row.reported)};
- from the cache, JAX alone: {above(lambda row: row.cached, lambda row: row.compiled or row.gave_up)}."""


def main() -> int:
    """Measure what is missing, and write the page."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.estimate_speed",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--pairs", type=int, default=3, metavar="N", help="rounds of the programs and of the depths")
    parser.add_argument("--again", action="store_true", help="measure everything anew")
    parser.add_argument("--compile", help=argparse.SUPPRESS)
    parser.add_argument("--inside", help=argparse.SUPPRESS)
    parser.add_argument("--depth", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    for side, arguments in ((compile_here, options.compile), (estimate_here, options.inside)):
        if arguments is not None:
            print(json.dumps(encode(side(tuple(json.loads(arguments))))[0]))
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
        load=max(os.getloadavg()[0], results.load if results else 0.0),
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
