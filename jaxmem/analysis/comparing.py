"""One table over programs × devices × batch sizes."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, partial
from math import prod
from typing import Any

from jaxmem.analysis.captures import Pending, prepare, prepare_target
from jaxmem.analysis.planning import Question, fit_target
from jaxmem.analysis.targets import Target
from jaxmem.assemble import NO_TABLE, formula_of
from jaxmem.capture import Capture, CaptureCache
from jaxmem.capture.machine import this_host
from jaxmem.devices import find_device
from jaxmem.errors import JaxmemError, UsageError
from jaxmem.need import read_need
from jaxmem.planner import Failed, Job, sweep
from jaxmem.program import Program
from jaxmem.quiet import start_jax
from jaxmem.result import Comparison, ComparisonCell, error_percent
from jaxmem.unknown import Unknown
from jaxmem.verdict import beside

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
    resident_bytes: int = 0,
    boundary: bool = False,
    on_cell: OnCell = _unseen,
) -> Comparison:
    """A table of what a person named, one cell for each target; arguments as in `compare`.

    With ``boundary``, each cell also gets the largest batch that fits: the search compiles in this process, one after
    another, once for all batch sizes of a program on a device.
    """
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
    table = _compare(planned, executor, jobs, timeout, resident_bytes, on_cell)
    return _with_boundaries(table, targets, resident_bytes) if boundary else table


def _with_boundaries(table: Comparison, targets: Sequence[Target], resident_bytes: int) -> Comparison:
    @cache
    def largest(target: Target) -> int | Unknown:
        try:
            found = fit_target(target, Question(resident_bytes=resident_bytes, advice=False)).boundary.largest_batch
        except JaxmemError as error:
            return Unknown(f"there is no largest batch: {str(error).splitlines()[0].rstrip('.')}")
        return Unknown("no batch fits") if found is None else found

    cells = zip(table.cells, targets, strict=True)
    return replace(
        table,
        cells=tuple(
            # Whichever of its batch sizes began the table, the answer is the same: it is asked once.
            cell if cell.failure else replace(cell, largest_batch=largest(replace(target, batch_size=None)))
            for cell, target in cells
        ),
    )


def compare(
    programs: Mapping[str, Any] | Iterable[Any],
    *,
    devices: Iterable[str] = ("cpu",),
    batch_sizes: Iterable[int] = (),
    executor: Executor | None = None,
    jobs: int | None = None,
    timeout: float | None = DEFAULT_TIMEOUT_SECONDS,
    resident_bytes: int = 0,
    memory_fraction: float | None = None,
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
        resident_bytes: what else lives on each device.
        memory_fraction: what JAX's allocator takes of a GPU; None for its default, 0.75.
        use_cache: look for, and keep, captures in the user's cache.
        on_cell: told of every cell as it is done.

    Raises:
        UsageError: there is no such device, or batch sizes were given for a finished `Program`.
    """
    named = programs.items() if isinstance(programs, Mapping) else ((None, program) for program in programs)
    sizes = tuple(batch_sizes)
    cache = CaptureCache() if use_cache else None
    found = [find_device(name, memory_fraction) for name in devices]
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
    return _compare(planned, executor, jobs, timeout, resident_bytes, on_cell)


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
    resident_bytes: int,
    on_cell: OnCell,
) -> Comparison:
    done = 0

    def begin(cell: _Planned) -> ComparisonCell | Job[ComparisonCell]:
        prepared = cell.begin()
        if isinstance(prepared, Capture):
            return _cell(cell, prepared, resident_bytes)
        from jaxmem.compilers.travel import compile_packed, pack_job, unpack_capture

        def finish(content: bytes) -> ComparisonCell:
            capture = unpack_capture(content, prepared.layer_table, prepared.device)
            return _cell(cell, prepared.keep(capture), resident_bytes)

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


def _cell(planned: _Planned, capture: Capture, resident_bytes: int) -> ComparisonCell:
    need = read_need(capture, origin=planned.program)
    formula = formula_of(capture)
    formula_bytes = NO_TABLE if formula is None else formula.bytes
    verdict = beside(need.verdict, resident_bytes)
    return ComparisonCell(
        program=planned.program,
        mode=capture.program.mode,
        batch_size=capture.program.batch_size or planned.batch_size,
        device=capture.device.name,
        device_count=capture.device_count,
        required_bytes=need.required_bytes,
        required_is_lower_bound=need.required_is_lower_bound,
        fits=verdict.fits,
        usable_bytes=verdict.usable_bytes,
        headroom_bytes=verdict.headroom_bytes,
        formula_bytes=formula_bytes,
        formula_error_percent=error_percent(formula_bytes, need.required_bytes),
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
