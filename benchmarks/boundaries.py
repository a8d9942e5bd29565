"""How many compiles the boundary batch takes, and what changes to VGG-16 really give.

    python -m benchmarks.boundaries                                   # four networks, three GPUs
    python -m benchmarks.boundaries vgg16 resnet50 -d tpu-v5e         # others
    python -m benchmarks.boundaries --advice                          # VGG-16 at batch 256 on an RTX 4090, changed

Needs the compilers: ``pip install "jaxmem[cuda,tpu]"``. Each answer is written as it is found; an interrupted command goes
on where it stopped, and captures come from jaxmem's own cache where nothing has changed. Compiles are counted as from a
cold start.
"""

import argparse
import sys
from dataclasses import dataclass, replace
from itertools import product
from statistics import median

from benchmarks.records import RESULTS, Setting, in_words, read, table, this_setting, today, write
from jaxmem.analysis import Question, Target, fit_target
from jaxmem.errors import JaxmemError
from jaxmem.report.phrases import file_name
from jaxmem.result import Fit
from jaxmem.units import format_bytes, format_difference
from jaxmem.unknown import Unknown

FILE = RESULTS / "boundaries.json"
NETWORKS = ("vgg16", "resnet50", "vit_b_16", "gpt2")
DEVICES = ("h100-sxm", "a100-sxm-40", "rtx-4090")
ADVISED = ("vgg16", "rtx-4090", 256)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One answer of ``jaxmem fit``, without its audit of donation."""

    network: str
    device: str
    fit: Fit
    date: str

    @property
    def key(self) -> tuple[str, str, bool]:
        """What it answers."""
        return self.network, self.device, self.fit.advised_batch is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """All answers, and where they were found."""

    setting: Setting
    rows: tuple[Row, ...]


def boundary_table(rows: list[Row]) -> str:
    """Largest and next batch, each with what its compile requires, and every batch compiled in its order."""
    cells = []
    for row in rows:
        boundary = row.fit.boundary
        required = {probe.batch_size: f"{probe.required_bytes:,}" for probe in boundary.proof}
        sides = [
            cell
            for batch in (boundary.largest_batch, boundary.next_batch)
            for cell in (("none", "") if batch is None else (str(batch), required[batch]))
        ]
        cells.append(
            (
                row.network,
                row.device,
                f"{row.fit.budget_bytes:,}",
                *sides,
                str(boundary.compiles),
                " ".join(str(probe.batch_size) for probe in boundary.proof),
                "yes" if boundary.monotone else "no",
            )
        )
    header = (
        *("network", "device", "usable, bytes", "fits", "required, bytes", "does not fit", "required, bytes"),
        *("compiles", "batches compiled", "monotone"),
    )
    return table(header, cells, left=2)


def advice_table(fit: Fit) -> str:
    """What each change saves and costs."""

    def flops(count: int | Unknown) -> str:
        return "not known" if isinstance(count, Unknown) else f"{count / 1e12:+.2f}"

    cells = [
        (
            row.change,
            f"`{row.how}`",
            row.note,
            "did not compile" if isinstance(row.after_bytes, Unknown) else f"{row.after_bytes:,}",
            "" if isinstance(row.saved_bytes, Unknown) else format_difference(row.saved_bytes),
            flops(row.extra_flops),
            "yes" if row.helps else "no",
            "yes" if row.fits else "no",
        )
        for row in fit.advice
    ]
    header = ("change", "how", "mind", "required, bytes", "saved", "extra FLOPs, 10¹²", "helps", "fits")
    return table(header, cells, left=3)


def page(results: Results) -> str:
    """The tables that people read."""
    searches = [row for row in results.rows if row.fit.advised_batch is None]
    advised = [row for row in results.rows if row.fit.advised_batch is not None]
    counts = [row.fit.boundary.compiles for row in searches]
    text = f"""# Boundary batches

{in_words(results.setting, tuple(row.date for row in results.rows))}

    python -m benchmarks.boundaries

Training steps with Adam in float32, state donated. Both sides of each boundary are compiled, without the card, and not
measured on it; *required* of a GPU is a lower bound. A TPU's own compiler accepts the one and refuses the other.
"""
    if searches:
        text += f"""
{boundary_table(searches)}

Compiles from a cold start: {median(counts):g} in the median of {len(counts)} searches, {max(counts)} at most.
"""
    for row in advised:
        before = next(probe for probe in row.fit.boundary.proof if probe.batch_size == row.fit.advised_batch)
        text += f"""
## What changes give: {row.network}, batch {row.fit.advised_batch}, on {row.device}

    python -m benchmarks.boundaries --advice

Without any change {before.required_bytes:,} bytes are required and {format_bytes(row.fit.budget_bytes)} usable. Each change is
compiled by itself. FLOPs are those of matrix products and convolutions.

{advice_table(row.fit)}
"""
    return text


def main() -> int:
    """Search what is missing, and write the page."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.boundaries",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("networks", nargs="*", default=list(NETWORKS))
    parser.add_argument("-d", "--devices", default=",".join(DEVICES))
    parser.add_argument("--advice", action="store_true", help="the table of changes instead")
    parser.add_argument("--again", action="store_true", help="make rows that are already there anew")
    options = parser.parse_args()
    asked = [(network, device, None) for device, network in product(options.devices.split(","), options.networks)]
    for network, device, batch in [ADVISED] if options.advice else asked:
        known = read(Results, FILE)
        rows = {row.key: row for row in known.rows} if known is not None else {}
        if (network, device, options.advice) in rows and not options.again:
            continue
        print(f"{network} for {device}", file=sys.stderr, flush=True)
        target = Target(text=network, mode="train", device=device, batch_size=batch)
        try:
            fit = fit_target(target, Question(advice=options.advice), progress=_say)
        except JaxmemError as error:
            print(f"{network} for {device}: {error}", file=sys.stderr)
            return error.exit_code
        # Neither the audit of donation nor the folders of this machine.
        program = replace(fit.program, source=fit.program.source and file_name(fit.program.source))
        row = Row(network=network, device=device, fit=replace(fit, donation=(), program=program), date=today())
        rows[row.key] = row
        results = Results(setting=this_setting(), rows=tuple(rows[key] for key in sorted(rows)))
        write(results, FILE, page(results))
    return 0


_said = ""


def _say(phase: str, seconds: float) -> None:
    global _said
    if phase != _said:
        print(f"  {phase}", file=sys.stderr, flush=True)
    _said = phase


if __name__ == "__main__":
    sys.exit(main())
