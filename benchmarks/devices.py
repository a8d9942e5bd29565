"""The zoo at full size, compiled for devices that are not here: do the ledgers close?

    python -m benchmarks.devices                                    # VGG-16 for two GPUs and two TPUs, both modes,
                                                                    # and its training step spread over many
    python -m benchmarks.devices vgg16_bn -d h100-sxm               # another network on other devices

Needs the compilers: ``pip install "jaxmem[cuda,tpu]"``. Each report is written as it is made; an interrupted command goes
on where it stopped, and captures come from jaxmem's own cache where nothing has changed.
"""

import argparse
import sys
from dataclasses import dataclass
from itertools import product

from benchmarks.records import RESULTS, Setting, in_words, read, table, this_setting, today, write
from jaxmem.analysis import Target, analyze_target
from jaxmem.errors import JaxmemError
from jaxmem.result import Report
from jaxmem.roles import Role
from jaxmem.units import format_bytes

FILE = RESULTS / "devices.json"
BATCH_SIZES = {"train": 32, "infer": 1}


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Question:
    """A program and what it is compiled for. ``sharding`` is empty on one device."""

    network: str
    mode: str
    device: str
    batch_size: int
    device_count: int = 1
    sharding: str = ""

    @property
    def text(self) -> str:
        """What a person calls it."""
        spread = f" on {self.device_count}, {self.sharding}" if self.device_count > 1 else ""
        return f"{self.network} {self.mode} {self.batch_size} for {self.device}{spread}"


SPREAD = (
    Question(network="vgg16", mode="train", device="h100-sxm", batch_size=32, device_count=8, sharding="data"),
    Question(network="vgg16", mode="train", device="h100-sxm", batch_size=32, device_count=8, sharding="fsdp"),
    Question(network="vgg16", mode="train", device="h100-sxm", batch_size=256, device_count=256, sharding="fsdp"),
    Question(network="vgg16", mode="train", device="tpu-v5e", batch_size=32, device_count=16, sharding="fsdp"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One report; its sizes are those of one device.

    Attributes:
        collective_bytes: what is sent between devices.
        constants_bytes: what depends on no argument: zeros and index ramps of max-pool's backward pass.
        unexplained_bytes, unattributed_bytes: what a report must bring to nothing.
        estimate_error_percent: of the formula that needs no compile.
    """

    question: Question
    required_bytes: int
    is_lower_bound: bool
    live_peak_bytes: int
    saved_bytes: int
    constants_bytes: int
    padding_bytes: int
    collective_bytes: int
    unexplained_bytes: int
    unattributed_bytes: int
    estimate_error_percent: float
    fits: bool
    date: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """All rows, and where they were made."""

    setting: Setting
    rows: tuple[Row, ...]


def row_of(report: Report, question: Question) -> Row:
    """The figures of a report."""
    unexplained, error = report.unexplained_bytes, report.estimates[0].error_percent
    fits = report.verdict.fits
    assert isinstance(unexplained, int)
    assert isinstance(error, float)
    assert isinstance(fits, bool)
    return Row(
        question=question,
        required_bytes=report.required_bytes,
        is_lower_bound=report.required_is_lower_bound,
        live_peak_bytes=report.live_peak_bytes,
        saved_bytes=report.roles[Role.SAVED_ACTIVATIONS],
        constants_bytes=report.roles[Role.CONSTANTS],
        padding_bytes=report.roles[Role.PADDING],
        collective_bytes=report.roles[Role.COLLECTIVES],
        unexplained_bytes=unexplained,
        unattributed_bytes=report.roles[Role.UNATTRIBUTED],
        estimate_error_percent=error,
        fits=fits,
        date=today(),
    )


def page(results: Results) -> str:
    """The table that people read."""
    cells = [
        (
            row.question.network,
            row.question.mode,
            row.question.device,
            row.question.sharding,
            str(row.question.device_count),
            str(row.question.batch_size),
            f"{'≥ ' if row.is_lower_bound else ''}{row.required_bytes:,}",
            f"{row.live_peak_bytes:,}",
            format_bytes(row.saved_bytes),
            format_bytes(row.constants_bytes),
            format_bytes(row.padding_bytes),
            format_bytes(row.collective_bytes),
            f"{row.unexplained_bytes:,}",
            f"{row.unattributed_bytes:,}",
            f"{row.estimate_error_percent:+.1f}",
            "yes" if row.fits else "no",
        )
        for row in results.rows
    ]
    header = (
        *("network", "mode", "device", "sharding", "devices", "batch", "required, bytes", "live peak, bytes"),
        *("saved activations", "constants", "padding", "collectives"),
        *("unexplained, bytes", "unattributed, bytes", "formula's error, %", "fits"),
    )
    return f"""# The zoo for devices that are not here

{in_words(results.setting, tuple(row.date for row in results.rows))}

    python -m benchmarks.devices

Compiled without the devices, and not measured on them. Sizes are those of one device, the batch is that of all together.
*Required* is a lower bound (≥) where the compiler leaves out what it would measure on the card. *Constants* depend on no
argument of the program: zeros and index ramps that XLA makes for the backward pass of max-pool.

{table(header, cells, left=4)}
"""


def main() -> int:
    """Report what is missing, and write the page."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.devices",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("networks", nargs="*", help="vgg16, spread over many devices as well, where none is named")
    parser.add_argument("-d", "--devices", default="h100-sxm,a100-sxm-80,tpu-v5e,tpu-v6e")
    parser.add_argument("--again", action="store_true", help="make rows that are already there anew")
    options = parser.parse_args()
    asked = [
        Question(network=network, mode=mode, device=device, batch_size=BATCH_SIZES[mode])
        for network, device, mode in product(options.networks or ["vgg16"], options.devices.split(","), BATCH_SIZES)
    ]
    if not options.networks:
        asked += [question for question in SPREAD if question.device in options.devices.split(",")]
    known = read(Results, FILE)
    rows = {row.question: row for row in known.rows} if known is not None else {}
    for question in asked:
        if question in rows and not options.again:
            continue
        print(question.text, file=sys.stderr, flush=True)
        target = Target(
            text=question.network,
            mode=question.mode,
            batch_size=question.batch_size,
            device=question.device,
            mesh=(("data", question.device_count),) if question.sharding else (),
            sharding=question.sharding or None,
        )
        try:
            row = row_of(analyze_target(target), question)
        except JaxmemError as error:
            print(f"{question.text}: {error}", file=sys.stderr)
            return error.exit_code
        rows[row.question] = row
        results = Results(setting=this_setting(), rows=tuple(rows[key] for key in sorted(rows)))
        write(results, FILE, page(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
