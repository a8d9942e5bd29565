"""What one file takes, measured in a process of its own."""

import contextlib
import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

from jaxmem.codec import decode, encode

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ours:
    """jaxmem on a saved capture: the report, its JSON and its page. Seconds; ``read`` is the decoding of the module alone.

    ``peak_bytes`` is the growth of the process's resident memory over what it was with the file loaded.
    """

    instructions: int
    read: float
    processor: float
    clock: float
    peak_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Theirs:
    """XProf's converter to its memory viewer, native code, on the same file: the first call. Seconds."""

    processor: float
    clock: float
    peak_bytes: int


def _peak() -> int:
    """Peak resident memory of this process. What ``getrusage`` says begins with that of the process which started it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


def measure(file: Path) -> Ours:
    """Everything after the compile, of a saved capture."""
    from jaxmem.assemble import read_report
    from jaxmem.capture import load
    from jaxmem.report import as_text
    from jaxmem.result import Reports, to_json
    from jaxmem.xla import read_hlo_proto

    capture = load(file)
    before = _peak()
    begun, clock = time.process_time(), time.perf_counter()
    results = Reports(reports=(read_report(capture),))
    to_json(results)
    as_text(results)
    processor, clock = time.process_time() - begun, time.perf_counter() - clock
    peak_bytes = _peak() - before
    begun = time.process_time()
    module, _ = read_hlo_proto(capture.hlo_proto, origin=str(file))
    return Ours(
        instructions=len(module.instructions),
        read=time.process_time() - begun,
        processor=processor,
        clock=clock,
        peak_bytes=peak_bytes,
    )


def measure_xprof(file: Path) -> Theirs:
    """The same of XProf, on the module of a saved capture."""
    from xprof.convert import raw_to_tool_data

    from jaxmem.capture import load

    with TemporaryDirectory(prefix="jaxmem-scale-") as folder:
        run = Path(folder) / "plugins" / "profile" / "run"
        run.mkdir(parents=True)
        (run / "module.hlo_proto.pb").write_bytes(load(file).hlo_proto)
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
        measured = (measure if sys.argv[1] == "Ours" else measure_xprof)(Path(sys.argv[2]))
    print("MEASURED" + json.dumps(encode(measured)[0]))
