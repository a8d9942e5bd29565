"""The measuring process, ``python -m jaxmem.measure.step FOLDER``: runs one compiled program once, and counts.

It runs no user code: the module is compiled here, or was by another such process, and its arguments are made here.
"""

import json
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from jaxmem.codec import decode, encode
from jaxmem.compilers.child import be_the_first_to_go, end_with_the_caller, say
from jaxmem.compilers.executable import (
    compile_module,
    compile_options,
    compiler_error,
    execute,
    load_executable,
    memory_statistics,
    parse,
    target_devices,
)
from jaxmem.compilers.job import Request, Step
from jaxmem.compilers.worker import find_dump
from jaxmem.measure.counters import AllocatorMemory, Counter, ResidentMemory, nvidia_process_bytes
from jaxmem.measure.data import ANSWER, DUMP, EXECUTABLE, MODULE, REQUEST, Counted, Filled, StepAnswer, StepRequest
from jaxmem.unknown import Unknown

OUT_OF_MEMORY = ("RESOURCE_EXHAUSTED", "Out of memory")
SMALL = 0.01
"""What is not a whole number is filled with this: neither zero, which divides nothing, nor large enough to overflow."""


def main(folder: Path) -> None:
    """Do the job in ``folder`` (`jaxmem.measure.data`)."""
    say(Step.START)
    be_the_first_to_go()
    end_with_the_caller(folder)
    request = decode(StepRequest, json.loads((folder / REQUEST).read_bytes()))
    executable = None
    try:
        executable, device = executable_of(request, folder)
        answer = StepAnswer(statistics=memory_statistics(executable), dump=find_dump(folder / DUMP))
        if request.runs:
            say(Step.RUN)
            counted = run_once(executable, request.arguments, device, counter_of(device))
            answer = StepAnswer(statistics=answer.statistics, counted=counted)
    except (compiler_error(), MemoryError) as error:
        if not isinstance(error, MemoryError) and not any(words in str(error) for words in OUT_OF_MEMORY):
            raise
        answer = StepAnswer(statistics=memory_statistics(executable), out_of_memory=str(error) or "MemoryError")
    say(Step.COLLECT)
    (folder / ANSWER).write_text(json.dumps(encode(answer)[0]))


def executable_of(request: StepRequest, folder: Path) -> tuple[Any, Any]:
    """The program to run and the device it runs on: loaded where another process left it, else compiled now.

    A process that is to run what it compiles dumps nothing. One that only compiles leaves the executable, where the
    platform can write it down, and the module.
    """
    job = Request(platform=request.platform, device_count=1, target=None, compiler_options=request.compiler_options)
    devices = target_devices(job)
    module = parse((folder / MODULE).read_bytes())
    options = compile_options(devices, module, job, None if request.runs else folder / DUMP)
    kept = folder / EXECUTABLE
    if request.runs and kept.exists():
        return load_executable(devices, kept.read_bytes(), options), devices[0]
    say(Step.COMPILE)
    executable = compile_module(devices, module, options)
    if not request.runs:
        kept.write_bytes(executable.serialize())
    return executable, devices[0]


def run_once(executable: Any, wanted: Iterable[Filled], device: Any, counter: Counter) -> Counted:
    """Make the arguments, run, and wait for the end; what the counter said of it."""
    counter.begin()
    arguments = [filled(each, device) for each in wanted]
    counter.arguments_made()
    results = execute(executable, arguments)
    counted = counter.ended()
    del results  # they were part of what was counted
    return counted


def filled(wanted: Filled, device: Any) -> Any:
    """One argument, in memory of JAX's own: NumPy's would be borrowed, and could not be donated."""
    import jax
    import jax.numpy as jnp
    import numpy

    dtype = jnp.dtype(wanted.dtype)
    whole = jnp.issubdtype(dtype, jnp.integer) or dtype == jnp.bool_
    content = numpy.full(wanted.shape, 0 if whole else SMALL, dtype)
    return jax.block_until_ready(jax.device_put(content, device, may_alias=False))


def counter_of(device: Any) -> Counter:
    """The kernel for the processor, the allocator for everything else."""
    if device.platform == "cpu":
        return ResidentMemory()
    no_driver = Unknown("only NVIDIA's driver is asked")
    return AllocatorMemory(device.memory_stats, nvidia_process_bytes if device.platform == "gpu" else lambda: no_driver)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    sys.stdout.flush()
    os._exit(0)
