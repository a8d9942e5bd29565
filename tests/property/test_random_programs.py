"""A hundred random programs, compiled for CPU in one process of their own: what must hold of every report holds of theirs.

`benchmarks.random_programs` has the programs, the laws and the brute-force count; XProf's memory viewer takes part where it is
installed. That every ledger closes is no law yet: what is open is counted (benchmarks/results/random_programs.md).
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def rows():
    """One a seed."""
    command = [sys.executable, "-m", "benchmarks.random_programs", "--lines", "0", "100"]
    finished = subprocess.run(
        command, cwd=ROOT, env=os.environ, capture_output=True, text=True, timeout=900, check=False
    )
    assert finished.returncode == 0, finished.stderr[-4000:]
    return [json.loads(line.removeprefix("ROW")) for line in finished.stdout.splitlines() if line.startswith("ROW")]


def test_every_law_holds(rows):
    assert [row["seed"] for row in rows] == list(range(100))
    assert {row["seed"]: row["broken"] for row in rows if row["broken"]} == {}
    assert sum(row["refused"] is None for row in rows) > 90


def test_every_byte_has_a_role(rows):
    assert {row["seed"]: row["unattributed_bytes"] for row in rows if row["unattributed_bytes"]} == {}


def test_what_is_open_is_said(rows):
    """A ledger closes, or says which rows do not; seven in ten close."""
    assert all(bool(row["unexplained_bytes"]) == bool(row["unexplained"]) for row in rows)
    compiled = [row for row in rows if row["refused"] is None]
    assert sum(not row["unexplained_bytes"] for row in compiled) >= 0.7 * len(compiled)
