"""What jaxmem adds to a compile, and how fast its answers from the cache are: as ratios, measured side by side.

    python -m benchmarks.overhead                  # all rows
    python -m benchmarks.overhead --pairs 9        # more of each

Both sides of a row run in turns, each time in a fresh process, so that what else the machine does falls on both. The
number of a row is the median of the pairs' ratios.

- *compiles*: `jaxmem.analyze` without the cache and the printed report, against trace, lower and compile of the same
  function by JAX alone. Imports, and the start of jaxmem's compiling process (Python, JAX and XLA's client once more),
  are left out of the ratio and stated apart.
- *commands*: the whole process, from the cache, against ``python -c "import jax"``.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.records import RESULTS, Setting, in_words, table, this_setting, today, write
from jaxmem.codec import decode, encode
from jaxmem.errors import EnvironmentFailure, JaxmemError

FILE = RESULTS / "overhead.json"
ROOT = Path(__file__).parents[1]
COMPILE_LIMIT, COMMAND_LIMIT = 1.25, 1.0

COMPILES = (("vgg16", "train", 32), ("vgg16", "infer", 1), ("vgg16_bn", "train", 32))
"""Network, mode, batch size."""

IMPORT_JAX = (sys.executable, "-c", "import jax")
COMMANDS = (("report", "vgg16", "--mode", "infer", "-q"), ("--help",))
"""Arguments of ``jaxmem``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """Seconds: by the clock, and of processors, which other programs on the machine hardly change."""

    clock: float
    processor: float

    def __add__(self, other: "Spent") -> "Spent":
        return Spent(clock=self.clock + other.clock, processor=self.processor + other.processor)

    def __sub__(self, other: "Spent") -> "Spent":
        return Spent(clock=self.clock - other.clock, processor=self.processor - other.processor)

    def over(self, other: "Spent") -> "Spent":
        """Both ratios."""
        return Spent(clock=self.clock / other.clock, processor=self.processor / other.processor)


def middle(numbers: Iterable[Spent]) -> Spent:
    """Both medians."""
    numbers = tuple(numbers)
    return Spent(
        clock=statistics.median(each.clock for each in numbers),
        processor=statistics.median(each.processor for each in numbers),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class CompileRow:
    """One program. All tuples have one item for each pair, in the order they ran.

    Attributes:
        bare: trace, lower and compile by JAX alone.
        imported: jaxmem's own modules.
        traced: jaxmem until its lowering is ready.
        started: the start of the compiling process.
        compiled: the compile in it, to the end of that process.
        read: from the end of the compile to the printed report.
    """

    network: str
    mode: str
    batch_size: int
    bare: tuple[Spent, ...] = ()
    imported: tuple[Spent, ...] = ()
    traced: tuple[Spent, ...] = ()
    started: tuple[Spent, ...] = ()
    compiled: tuple[Spent, ...] = ()
    read: tuple[Spent, ...] = ()

    @property
    def ratio(self) -> Spent:
        """Of everything but imports and the start of the compiling process."""
        parts = zip(self.bare, self.traced, self.compiled, self.read, strict=True)
        return middle((traced + compiled + read).over(bare) for bare, traced, compiled, read in parts)

    @property
    def whole_ratio(self) -> Spent:
        """Of everything."""
        parts = zip(self.bare, self.imported, self.traced, self.started, self.compiled, self.read, strict=True)
        return middle((a + b + c + d + e).over(bare) for bare, a, b, c, d, e in parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandRow:
    """One command line; whole processes."""

    arguments: tuple[str, ...]
    import_jax: tuple[Spent, ...] = ()
    jaxmem: tuple[Spent, ...] = ()

    @property
    def ratio(self) -> Spent:
        """Of jaxmem to the import."""
        return middle(ours.over(theirs) for ours, theirs in zip(self.jaxmem, self.import_jax, strict=True))


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """One run of this command. ``load`` is the system's load average as it began: what else the machine did."""

    setting: Setting
    date: str
    load: float
    compiles: tuple[CompileRow, ...] = ()
    commands: tuple[CommandRow, ...] = ()


# What runs in a process of its own.


def spent_here() -> Spent:
    """Since the start of this process, and by it alone."""
    return Spent(clock=time.perf_counter(), processor=time.process_time())


def spent_by_children() -> float:
    """Seconds of processors that this process's children have used: those that ended, and those that run."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = ended.ru_utime + ended.ru_stime
    for children in Path("/proc/self/task").glob("*/children"):
        for child in children.read_text().split():
            fields = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()
            seconds += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")  # utime, stime
    return seconds


def bare_here(network: str, mode: str, batch_size: int) -> dict[str, Spent]:
    """Trace, lower and compile by JAX alone."""
    from jaxmem_models.programs import build

    spec = build(network, mode=mode, batch_size=batch_size)
    begun = spent_here()
    spec.function.lower(*spec.arguments).compile()
    return {"bare": spent_here() - begun}


def analyze_here(network: str, mode: str, batch_size: int) -> dict[str, Spent]:
    """All that ``jaxmem report`` does, by its phases."""
    from jaxmem_models.programs import build

    def now() -> Spent:
        return spent_here() + Spent(clock=0, processor=spent_by_children())

    importing = now()
    import jaxmem
    import jaxmem.analysis.reporting
    import jaxmem.assemble.report
    import jaxmem.compilers
    import jaxmem.tracing
    from jaxmem.report import as_text, terminal  # noqa: F401

    imported = now() - importing
    spec = build(network, mode=mode, batch_size=batch_size)
    program = jaxmem.Program(spec.function, *spec.arguments, name=spec.name, mode=spec.mode)
    moments: dict[str, Spent] = {}
    begun = now()
    report = jaxmem.analyze(program, use_cache=False, progress=lambda phase, _: moments.update({phase: now()}))
    as_text(report)
    done = now()
    starting, compiling, collecting = (
        next(moment for phase, moment in moments.items() if phase.startswith(word))
        for word in ("starting", "compiling", "collecting")
    )
    return {
        "imported": imported,
        "traced": starting - begun,
        "started": compiling - starting,
        "compiled": collecting - compiling,
        "read": done - collecting,
    }


SIDES: dict[str, Callable[[str, str, int], dict[str, Spent]]] = {"bare": bare_here, "analyze": analyze_here}


# The pairs.


def environment(cache: str) -> dict[str, str]:
    """Both sides see the same: no compile is cached by JAX, jaxmem's cache is one of its own, and Python keeps the bytecode of
    what it imports, which pip makes when it installs a package.
    """
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return kept | {"JAX_PLATFORMS": "cpu", "JAX_ENABLE_COMPILATION_CACHE": "false", "JAXMEM_CACHE_DIR": cache}


def finished(command: tuple[str, ...], variables: dict[str, str], *, limit: float | None = None) -> str:
    """Standard output of a process that ended well.

    Raises:
        EnvironmentFailure: it ended otherwise.
        subprocess.TimeoutExpired: it had not ended after ``limit`` seconds, and was ended.
    """
    run = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, check=False, timeout=limit)
    if run.returncode != 0:
        raise EnvironmentFailure(f"{' '.join(command)} ended with {run.returncode}:\n{run.stderr[-2000:]}")
    return run.stdout


def spent_on(command: tuple[str, ...], variables: dict[str, str], *, limit: float | None = None) -> Spent:
    """What a whole process takes; see `finished`."""
    return spent_and_said(command, variables, limit=limit)[0]


def spent_and_said(
    command: tuple[str, ...], variables: dict[str, str], *, limit: float | None = None
) -> tuple[Spent, str]:
    """What a whole process takes, and its standard output; see `finished`."""
    begun = Spent(clock=time.perf_counter(), processor=spent_by_children())
    said = finished(command, variables, limit=limit)
    return Spent(clock=time.perf_counter(), processor=spent_by_children()) - begun, said


def measure_compile(row: CompileRow, pairs: int, variables: dict[str, str]) -> CompileRow:
    """Both sides in turns."""
    for _ in range(pairs):
        for side in SIDES:
            place = (side, row.network, row.mode, str(row.batch_size))
            answer = finished((sys.executable, "-m", "benchmarks.overhead", "--side", *place), variables)
            parts = decode(dict[str, Spent], json.loads(answer.splitlines()[-1]))
            row = replace(row, **{name: (*getattr(row, name), spent) for name, spent in parts.items()})
    return row


def measure_command(row: CommandRow, pairs: int, variables: dict[str, str]) -> CommandRow:
    """Both sides in turns, once each beforehand to fill the caches, the system's among them."""
    ours = (sys.executable, "-m", "jaxmem", *row.arguments)
    for command in (IMPORT_JAX, ours):
        finished(command, variables)
    for _ in range(pairs):
        theirs = spent_on(IMPORT_JAX, variables)
        row = replace(row, import_jax=(*row.import_jax, theirs), jaxmem=(*row.jaxmem, spent_on(ours, variables)))
    return row


# The page.


def page(results: Results) -> str:
    """Two tables."""
    compiles = [
        (
            f"{row.network} {row.mode} {row.batch_size}",
            *(
                _both(middle(part))
                for part in (row.bare, row.traced, row.compiled, row.read, row.imported, row.started)
            ),
            f"**{_both(row.ratio)}**",
            _both(row.whole_ratio),
            str(len(row.bare)),
        )
        for row in results.compiles
    ]
    commands = [
        (
            f"`jaxmem {' '.join(row.arguments)}`",
            _both(middle(row.import_jax)),
            _both(middle(row.jaxmem)),
            f"**{_both(row.ratio)}**",
            str(len(row.jaxmem)),
        )
        for row in results.commands
    ]
    compile_header = (
        *("program", "bare, s", "traced, s", "compiled, s", "read, s", "imports, s", "worker start, s"),
        *("ratio", "ratio with imports and start", "pairs"),
    )
    compile_ratios = {cells[0]: row.ratio for cells, row in zip(compiles, results.compiles, strict=True)}
    command_ratios = {cells[0]: row.ratio for cells, row in zip(commands, results.commands, strict=True)}
    return f"""# What jaxmem adds

{in_words(results.setting, (results.date,))}
Load average as it began: {results.load:.1f}.

    python -m benchmarks.overhead

Both sides in turns, each in a fresh process. Every cell has two numbers: by the clock, and in seconds of processors,
which other programs on the machine hardly change. Seconds are medians; a ratio is the median of the pairs' ratios.

## A report against a bare compile

*Bare* is trace, lower and compile by JAX alone. The others are parts of `jaxmem.analyze` without its cache, up to the
printed report. *Ratio* leaves out the import of jaxmem's modules and the start of the compiling process (Python, JAX
and XLA's client once more); the next column has them in.
Asked for: at most {COMPILE_LIMIT:g}. {_over(compile_ratios, COMPILE_LIMIT)}

{table(compile_header, compiles)}

## An answer without a compile against `python -c "import jax"`

Whole processes; the report is in jaxmem's cache.
Asked for: below {COMMAND_LIMIT:g}. {_over(command_ratios, COMMAND_LIMIT)}

{table(("command", "import jax, s", "jaxmem, s", "ratio", "pairs"), commands)}
"""


def _both(spent: Spent) -> str:
    return f"{spent.clock:.2f} · {spent.processor:.2f}"


def _over(ratios: Mapping[str, Spent], limit: float) -> str:
    clock = [name for name, ratio in ratios.items() if ratio.clock > limit]
    processor = [name for name, ratio in ratios.items() if ratio.processor > limit]
    return " ".join(
        f"Over it {measure}: {', '.join(names) or 'none'}."
        for measure, names in (("by the clock", clock), ("in processor time", processor))
    )


def main() -> int:
    """Measure, and write the page."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.overhead",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--pairs", type=int, default=5, metavar="N", help="pairs of compiles; twice as many commands")
    parser.add_argument("--results", type=Path, default=FILE, metavar="FILE", help=f"default: {FILE}")
    parser.add_argument("--side", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side is not None:
        side, network, mode, batch_size = options.side
        print(json.dumps(encode(SIDES[side](network, mode, int(batch_size)))[0]))
        return 0
    try:
        run(options.pairs, options.results)
    except JaxmemError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def run(pairs: int, file: Path) -> None:
    """All rows, the quick ones first; written as each is done."""
    results = Results(setting=this_setting(), date=today(), load=os.getloadavg()[0])
    with tempfile.TemporaryDirectory(prefix="jaxmem-overhead-") as cache:
        variables = environment(cache)
        for arguments in COMMANDS:
            command = measure_command(CommandRow(arguments=arguments), 2 * pairs, variables)
            results = replace(results, commands=(*results.commands, command))
            print(f"jaxmem {' '.join(arguments)}: {_both(command.ratio)}", flush=True)
        for network, mode, batch_size in COMPILES:
            compile_row = CompileRow(network=network, mode=mode, batch_size=batch_size)
            compile_row = measure_compile(compile_row, pairs, variables)
            results = replace(results, compiles=(*results.compiles, compile_row))
            print(f"{network} {mode} {batch_size}: {_both(compile_row.ratio)}", flush=True)
            write(results, file, page(results))


if __name__ == "__main__":
    sys.exit(main())
