"""The worker process, ``python -m jaxmem.compilers.worker FOLDER``: compiles one module and leaves what is known.

It runs no user code.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from jaxmem.codec import decode, encode
from jaxmem.compilers.child import be_the_first_to_go, end_with_the_caller, say
from jaxmem.compilers.executable import (
    compile_module,
    compile_options,
    compiler_error,
    cost_analysis,
    memory_statistics,
    parse,
    target_devices,
)
from jaxmem.compilers.job import ANSWER, DUMP, MODULE, REQUEST, Answer, Request, Step


def main(folder: Path) -> None:
    """Do the job in ``folder`` in this process, which is there for nothing else."""
    say(Step.START)
    be_the_first_to_go()
    end_with_the_caller(folder)
    do_job(folder, say)


def do_job(folder: Path, on_step: Callable[[Step], None]) -> None:
    """Do the job in ``folder`` (`jaxmem.compilers.job`); ``on_step`` is told of every step that begins."""
    request = decode(Request, json.loads((folder / REQUEST).read_bytes()))
    devices = target_devices(request)
    module = parse((folder / MODULE).read_bytes())
    options = compile_options(devices, module, request, folder / DUMP)
    on_step(Step.COMPILE)
    started = time.perf_counter()
    executable, failure = None, None
    try:
        executable = compile_module(devices, module, options)
    except compiler_error() as error:
        failure = str(error)
    compile_seconds = time.perf_counter() - started
    on_step(Step.COLLECT)
    answer = Answer(
        statistics=memory_statistics(executable),
        cost=cost_analysis(executable),
        dump=find_dump(folder / DUMP),
        compile_seconds=compile_seconds,
        failure=failure,
    )
    (folder / ANSWER).write_text(json.dumps(encode(answer)[0]))


def find_dump(folder: Path) -> str | None:
    """The dumped module that has a buffer assignment, field 3 of its HloProto; the largest if there are several."""
    found = [file for file in folder.glob("*after_optimizations.hlo.pb") if _has_buffer_assignment(file.read_bytes())]
    return max(found, key=lambda file: file.stat().st_size).name if found else None


def _has_buffer_assignment(proto: bytes) -> bool:
    """Walk the top level of an HloProto: a tag, a length, and so many bytes each time."""
    position = 0
    while position < len(proto):
        tag, position = _varint(proto, position)
        if tag & 7 != 2:
            return False  # HloProto has messages alone at its top level
        length, position = _varint(proto, position)
        if tag >> 3 == 3:
            return 0 < length <= len(proto) - position  # less where the disk was full
        position += length
    return False


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while position < len(data):
        byte = data[position]
        value |= (byte & 0x7F) << shift
        position, shift = position + 1, shift + 7
        if byte < 0x80:
            break
    return value, position


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    sys.stdout.flush()
    os._exit(
        0
    )  # the answer is written whole; taking JAX and XLA down in good order would cost more than a small compile
