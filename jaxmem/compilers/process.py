"""Running a worker process: started, listened to, and gone afterwards whatever happens."""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import jaxmem
from jaxmem.compilers.job import Step
from jaxmem.errors import EnvironmentFailure

Progress = Callable[[str, float], None]
"""Called as a phase begins, with its name for people and the seconds since the work began."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What a worker process does, and how its end is told.

    Attributes:
        module: run as ``python -m MODULE FOLDER``.
        process: what people call it, "compiling process".
        crash: what a signal says about it.
        overtime: what ran out of time, and what to do; ``{seconds}`` stands for the time it had.
    """

    module: str
    process: str
    crash: str
    overtime: str


COMPILING = Work(
    module="jaxmem.compilers.worker",
    process="compiling process",
    crash="That is a crash of the compiler itself; another version of jaxlib may not have it.",
    overtime="The compiler did not finish within {seconds:g} seconds and was stopped. "
    "Allow it more time, or try a smaller program.",
)

WORDS = "stderr"
"""The file in the job folder that holds what the worker wrote to its standard error."""
_LAST_WORDS_BYTES = 16_384
_ROOM_BYTES = 1 << 20
"""With less, a disk counts as full: a dump that did not fit may have left some of it."""
_running: set["subprocess.Popen[bytes]"] = set()


@contextmanager
def job_folder() -> Iterator[Path]:
    """A temporary folder that is gone afterwards."""
    try:
        folder = Path(tempfile.mkdtemp(prefix="jaxmem-"))
    except OSError as error:
        raise EnvironmentFailure(
            f"No temporary folder for the compiler in {tempfile.gettempdir()}: {error.strerror or error}. "
            "Free some space, or set TMPDIR to another folder."
        ) from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def run_worker(
    folder: Path,
    environment: Mapping[str, str],
    on_step: Callable[[Step, float], None],
    timeout: float | None,
    work: Work = COMPILING,
) -> None:
    """Run the worker on a job folder until it has ended well.

    Args:
        folder: the job (`jaxmem.compilers.job`).
        environment: variables of the worker.
        on_step: told of every step as it begins, with the seconds since the start of the process.
        timeout: seconds after which the worker is killed; None waits as long as it takes.
        work: what it does.

    Raises:
        EnvironmentFailure: it could not be started, crashed, was killed, or ran out of time; with its own last words.
    """
    words = folder / WORDS
    started = time.monotonic()
    timed_out = threading.Event()
    with words.open("wb") as stderr:
        process = _start(work, folder, environment, stderr.fileno())
    _running.add(process)

    def stop() -> None:
        timed_out.set()
        _kill(process)

    timer = threading.Timer(timeout, stop) if timeout is not None else None
    try:
        if timer is not None:
            timer.daemon = True
            timer.start()
        assert process.stdout is not None
        for line in process.stdout:
            with suppress(ValueError):  # libraries may print lines of their own
                on_step(Step(line.decode(errors="replace").strip()), time.monotonic() - started)
        status = process.wait()
    finally:
        # Ctrl-C and every error come by here as well: no worker outlives the call.
        if timer is not None:
            timer.cancel()
        _kill(process)
        process.wait()
        _running.discard(process)
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()
    if timed_out.is_set():
        raise EnvironmentFailure(work.overtime.format(seconds=timeout))
    if status != 0:
        raise EnvironmentFailure(f"{_failure(work, status, last_words(words))}{if_disk_is_full(folder)}")


def if_disk_is_full(folder: Path) -> str:
    """What to add to a failure where there was no room for what the worker, or XLA, had to write; else nothing."""
    if shutil.disk_usage(folder).free >= _ROOM_BYTES:
        return ""
    return f"\nThe disk of {folder.parent} is full. Free some space, or set TMPDIR to another folder."


def stop_workers() -> None:
    """End every worker of this process at once, in whatever thread somebody waits for it: the wait ends with an error."""
    for process in tuple(_running):
        _kill(process)


def worker_environment(configuration: Iterable[tuple[str, str]]) -> dict[str, str]:
    """A worker's variables: the caller's, but of JAX's settings only those given.

    Every JAX setting can be given as a variable of its own name in capitals, which is parsed as JAX itself would.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("JAX_", "PYTHON"))}
    environment |= {name.upper(): value for name, value in configuration}
    package_parent = str(Path(jaxmem.__file__).parents[1])
    inherited = os.environ.get("PYTHONPATH")
    return environment | {
        "PYTHONPATH": os.pathsep.join([package_parent, inherited] if inherited else [package_parent]),
        "PYTHONUNBUFFERED": "1",
        "JAX_ENABLE_COMPILATION_CACHE": "false",  # a cached compile dumps nothing
        "TF_CPP_MIN_LOG_LEVEL": "1",
    }


def _start(work: Work, folder: Path, environment: Mapping[str, str], stderr: int) -> subprocess.Popen[bytes]:
    # -P: the worker's modules come from where this process has them, never from the folder it happens to run in.
    command = [sys.executable, "-P", "-m", work.module, str(folder)]
    try:
        return subprocess.Popen(
            command,
            cwd=folder,
            env=dict(environment),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            start_new_session=True,  # a group of its own: Ctrl-C reaches this process alone, which stops the worker
        )
    except OSError as error:
        raise EnvironmentFailure(f"The {work.process} could not be started: {error.strerror or error}.") from error


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Kill the worker and what it started (ptxas, for one). Nothing happens once it was waited for."""
    if process.returncode is not None:
        return
    with suppress(ProcessLookupError, PermissionError):
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()


_SMALL_TALK = re.compile(r"I\d{4} [\d:.]+ |WARNING: All log messages before absl::InitializeLog\(\)")
"""What absl logs as information, and what it says of doing so."""


def last_words(words: Path) -> str:
    """The end of what a worker wrote to its standard error, without frames of a Python traceback and XLA's own small talk."""
    try:
        with words.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _LAST_WORDS_BYTES))
            text = file.read().decode(errors="replace")
    except OSError:
        return ""
    lines = [line for line in text.splitlines() if line.strip() and not _SMALL_TALK.match(line)]
    if "Traceback (most recent call last):" in lines:
        start = len(lines) - 1 - lines[::-1].index("Traceback (most recent call last):")
        lines = [line for line in lines[start + 1 :] if not line.startswith(" ")]
    return "\n".join(lines[-12:])


def _failure(work: Work, status: int, words: str) -> str:
    if status < 0:
        name = signal.Signals(-status).name if -status in {member.value for member in signal.Signals} else str(-status)
        happened = f"The {work.process} was ended by signal {name}."
        if -status == getattr(signal, "SIGKILL", None):
            happened += (
                " If nobody did that by hand, the machine ran out of memory: "
                "close other programs, or use a machine with more."
            )
        else:
            happened += f" {work.crash}"
    else:
        happened = f"The {work.process} ended with status {status}."
    return f"{happened}\nIts last words:\n{words}" if words else f"{happened} It said nothing."
