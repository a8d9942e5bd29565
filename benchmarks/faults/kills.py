"""Processes killed with SIGKILL: before a line of jaxmem's own code, or at any moment."""

import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

from benchmarks.faults.rows import Row
from benchmarks.faults.writing import Work, cache_work, result_work, save_work

TRACED = ("jaxmem/files.py", "jaxmem/capture/cache.py", "jaxmem/capture/file.py")


def lines_of(work: Callable[[], None], end_at: int = 0) -> int:
    """Do the work and count the lines of jaxmem's that it runs; before the so-and-so-many-th this process kills itself."""
    seen = 0

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal seen
        if not frame.f_code.co_filename.endswith(TRACED):
            return None
        if event == "line":
            seen += 1
            if seen == end_at:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace

    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(None)
    return seen


def killed_at_line(work: Callable[[], None], line: int) -> bool:
    """Do the work in a child that is killed before this line; whether it came to that."""
    return _in_child(lambda: lines_of(work, line)) == -signal.SIGKILL


def killed_after(work: Callable[[], None], seconds: float) -> bool:
    """Do the work again and again in a child, which is killed after some time."""

    def without_end() -> None:
        while True:
            work()

    return _in_child(without_end, seconds) == -signal.SIGKILL


def _in_child(work: Callable[[], object], seconds: float | None = None) -> int:
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException:
            os._exit(1)
        os._exit(0)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def kills(count: int) -> Iterator[Row]:
    """So many in all: of each work three of four before lines, evenly spread over all it runs, and one at random moments."""
    for work in (save_work(), cache_work(), result_work()):
        with tempfile.TemporaryDirectory(prefix="jaxmem-faults-") as name:
            work.prepare(Path(name))
            lines = lines_of(partial(work.do, Path(name)))
        at_lines = max(1, count // 4)
        places = [1 + number * lines // at_lines for number in range(at_lines)]
        yield _killed(
            work, f"before one of the {lines:,} lines that run", [partial(killed_at_line, line=one) for one in places]
        )
        chance = random.Random(work.name)
        moments = [chance.uniform(0.001, 0.08) for _ in range(max(1, count // 12))]
        yield _killed(work, "at random moments", [partial(killed_after, seconds=one) for one in moments])


def _killed(work: Work, when: str, killers: list[Callable[[Callable[[], None]], bool]]) -> Row:
    problems = []
    for killer in killers:
        with tempfile.TemporaryDirectory(prefix="jaxmem-faults-") as name:
            work.prepare(Path(name))
            killed = killer(partial(work.do, Path(name)))
            problems.append(_problem(work, Path(name)) if killed else "it was not killed")
    return Row(
        part="kills",
        fault=f"{work.name}: SIGKILL {when}",
        trials=len(problems),
        good=problems.count(""),
        found="; ".join(sorted(set(problems) - {""})) or "every file whole, old or new; the next run right",
    )


def _problem(work: Work, folder: Path) -> str:
    try:
        if problem := work.wrong(folder):
            return problem
        work.do(folder)
        return work.wrong(folder)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
