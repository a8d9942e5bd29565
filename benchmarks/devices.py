"""The zoo at full size, compiled for devices that are not here: do the ledgers close?

    python -m benchmarks.devices                                    # VGG-16 for two GPUs and two TPUs, both modes
    python -m benchmarks.devices vgg16_bn -d h100-sxm               # another network, other devices

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One report.

    Attributes:
        constants_bytes: what depends on no argument: zeros and index ramps of max-pool's backward pass.
        unexplained_bytes, unattributed_bytes: what a report must bring to nothing.
        estimate_error_percent: of the formula that needs no compile.
    """

    network: str
    mode: str
    batch_size: int
    device: str
    required_bytes: int
    is_lower_bound: bool
    live_peak_bytes: int
    saved_bytes: int
    constants_bytes: int
    padding_bytes: int
    unexplained_bytes: int
    unattributed_bytes: int
    estimate_error_percent: float
    fits: bool
    date: str

    @property
    def key(self) -> tuple[str, str, str]:
        """What it is a report of."""
        return self.network, self.mode, self.device


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """All rows, and where they were made."""

    setting: Setting
    rows: tuple[Row, ...]


def row_of(report: Report, network: str, mode: str) -> Row:
    """The figures of a report."""
    unexplained, error = report.unexplained_bytes, report.estimates[0].error_percent
    fits = report.verdict.fits
    assert isinstance(unexplained, int)
    assert isinstance(error, float)
    assert isinstance(fits, bool)
    return Row(
        network=network,
        mode=mode,
        batch_size=BATCH_SIZES[mode],
        device=report.device.name,
        required_bytes=report.required_bytes,
        is_lower_bound=report.required_is_lower_bound,
        live_peak_bytes=report.live_peak_bytes,
        saved_bytes=report.roles[Role.SAVED_ACTIVATIONS],
        constants_bytes=report.roles[Role.CONSTANTS],
        padding_bytes=report.roles[Role.PADDING],
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
            row.network,
            row.mode,
            str(row.batch_size),
            row.device,
            f"{'≥ ' if row.is_lower_bound else ''}{row.required_bytes:,}",
            f"{row.live_peak_bytes:,}",
            format_bytes(row.saved_bytes),
            format_bytes(row.constants_bytes),
            format_bytes(row.padding_bytes),
            f"{row.unexplained_bytes:,}",
            f"{row.unattributed_bytes:,}",
            f"{row.estimate_error_percent:+.1f}",
            "yes" if row.fits else "no",
        )
        for row in results.rows
    ]
    header = (
        *("network", "mode", "batch", "device", "required, bytes", "live peak, bytes", "saved activations"),
        *("constants", "padding", "unexplained, bytes", "unattributed, bytes", "formula's error, %", "fits"),
    )
    return f"""# The zoo for devices that are not here

{in_words(results.setting, tuple(row.date for row in results.rows))}

    python -m benchmarks.devices

Compiled without the devices, and not measured on them. *Required* is a lower bound (≥) where the compiler leaves out what it
would measure on the card. *Constants* depend on no argument of the program: zeros and index ramps that XLA makes for the
backward pass of max-pool.

{table(header, cells, left=4)}
"""


def main() -> int:
    """Report what is missing, and write the page."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.devices",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("networks", nargs="*", default=["vgg16"])
    parser.add_argument("-d", "--devices", default="h100-sxm,a100-sxm-80,tpu-v5e,tpu-v6e")
    parser.add_argument("--again", action="store_true", help="make rows that are already there anew")
    options = parser.parse_args()
    known = read(Results, FILE)
    rows = {row.key: row for row in known.rows} if known is not None else {}
    for network, device, mode in product(options.networks, options.devices.split(","), BATCH_SIZES):
        if (network, mode, device) in rows and not options.again:
            continue
        print(f"{network} {mode} for {device}", file=sys.stderr, flush=True)
        target = Target(text=network, mode=mode, batch_size=BATCH_SIZES[mode], device=device)
        try:
            row = row_of(analyze_target(target), network, mode)
        except JaxmemError as error:
            print(f"{network} {mode} for {device}: {error}", file=sys.stderr)
            return error.exit_code
        rows[row.key] = row
        results = Results(setting=this_setting(), rows=tuple(rows[key] for key in sorted(rows)))
        write(results, FILE, page(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
