"""A quick run of `benchmarks.faults`: processes that are killed, and eight of them on one cache."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from jaxmem.capture import CaptureCache, load

ROOT = Path(__file__).parents[2]
LOOPED = ROOT / "tests" / "data" / "captures" / "looped.cpu.jaxmem"


def test_killed_at_any_line_everything_is_whole_and_the_next_run_right(tmp_path: Path) -> None:
    results = tmp_path / "faults.json"
    command = (sys.executable, "-m", "benchmarks.faults", "kills", "together", "--kills", "36", "--rounds", "5")
    shm = {"TMPDIR": "/dev/shm"} if Path("/dev/shm").is_dir() else {}  # where to write costs nothing
    ran = subprocess.run(
        (*command, "--results", str(results)),
        cwd=ROOT,
        env=os.environ | shm,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    rows = json.loads(results.read_text())["rows"]
    assert sum(row["trials"] for row in rows) == 36 + 8
    assert all(row["good"] == row["trials"] for row in rows)


def test_what_a_killed_process_left_in_the_cache_is_removed_an_hour_later(tmp_path: Path) -> None:
    cache = CaptureCache(tmp_path)
    (tmp_path / "captures").mkdir()
    old, new = (tmp_path / "captures" / f".{name}.jaxmem.0123456789ab.unfinished" for name in ("old", "new"))
    for file in (old, new):
        file.write_bytes(b"half a capture")
    long_ago = time.time() - 4000
    os.utime(old, (long_ago, long_ago))
    cache.put("0" * 64, load(LOOPED))
    assert not old.exists()
    assert new.exists()  # somebody may be writing it now


def test_the_compiling_process_is_the_first_to_go_where_memory_runs_out() -> None:
    code = "from jaxmem.compilers.child import be_the_first_to_go as f; f(); print(open('/proc/self/oom_score_adj').read())"
    ran = subprocess.run((sys.executable, "-c", code), capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "1000"
