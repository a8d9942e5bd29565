"""How far a process really grows while a program runs on CPU, beside what jaxmem says it requires.

    python -m benchmarks.process_growth            # all rows, five fresh processes each
    python -m benchmarks.process_growth vgg16      # the rows of one network

Every measurement is a fresh process (`jaxmem.measure`): it compiles the program, makes its arguments and touches each of
their pages, hands free memory back to the system, notes its resident memory, starts the kernel's high-water mark anew, and
runs the program once. Growth is the high-water mark less what was resident before. What jaxmem says comes from the report of
the same capture, and XLA's own statistics must be equal on both sides.

Each measurement is written as it is made; an interrupted command goes on where it stopped. The library behind XLA picks its
kernels by the processor's instruction set, so each kind of processor has a file of its own. The predictions are made again
every time, for all of them, so that they are those of the present rules.
"""

import argparse
import os
import statistics
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import jaxmem
from benchmarks.records import RESULTS, Setting, in_words, read, table, this_setting, today, write_data
from jaxmem.analysis.captures import finished, prepare
from jaxmem.assemble import read_report
from jaxmem.capture import Capture, CaptureCache, this_host
from jaxmem.devices import cpu_device
from jaxmem.devices.library_kernels import TYPICAL, instruction_set
from jaxmem.errors import EnvironmentFailure, InvariantError, JaxmemError, UsageError
from jaxmem.files import write_whole
from jaxmem.measure import Counted, measure_capture
from jaxmem.unknown import Unknown

FOLDER, PAGE = RESULTS / "process_growth", RESULTS / "process_growth.md"
OPENED = "xla_cpu_experimental_ynn_fusion_type"
"""Set to nothing, this option of XLA's CPU compiler leaves no fusion to the library (YNNPACK)."""

MIB = 1 << 20
OPENED_LIMIT_BYTES, OPENED_LIMIT_PERCENT, DEFAULT_LIMIT_PERCENT = 45 * MIB, 3.0, 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One program: a network of the zoo or of `benchmarks.networks`, compiled with or without library fusions."""

    network: str
    mode: str
    batch_size: int
    opened: bool


CASES = tuple(
    Case(network=network, mode=mode, batch_size=batch_size, opened=opened)
    for network, batches in (
        ("vgg16", (("infer", 8), ("infer", 16), ("train", 4), ("train", 8))),
        ("zfnet", (("infer", 32), ("infer", 64), ("train", 16), ("train", 32))),
        ("resnet18", (("infer", 16), ("infer", 32), ("train", 8), ("train", 16))),
    )
    for mode, batch_size in batches
    for opened in (False, True)
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A case with what jaxmem says of it and what was measured.

    Attributes:
        date: of the last measurement.
        argument_bytes: what the caller hands in, by XLA.
        required_bytes, reserved_bytes, hidden_bytes: by jaxmem.
        growth_bytes: one number for each fresh process, in the order they ran.
        resident_argument_bytes: by how much the process grew while the arguments were made, likewise.
    """

    case: Case
    date: str
    argument_bytes: int
    required_bytes: int
    reserved_bytes: int
    hidden_bytes: int
    growth_bytes: tuple[int, ...] = ()
    resident_argument_bytes: tuple[int, ...] = ()

    @property
    def growth(self) -> int:
        """The median."""
        return round(statistics.median(self.growth_bytes))

    @property
    def predicted_growth(self) -> int:
        """What is required besides the arguments."""
        return self.required_bytes - self.argument_bytes

    @property
    def difference(self) -> int:
        """Predicted less measured; the same for the whole and for the growth alone, for the arguments are in both."""
        return self.predicted_growth - self.growth

    @property
    def error_percent(self) -> float:
        """Of required against arguments and measured growth together."""
        return 100 * self.difference / (self.argument_bytes + self.growth)

    @property
    def growth_error_percent(self) -> float:
        """Of the predicted growth against the measured one."""
        return 100 * self.difference / self.growth

    def holds(self, percent: float) -> bool:
        """Whether an error of so many percent is within what is asked of this row."""
        if self.case.opened:
            return abs(self.difference) <= OPENED_LIMIT_BYTES and abs(percent) <= OPENED_LIMIT_PERCENT
        return abs(percent) <= DEFAULT_LIMIT_PERCENT


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """All rows, measured in one setting."""

    setting: Setting
    rows: tuple[Row, ...] = ()

    def row(self, case: Case) -> Row | None:
        """The row of a case, if there is one."""
        return next((row for row in self.rows if row.case == case), None)

    def with_row(self, row: Row) -> "Results":
        """The same, with a row added or replaced; rows stand in the order of `CASES`."""
        rows = {each.case: each for each in (*self.rows, row)}
        order = {case: position for position, case in enumerate(CASES)}
        return replace(self, rows=tuple(sorted(rows.values(), key=lambda each: order.get(each.case, len(order)))))


# The program, analysed and measured.


def build_program(case: Case) -> "jaxmem.Program":
    """The program of a case; of its arguments only shape and dtype exist."""
    import jax
    import jax.numpy as jnp
    import optax
    from flax import nnx

    from benchmarks.networks import HELD_OUT
    from jaxmem_models.programs import build
    from jaxmem_models.steps import infer, train_step

    named = {"name": case.network, "mode": case.mode, "compiler_options": {OPENED: ""} if case.opened else {}}
    if case.network not in HELD_OUT:
        spec = build(case.network, mode=case.mode, batch_size=case.batch_size)
        return jaxmem.Program(spec.function, *spec.arguments, **named)
    model = nnx.eval_shape(lambda: HELD_OUT[case.network](rngs=nnx.Rngs(0)))
    images = jax.ShapeDtypeStruct((case.batch_size, 224, 224, 3), jnp.float32)
    if case.mode == "infer":
        model.eval()
        return jaxmem.Program(jax.jit(infer), model, images, **named)
    model.train()
    optimizer = nnx.eval_shape(lambda model: nnx.Optimizer(model, optax.adam(1e-3), wrt=nnx.Param), model)
    labels = jax.ShapeDtypeStruct((case.batch_size,), jnp.int32)
    return jaxmem.Program(nnx.jit(train_step, donate_argnums=(0, 1)), model, optimizer, images, labels, **named)


def compiled(case: Case) -> Capture:
    """The capture of a case on this machine."""
    return finished(prepare(build_program(case), cpu_device(), CaptureCache()))


def predict(case: Case, capture: Capture, kind: str) -> Row:
    """The row of a case without measurements, for a kind of processor: XLA's own numbers are the same for all."""
    if kind != instruction_set(frozenset(capture.host.cpu_features)):
        features = tuple(sorted(TYPICAL[kind]))
        capture = replace(capture, host=replace(capture.host, cpu_features=features))
    report = read_report(capture)
    argument_bytes, hidden_bytes = report.xla.argument_bytes, report.hidden.bytes
    if not isinstance(argument_bytes, int) or hidden_bytes is None:
        raise InvariantError(f"not every size of {case} is known: {report.xla}, hidden: {report.hidden.reason}")
    return Row(
        case=case,
        date=today(),
        argument_bytes=argument_bytes,
        required_bytes=report.required_bytes,
        reserved_bytes=report.reserved_bytes,
        hidden_bytes=hidden_bytes,
    )


def measure(case: Case, capture: Capture) -> Counted:
    """One fresh process.

    Raises:
        EnvironmentFailure: it ran out of memory, or died.
        InvariantError: XLA compiled another program there.
    """
    measurement = measure_capture(capture)
    if measurement.statistics != capture.statistics:
        raise InvariantError(
            f"XLA says {measurement.statistics} of {case} where it ran, and {capture.statistics} here."
        )
    if isinstance(measurement.counted, Unknown):
        raise EnvironmentFailure(measurement.counted.reason)
    return measurement.counted


# The page.


def page(found: Mapping[str, Results]) -> str:
    """One table for each kind of processor, and which rows do not hold."""
    sections = "\n".join(section(kind, results) for kind, results in found.items())
    return f"""# Growth of a process on CPU against what jaxmem requires

    python -m benchmarks.process_growth

Sizes in MiB. Every row: a fresh process compiles the program, makes its arguments and touches them, and runs it once;
*growth* is the median of its high-water mark less what was resident before, *spread* the largest less the smallest.
*Difference* is required − arguments − growth: above zero, jaxmem says more than the process took. *Error* is that
difference against arguments + growth, then against the growth alone. *Opened* is the compiler option
`{OPENED}=` (empty): no fusion is left to a library that allocates for itself.
zfnet (`benchmarks/networks.py`) took no part in deriving the rules for such fusions; of resnet18, when packed kernels are given
back was learned. What each kind of processor needs by the present rules stands beside what was measured on it.

Asked for, of the error: with fusions opened at most {OPENED_LIMIT_BYTES // MIB} MiB and {OPENED_LIMIT_PERCENT:g} %,
by default at most {DEFAULT_LIMIT_PERCENT:g} %.

{sections}"""


def section(kind: str, results: Results) -> str:
    """The table of one kind of processor."""
    rows = [row for row in results.rows if row.growth_bytes]
    cells = [
        (
            row.case.network,
            row.case.mode,
            str(row.case.batch_size),
            "opened" if row.case.opened else "default",
            *(f"{size / MIB:,.1f}" for size in (row.argument_bytes, row.growth, row.required_bytes)),
            f"{row.predicted_growth / MIB:,.1f}",
            f"{row.hidden_bytes / MIB:,.1f}",
            f"{row.difference:+,}",
            f"{row.error_percent:+.1f}",
            f"{row.growth_error_percent:+.1f}",
            f"{(max(row.growth_bytes) - min(row.growth_bytes)) / MIB:,.1f}",
            str(len(row.growth_bytes)),
        )
        for row in rows
    ]
    header = (
        *("network", "mode", "batch", "fusions", "arguments", "growth", "required", "required − arguments"),
        *("of it hidden", "difference, bytes", "error, %", "error of growth alone, %", "spread", "processes"),
    )
    whole = [row for row in rows if not row.holds(row.error_percent)]
    alone = [row for row in rows if not row.holds(row.growth_error_percent)]
    return f"""## {kind}

{in_words(results.setting, tuple(row.date for row in rows))}

{table(header, cells, left=4)}

- {_count(rows, whole)} {_named(whole)}
- Were the same asked of the growth alone: {_count(rows, alone)} {_named(alone)}
"""


def _count(rows: list[Row], failing: list[Row]) -> str:
    return f"{len(rows) - len(failing)} of {len(rows)} rows hold."


def _named(failing: list[Row]) -> str:
    if not failing:
        return ""
    words = (
        f"{row.case.network} {row.case.mode} {row.case.batch_size} {'opened' if row.case.opened else 'default'}"
        for row in failing
    )
    return f"Not: {', '.join(words)}."


def main() -> int:
    """Measure what is missing, and write the page."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.process_growth",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("networks", nargs="*", metavar="NETWORK", help="only these (default: all)")
    parser.add_argument("--processes", type=int, default=5, metavar="N", help="fresh processes for each row")
    parser.add_argument("--results", type=Path, default=FOLDER, metavar="FOLDER", help=f"default: {FOLDER}")
    parser.add_argument("--page", type=Path, default=PAGE, metavar="FILE", help=f"default: {PAGE}")
    options = parser.parse_args()
    try:
        run(tuple(options.networks), options.processes, options.results, options.page)
    except JaxmemError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def run(networks: tuple[str, ...], processes: int, folder: Path, file: Path) -> None:
    """Go through the cases; write after every measurement."""
    strangers = sorted(set(networks) - {case.network for case in CASES})
    if strangers:
        raise UsageError(f"No rows for {', '.join(strangers)}. There are: {', '.join({c.network for c in CASES})}.")
    os.environ["JAX_PLATFORMS"] = "cpu"
    here = instruction_set(frozenset(this_host().cpu_features))
    files = {path.stem: path for path in sorted(folder.glob("*.json"))} | {here: folder / f"{here}.json"}
    found = {kind: read(Results, path) or Results(setting=this_setting()) for kind, path in files.items()}
    if not found[here].setting.is_like(this_setting()):
        raise UsageError(
            f"{files[here]} was measured on another machine or with other versions. Give another --results FOLDER."
        )

    def keep(kind: str, row: Row) -> None:
        found[kind] = found[kind].with_row(row)
        write_data(found[kind], files[kind])
        write_whole(file, page(found), force=True)

    for case in CASES:
        if networks and case.network not in networks:
            continue
        capture = compiled(case)
        for kind in [kind for kind in files if kind != here and found[kind].row(case)] + [here]:
            row = predict(case, capture, kind)
            if (known := found[kind].row(case)) is not None:
                row = replace(
                    row,
                    date=known.date,
                    growth_bytes=known.growth_bytes,
                    resident_argument_bytes=known.resident_argument_bytes,
                )
            keep(kind, row)
        row = found[here].row(case)
        assert row is not None
        for _ in range(processes - len(row.growth_bytes)):
            counted = measure(case, capture)
            row = replace(
                row,
                date=today(),
                growth_bytes=(*row.growth_bytes, counted.step_bytes),
                resident_argument_bytes=(*row.resident_argument_bytes, counted.argument_bytes),
            )
            keep(here, row)
        if not row.growth_bytes:
            continue
        print(
            f"{case.network} {case.mode} {case.batch_size} {'opened' if case.opened else 'default'}: "
            f"growth {row.growth / MIB:,.1f} MiB, predicted {row.predicted_growth / MIB:,.1f} MiB "
            f"({row.error_percent:+.1f} %, {row.growth_error_percent:+.1f} % of the growth alone)",
            flush=True,
        )


if __name__ == "__main__":
    sys.exit(main())
