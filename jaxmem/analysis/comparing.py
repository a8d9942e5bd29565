"""One table over programs × devices × batch sizes."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any

from jaxmem.analysis.captures import Pending, prepare, prepare_target
from jaxmem.analysis.targets import Target
from jaxmem.assemble import read_report
from jaxmem.capture import Capture, CaptureCache
from jaxmem.capture.machine import this_host
from jaxmem.devices import find_device
from jaxmem.errors import UsageError
from jaxmem.planner import Failed, Job, sweep
from jaxmem.program import Program
from jaxmem.quiet import start_jax
from jaxmem.result import Comparison, ComparisonCell, Report
from jaxmem.unknown import Unknown

DEFAULT_TIMEOUT_SECONDS = 3600.0

OnCell = Callable[[ComparisonCell, int, int], None]
"""Told of a cell as it is done, with how many are done and how many there are."""


def _unseen(cell: ComparisonCell, done: int, total: int) -> None:
    """Nobody looks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Planned:
    """A cell before it is worked on: what it is called, and how it begins."""

    program: str
    mode: str | None
    batch_size: int | None
    device: str
    device_count: int
    begin: Callable[[], Capture | Pending]


def compare_targets(
    targets: Sequence[Target],
    *,
    executor: Executor | None = None,
    jobs: int | None = None,
    timeout: float | None = DEFAULT_TIMEOUT_SECONDS,
    on_cell: OnCell = _unseen,
) -> Comparison:
    """A table of what a person named, one cell for each target; arguments as in `compare`."""
    planned = [
        _Planned(
            program=target.text,
            mode=target.mode,
            batch_size=target.batch_size,
            device=target.device or "",
            device_count=prod(size for _, size in target.mesh),
            begin=partial(prepare_target, target),
        )
        for target in targets
    ]
    return _compare(planned, executor, jobs, timeout, on_cell)


def compare(
    programs: Mapping[str, Any] | Iterable[Any],
    *,
    devices: Iterable[str] = ("cpu",),
    batch_sizes: Iterable[int] = (),
    executor: Executor | None = None,
    jobs: int | None = None,
    timeout: float | None = DEFAULT_TIMEOUT_SECONDS,
    use_cache: bool = True,
    on_cell: OnCell = _unseen,
) -> Comparison:
    """One table over programs × devices × batch sizes. A failure is a cell of it and stops no other.

    Captures are cached as they come: a sweep that was interrupted goes on where it was.

    Args:
        programs: a `Program` each, or a function that makes one and takes ``batch_size``; as a mapping, by name.
        devices: as in ``jaxmem devices``.
        batch_sizes: handed to the functions; none leaves each its own default.
        executor: carries out the compiles; by default, worker processes of this machine. What it carries is bytes: its
            workers need jaxmem and the compilers, not the programs.
        jobs: compiles at once without an executor; by default one for every two processors.
        timeout: seconds for one compile.
        use_cache: look for, and keep, captures in the user's cache.
        on_cell: told of every cell as it is done.

    Raises:
        UsageError: there is no such device, or batch sizes were given for a finished `Program`.
    """
    named = programs.items() if isinstance(programs, Mapping) else ((None, program) for program in programs)
    sizes = tuple(batch_sizes)
    cache = CaptureCache() if use_cache else None
    found = [find_device(name) for name in devices]
    planned = []
    for name, program in named:
        if isinstance(program, Program) and sizes:
            raise UsageError(
                f"{name or program.name} is a finished Program and has its batch already. "
                "Pass a function that takes batch_size and returns one."
            )
        for batch_size in sizes or (None,):
            # Made once, when the first of its cells begins; a failure is raised again for each of the others.
            make = _Once(partial(_made, program, batch_size))
            planned += [
                _Planned(
                    program=name or getattr(program, "name", None) or getattr(program, "__name__", str(program)),
                    mode=getattr(program, "mode", None),
                    batch_size=batch_size or getattr(program, "batch_size", None),
                    device=device.name,
                    device_count=1,
                    begin=lambda make=make, device=device: prepare(make(), device, cache),
                )
                for device in found
            ]
    if planned:
        start_jax()
    return _compare(planned, executor, jobs, timeout, on_cell)


class _Once:
    """A function without arguments, called once; its result or its error is kept."""

    def __init__(self, make: Callable[[], Program]) -> None:
        self._make, self._made, self._error = make, None, None

    def __call__(self) -> Program:
        if self._made is None and self._error is None:
            try:
                self._made = self._make()
            except Exception as error:
                self._error = error
        if self._error is not None:
            raise self._error
        assert self._made is not None
        return self._made


def _made(program: Any, batch_size: int | None) -> Program:
    if isinstance(program, Program):
        return program
    made = program() if batch_size is None else program(batch_size=batch_size)
    if not isinstance(made, Program):
        raise UsageError(f"{program!r} returned {type(made).__name__}, not a jaxmem.Program.")
    return made


def _compare(
    planned: Sequence[_Planned],
    executor: Executor | None,
    jobs: int | None,
    timeout: float | None,
    on_cell: OnCell,
) -> Comparison:
    done = 0

    def begin(cell: _Planned) -> ComparisonCell | Job[ComparisonCell]:
        prepared = cell.begin()
        if isinstance(prepared, Capture):
            return _cell(cell, read_report(prepared))
        from jaxmem.compilers.travel import compile_packed, pack_job, unpack_capture

        def finish(content: bytes) -> ComparisonCell:
            capture = unpack_capture(content, prepared.layer_table, prepared.device)
            return _cell(cell, read_report(prepared.keep(capture)))

        return Job(
            function=compile_packed,
            arguments=(pack_job(prepared.lowering, prepared.device, timeout=timeout),),
            finish=finish,
        )

    def tell(cell: _Planned, outcome: ComparisonCell | Failed) -> None:
        nonlocal done
        done += 1
        on_cell(_failed(cell, outcome) if isinstance(outcome, Failed) else outcome, done, len(planned))

    with _local_workers(jobs) if executor is None else _borrowed(executor) as workers:
        outcomes = sweep(planned, begin, executor=workers, on_outcome=tell)
    return Comparison(
        cells=tuple(
            _failed(cell, outcome) if isinstance(outcome, Failed) else outcome
            for cell, outcome in zip(planned, outcomes, strict=True)
        )
    )


@contextmanager
def _local_workers(jobs: int | None) -> Iterator[Executor]:
    """Threads, each of which waits for a worker process at a time."""
    workers = ThreadPoolExecutor(max_workers=jobs or max(1, this_host().threads // 2))
    try:
        yield workers
    except BaseException:
        from jaxmem.compilers.process import stop_workers

        workers.shutdown(wait=False, cancel_futures=True)
        stop_workers()
        raise
    finally:
        workers.shutdown()


@contextmanager
def _borrowed(executor: Executor) -> Iterator[Executor]:
    """Whoever made the executor shuts it down."""
    yield executor


def _cell(planned: _Planned, report: Report) -> ComparisonCell:
    own = report.estimates[0]
    return ComparisonCell(
        program=planned.program,
        mode=report.program.mode,
        batch_size=report.program.batch_size or planned.batch_size,
        device=report.device.name,
        device_count=report.device.device_count,
        required_bytes=report.required_bytes,
        required_is_lower_bound=report.required_is_lower_bound,
        fits=report.verdict.fits,
        usable_bytes=report.verdict.usable_bytes,
        headroom_bytes=report.verdict.headroom_bytes,
        formula_bytes=own.bytes,
        formula_error_percent=own.error_percent,
    )


def _failed(planned: _Planned, failed: Failed) -> ComparisonCell:
    nothing = Unknown("the cell failed")
    return ComparisonCell(
        program=planned.program,
        mode=planned.mode,
        batch_size=planned.batch_size,
        device=planned.device,
        device_count=planned.device_count,
        required_bytes=nothing,
        fits=nothing,
        usable_bytes=nothing,
        headroom_bytes=nothing,
        formula_bytes=nothing,
        formula_error_percent=nothing,
        failure=failed.reason,
    )
