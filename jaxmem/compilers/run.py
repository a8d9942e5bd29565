"""Compiling a lowering: hand it to a worker, collect what the worker leaves, make the capture."""

import json
import os
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import jaxmem
from jaxmem.capture import Capture, installed_versions, this_host
from jaxmem.codec import Mismatch, decode, encode
from jaxmem.compilers.job import ANSWER, DUMP, MODULE, NUMERIC_OPTIONS, REQUEST, Answer, Request, Step
from jaxmem.compilers.process import Progress, job_folder, last_words, run_worker
from jaxmem.devices import Device
from jaxmem.errors import EnvironmentFailure, UsageError
from jaxmem.layer_table import LayerTable
from jaxmem.lowering import Lowering

_PLATFORMS = ("cpu",)
_REFUSED_OPTION = ("No such compile option", "While setting option")
"""How XLA begins to complain about an option (``xla/pjrt/pjrt_executable.cc``)."""


def compile_lowering(
    lowering: Lowering,
    layer_table: LayerTable | None,
    device: Device,
    *,
    progress: Progress | None = None,
    timeout: float | None = None,
) -> Capture:
    """Compile a program for a device and keep everything the compile leaves behind.

    The compile happens in a process of its own, with its own environment and its own dump folder; nothing of the
    caller's JAX, its caches included, takes part. The result is that of ``jax.jit(f).lower(...).compile()`` on the same
    machine.

    Args:
        lowering: the program.
        layer_table: goes into the capture as it is.
        device: what to compile for.
        progress: told what is being done.
        timeout: seconds for the compile, the start of the worker included; None waits as long as it takes.

    Raises:
        UsageError: there is no compiler for the device's platform, the program was not lowered for it, or XLA does
            not take a compiler option.
        EnvironmentFailure: the compiler failed, crashed, was killed, ran out of time, or the disk is full.
    """
    _check_platform(lowering, device)
    _check_options(lowering)
    report = progress or (lambda phase, seconds: None)
    started = time.monotonic()
    step_seconds: dict[Step, float] = {}

    def on_step(step: Step, seconds: float) -> None:
        step_seconds[step] = seconds
        if step is Step.COMPILE:
            report(f"compiling for {device.name}", time.monotonic() - started)

    report("starting the compiler", 0.0)
    with job_folder() as folder:
        try:
            _write_job(folder, lowering, device)
            run_worker(folder, _environment(lowering, device), on_step, timeout)
            report("collecting what the compiler left", time.monotonic() - started)
            answer = _read_answer(folder)
            hlo_proto = _read_dump(folder, answer)
        except OSError as error:
            raise EnvironmentFailure(
                f"The compiler's files in {folder} could not be written or read: {error.strerror or error}. "
                "Free some space, or set TMPDIR to another folder."
            ) from error
    return Capture(
        program=lowering.program,
        arguments=lowering.arguments,
        outputs=lowering.outputs,
        layer_table=layer_table,
        device=device,
        device_count=lowering.device_count,
        versions=installed_versions(),
        compiler_options=lowering.compiler_options,
        configuration=lowering.configuration,
        host=this_host(),
        statistics=answer.statistics,
        cost=answer.cost,
        hlo_proto=hlo_proto,
        stablehlo=lowering.stablehlo,
        compile_seconds=answer.compile_seconds,
        worker_start_seconds=step_seconds.get(Step.COMPILE, 0.0),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        failure=answer.failure,
    )


def _check_platform(lowering: Lowering, device: Device) -> None:
    if device.platform not in _PLATFORMS:
        raise UsageError(
            f"jaxmem has no compiler for {device.name} ({device.platform}); it compiles for {', '.join(_PLATFORMS)}."
        )
    if device.platform not in lowering.platforms:
        raise UsageError(
            f"{lowering.program.name} was lowered for {', '.join(lowering.platforms)} and cannot be compiled for "
            f"{device.name} ({device.platform}). Lower it for {device.platform}."
        )


def _check_options(lowering: Lowering) -> None:
    for name, value in lowering.compiler_options:
        kind = NUMERIC_OPTIONS.get(name, str)
        try:
            kind(value)
        except ValueError:
            numbers = "a whole number" if kind is int else "a number"
            raise UsageError(f"The compiler option {name} is {numbers}, found {value!r}.") from None


def _write_job(folder: Path, lowering: Lowering, device: Device) -> None:
    (folder / DUMP).mkdir()
    (folder / MODULE).write_bytes(lowering.stablehlo)
    request = Request(
        platform=device.platform,
        device_count=lowering.device_count,
        # What XLA dumps, and where, is the worker's to say; it does not change what is compiled.
        compiler_options=tuple(pair for pair in lowering.compiler_options if not pair[0].startswith("xla_dump_")),
    )
    (folder / REQUEST).write_text(json.dumps(encode(request)[0]))


def _environment(lowering: Lowering, device: Device) -> Mapping[str, str]:
    """The worker's variables: the caller's, but of JAX's settings only those that the lowering carries.

    Every JAX setting can be given as a variable of its own name in capitals, which is parsed as JAX itself would.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("JAX_", "PYTHON"))}
    environment |= {name.upper(): value for name, value in lowering.configuration}
    package_parent = str(Path(jaxmem.__file__).parents[1])
    inherited = os.environ.get("PYTHONPATH")
    return environment | {
        "PYTHONPATH": os.pathsep.join([package_parent, inherited] if inherited else [package_parent]),
        "PYTHONUNBUFFERED": "1",
        "JAX_PLATFORMS": device.platform,
        "JAX_NUM_CPU_DEVICES": str(lowering.device_count),
        "JAX_ENABLE_COMPILATION_CACHE": "false",  # a cached compile dumps nothing
        "TF_CPP_MIN_LOG_LEVEL": "1",
    }


def _read_answer(folder: Path) -> Answer:
    try:
        return decode(Answer, json.loads((folder / ANSWER).read_bytes()))
    except (FileNotFoundError, ValueError, Mismatch) as error:
        words = last_words(folder / "stderr")
        raise EnvironmentFailure(
            f"The compiling process left no answer that can be read ({error}). {words}".strip()
        ) from error


def _read_dump(folder: Path, answer: Answer) -> bytes:
    if answer.dump is not None:
        return (folder / DUMP / answer.dump).read_bytes()
    if answer.failure is not None and any(words in answer.failure for words in _REFUSED_OPTION):
        raise UsageError(
            f"XLA does not take a compiler option that was given (true and false are written True and False):\n"
            f"{answer.failure}"
        )
    if answer.failure is not None:
        raise EnvironmentFailure(f"The compiler refused the program:\n{answer.failure}")
    raise EnvironmentFailure(
        "The compiler left no module with a buffer assignment. If the variable XLA_FLAGS restricts what XLA dumps "
        "(xla_dump_hlo_module_re, xla_enable_dumping), unset it; otherwise this version of jaxlib is not supported."
    )
