"""What is left when processes are killed, disks are full, folders are read-only, and compilers hang or eat all memory.

    python -m benchmarks.faults                 # everything; some parts need root and say so where they have not got it
    python -m benchmarks.faults kills --kills 40

A child is forked, works, and is killed with SIGKILL: before a line of jaxmem's own code, in turn over all that run, or at any
moment. Then the parent looks: what has the name of a file must be whole, old or new, and the same work done once
more must give the right answer. Nothing here is timed.
"""

import argparse
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

from benchmarks.records import RESULTS, Setting, in_words, read, table, this_setting, today, write
from jaxmem.assemble import read_report
from jaxmem.capture import Capture, CaptureCache, load, save
from jaxmem.result import Reports
from jaxmem.result import load as load_result

FILE = RESULTS / "faults.json"
ROOT = Path(__file__).parents[1]
SEED_FILE = ROOT / "tests" / "data" / "captures" / "looped.cpu.jaxmem"
TRACED = ("jaxmem/files.py", "jaxmem/capture/cache.py", "jaxmem/capture/file.py")
KEYS = tuple(f"{number:064x}" for number in range(6))


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One kind of fault.

    Attributes:
        trials: how often it was brought about; ``good`` how often all was as it should be.
        found: what was seen.
    """

    part: str
    fault: str
    trials: int
    good: int
    found: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """Everything that was tried."""

    setting: Setting
    dates: tuple[str, ...]
    rows: tuple[Row, ...]


# Work that is killed: each function does it in a folder; each check says what is wrong there, or nothing.


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """Something that writes."""

    name: str
    prepare: Callable[[Path], None]
    do: Callable[[Path], None]
    wrong: Callable[[Path], str]


def _captures() -> tuple[Capture, Capture]:
    capture = load(SEED_FILE)
    return capture, replace(capture, created="later")


def _save_work() -> Work:
    old, new = _captures()

    def wrong(folder: Path) -> str:
        return "" if load(folder / "a.jaxmem") in (old, new) else "another capture"

    return Work(
        name="save a capture over an old one",
        prepare=lambda folder: save(old, folder / "a.jaxmem", force=True),
        do=lambda folder: save(new, folder / "a.jaxmem", force=True),
        wrong=wrong,
    )


def _cache_work() -> Work:
    old, new = _captures()
    limit_bytes = int(2.5 * SEED_FILE.stat().st_size)

    def cache(folder: Path) -> CaptureCache:
        return CaptureCache(folder, limit_bytes=limit_bytes, warn=_fail)

    def prepare(folder: Path) -> None:
        for key in KEYS:
            cache(folder).put(key, old)

    def do(folder: Path) -> None:
        for key in KEYS:
            cache(folder).put(key, new)
            cache(folder).put_request(key, key)

    def wrong(folder: Path) -> str:
        for file in (folder / "captures").glob("*.jaxmem"):
            if load(file) not in (old, new):
                return f"{file.name} is another capture"
        found = [cache(folder).get_request(key) for key in KEYS]
        return "" if all(one in (None, old, new) for one in found) else "a request led to another capture"

    return Work(
        name="put captures into a full cache, which evicts others",
        prepare=prepare,
        do=do,
        wrong=wrong,
    )


def _result_work() -> Work:
    old, new = (Reports(reports=(read_report(capture),)) for capture in _captures())
    new = Reports(reports=new.reports * 2)

    def wrong(folder: Path) -> str:
        return "" if load_result(folder / "a.json") in (old, new) else "another report"

    return Work(
        name="save a report over an old one",
        prepare=lambda folder: old.save(folder / "a.json", force=True),
        do=lambda folder: new.save(folder / "a.json", force=True),
        wrong=wrong,
    )


def _fail(message: str) -> None:
    raise AssertionError(message)


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
    for work in (_save_work(), _cache_work(), _result_work()):
        with tempfile.TemporaryDirectory(prefix="jaxmem-faults-") as name:
            work.prepare(Path(name))
            lines = lines_of(partial(work.do, Path(name)))
        at_lines = max(1, count // 4)
        places = [1 + number * lines // at_lines for number in range(at_lines)]
        yield _killed(
            work, f"before lines, {lines:,} of which run", [partial(killed_at_line, line=one) for one in places]
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


# Whole commands.


PROGRAMS = """
import jax, jax.numpy as jnp
import jaxmem

def layers(batch_size=4):
    return jaxmem.Program(lambda w, x: jnp.tanh(x @ w) @ w.T, jax.ShapeDtypeStruct((64, 32), jnp.float32),
                          jax.ShapeDtypeStruct((batch_size, 64), jnp.float32), name="layers", batch_size=batch_size)
"""

COMPARE = ("compare", "programs.py:layers", "-b", "2,3,4", "--jobs", "1")


def command(folder: Path, *arguments: str, **variables: str) -> "subprocess.Popen[str]":
    """``jaxmem`` in a folder that has its cache, its temporary files and ``programs.py``."""
    (folder / "programs.py").write_text(PROGRAMS)
    settings = {"JAXMEM_CACHE_DIR": str(folder / "cache"), "TMPDIR": str(folder), "JAX_PLATFORMS": "cpu"} | variables
    path = os.pathsep.join(filter(None, (str(ROOT), variables.get("PYTHONPATH"))))
    return subprocess.Popen(
        (sys.executable, "-m", "jaxmem", *arguments),
        cwd=folder,
        env=os.environ | settings | {"PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(process: "subprocess.Popen[str]") -> tuple[int, str, str]:
    """Its status and what it said."""
    out, err = process.communicate()
    return process.returncode, out, err


def killed_comparisons(count: int) -> Iterator[Row]:
    """A comparison killed at random moments; then the same once more."""
    chance, good, problems = random.Random(11), 0, []
    with tempfile.TemporaryDirectory(prefix="jaxmem-faults-") as name:
        begun = time.monotonic()
        status, wanted, said = ended(command(Path(name), *COMPARE))
        whole = time.monotonic() - begun
        if status != 0:
            raise SystemExit(f"The comparison itself fails: {said}")
    for _ in range(count):
        with tempfile.TemporaryDirectory(prefix="jaxmem-faults-", ignore_cleanup_errors=True) as name:
            folder = Path(name)
            process = command(folder, *COMPARE)
            assert process.stderr is not None
            wanted_cells = chance.randrange(3)
            for line in process.stderr if wanted_cells else ():
                if f"{wanted_cells} of 3" in line:
                    break
            time.sleep(chance.uniform(0, 0.2 if wanted_cells else 0.9) * whole)
            process.kill()
            ended(process)
            kept = len([load(file) for file in (folder / "cache" / "captures").glob("*.jaxmem")])
            status, table_text, said = ended(command(folder, *COMPARE))
            right = status == 0 and table_text == wanted
            good += right
            problems += [] if right else [said[-200:] or "another table"]
            for _ in range(100):
                if not list(folder.glob("jaxmem-*")):
                    break
                time.sleep(0.1)
            else:
                problems.append("a worker's folder stayed")
            print(f"comparison killed with {kept} captures kept: {'right' if right else 'WRONG'}", flush=True)
    yield Row(
        part="comparisons",
        fault="compare: SIGKILL at a random moment, then the same command again",
        trials=count,
        good=good,
        found="; ".join(problems) or "the same table as without a kill, no temporary folder left",
    )


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


# Disks.


@contextmanager
def small_disk(size_bytes: int) -> Iterator[Path | None]:
    """A file system of so many bytes; None where none can be mounted."""
    folder = Path(tempfile.mkdtemp(prefix="jaxmem-faults-"))
    mounted = subprocess.run(
        ("mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", str(folder)), capture_output=True, check=False
    )
    try:
        yield folder if mounted.returncode == 0 else None
    finally:
        if mounted.returncode == 0:
            subprocess.run(("umount", "-l", str(folder)), check=False)
        shutil.rmtree(folder, ignore_errors=True)


def disks() -> Iterator[Row]:
    """A full disk under the output, the cache and the temporary files; a cache that can only be read."""
    capture = load(SEED_FILE)
    with small_disk(64 * 1024) as disk, tempfile.TemporaryDirectory(prefix="jaxmem-faults-") as name:
        if disk is None:
            yield Row(
                part="disks", fault="a full disk", trials=0, good=0, found="not tried: nothing can be mounted here"
            )
            return
        (disk / "other").write_bytes(b"x" * 60 * 1024)
        folder = Path(name)
        for what, arguments, variables, expected, words in (
            ("the output", ("report", str(SEED_FILE), "-o", str(disk / "r.json")), {}, 5, "No space left"),
            ("the cache", ("report", "programs.py:layers"), {"JAXMEM_CACHE_DIR": str(disk / "cache")}, 0, "warning"),
            ("temporary files", ("report", "programs.py:layers", "--no-cache"), {"TMPDIR": str(disk)}, 5, "space"),
        ):
            status, out, err = ended(command(folder, *arguments, **variables))
            left = sorted(path.name for path in disk.rglob("*") if path.is_file() and path.name != "other")
            right = status == expected and words in err and "Traceback" not in err and not left
            right = right and (expected != 0 or "Required" in out)
            yield Row(
                part="disks",
                fault=f"a full disk under {what}",
                trials=1,
                good=int(right),
                found=_without_places(
                    f"exit code {status}: {next((line for line in err.splitlines() if words in line), err[-200:])}"
                )
                + (f"; left: {', '.join(left)}" if left else ""),
            )
            for path in disk.iterdir():
                if path.name != "other":
                    shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink()
    with small_disk(16 << 20) as disk:
        assert disk is not None
        CaptureCache(disk).put(KEYS[0], capture)
        subprocess.run(("mount", "-o", "remount,ro", str(disk)), check=True)
        warnings: list[str] = []
        cache = CaptureCache(disk, warn=warnings.append)
        cache.put(KEYS[1], capture)
        cache.put_request(KEYS[1], KEYS[0])
        right = cache.get(KEYS[0]) == capture and cache.get(KEYS[1]) is None and len(warnings) == 1
        yield Row(
            part="disks",
            fault="a cache that can only be read",
            trials=1,
            good=int(right),
            found=_without_places(f"what is in it is found; one warning: {warnings[0] if warnings else 'none'}"),
        )


def _without_places(said: str) -> str:
    """What was said, without the names of temporary folders and the keys of captures."""
    return re.sub(r"[0-9a-f]{64}", "KEY", re.sub(r"\S*/jaxmem-faults-\w+(/jaxmem-\w+)?", "DISK", said))


def together(rounds: int) -> Iterator[Row]:
    """Eight processes put into and get from one cache that has room for two or three captures of six."""
    capture = load(SEED_FILE)
    versions = {key: replace(capture, created=key) for key in KEYS}
    limit_bytes = int(2.5 * SEED_FILE.stat().st_size)
    with tempfile.TemporaryDirectory(prefix="jaxmem-faults-") as name:

        def work(number: int) -> None:
            chance = random.Random(number)
            cache = CaptureCache(Path(name), limit_bytes=limit_bytes, warn=_fail)
            for _ in range(rounds):
                key = chance.choice(KEYS)
                if chance.random() < 0.5:
                    cache.put(key, versions[key])
                    cache.put_request(key, key)
                found = cache.get(key) if chance.random() < 0.5 else cache.get_request(key)
                assert found in (None, versions[key])

        children = []
        for number in range(8):
            child = os.fork()
            if child == 0:
                try:
                    work(number)
                except BaseException as error:
                    print(f"process {number}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
                    os._exit(1)
                os._exit(0)
            children.append(child)
        good = sum(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0 for child in children)
        files = list((Path(name) / "captures").iterdir())
        whole = all(load(file) == versions[file.stem] for file in files)
        size_bytes = sum(file.stat().st_size for file in files)
        yield Row(
            part="together",
            fault=f"eight processes on one cache, {rounds} times each, which evicts all the time",
            trials=8,
            good=good if whole else 0,
            found=f"every answer right or none; {len(files)} whole files of {size_bytes:,} B left, room for {limit_bytes:,} B",
        )


# The command.


def page(results: Results) -> str:
    """One table."""
    rows = [(row.fault, f"{row.good} of {row.trials}", row.found.replace("|", "\\|")) for row in results.rows]
    killed = sum(row.trials for row in results.rows if "SIGKILL" in row.fault)
    return f"""# Faults

{in_words(results.setting, results.dates)}

    python -m benchmarks.faults

{killed} processes killed in all. *Before lines*: of jaxmem's own code that packs, writes and evicts,
in turn over all the lines that run.

{table(("fault", "as it should be", "what was seen"), rows, left=3)}
"""


def main() -> int:
    """Try what is asked for, and write the page."""
    parts: dict[str, Callable[[argparse.Namespace], Iterator[Row]]] = {
        "kills": lambda options: kills(options.kills),
        "together": lambda options: together(options.rounds),
        "disks": lambda options: disks(),
        "compilers": lambda options: bad_compilers(),
        "comparisons": lambda options: killed_comparisons(options.comparisons),
    }
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.faults", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(parts)} (default: all)")
    parser.add_argument("--kills", type=int, default=192, metavar="N", help="without the comparisons (default: 192)")
    parser.add_argument("--comparisons", type=int, default=8, metavar="N", help="that are killed (default: 8)")
    parser.add_argument("--rounds", type=int, default=200, metavar="N", help="of each of the eight processes")
    parser.add_argument("--results", type=Path, default=FILE, metavar="FILE", help=f"default: {FILE}")
    options = parser.parse_args()
    if unknown := set(options.parts) - set(parts):
        parser.error(f"there is no part {', '.join(unknown)}")
    results = read(Results, options.results) or Results(setting=this_setting(), dates=(), rows=())
    for part, run in parts.items():
        if options.parts and part not in options.parts:
            continue
        results = replace(results, rows=tuple(row for row in results.rows if row.part != part))
        for row in run(options):
            print(f"{row.fault}: {row.good} of {row.trials}; {row.found}", flush=True)
            rows = sorted((*results.rows, row), key=lambda one: tuple(parts).index(one.part))
            dates = tuple(sorted({*results.dates, today()}))
            results = Results(setting=this_setting(), dates=dates, rows=tuple(rows))
            write(results, options.results, page(results))
    return int(any(row.good != row.trials for row in results.rows))


if __name__ == "__main__":
    sys.exit(main())
