"""What programs really take, beside what was predicted: training and inference, on this machine's devices.

    python -m benchmarks.measure                        # the processor
    python -m benchmarks.measure -d attached            # the GPU or TPU of this machine, within ten minutes
    python -m benchmarks.measure -d attached --dry-run  # the plan and its time budget; no device is needed
    python -m benchmarks.measure --pages                # the page and the README's table from what is there

Everything is written down as it is measured; a command goes on where an earlier one stopped. On the processor the predictions
are made again every time, so that they are those of the present rules. The plan of an accelerator: compiles without it go on
beside; on the device each program is compiled, then run in a fresh process without preallocation; and one program's batch grows
until it really runs out of memory.
"""

import argparse
import os
import re
import sys
from pathlib import Path

from benchmarks.measure.attached import carry_out, real_backend
from benchmarks.measure.page import page, readme_table
from benchmarks.measure.processor import measure
from benchmarks.measure.programs import CPU_PROCESSES, attached_plan, cpu_questions, plan_text
from benchmarks.measure.rows import Results
from benchmarks.records import RESULTS, read, this_setting, write_data, write_in_readme
from jaxmem.devices import attached_device
from jaxmem.errors import EnvironmentFailure, JaxmemError, UsageError
from jaxmem.files import write_whole

FOLDER = RESULTS / "measure"


def known(file: Path) -> Results | None:
    """What was written down; refused where it is of another machine or other versions."""
    results = read(Results, file)
    if results is not None and not results.setting.is_like(this_setting()):
        raise UsageError(f"{file} was measured on another machine or with other versions. Move it away to begin anew.")
    return results


def kept_results() -> list[Results]:
    """All that was written down, device by device."""
    files = sorted(FOLDER.glob("*.json"))
    return [results for file in files if (results := read(Results, file)) is not None and results.rows]


def write_pages() -> None:
    """The page, and the table between its marks in the README."""
    found = kept_results()
    write_whole(RESULTS / "measured.md", page(found), force=True)
    write_in_readme("measured", readme_table(found))


def main() -> int:
    """Measure what is missing, and write the page."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.measure",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("networks", nargs="*", help="of the zoo; the documented choice where none is named")
    parser.add_argument("-d", "--device", choices=("cpu", "attached"), default="cpu")
    parser.add_argument("--minutes", type=float, default=10.0, help="of an accelerator (default: 10)")
    parser.add_argument("--processes", type=int, default=CPU_PROCESSES, help="fresh ones for each row of the processor")
    parser.add_argument("--captures", type=Path, help="a folder to keep captures in, and to take them from")
    parser.add_argument("--dry-run", action="store_true", help="print the plan of an accelerator and its time budget")
    parser.add_argument("--pages", action="store_true", help="only write the pages anew")
    options = parser.parse_args()
    try:
        if options.dry_run:
            print(plan_text(attached_plan("attached", tuple(options.networks)), options.minutes))
            return 0
        if not options.pages and options.device == "cpu":
            on_the_processor(options)
        elif not options.pages:
            on_the_accelerator(options)
        write_pages()
    except JaxmemError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def on_the_processor(options: argparse.Namespace) -> None:
    """Measure what is missing of the processor."""
    os.environ["JAX_PLATFORMS"] = "cpu"
    file = FOLDER / "cpu.json"
    results = known(file) or Results(setting=this_setting(), device="cpu")
    measure(
        cpu_questions(tuple(options.networks)),
        results,
        processes=options.processes,
        captures=options.captures,
        keep=lambda results: write_data(results, file),
    )


def on_the_accelerator(options: argparse.Namespace) -> None:
    """Measure what is missing of the accelerator, as long as there is time."""
    device = attached_device()
    if device.platform == "cpu":
        raise EnvironmentFailure(
            "JAX sees no GPU or TPU in this machine. Install jaxlib's plugin for it, or look at the plan with --dry-run."
        )
    # Whatever traces in this process must not take the device.
    os.environ["JAX_PLATFORMS"] = "cpu"
    file = FOLDER / f"{re.sub(r'[^a-z0-9]+', '-', device.kind.lower()).strip('-')}.json"
    results = known(file) or Results(setting=this_setting(), device=device.kind)
    carry_out(
        attached_plan("attached", tuple(options.networks)),
        results,
        real_backend(options.captures),
        minutes=options.minutes,
        keep=lambda results: write_data(results, file),
    )


if __name__ == "__main__":
    sys.exit(main())
