"""An accelerator: every program once, until the time is over; and the largest batch of one, by running out of memory.

The compiles without the device go on beside, on the processor's other cores; whatever uses the device goes one after the
other, so that what its driver says is of one process.
"""

import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.accuracy.captures import capture_of
from benchmarks.accuracy.programs import Question
from benchmarks.measure.processor import predicted
from benchmarks.measure.programs import BOUNDARY, BOUNDARY_MULTIPLE, Step
from benchmarks.measure.rows import Ended, Results, Row
from benchmarks.records import today
from jaxmem.assemble import read_report
from jaxmem.capture import Capture
from jaxmem.errors import InputError, JaxmemError
from jaxmem.measure import Measurement, measure_capture
from jaxmem.planner import find_boundary
from jaxmem.result import Boundary, Probe, Report
from jaxmem.unknown import Unknown
from jaxmem.xla import Module, read_hlo_proto

LIBRARY_CALLS = ("__cudnn$", "__cublas$")
_COMPILES_BESIDE = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Backend:
    """What the plan is carried out with; a test brings its own.

    Attributes:
        capture: compiles a program without the device.
        measure: runs a capture's program on the device; in JAX's pool too where it is asked for.
        clock: seconds.
    """

    capture: Callable[[Question], Capture]
    measure: Callable[[Capture, bool], Measurement]
    clock: Callable[[], float] = time.monotonic


def real_backend(captures: Path | None) -> Backend:
    """The compilers and the device of this machine."""
    return Backend(
        capture=lambda question: capture_of(question, captures),
        measure=lambda capture, pool: measure_capture(capture, pool=pool),
    )


def carry_out(
    plan: tuple[Step, ...], results: Results, backend: Backend, *, minutes: float, keep: Callable[[Results], None]
) -> Results:
    """Do what is missing of a plan, in its order, until the time is over. Each result is kept as it is made."""
    deadline = backend.clock() + 60 * minutes
    known = {row.question for row in results.rows}
    missing = [s for s in plan if (results.boundary is None if s.question is None else s.question not in known)]
    with _compiles(backend, [step.question for step in missing if step.question is not None]) as capture:
        for number, step in enumerate(missing):
            if backend.clock() + step.seconds > deadline:
                left = len(missing) - number
                print(f"{minutes:g} minutes are over; {left} steps are left.", file=sys.stderr, flush=True)
                break
            try:
                if step.question is None:
                    results = replace(results, boundary=largest_batch(backend, capture))
                else:
                    results = results.with_row(row_of(step.question, capture(step.question), backend))
            except JaxmemError as error:
                print(f"{step.text}: {str(error).splitlines()[0]}", file=sys.stderr, flush=True)
                continue
            keep(results)
            print(step.text, file=sys.stderr, flush=True)
    return results


@contextmanager
def _compiles(backend: Backend, questions: list[Question]) -> Iterator[Callable[[Question], Capture]]:
    """The captures of some questions, compiled in their order beside everything else; what is not needed is given up."""
    pool = ThreadPoolExecutor(_COMPILES_BESIDE)
    waiting: dict[Question, Future[Capture]] = {each: pool.submit(backend.capture, each) for each in questions}
    try:
        yield lambda question: waiting[question].result() if question in waiting else backend.capture(question)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def row_of(question: Question, capture: Capture, backend: Backend) -> Row:
    """One program, predicted and measured."""
    row = predicted(question, read_report(capture, origin=question.text))
    measurement = backend.measure(capture, False)
    row = replace(
        row,
        on_device_bytes=statistics_bytes(measurement),
        workspace_bytes=measured_workspace(measurement),
        date=today(),
    )
    counted = measurement.counted
    if isinstance(counted, Unknown):
        return replace(row, out_of_memory=counted.reason)
    return replace(
        row, peak_bytes=(counted.peak_bytes,), step_bytes=(counted.step_bytes,), driver_bytes=counted.driver_bytes
    )


def statistics_bytes(measurement: Measurement) -> int | Unknown:
    """Argument + output − alias + temp of the compile on the device."""
    said = measurement.statistics
    sizes = (said.argument_bytes, said.output_bytes, said.alias_bytes, said.temp_bytes)
    unknown = next((size for size in sizes if isinstance(size, Unknown)), None)
    if unknown is not None:
        return unknown
    arguments, outputs, aliased, temporaries = (size for size in sizes if isinstance(size, int))
    return arguments + outputs - aliased + temporaries


def measured_workspace(measurement: Measurement) -> int | Unknown:
    """The largest workspace in the module compiled on the device."""
    if measurement.hlo_proto is None:
        return Unknown("the compile on the device left no module")
    try:
        module, _ = read_hlo_proto(measurement.hlo_proto, origin="the module compiled on the device")
    except InputError as error:
        return Unknown(str(error))
    return largest_workspace(module)


def largest_workspace(module: Module) -> int:
    """The largest workspace that a call of cuDNN or cuBLAS is given: the last array of its results, of bytes."""
    largest = 0
    for instruction in module.instructions.values():
        if instruction.opcode == "custom-call" and instruction.attributes.custom_call_target.startswith(LIBRARY_CALLS):
            leaves = [shape for _, shape in instruction.shape.leaves]
            if len(leaves) > 1 and leaves[-1].element_type in ("u8", "s8") and len(leaves[-1].dimensions) == 1:
                largest = max(largest, leaves[-1].logical_bytes)
    return largest


def largest_batch(backend: Backend, capture: Callable[[Question], Capture]) -> Ended:
    """The boundary batch of one program, first by compiles without the device, then by runs in JAX's pool.

    The runs begin where the compiles ended, and search in the same way.
    """
    network, mode = BOUNDARY
    reports: dict[int, tuple[Capture, Report]] = {}

    def at(batch: int) -> tuple[Capture, Report]:
        if batch not in reports:
            question = Question(network=network, mode=mode, batch_size=batch, device="attached")
            made = capture(question)
            reports[batch] = made, read_report(made, origin=question.text)
        return reports[batch]

    def by_compile(batch: int) -> Probe:
        _, report = at(batch)
        return Probe(
            batch_size=batch,
            required_bytes=report.required_bytes,
            judged_bytes=report.verdict.judged_bytes,
            fits=report.verdict.fits is True,
        )

    def by_run(batch: int) -> Probe:
        made, report = at(batch)
        measurement = backend.measure(made, True)
        counted = measurement.counted
        peak_bytes = report.required_bytes if isinstance(counted, Unknown) else counted.peak_bytes
        return Probe(
            batch_size=batch,
            required_bytes=peak_bytes,
            judged_bytes=peak_bytes,
            fits=measurement.runs_in_pool is True,
        )

    _, first = at(BOUNDARY_MULTIPLE)
    usable_bytes = first.verdict.usable_bytes
    if isinstance(usable_bytes, Unknown):
        raise InputError(f"How much memory the device has is not known: {usable_bytes.reason}")

    def search(measure: Callable[[int], Probe], asked: int) -> Boundary:
        return find_boundary(
            measure,
            estimate=lambda batch: first.required_bytes * batch // BOUNDARY_MULTIPLE,
            budget_bytes=usable_bytes,
            multiple_of=BOUNDARY_MULTIPLE,
            asked=asked,
        )

    predicted_boundary = search(by_compile, BOUNDARY_MULTIPLE)
    found = search(by_run, predicted_boundary.largest_batch or BOUNDARY_MULTIPLE)
    return Ended(network=network, mode=mode, predicted=predicted_boundary, found=found)
