"""The programs of a whole training run, compiled one after another and laid beside one another."""

from jaxmem.analysis.captures import finished, prepare
from jaxmem.analysis.targets import Progress, silent
from jaxmem.assemble import device_facts
from jaxmem.capture import CaptureCache
from jaxmem.devices import find_device
from jaxmem.errors import UsageError
from jaxmem.program import Program
from jaxmem.quiet import start_jax
from jaxmem.result import Together
from jaxmem.together import live_together


def analyze_together(
    *,
    init: Program | None = None,
    train: Program | None = None,
    evaluate: Program | None = None,
    device: str = "cpu",
    prefetched_batches: int = 0,
    resident_bytes: int = 0,
    memory_fraction: float | None = None,
    use_cache: bool = True,
    progress: Progress = silent,
) -> Together:
    """The most that a training run needs at any moment. Nothing is run or allocated.

    The state (parameters, optimizer, running statistics) counts once, whichever programs take it. While one program is at
    work, what it does not take of the state lives beside it: an evaluation step needs no optimizer, and its moments are
    there.

    Args:
        init: makes the state; there is none beside it.
        train: the training step.
        evaluate: the evaluation step.
        device: as in ``jaxmem devices``.
        prefetched_batches: batches that wait on the device, beside the one at work.
        resident_bytes: what else lives there.
        memory_fraction: what JAX's allocator takes of a GPU; None for its default, 0.75.
        use_cache: look for, and keep, captures in the user's cache.
        progress: told what is being done.

    Raises:
        UsageError: no program is given, or something that is none; they are for different numbers of devices.
        InputError, EnvironmentFailure: see `jaxmem.errors`.
    """
    given = {"init": init, "train": train, "evaluate": evaluate}
    programs = {name: program for name, program in given.items() if program is not None}
    if not programs:
        raise UsageError("analyze_together needs a program: init=, train= or evaluate=jaxmem.Program(...).")
    for name, program in programs.items():
        if not isinstance(program, Program):
            raise UsageError(
                f"analyze_together({name}=...) takes a jaxmem.Program, and got {type(program).__name__}. "
                f"Write {name}=jaxmem.Program(function, *arguments)."
            )
    for name, value in (("prefetched_batches", prefetched_batches), ("resident_bytes", resident_bytes)):
        if value < 0:
            raise UsageError(f"analyze_together({name}={value}): it is 0 or more.")
    start_jax()
    found, cache = find_device(device, memory_fraction), CaptureCache() if use_cache else None
    captures = {}
    for name, program in programs.items():
        captures[name] = finished(prepare(program, found, cache, progress=progress), progress)
    counts = {name: capture.device_count for name, capture in captures.items()}
    if len(set(counts.values())) > 1:
        raise UsageError(
            f"The programs are for different numbers of devices: {', '.join(f'{n} {c}' for n, c in counts.items())}. "
            "Shard them over the same mesh."
        )
    return live_together(
        captures,
        device_facts(found, next(iter(counts.values()))),
        prefetched_batches=prefetched_batches,
        resident_bytes=resident_bytes,
    )
