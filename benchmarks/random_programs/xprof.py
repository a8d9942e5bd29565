"""The same dumps in XProf's memory viewer, which shares no code with jaxmem: many in one process of its own."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.random_programs.oracle import count

INTERPRETER = os.environ.get("JAXMEM_XPROF_PYTHON", sys.executable)

_VIEWER = """
import json, sys
from xprof.convert import raw_to_tool_data
for name in sys.argv[2:]:
    options = {"module_name": name, "memory_space": "0"}
    answer, _ = raw_to_tool_data.xspace_to_tool_data([sys.argv[1] + "/host.xplane.pb"], "memory_viewer", options)
    answer = answer if answer is None else json.loads(answer)
    wanted = answer and {key: answer.get(key) for key in ("peakHeapMib", "heapSizes", "totalBufferAllocationMib")}
    print("ANSWER" + json.dumps(wanted))
"""


def differences(dumps: Mapping[str, bytes]) -> dict[str, str | None]:
    """For each dump of CPU or TPU with at most one trace in main memory, how the viewer differs; None where it does not.

    Dumps whose main memory has several traces are left out: the viewer shows one of them.
    """
    counted = {name: count(dump, (0,)) for name, dump in dumps.items()}
    single = [name for name, each in counted.items() if len(each.curves) <= 1]
    found: dict[str, str | None] = {}
    for name, answer in zip(single, _views({name: dumps[name] for name in single}), strict=True):
        each = counted[name]
        curve = [each.static_bytes, *(each.static_bytes + live for live in each.curves[0])] if each.curves else None
        if answer is None:
            found[name] = "XProf gives no answer"
        else:
            ours = (each.live_peak_bytes, each.reserved_bytes, curve)
            heap = answer["heapSizes"]
            theirs = (
                _bytes(answer["peakHeapMib"]),
                _bytes(answer["totalBufferAllocationMib"]),
                None if heap is None else [_bytes(size) for size in heap],
            )
            found[name] = None if ours == theirs else f"XProf: {theirs}, jaxmem: {ours}"
    return found


def _bytes(mebibytes: float | None) -> int:
    """A count of bytes in MiB has at most 20 binary digits after the point: exact. XProf leaves zeros out."""
    return int((mebibytes or 0) * 2**20)


def _views(dumps: Mapping[str, bytes]) -> list[dict[str, Any] | None]:
    if not dumps:
        return []
    with tempfile.TemporaryDirectory(prefix="jaxmem-xprof-") as folder:
        run = Path(folder) / "plugins" / "profile" / "run"
        run.mkdir(parents=True)
        (run / "host.xplane.pb").write_bytes(b"")
        for name, dump in dumps.items():
            (run / f"{name}.hlo_proto.pb").write_bytes(dump)
        answer = subprocess.run(
            [INTERPRETER, "-c", _VIEWER, str(run), *dumps], capture_output=True, text=True, check=False, timeout=600
        )
    lines = [line.removeprefix("ANSWER") for line in answer.stdout.splitlines() if line.startswith("ANSWER")]
    if len(lines) != len(dumps):
        raise RuntimeError(f"XProf ended early: {answer.stderr[-2000:]}")
    return [json.loads(line) for line in lines]
