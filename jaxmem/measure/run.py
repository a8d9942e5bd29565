"""Capture in, measurement out: which processes are started, with what, and what their answers mean."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from jaxmem.capture import Capture
from jaxmem.codec import Mismatch, decode, encode
from jaxmem.compilers.job import Step
from jaxmem.compilers.process import WORDS, Progress, Work, job_folder, last_words, run_worker, worker_environment
from jaxmem.devices import Device, attached_device
from jaxmem.errors import EnvironmentFailure, UsageError
from jaxmem.measure.counters import CLEAR
from jaxmem.measure.data import (
    ANSWER,
    DUMP,
    EXECUTABLE,
    MODULE,
    REQUEST,
    Counted,
    Filled,
    Measurement,
    StepAnswer,
    StepRequest,
)
from jaxmem.unknown import Unknown

DEFAULT_TIMEOUT_SECONDS = 1800.0
MEASURING = Work(
    module="jaxmem.measure.step",
    process="measuring process",
    crash="The program crashed where it ran, by the arguments that were made for it or by a defect of jaxlib.",
    overtime="The program did not finish within {seconds:g} seconds and was stopped. Its arguments are zeros and small "
    "constants: a loop that ends by their values may never end.",
)
WHAT = {
    "cpu": "growth of a fresh process's peak resident memory, arguments included",
    "cuda": "peak_bytes_in_use of JAX's allocator, in a fresh process without preallocation",
    "tpu": "peak_bytes_in_use of JAX's allocator, in a fresh process",
}
_CALLBACKS = (b"python_cpu_callback", b"python_gpu_callback", b"python_callback")
_OWN_POOL = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
_POOL_SETTINGS = ("XLA_PYTHON_CLIENT_PREALLOCATE", "XLA_PYTHON_CLIENT_ALLOCATOR", "TF_GPU_ALLOCATOR")


def refuse_elsewhere(device: Device, device_count: int = 1) -> Device:
    """The attached device on which a program for ``device`` can run.

    Raises:
        UsageError: the program is for several devices.
        EnvironmentFailure: none of its platform is attached, or this system does not count a process's memory.
    """
    if device_count > 1:
        raise UsageError(
            f"--measure runs a program on one device; this one is spread over {device_count}. Leave --measure out, or "
            "measure the program on one."
        )
    if device.platform == "cpu":
        if not CLEAR.exists():
            raise EnvironmentFailure(
                f"--measure on the processor reads Linux's high-water mark of a process ({CLEAR}), which this system "
                "does not have. Leave --measure out, or measure in a Linux container."
            )
        return device
    attached = attached_device()
    if attached.platform != device.platform:
        raise EnvironmentFailure(
            f"--measure runs the program on the device that it is for: {device.name} ({device.platform}). Attached to "
            f"this machine is: {attached.kind} ({attached.platform}). Leave --measure out, measure with "
            f"-d {attached.name}, or use a machine with that device."
        )
    return attached


@dataclass(frozen=True, slots=True, kw_only=True)
class Processes:
    """The processes of one measurement, one after the other in one folder."""

    folder: Path
    capture: Capture
    progress: Progress
    timeout: float | None

    def run(self, words: str, *, runs: bool, variables: dict[str, str]) -> StepAnswer:
        """Start one, wait for its end, and read what it answered."""
        self.progress(words, 0.0)
        platform = self.capture.device.platform
        request = StepRequest(
            platform=platform,
            compiler_options=tuple(p for p in self.capture.compiler_options if not p[0].startswith("xla_dump_")),
            arguments=_arguments(self.capture),
            runs=runs,
        )
        environment = worker_environment(self.capture.configuration)
        environment = {name: value for name, value in environment.items() if name not in _POOL_SETTINGS}
        environment |= {"JAX_PLATFORMS": platform, **variables}
        try:
            (self.folder / REQUEST).write_text(json.dumps(encode(request)[0]))
            (self.folder / ANSWER).unlink(missing_ok=True)
            run_worker(self.folder, environment, _deaf, self.timeout, MEASURING)
            return decode(StepAnswer, json.loads((self.folder / ANSWER).read_bytes()))
        except (FileNotFoundError, ValueError, Mismatch) as error:
            raise EnvironmentFailure(
                f"The measuring process left no answer that can be read ({error}). "
                f"{last_words(self.folder / WORDS)}".strip()
            ) from error
        except OSError as error:
            raise EnvironmentFailure(
                f"The measuring process's files in {self.folder} could not be written or read: "
                f"{error.strerror or error}. Free some space, or set TMPDIR to another folder."
            ) from error


def measure_capture(
    capture: Capture,
    *,
    pool: bool = True,
    progress: Progress | None = None,
    timeout: float | None = DEFAULT_TIMEOUT_SECONDS,
    attached: Callable[[Device, int], Device] = refuse_elsewhere,
) -> Measurement:
    """Run the program of a capture once on the attached device, in fresh processes.

    On the processor one process compiles it, as the capture's own worker did, and runs it. On a GPU or TPU one compiles
    it, with everything that the compiler would try on the device; a second loads what the first left, runs it without
    preallocation, and is counted; and on a GPU a third runs it in the pool that JAX takes at the start.

    Args:
        capture: carries the module, its arguments' shapes and the compiler's options.
        pool: whether there is that third process.
        progress: told what is being done.
        timeout: seconds for each process; None waits as long as it takes.
        attached: says which device it runs on, or refuses.

    Raises:
        UsageError: the program cannot run by itself: several devices, or functions of Python that it calls.
        EnvironmentFailure: no such device is attached, or a process died.
    """
    device = attached(capture.device, capture.device_count)
    if any(name in capture.stablehlo for name in _CALLBACKS):
        raise UsageError(
            f"--measure runs {capture.program.name} in another process, where the Python functions that it calls back "
            "(io_callback, pure_callback, debug.print) are not. Measure it without them."
        )
    platform = capture.device.platform
    with job_folder() as folder:
        processes = Processes(
            folder=folder, capture=capture, progress=progress or (lambda phase, seconds: None), timeout=timeout
        )
        (folder / DUMP).mkdir()
        (folder / MODULE).write_bytes(capture.stablehlo)
        compiled = None
        if platform != "cpu":
            compiled = processes.run("compiling on the device", runs=False, variables=_OWN_POOL)
        ran = compiled
        if compiled is None or compiled.out_of_memory is None:
            ran = processes.run("running", runs=True, variables=_OWN_POOL)
        assert ran is not None
        in_pool: bool | Unknown = Unknown(_NO_POOL.get(platform, "nobody asked"))
        if platform == "cuda" and pool and (folder / EXECUTABLE).exists():
            in_pool = processes.run("running in JAX's pool", runs=True, variables={}).out_of_memory is None
        module = (folder / DUMP / compiled.dump).read_bytes() if compiled is not None and compiled.dump else None
    return Measurement(
        device=device.kind,
        counted=_counted(ran, device),
        what=WHAT[platform],
        runs_in_pool=in_pool,
        statistics=ran.statistics,
        hlo_proto=module,
    )


_NO_POOL = {
    "cpu": "the processor's memory is no pool",
    "tpu": "a TPU's memory is one pool, always",
}


def _counted(answer: StepAnswer, device: Device) -> Counted | Unknown:
    if answer.out_of_memory is not None:
        return Unknown(f"{device.kind} ran out of memory: {answer.out_of_memory.splitlines()[0]}")
    if answer.counted is None:
        raise EnvironmentFailure("The measuring process ended well, but counted nothing.")
    return answer.counted


def _arguments(capture: Capture) -> tuple[Filled, ...]:
    """What the compiled program takes, in its own order; arguments that it drops are not made."""
    kept = [one for one in capture.arguments if one.parameter_number is not None]
    kept.sort(key=lambda one: one.parameter_number or 0)
    return tuple(Filled(shape=one.shape, dtype=one.dtype) for one in kept)


def _deaf(step: Step, seconds: float) -> None:
    """The phases of the process itself are nobody's business."""
