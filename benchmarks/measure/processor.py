"""The processor: every program in several fresh processes."""

import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

from benchmarks.accuracy.captures import capture_of
from benchmarks.accuracy.programs import Question
from benchmarks.measure.rows import Results, Row
from benchmarks.records import today
from jaxmem.assemble import read_report
from jaxmem.capture import Capture
from jaxmem.errors import JaxmemError
from jaxmem.measure import measure_capture
from jaxmem.result import Report
from jaxmem.unknown import Unknown
from jaxmem_models.registry import find


def predicted(question: Question, report: Report) -> Row:
    """The row of a program without measurements."""
    xla = report.xla
    sizes = (xla.argument_bytes, xla.output_bytes, xla.alias_bytes, xla.temp_bytes)
    arguments, outputs, aliased, temporaries = (size if isinstance(size, int) else 0 for size in sizes)
    hidden = report.hidden
    return Row(
        network=question.network,
        family=find(question.network).family,
        mode=question.mode,
        batch_size=question.batch_size,
        device=question.device,
        formula_bytes=report.estimates[0].bytes if report.estimates else Unknown("there is no formula"),
        required_bytes=report.required_bytes,
        hidden_bytes=hidden.bytes if hidden.bytes is not None else Unknown(hidden.reason),
        argument_bytes=arguments,
        statistics_bytes=arguments + outputs - aliased + temporaries,
        date=today(),
    )


def measure(
    questions: Iterable[Question],
    results: Results,
    *,
    processes: int,
    captures: Path | None,
    keep: Callable[[Results], None],
) -> Results:
    """Go through the questions. Predictions are made anew, measurements that are there stay; each is kept as it is made."""
    for question in questions:
        known = next((row for row in results.rows if row.question == question), None)
        try:
            capture = capture_of(question, captures)
            row = predicted(question, read_report(capture, origin=question.text))
            if known is not None:
                row = replace(row, peak_bytes=known.peak_bytes, step_bytes=known.step_bytes, date=known.date)
            for _ in range(processes - len(row.peak_bytes)):
                row = _one_more(row, capture)
                results = results.with_row(row)
                keep(results)
        except JaxmemError as error:
            print(f"{question.text}: {str(error).splitlines()[0]}", file=sys.stderr, flush=True)
            continue
        results = results.with_row(row)
        keep(results)
        error = row.error_percent(row.required_bytes)
        print(f"{question.text}: {error:+.1f} %" if error is not None else question.text, file=sys.stderr, flush=True)
    return results


def _one_more(row: Row, capture: Capture) -> Row:
    counted = measure_capture(capture).counted
    if isinstance(counted, Unknown):
        return replace(row, out_of_memory=counted.reason)
    return row.with_process(counted.peak_bytes, counted.step_bytes, today())
