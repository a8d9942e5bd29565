"""What one file takes, measured in a process of its own."""

import contextlib
import json
import subprocess
import sys
import time
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

from jaxmem.codec import decode, encode

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ours:
    """jaxmem on a saved capture: the report, its JSON and its page. Seconds; ``steps`` are its parts, processor time.

    Attributes:
        formula: processor time of the formula, not in the others: it is derived while the compiler works.
        peak_bytes: the growth of the process's resident memory over what it was with the file loaded, the formula's included.
    """

    instructions: int
    processor: float
    clock: float
    steps: tuple[tuple[str, float], ...]
    formula: float
    peak_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """What of it XProf's memory viewer does as well: the dump read, replayed, and who is live at the peak. Seconds."""

    processor: float
    clock: float
    peak_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Theirs:
    """XProf's converter to its memory viewer, native code, on the same file: the first call. Seconds."""

    processor: float
    clock: float
    peak_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """``jaxmem report FILE`` on a dump, imports and all. Seconds; ``peak_bytes`` is all memory of the process."""

    processor: float
    clock: float
    peak_bytes: int


def _peak() -> int:
    """Peak resident memory of this process. What ``getrusage`` says begins with that of the process which started it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


STEPS = {
    "read_hlo_proto": "reading",
    "profile_memory": "live ranges, replay",
    "Dataflow": "dataflow",
    "Facts": "facts of the dataflow",
    "attribute": "attribution",
    "_hidden": "hidden",
    "_ledger": "ledger",
    "buffer_rows": "rows",
}
"""Functions that `jaxmem.assemble.report` calls, and what the page calls them."""


def _timed(name: str, function: Any, steps: dict[str, float]) -> Any:
    def call(*arguments: Any, **named: Any) -> Any:
        begun = time.process_time()
        try:
            return function(*arguments, **named)
        finally:
            steps[name] = time.process_time() - begun

    return call


def measure(file: Path) -> Ours:
    """Everything after the compile, of a saved capture."""
    from jaxmem.assemble import formula_of
    from jaxmem.assemble import report as steps_of
    from jaxmem.capture import load
    from jaxmem.pause import collecting_paused
    from jaxmem.report import as_text
    from jaxmem.result import Reports, to_json

    import_module("jaxmem.report.terminal")  # what is imported on the way: imports are in neither's time
    capture = load(file)
    steps: dict[str, float] = {}
    for function, name in STEPS.items():
        setattr(steps_of, function, _timed(name, getattr(steps_of, function), steps))
    before = _peak()
    begun = time.process_time()
    with collecting_paused():
        formula = formula_of(capture)
    formula_seconds = time.process_time() - begun
    begun, clock = time.process_time(), time.perf_counter()
    results = Reports(reports=(steps_of.read_report(capture, formula=lambda: formula),))
    _timed("JSON", to_json, steps)(results)
    _timed("text", as_text, steps)(results)
    processor, clock = time.process_time() - begun, time.perf_counter() - clock
    return Ours(
        instructions=instructions_of(capture.hlo_proto),
        processor=processor,
        clock=clock,
        steps=tuple(steps.items()),
        formula=formula_seconds,
        peak_bytes=_peak() - before,
    )


def instructions_of(hlo_proto: bytes) -> int:
    """How many a module has, those of fusions included."""
    from jaxmem.xla import read_hlo_proto

    return len(read_hlo_proto(hlo_proto, origin="the module")[0].instructions)


def measure_part(file: Path) -> Part:
    """The part of it that XProf does, of a saved capture."""
    from jaxmem.capture import load
    from jaxmem.pause import collecting_paused
    from jaxmem.profile import profile_memory
    from jaxmem.xla import read_hlo_proto

    capture = load(file)
    before = _peak()
    begun, clock = time.process_time(), time.perf_counter()
    with collecting_paused():
        module, assignment = read_hlo_proto(capture.hlo_proto, origin=str(file))
        assert assignment is not None
        profile_memory(module, assignment, platform=capture.device.platform)
        processor, clock = time.process_time() - begun, time.perf_counter() - clock
    return Part(processor=processor, clock=clock, peak_bytes=_peak() - before)


def measure_xprof(file: Path) -> Theirs:
    """The same of XProf, on the module of a saved capture, or on a dump."""
    from xprof.convert import raw_to_tool_data

    from jaxmem.capture import load

    with TemporaryDirectory(prefix="jaxmem-scale-") as folder:
        run = Path(folder) / "plugins" / "profile" / "run"
        run.mkdir(parents=True)
        if file.suffix == ".jaxmem":
            (run / "module.hlo_proto.pb").write_bytes(load(file).hlo_proto)
        else:
            (run / "module.hlo_proto.pb").symlink_to(file)
        (run / "host.xplane.pb").write_bytes(b"")
        before = _peak()
        begun, clock = time.process_time(), time.perf_counter()
        answer, _ = raw_to_tool_data.xspace_to_tool_data(
            [str(run / "host.xplane.pb")], "memory_viewer", {"module_name": "module", "memory_space": "0"}
        )
        if answer is None:
            raise RuntimeError(f"XProf gives no answer for {file}")
        return Theirs(
            processor=time.process_time() - begun, clock=time.perf_counter() - clock, peak_bytes=_peak() - before
        )


def measure_command(file: Path) -> Command:
    """The command line on a dump."""
    clock = time.perf_counter()
    from jaxmem.cli import main

    if main(["report", str(file)]):
        raise RuntimeError(f"jaxmem cannot read {file}")
    return Command(processor=time.process_time(), clock=time.perf_counter() - clock, peak_bytes=_peak())


_MEASURE = {Ours: measure, Part: measure_part, Theirs: measure_xprof, Command: measure_command}


def in_a_process(kind: type[T], file: Path) -> T:
    """One measurement, in a fresh process."""
    command = [sys.executable, "-m", "benchmarks.scale.measure", kind.__name__, str(file)]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = [line for line in answer.stdout.splitlines() if line.startswith("MEASURED")]
    if answer.returncode or not lines:
        raise RuntimeError(f"{' '.join(command)} failed: {answer.stderr[-2000:]}")
    return decode(kind, json.loads(lines[0].removeprefix("MEASURED")))


if __name__ == "__main__":
    with contextlib.redirect_stdout(sys.stderr):
        of_kind = {kind.__name__: function for kind, function in _MEASURE.items()}
        measured = of_kind[sys.argv[1]](Path(sys.argv[2]))
    print("MEASURED" + json.dumps(encode(measured)[0]))
