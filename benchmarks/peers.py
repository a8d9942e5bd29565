"""jaxmem against the peers: what each says of the same programs, and how long it takes to say it.

    python -m benchmarks.peers                     # eight programs, on the processor and for an H100
    python -m benchmarks.peers --captures FOLDER   # with the captures that are kept there

Each tool is asked as its users ask it. Those that read a compile get the same one. Errors are against *required* of jaxmem's
report, and on the processor against the measured peak of `benchmarks.measure` where that was measured. Time is processor time
of the answer alone: imports, and the compile where one is needed, are not in it.

Needs XProf (``pip install "jaxmem[test]"``). The results are of one run, and written when it ends.
"""

import argparse
import contextlib
import io
import json
import math
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.accuracy.captures import capture_of
from benchmarks.accuracy.programs import MODES, SETTINGS, Question
from benchmarks.accuracy.rules import torchinfo_bytes
from benchmarks.measure.rows import Results as Measured
from benchmarks.records import RESULTS, Setting, in_words, read, table, this_setting, today, write, write_in_readme
from jaxmem.assemble import read_report
from jaxmem.capture import Capture, installed_versions
from jaxmem.errors import EnvironmentFailure, JaxmemError
from jaxmem.result import Report
from jaxmem.unknown import Unknown
from jaxmem.xla import live_peak_bytes, read_hlo_proto

FILE = RESULTS / "peers.json"
NETWORKS, BATCH_SIZE, DEVICES = ("alexnet", "vgg16", "mobilenet_v2", "vit_b_16"), 8, ("cpu", "h100-sxm")

_VIEWER = """
import json, sys, time
from xprof.convert import raw_to_tool_data
folder, = sys.argv[1:]
options = {"module_name": "module", "memory_space": "0"}
began, clock = time.process_time(), time.perf_counter()
answer, _ = raw_to_tool_data.xspace_to_tool_data([folder + "/host.xplane.pb"], "memory_viewer", options)
spent = time.process_time() - began
print("ANSWER" + json.dumps({"seconds": spent, "peak": json.loads(answer).get("peakHeapMib", 0)}))
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What one tool says of one program. ``seconds`` of processor time; ``bytes`` unknown where it has no answer."""

    tool: str
    bytes: int | Unknown
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One program, and what every tool says of it.

    Attributes:
        required_bytes: of jaxmem's report; ``live_peak_bytes`` of its replay, which XProf's peak must equal.
        measured_bytes: of a real run, where there was one.
    """

    network: str
    mode: str
    batch_size: int
    device: str
    required_bytes: int
    live_peak_bytes: int
    measured_bytes: int | Unknown
    said: tuple[Said, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """All of one run."""

    setting: Setting
    tools: tuple[tuple[str, str], ...]
    date: str
    rows: tuple[Row, ...]


def timed(tool: str, answer: Callable[[], int | Unknown]) -> Said:
    """The answer of one tool, and what it cost this process."""
    began = time.process_time()
    size = answer()
    return Said(tool=tool, bytes=size, seconds=time.process_time() - began)


# What reads the compile.


def xprof(capture: Capture) -> Said:
    """The peak of main memory in XProf's memory viewer; in a process of its own, for it brings its own XLA."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "module.hlo_proto.pb").write_bytes(capture.hlo_proto)
        (Path(folder) / "host.xplane.pb").write_bytes(b"")
        run = subprocess.run(
            [sys.executable, "-c", _VIEWER, folder], capture_output=True, text=True, check=False, timeout=600
        )
    lines = [line for line in run.stdout.splitlines() if line.startswith("ANSWER")]
    if not lines:
        raise EnvironmentFailure(f"XProf did not answer:\n{run.stderr[-1000:]}")
    answer = json.loads(lines[0].removeprefix("ANSWER"))
    return Said(tool="XProf memory viewer: peak", bytes=round(answer["peak"] * 2**20), seconds=answer["seconds"])


def live_peak(capture: Capture) -> int:
    """jaxmem's own replay of the same dump: the same job as XProf's, nothing more."""
    _, assignment = read_hlo_proto(capture.hlo_proto, origin="the capture")
    assert assignment is not None
    return live_peak_bytes(assignment, (0,))


def memory_analysis(capture: Capture) -> int | Unknown:
    """argument + output − alias + temp."""
    said = capture.statistics
    sizes = (said.argument_bytes, said.output_bytes, said.alias_bytes, said.temp_bytes)
    if any(isinstance(size, Unknown) for size in sizes):
        return Unknown("not reported by this backend")
    arguments, outputs, aliased, temporaries = (size for size in sizes if isinstance(size, int))
    return arguments + outputs - aliased + temporaries


def all_allocations(capture: Capture) -> int:
    """What the total of XLA's memory-usage-report adds up: the size of every allocation, whoever made it."""
    _, assignment = read_hlo_proto(capture.hlo_proto, origin="the capture")
    assert assignment is not None
    return sum(allocation.size for allocation in assignment.allocations)


# What reads the program.


def tabulated(arguments: Sequence[Any]) -> int:
    """flax's ``nnx.tabulate``: the total that it prints below its table; traced, so that no parameter is allocated."""
    from flax import nnx

    printed: list[str] = []

    def show(model: Any, inputs: Any) -> None:
        printed.append(nnx.tabulate(model, inputs, console_kwargs={"width": 400, "force_terminal": False}))

    nnx.eval_shape(show, arguments[0], arguments[1 if len(arguments) == 2 else 2])
    total = re.search(r"Total[^:]*: [\d,]+ \(([\d.]+) (B|KB|MB|GB)\)", printed[0])
    if total is None:
        raise EnvironmentFailure("nnx.tabulate printed no total.")
    return round(float(total[1]) * 1000 ** ("B", "KB", "MB", "GB").index(total[2]))


def residuals(arguments: Sequence[Any]) -> int:
    """``jax.ad_checkpoint.print_saved_residuals`` of the loss: every array that it lists, arguments among them, added up."""
    import jax.numpy as jnp
    from flax import nnx
    from jax.ad_checkpoint import print_saved_residuals

    graph, parameters, state = nnx.split(arguments[0], nnx.Param, ...)

    def loss(parameters: Any, state: Any, inputs: Any) -> Any:
        return nnx.merge(graph, parameters, state)(inputs).astype(jnp.float32).sum()

    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        print_saved_residuals(loss, parameters, state, arguments[2])
    return sum(listed_bytes(line) for line in printed.getvalue().splitlines())


def listed_bytes(line: str) -> int:
    """``f32[8,64] from the argument x`` is 2,048 bytes; a line that begins with no array is none."""
    found = re.match(r"(bool|bf16|[a-z]+(\d+)(?:_\w+)?)\[([\d,]*)\]", line.strip())
    if found is None:
        return 0
    bits = {"bool": 8, "bf16": 16}.get(found[1]) or int(found[2])
    return bits * math.prod(int(size) for size in found[3].split(",") if size) // 8


# One row, and the page.


def row_of(question: Question, capture: Capture, measured: dict[Question, int]) -> Row:
    """Every tool's answer to one program."""
    from jaxmem_models.programs import build

    began = time.process_time()
    report: Report = read_report(capture, origin=question.text)
    whole = Said(tool="jaxmem report: required", bytes=report.required_bytes, seconds=time.process_time() - began)
    estimate = report.estimates[0].bytes
    layer_table = capture.layer_table
    assert layer_table is not None
    settings: dict[str, Any] = {name: int(value) for name, value in SETTINGS.get(question.network, ())}
    arguments = build(question.network, mode=question.mode, batch_size=question.batch_size, **settings).arguments
    said = [
        whole,
        timed("jaxmem replay: peak", lambda: live_peak(capture)),
        xprof(capture),
        timed("memory_analysis(): argument + output − alias + temp", lambda: memory_analysis(capture)),
        timed("memory_analysis(): peak_memory_in_bytes", lambda: capture.statistics.reported_peak_bytes),
        timed("all of XLA's allocations, as its memory-usage-report adds them up", lambda: all_allocations(capture)),
        Said(tool="jaxmem estimate (no compile)", bytes=estimate, seconds=0.0),
        timed("torchinfo's rule", lambda: torchinfo_bytes(layer_table, capture.arguments)),
        timed("flax nnx.tabulate: total", lambda: tabulated(arguments)),
    ]
    if question.mode == "train":
        said.append(timed("jax.ad_checkpoint residuals: sum", lambda: residuals(arguments)))
    return Row(
        network=question.network,
        mode=question.mode,
        batch_size=question.batch_size,
        device=question.device,
        required_bytes=report.required_bytes,
        live_peak_bytes=report.live_peak_bytes,
        measured_bytes=measured.get(question, Unknown("not measured yet")),
        said=tuple(said),
    )


def page(results: Results) -> str:
    """What each tool is off by and how long it takes; then program by program."""
    tools = _tools(results)
    versions = ", ".join(f"{name} {version}" for name, version in results.tools)
    peaks = [(row, said) for row in results.rows for said in row.said if said.tool.startswith("XProf")]
    equal = sum(said.bytes == row.live_peak_bytes for row, said in peaks)
    return f"""# jaxmem and its peers

{in_words(results.setting, (results.date,))} {versions}.

    python -m benchmarks.peers

{len(results.rows)} programs: {", ".join(NETWORKS)}, training and inference, batch {BATCH_SIZE}, for {" and ".join(DEVICES)}.
*Error* is that of the tool's number against what the program requires (XLA's allocations and what the processor's library
takes unseen), and against the measured peak where the program was really run, on the processor. Some of these tools are asked
a question here that is not theirs: `nnx.tabulate` counts parameters and state, the residuals are what autodiff keeps, and XProf
shows what is live, not what is reserved. Their column says how far such a number is from the memory that is needed.
The total of XLA's memory-usage-report is computed here from the buffer assignment that it is written from.
*Seconds* of processor time, in the median: the answer alone, without imports and without the compile.

{summary(results)}

XProf's peak is jaxmem's, to the byte, in {equal} of {len(peaks)} programs.

{program_table(results, tools)}
"""


def _tools(results: Results) -> list[str]:
    return list(dict.fromkeys(said.tool for row in results.rows for said in row.said))


def summary(results: Results) -> str:
    """One line a tool: the table of the README too."""
    cells = []
    for tool in _tools(results):
        answers = [(row, said) for row in results.rows for said in row.said if said.tool == tool]
        seconds = median(said.seconds for _, said in answers)
        cells.append(
            (
                tool,
                "–"
                if tool == "jaxmem report: required"
                else _errors((s.bytes, row.required_bytes) for row, s in answers),
                _errors((s.bytes, row.measured_bytes) for row, s in answers),
                str(len(answers)),
                "–" if tool.startswith("jaxmem estimate") else f"{seconds:.3f}",
            )
        )
    header = ("tool", "error against required: median (largest)", "against measured (CPU)", "programs", "seconds")
    return table(header, cells)


def _errors(pairs: Any) -> str:
    sizes = [
        100 * abs(said - truth) / truth for said, truth in pairs if isinstance(said, int) and isinstance(truth, int)
    ]
    return f"{median(sizes):.1f} % ({max(sizes):.1f} %)" if sizes else "–"


def program_table(results: Results, tools: Sequence[str]) -> str:
    """What every tool says of every program, in MiB."""

    def size(value: int | Unknown | None) -> str:
        return f"{value / 2**20:,.1f}" if isinstance(value, int) else "–"

    cells = []
    for row in results.rows:
        by_tool = {said.tool: said.bytes for said in row.said}
        cells.append(
            (row.network, row.mode, row.device, size(row.measured_bytes), *(size(by_tool.get(t)) for t in tools))
        )
    return table(("network", "mode", "device", "measured, MiB", *tools), cells, left=3)


def main() -> int:
    """Ask everybody, and write the page."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.peers", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--captures", type=Path, help="a folder to keep captures in, and to take them from")
    options = parser.parse_args()
    os.environ["JAX_PLATFORMS"] = "cpu"
    try:
        kept = read(Measured, RESULTS / "measure" / "cpu.json")
        measured = {
            row.question: size for row in (kept.rows if kept else ()) if (size := row.measured_bytes) is not None
        }
        questions = [
            Question(network=network, mode=mode, batch_size=BATCH_SIZE, device=device)
            for device in DEVICES
            for network in NETWORKS
            for mode in MODES
        ]
        rows = []
        for question in questions:
            rows.append(row_of(question, capture_of(question, options.captures), measured))
            print(question.text, file=sys.stderr, flush=True)
        results = Results(
            setting=this_setting(),
            tools=tuple(p for p in installed_versions(("xprof",)) if p[0] != "jaxmem"),
            date=today(),
            rows=tuple(rows),
        )
        write(results, FILE, page(results))
        write_in_readme("peers", summary(results))
    except JaxmemError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
