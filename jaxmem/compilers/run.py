"""Compiling a lowering: hand it to a worker, collect what the worker leaves, make the capture."""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from jaxmem.capture import Capture, installed_versions, this_host
from jaxmem.capture.machine import COMPILING_PACKAGES
from jaxmem.codec import Mismatch, decode, encode
from jaxmem.compilers.autotune import LOG, Recorded, found_in, none_found, not_read, read_recorded
from jaxmem.compilers.job import ANSWER, DUMP, MODULE, NUMERIC_OPTIONS, REQUEST, Answer, Request, Step
from jaxmem.compilers.process import (
    WORDS,
    Progress,
    if_disk_is_full,
    job_folder,
    last_words,
    run_worker,
    worker_environment,
)
from jaxmem.devices import CudaTarget, Device, TpuTarget, compiler_packages, obstacle, topology_of
from jaxmem.errors import EnvironmentFailure, UsageError
from jaxmem.layer_table import LayerTable
from jaxmem.lowering import AUTOTUNE_RESULTS_OPTION, Lowering

_REFUSED_OPTION = ("No such compile option", "While setting option")
"""How XLA begins to complain about an option (``xla/pjrt/pjrt_executable.cc``)."""
_TOO_LARGE = "RESOURCE_EXHAUSTED"
_NO_TILES, _TRITON_OPTION = "Couldn't find output tile sizes", "xla_gpu_enable_triton_gemm"
TPU_VARIABLES = {
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # otherwise a second process dies of the first one's lock file
    # Without these, libtpu asks Google Cloud what machine this is, and complains that nobody answers. The type need
    # not be that of the topology.
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
}
DEFAULT_TIMEOUT_SECONDS = 3600.0
"""No compile that was seen took longer than some minutes: after an hour, a compiler hangs."""


def compile_lowering(
    lowering: Lowering,
    layer_table: LayerTable | None,
    device: Device,
    *,
    progress: Progress | None = None,
    timeout: float | None = DEFAULT_TIMEOUT_SECONDS,
) -> Capture:
    """Compile a program for a device and keep everything the compile leaves behind.

    The compile happens in a process of its own, with its own environment and its own dump folder; nothing of the
    caller's JAX, its caches included, takes part. For the processor the result is that of
    ``jax.jit(f).lower(...).compile()`` on the same machine; for a card or a TPU, that of XLA's ahead-of-time compile,
    which needs no such device. A program that the CUDA compiler finds no tiles for is compiled again without Triton
    matrix products; the capture's compiler options say so. Recorded autotune results (`jaxmem.compilers.autotune`) are
    used where the compiler options name a file of them.

    Args:
        lowering: the program.
        layer_table: goes into the capture as it is.
        device: what to compile for.
        progress: told what is being done.
        timeout: seconds for the compile, the start of the worker included; None waits as long as it takes.

    Raises:
        UsageError: the program was not lowered for the device's platform, or XLA does not take a compiler option.
        InputError: recorded autotune results cannot be read, or have nothing on this program and card.
        EnvironmentFailure: the compiler is not installed (the message has the line that installs it), it failed,
            crashed, was killed, ran out of time, or the disk is full.
    """
    _check_platform(lowering, device)
    _check_options(lowering)
    started = time.monotonic()

    def report(phase: str) -> None:
        if progress is not None:
            progress(phase, time.monotonic() - started)

    recorded = _recorded(lowering, device)
    finished = _compile(lowering, device, recorded, report, timeout)
    if _wants_no_triton(lowering, device, finished.answer):
        report("the compiler found no tiles for a matrix product: again without Triton")
        without_triton = (*lowering.compiler_options, (_TRITON_OPTION, "False"))
        lowering = replace(lowering, compiler_options=tuple(sorted(without_triton)))
        finished = _compile(lowering, device, recorded, report, timeout)
    if recorded is not None:
        _check_used(recorded, device, finished, report)
    answer = finished.answer
    return Capture(
        program=lowering.program,
        arguments=lowering.arguments,
        outputs=lowering.outputs,
        layer_table=layer_table,
        device=device,
        device_count=lowering.device_count,
        versions=installed_versions((*COMPILING_PACKAGES, *compiler_packages(device.platform))),
        compiler_options=lowering.compiler_options,
        configuration=lowering.configuration,
        host=this_host(),
        statistics=answer.statistics,
        cost=answer.cost,
        hlo_proto=_complete(finished, device),
        stablehlo=lowering.stablehlo,
        compile_seconds=answer.compile_seconds,
        worker_start_seconds=finished.worker_start_seconds,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        failure=answer.failure,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Finished:
    """What a worker left. ``hlo_proto`` is None where it dumped no module with a buffer assignment; ``log`` is XLA's."""

    answer: Answer
    hlo_proto: bytes | None
    worker_start_seconds: float
    log: str


def _compile(
    lowering: Lowering,
    device: Device,
    recorded: Recorded | None,
    report: Callable[[str], None],
    timeout: float | None,
) -> _Finished:
    step_seconds: dict[Step, float] = {}

    def on_step(step: Step, seconds: float) -> None:
        step_seconds[step] = seconds
        if step is Step.COMPILE:
            report(f"compiling for {device.name}")

    report("starting the compiler")
    with job_folder() as folder:
        try:
            _write_job(folder, lowering, device, recorded)
            environment = dict(_environment(lowering, device)) | (LOG if recorded is not None else {})
            run_worker(folder, environment, on_step, timeout)
            report("collecting what the compiler left")
            answer = _read_answer(folder)
            if answer.failure is None and answer.dump is None and (full := if_disk_is_full(folder)):
                raise EnvironmentFailure(f"The compiler left no module with a buffer assignment.{full}")
            hlo_proto = None if answer.dump is None else (folder / DUMP / answer.dump).read_bytes()
            log = (folder / WORDS).read_text(errors="replace")
        except OSError as error:
            raise EnvironmentFailure(
                f"The compiler's files in {folder} could not be written or read: {error.strerror or error}. "
                "Free some space, or set TMPDIR to another folder."
            ) from error
    return _Finished(
        answer=answer, hlo_proto=hlo_proto, worker_start_seconds=step_seconds.get(Step.COMPILE, 0.0), log=log
    )


def _recorded(lowering: Lowering, device: Device) -> Recorded | None:
    recorded = read_recorded(lowering.compiler_options)
    if recorded is not None and device.platform != "cuda":
        raise UsageError(f"Autotune results are of NVIDIA GPUs; {device.name} has no use for {recorded.file}.")
    return recorded


def _check_used(recorded: Recorded, device: Device, finished: _Finished, report: Callable[[str], None]) -> None:
    """Say how many results were used. A file that XLA cannot read, or that changes nothing, is an error."""
    failure = finished.answer.failure
    if failure is not None:
        if "autotune results" in failure.lower():
            raise not_read(recorded, failure)
        return
    hits, wanted = found_in(finished.log)
    if wanted and not hits:
        raise none_found(recorded, device.name, wanted)
    report(f"recorded autotune results were used for {hits} of {wanted} operations")


def _wants_no_triton(lowering: Lowering, device: Device, answer: Answer) -> bool:
    """Whether the compile failed for want of tiles, which a card's own measurements would have found."""
    failed = answer.failure is not None and _NO_TILES in answer.failure
    return failed and device.platform == "cuda" and _TRITON_OPTION not in dict(lowering.compiler_options)


def _check_platform(lowering: Lowering, device: Device) -> None:
    if device.platform not in lowering.platforms:
        raise UsageError(
            f"{lowering.program.name} was lowered for {', '.join(lowering.platforms)} and cannot be compiled for "
            f"{device.name} ({device.platform}). Lower it for {device.platform}."
        )
    if (problem := obstacle(device.platform)) is not None:
        raise EnvironmentFailure(f"jaxmem cannot compile for {device.name} here: {problem}")


def _check_options(lowering: Lowering) -> None:
    for name, value in lowering.compiler_options:
        kind = NUMERIC_OPTIONS.get(name, str)
        try:
            kind(value)
        except ValueError:
            numbers = "a whole number" if kind is int else "a number"
            raise UsageError(f"The compiler option {name} is {numbers}, found {value!r}.") from None


def _write_job(folder: Path, lowering: Lowering, device: Device, recorded: Recorded | None) -> None:
    target, options = device.target, dict(lowering.compiler_options)
    if isinstance(target, CudaTarget) and recorded is not None:
        target = recorded.on(target)
        options[AUTOTUNE_RESULTS_OPTION] = str(recorded.file)
    (folder / DUMP).mkdir()
    (folder / MODULE).write_bytes(lowering.stablehlo)
    request = Request(
        platform=device.platform,
        device_count=lowering.device_count,
        target=topology_of(target, lowering.device_count) if isinstance(target, TpuTarget) else target,
        # What XLA dumps, and where, is the worker's to say; it does not change what is compiled.
        compiler_options=tuple(pair for pair in options.items() if not pair[0].startswith("xla_dump_")),
    )
    (folder / REQUEST).write_text(json.dumps(encode(request)[0]))


def _environment(lowering: Lowering, device: Device) -> Mapping[str, str]:
    return worker_environment(lowering.configuration) | {
        # Described devices need no backend. Naming theirs would start it, and it looks for a device that is not there.
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": str(lowering.device_count),
        **(TPU_VARIABLES if device.platform == "tpu" else {}),
    }


def _read_answer(folder: Path) -> Answer:
    try:
        return decode(Answer, json.loads((folder / ANSWER).read_bytes()))
    except (FileNotFoundError, ValueError, Mismatch) as error:
        words = last_words(folder / WORDS)
        raise EnvironmentFailure(
            f"The compiling process left no answer that can be read ({error}). {words}".strip()
        ) from error


def _complete(finished: _Finished, device: Device) -> bytes:
    """The compiled module with its buffer assignment; an error where there is none, or it is not what would run."""
    failure = finished.answer.failure
    if failure is None and finished.hlo_proto is not None:
        return finished.hlo_proto
    if failure is None:
        raise EnvironmentFailure(
            "The compiler left no module with a buffer assignment. If the variable XLA_FLAGS restricts what XLA dumps "
            "(xla_dump_hlo_module_re, xla_enable_dumping), unset it; otherwise this version of jaxlib is not supported."
        )
    # A TPU program that is too large is refused once all its buffers have their places.
    if device.platform == "tpu" and _TOO_LARGE in failure and finished.hlo_proto is not None:
        return finished.hlo_proto
    if any(words in failure for words in _REFUSED_OPTION):
        raise UsageError(
            f"XLA does not take a compiler option that was given (true and false are written True and False):\n{failure}"
        )
    raise EnvironmentFailure(f"The compiler refused the program:\n{failure}")
