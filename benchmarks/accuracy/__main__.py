"""The formula against the compile, over the zoo: batches 8, 32 and 128, training and inference, CPU, GPU and TPU.

    python -m benchmarks.accuracy -d h100-sxm                 # whatever is missing of one device
    python -m benchmarks.accuracy -d cpu resnet50 swin_t      # some networks
    python -m benchmarks.accuracy --captures FOLDER           # keep every capture there
    python -m benchmarks.accuracy --captures FOLDER --again   # the estimates anew from them, after a change of the formula
    python -m benchmarks.accuracy --captures FOLDER --estimates   # those of rows without a capture, from a trace alone

Needs the compilers: ``pip install "jaxmem[cuda,tpu]"``. Each program is written down as it is done; an interrupted command goes
on where it stopped. One file of results for each device, so that several commands may run side by side; the page and the plot
are made from all of them.
"""

import argparse
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from benchmarks.accuracy.captures import capture_of, file_name, target_of
from benchmarks.accuracy.page import page
from benchmarks.accuracy.plot import plot
from benchmarks.accuracy.programs import DEVICES, Question, questions
from benchmarks.accuracy.rows import Failure, Results, Row, estimated_again, row_of
from benchmarks.records import RESULTS, read, this_setting, today, write_data
from jaxmem.analysis import estimate_target
from jaxmem.assemble import read_report
from jaxmem.errors import JaxmemError, UsageError
from jaxmem.files import write_whole
from jaxmem_models.registry import find

FOLDER = RESULTS / "accuracy"


def answer(question: Question, captures: Path | None) -> Row | Failure:
    """Compile one program, or take what is kept of it, and lay the estimates beside it."""
    try:
        capture = capture_of(question, captures)
        report = read_report(capture, origin=question.network)
    except UsageError:
        raise
    except JaxmemError as error:
        return Failure(
            network=question.network,
            mode=question.mode,
            batch_size=question.batch_size,
            device=question.device,
            reason=str(error).splitlines()[0],
        )
    return row_of(report, capture, question, find(question.network).family, today())


def estimate_again(question: Question, row: Row) -> Row:
    """The estimate of a program that was compared before, from a trace."""
    return estimated_again(row, estimate_target(target_of(question)))


def known(device: str) -> Results | None:
    """What was written down about a device."""
    return read(Results, FOLDER / f"{device}.json")


def write_pages() -> None:
    """The page and the plot of everything that is known."""
    results = [found for device in DEVICES if (found := known(device)) is not None and found.rows]
    if results:
        write_whole(RESULTS / "accuracy.md", page(results), force=True)
        plot([row for result in results for row in result.rows], RESULTS / "accuracy.svg")


def main() -> int:
    """Compare what is missing, and write the page."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.accuracy",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("networks", nargs="*", help="of the zoo; the documented choice where none is named")
    parser.add_argument(
        "-d", "--device", choices=DEVICES, action="append", help="one or several; all where none is named"
    )
    parser.add_argument("--again", action="store_true", help="do what is already there anew")
    parser.add_argument(
        "--estimates", action="store_true", help="only the estimates of rows without a capture, anew from traces"
    )
    parser.add_argument("--captures", type=Path, help="a folder to keep captures in, and to take them from")
    parser.add_argument("--jobs", type=int, default=1, help="programs at once")
    options = parser.parse_args()
    for device in options.device or DEVICES:
        found = known(device)
        rows = {row.question: row for row in found.rows} if found is not None else {}
        failures = {failure.question: failure for failure in found.failures} if found is not None else {}
        asked = [each for each in questions(device, tuple(options.networks)) if options.again or each not in rows]
        if options.estimates:
            _estimate_rows(device, rows, failures, options.captures)
            continue
        with ThreadPoolExecutor(options.jobs) as pool:
            for number, (question, result) in enumerate(
                zip(asked, pool.map(partial(answer, captures=options.captures), asked), strict=True), start=1
            ):
                rows.pop(question, None)
                failures.pop(question, None)
                if isinstance(result, Row):
                    rows[question] = result
                    error = result.error_percent("jaxmem")
                    said = "no estimate" if error is None else f"estimate {error:+.2f} %"
                else:
                    failures[question] = result
                    said = result.reason
                print(f"{number}/{len(asked)} {question.text}: {said}", file=sys.stderr, flush=True)
                _write(device, rows, failures)
    write_pages()
    return 0


def _estimate_rows(
    device: str, rows: dict[Question, Row], failures: dict[Question, Failure], captures: Path | None
) -> None:
    for question, row in sorted(rows.items()):
        if captures is None or not (captures / file_name(question)).exists():
            rows[question] = estimate_again(question, row)
            error = rows[question].error_percent("jaxmem")
            print(f"{question.text}: {row.error_percent('jaxmem')} -> {error}", file=sys.stderr, flush=True)
            _write(device, rows, failures)


def _write(device: str, rows: dict[Question, Row], failures: dict[Question, Failure]) -> None:
    results = Results(
        setting=this_setting(),
        rows=tuple(rows[key] for key in sorted(rows)),
        failures=tuple(failures[key] for key in sorted(failures)),
    )
    write_data(results, FOLDER / f"{device}.json")


if __name__ == "__main__":
    sys.exit(main())
