"""Does it fit, how much of it, and what would change that: programs compiled one after another, as the planner asks."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from hashlib import sha256
from math import prod
from typing import Any

from jaxmem.analysis.captures import finished, prepare, prepare_target
from jaxmem.analysis.changes import Change, changes_of_program, changes_of_target, not_tried
from jaxmem.analysis.targets import Progress, Target, is_zoo, program_of, silent
from jaxmem.assemble import device_facts, formula_on, program_facts
from jaxmem.capture import Capture, CaptureCache, this_host
from jaxmem.devices import Device, find_device
from jaxmem.errors import InputError, UsageError
from jaxmem.need import Need, read_need
from jaxmem.planner import Changed, Tried, advise, find_boundary, matrix_flops
from jaxmem.program import Program, find_attribute
from jaxmem.quiet import start_jax
from jaxmem.result import Boundary, Fit, Probe
from jaxmem.units import format_bytes
from jaxmem.unknown import Unknown


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is asked about the programs that one target makes.

    Attributes:
        multiple_of: admissible batch sizes; the devices that a zoo model is spread over come on top.
        max_batch: do not look beyond.
        limit_bytes: what the program may take, instead of what is usable of the device.
        resident_bytes: what else lives on the device.
        margin_bytes: what is to stay free.
        advice: try changes as well.
    """

    multiple_of: int = 1
    max_batch: int | None = None
    limit_bytes: int | None = None
    resident_bytes: int = 0
    margin_bytes: int = 0
    advice: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class _Subject:
    """A program with its batch size open.

    Attributes:
        name: for messages.
        prepare: its capture at a batch size, or the compile that makes it.
        program: at a batch size, for the formula.
        changes: what can be tried at a batch size, given what donation did there.
        multiple_of: admissible batch sizes.
        not_tried: changes inside the program that nobody can make from outside.
    """

    name: str
    device: Device
    prepare: Callable[[int, Progress], Any]
    program: Callable[[int], Program]
    changes: Callable[[int, Need], tuple[Change, ...]]
    multiple_of: int
    not_tried: tuple[str, ...] = ()


def fit_target(target: Target, question: Question, *, progress: Progress = silent) -> Fit:
    """The boundary batch of what a person named, and advice.

    Args:
        target: its batch size, if it has one, is asked about and compiled first.

    Raises:
        UsageError: the target has no batch size to vary, the device's memory is not known, or the question has no answer.
        InputError: its batch size changes nothing.
    """
    if target.text.lower().endswith((".jaxmem", ".json")):
        raise UsageError(
            f"{target.text} is one program, compiled already: no other batch size can be tried. "
            "Name what it was made from."
        )
    count = prod(size for _, size in target.mesh) if is_zoo(target) else dict(target.mesh).get("data", 1)
    subject = _Subject(
        name=target.text,
        device=target.find_device(),
        prepare=lambda batch, tell: prepare_target(replace(target, batch_size=batch), progress=tell),
        program=lambda batch: program_of(replace(target, batch_size=batch)),
        changes=lambda batch, need: changes_of_target(replace(target, batch_size=batch), need, question.multiple_of),
        multiple_of=_least_common(question.multiple_of, count),
        not_tried=() if is_zoo(target) or not question.advice else not_tried(find_attribute(target.text)),
    )
    return _fit(subject, question, target.batch_size, progress)


def fit(
    make_program: Callable[..., Program],
    /,
    *,
    device: str = "cpu",
    batch_size: int | None = None,
    multiple_of: int = 1,
    max_batch: int | None = None,
    limit_bytes: int | None = None,
    resident_bytes: int = 0,
    margin_bytes: int = 0,
    memory_fraction: float | None = None,
    advice: bool = True,
    use_cache: bool = True,
    progress: Progress = silent,
) -> Fit:
    """How large a batch fits on a device, proven by compiles, and what each change to the program really gives.

    Args:
        make_program: called with ``batch_size=N``; returns a `Program`.
        device: as in ``jaxmem devices``.
        batch_size: asked about and compiled first.
        multiple_of, max_batch: the batch sizes to try.
        limit_bytes: what the program may take, instead of what is usable of the device.
        resident_bytes: what else lives on the device.
        margin_bytes: what is to stay free.
        memory_fraction: what JAX's allocator takes of a GPU; None for its default, 0.75.
        advice: try changes as well; each is a compile.
        use_cache: look for, and keep, captures in the user's cache.
        progress: told what is being done.

    Raises:
        UsageError, InputError, EnvironmentFailure: see `jaxmem.errors`.
    """
    start_jax()
    found, cache = find_device(device, memory_fraction), CaptureCache() if use_cache else None
    name = getattr(make_program, "__name__", type(make_program).__name__)

    def program(batch: int, **settings: Any) -> Program:
        made = make_program(batch_size=batch, **settings)
        if not isinstance(made, Program):
            raise InputError(f"{name}(batch_size={batch}) returned a {type(made).__name__}, not a jaxmem.Program.")
        return made

    def prepared(made: Program, tell: Progress) -> Any:
        tell("tracing", 0.0)
        return prepare(made, found, cache, progress=tell)

    question = Question(
        multiple_of=multiple_of,
        max_batch=max_batch,
        limit_bytes=limit_bytes,
        resident_bytes=resident_bytes,
        margin_bytes=margin_bytes,
        advice=advice,
    )
    subject = _Subject(
        name=name,
        device=found,
        prepare=lambda batch, tell: prepared(program(batch), tell),
        program=program,
        changes=lambda batch, need: changes_of_program(
            program, make_program, batch, need, prepared, platform=found.platform, multiple_of=multiple_of
        ),
        multiple_of=multiple_of,
        not_tried=not_tried(make_program) if advice else (),
    )
    return _fit(subject, question, batch_size, progress)


def _least_common(first: int, second: int) -> int:
    from math import lcm

    return lcm(first, second)


def _fit(subject: _Subject, question: Question, asked: int | None, progress: Progress) -> Fit:
    budget_bytes = _budget(subject.device, question)
    compiled: dict[int, tuple[Capture, Need]] = {}
    digests: dict[str, int] = {}

    def judged(capture: Capture, need: Need) -> bool:
        accepted = capture.device.platform != "tpu" or capture.failure is None
        return accepted and need.verdict.judged_bytes <= budget_bytes

    def measure(batch: int) -> Probe:
        tell = _about(progress, f"batch {batch}")
        prepared = subject.prepare(batch, tell)
        capture = finished(prepared, tell)
        digest = sha256(capture.stablehlo).hexdigest()
        if (same := digests.setdefault(digest, batch)) != batch:
            raise InputError(
                f"{subject.name} makes the same program for the batch sizes {same} and {batch}: it does not use its "
                "batch size. Let it decide the shapes of the program's arguments."
            )
        need = read_need(capture, origin=subject.name)
        compiled[batch] = capture, need
        return Probe(
            batch_size=batch,
            required_bytes=need.required_bytes,
            judged_bytes=need.verdict.judged_bytes,
            fits=judged(capture, need),
            from_cache=isinstance(prepared, Capture),
        )

    boundary = find_boundary(
        measure,
        estimate=_estimator(subject, progress),
        budget_bytes=budget_bytes,
        multiple_of=subject.multiple_of,
        asked=asked,
        max_batch=question.max_batch,
    )
    shown = boundary.largest_batch or boundary.next_batch or boundary.proof[0].batch_size
    advised = asked or boundary.next_batch or shown
    advice = ()
    if question.advice:
        capture, need = compiled[advised]
        before = Tried(
            required_bytes=need.required_bytes, fits=judged(capture, need), flops=matrix_flops(capture.layer_table)
        )
        changes = subject.changes(advised, need)
        advice = advise(before, [_changed(change, judged, progress) for change in changes])
    capture, need = compiled[shown]
    return Fit(
        program=replace(program_facts(capture.program), batch_size=None),
        device=device_facts(capture.device, capture.device_count),
        budget_bytes=budget_bytes,
        limit_bytes=question.limit_bytes,
        resident_bytes=question.resident_bytes,
        margin_bytes=question.margin_bytes,
        rule=need.verdict.rule,
        asked_batch=asked,
        fits=_answer(boundary, asked),
        boundary=boundary,
        advised_batch=advised if question.advice else None,
        advice=advice,
        donation=need.donation,
        notes=_notes(capture, need, subject.not_tried),
    )


def _budget(device: Device, question: Question) -> int:
    """What the program may take."""
    whole = device.usable_bytes if question.limit_bytes is None else question.limit_bytes
    if isinstance(whole, Unknown):
        raise UsageError(
            f"How much memory {device.name} has is not known ({whole.reason}), so nothing can be held against it. "
            "Say how much the program may take: --limit 16GiB (limit_bytes in Python)."
        )
    budget_bytes = whole - question.resident_bytes - question.margin_bytes
    if budget_bytes <= 0:
        raise UsageError(
            f"Nothing is left for the program: of {format_bytes(whole)}, {format_bytes(question.resident_bytes)} are "
            f"resident and {format_bytes(question.margin_bytes)} are to stay free."
        )
    return budget_bytes


def _estimator(subject: _Subject, progress: Progress) -> Callable[[int], int | None]:
    @cache
    def estimate(batch: int) -> int | None:
        from jaxmem.tracing import trace

        progress(f"batch {batch}: the formula", 0.0)
        start_jax()
        traced = trace(subject.program(batch), platforms=(subject.device.platform,))
        if traced.layer_table is None:
            return None
        return formula_on(
            this_host(),
            traced.layer_table,
            traced.arguments,
            traced.outputs,
            traced.facts,
            platform=subject.device.platform,
        ).bytes

    return estimate


def _changed(change: Change, judged: Callable[[Capture, Need], bool], progress: Progress) -> Changed:
    def compile_it() -> Tried:
        tell = _about(progress, change.change)
        capture = finished(change.prepare(tell), tell)
        need = read_need(capture, origin=change.change)
        return Tried(
            required_bytes=need.required_bytes, fits=judged(capture, need), flops=matrix_flops(capture.layer_table)
        )

    return Changed(change=change.change, how=change.how, compile=compile_it, note=change.note)


def _about(progress: Progress, what: str) -> Progress:
    return lambda phase, seconds: progress(f"{what}: {phase}", seconds)


def _answer(boundary: Boundary, asked: int | None) -> bool:
    if asked is None:
        return boundary.largest_batch is not None
    return next(probe.fits for probe in boundary.proof if probe.batch_size == asked)


def _notes(capture: Capture, need: Need, not_tried: tuple[str, ...]) -> tuple[str, ...]:
    notes = []
    source = program_facts(capture.program).source
    where = f" ({source})" if source else ""
    if not_tried:
        notes.append(
            f"Not tried, since only the program itself can do it{where}: {', '.join(not_tried)}. Keywords of the factory "
            "called remat, optimizer or accumulate are tried."
        )
    if any(leaf.outcome == "not requested" for leaf in need.donation):
        notes.append(
            f"Donate what a result replaces: jax.jit(step, donate_argnums=...) where the step is jitted{where}, or "
            "donate_argnums of jaxmem.Program."
        )
    if capture.device.platform != "cuda":
        return tuple(notes)
    return (
        *notes,
        "Compiled without the card: workspace of cuDNN's convolutions, the program's code and the CUDA context are not "
        "known and not counted. --margin keeps room for them.",
    )
