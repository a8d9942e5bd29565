"""Compilers that hang, or take all memory."""

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from benchmarks.faults.commands import COMPARE, command, ended
from benchmarks.faults.rows import Row

_BAD_COMPILER = """
import sys, time
if "jaxmem.compilers.worker" in sys.orig_argv:
    import os, pathlib
    request = pathlib.Path(sys.orig_argv[-1], "module.mlirbc").read_bytes()
    turn = pathlib.Path({folder!r}, "turn")
    first = not turn.exists()
    turn.touch()
    if first:
        {what}
"""
HANG = "time.sleep(1000)"
EAT = """pathlib.Path("/proc/self/oom_score_adj").write_text("1000"); kept = []
        while True: kept.append(bytearray(os.urandom(1)) * (1 << 24))"""


def bad_compilers() -> Iterator[Row]:
    """The first of three compiles hangs, or takes all memory of a control group that caller and compiler share."""
    for what, code, options, words in (
        ("hangs", HANG, ("--timeout", "30"), "did not finish within 30 seconds"),
        ("takes all memory", EAT, (), "ended by signal SIGKILL"),
    ):
        with tempfile.TemporaryDirectory(prefix="jaxmem-faults-") as name, _control_group(code is EAT) as group:
            if group is None:
                yield Row(
                    part="compilers",
                    fault=f"a compiler {what}",
                    trials=0,
                    good=0,
                    found="not tried: no control group can be made here",
                )
                continue
            (Path(name) / "sitecustomize.py").write_text(_BAD_COMPILER.format(folder=name, what=code))
            process = command(Path(name), *COMPARE, "-v", *options, PYTHONPATH=name)
            if isinstance(group, Path):
                (group / "cgroup.procs").write_text(str(process.pid))
            status, out, err = ended(process)
            right = status == 0 and words in out + err and (out + err).count("3 cells, 1 of them failed") >= 1
            yield Row(
                part="compilers",
                fault=f"the first of three compiles {what}",
                trials=1,
                good=int(right),
                found=f"one cell failed ({words}), the other two are there"
                if right
                else f"exit code {status}: {(out + err)[-300:]}",
            )


@contextmanager
def _control_group(wanted: bool, limit_bytes: int = 2 << 30) -> Iterator[Path | str | None]:
    """A control group with a limit of memory; an empty text where none is wanted, None where none can be made."""
    if not wanted:
        yield ""
        return
    own = next(
        (line.split(":")[2] for line in Path("/proc/self/cgroup").read_text().splitlines() if ":memory:" in line), ""
    )
    group = Path("/sys/fs/cgroup/memory") / own.strip("/") / f"jaxmem-faults-{os.getpid()}"
    try:
        group.mkdir()
        (group / "memory.limit_in_bytes").write_text(str(limit_bytes))
    except OSError:
        yield None
        return
    try:
        yield group
    finally:
        for _ in range(50):
            with suppress(OSError):
                group.rmdir()
                break
            time.sleep(0.1)
