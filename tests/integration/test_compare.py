"""Comparisons of real programs: compiled in worker processes, on a cluster that loses a worker, interrupted and resumed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

import jaxmem
from jaxmem.analysis import Target, compare_targets
from jaxmem.compilers import travel
from jaxmem.compilers.travel import compile_packed
from jaxmem.errors import UsageError
from jaxmem.result import Comparison, from_json, to_json

PROGRAMS = """
import jax
import jax.numpy as jnp
import jaxmem

def layers(batch_size: int = 4, depth: int = 2):
    w = jax.ShapeDtypeStruct((depth, 64, 64), jnp.float32)
    x = jax.ShapeDtypeStruct((batch_size, 64), jnp.float32)

    def forward(w, x):
        for number in range(depth):
            x = jnp.tanh(x @ w[number])
        return x.sum()

    return jaxmem.Program(jax.grad(forward), w, x, name="layers", batch_size=batch_size)

def broken(batch_size: int = 4):
    raise ValueError("no weights here")
"""


def layers(batch_size: int = 4) -> jaxmem.Program:
    w = jax.ShapeDtypeStruct((64, 64), jnp.float32)
    x = jax.ShapeDtypeStruct((batch_size, 64), jnp.float32)
    return jaxmem.Program(lambda w, x: jnp.tanh(x @ w).sum(), w, x, name="layers", batch_size=batch_size)


def broken(batch_size: int = 4) -> jaxmem.Program:
    raise ValueError(f"nothing of size {batch_size}")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("JAXMEM_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def captures(cache: Path) -> set[str]:
    return {file.name for file in cache.glob("captures/*.jaxmem")}


def test_a_table_of_programs_and_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[int, int]] = []

    compiled: list[bytes] = []
    monkeypatch.setattr(travel, "compile_packed", lambda job: compiled.append(job) or compile_packed(job))
    # Twice from one line: where a program is traced is part of what identifies it.
    table, again = [
        jaxmem.compare(
            {"small": layers, "none": broken},
            batch_sizes=(8, 16),
            on_cell=lambda cell, done, total: told.append((done, total)),
        )
        for _ in range(2)
    ]
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)] * 2
    assert again == table
    assert len(compiled) == 2
    assert [(cell.program, cell.batch_size, cell.failure is None) for cell in table.cells] == [
        ("small", 8, True),
        ("small", 16, True),
        ("none", 8, False),
        ("none", 16, False),
    ]
    for cell in table.cells[:2]:
        assert cell.batch_size is not None
        report = jaxmem.analyze(layers(cell.batch_size))
        assert (cell.required_bytes, cell.fits) == (report.required_bytes, report.verdict.fits)
        assert cell.formula_bytes == report.estimates[0].bytes
    assert "nothing of size 16" in (table.cells[3].failure or "")
    assert from_json(to_json(table), "table.json") == table
    assert "4 cells, 2 of them failed" in str(table)


def test_a_compile_that_takes_too_long_is_a_cell() -> None:
    table = jaxmem.compare([layers], timeout=0.05)
    assert "did not finish within 0.05 seconds" in (table.cells[0].failure or "")


def test_a_finished_program_has_its_batch_already() -> None:
    with pytest.raises(UsageError, match="is a finished Program and has its batch already"):
        jaxmem.compare([layers()], batch_sizes=(8,))


@pytest.mark.slow
def test_the_largest_batch_beside_each_cell(tmp_path: Path) -> None:
    (tmp_path / "programs.py").write_text(PROGRAMS)
    make = f"{tmp_path}/programs.py:layers"
    found = [Target(text=make, device="cpu", batch_size=size) for size in (4, 8)]
    usable = jaxmem.analyze(layers()).verdict.usable_bytes
    assert isinstance(usable, int)
    resident = usable - 2**20
    table = compare_targets(found, boundary=True, resident_bytes=resident)
    first, second = table.cells
    assert (first.fits, second.fits) == (True, True)
    assert isinstance(first.required_bytes, int)
    assert first.headroom_bytes == 2**20 - first.required_bytes
    assert isinstance(first.largest_batch, int)
    assert first.largest_batch == second.largest_batch
    assert first.largest_batch > 8
    # Both sides of the boundary, as cells of their own.
    edge = [Target(text=make, device="cpu", batch_size=first.largest_batch + more) for more in (0, 1)]
    assert [cell.fits for cell in compare_targets(edge, resident_bytes=resident).cells] == [True, False]
    assert "largest batch" in str(table)


def test_interrupted_and_resumed(tmp_path: Path, own_cache: Path) -> None:
    (tmp_path / "programs.py").write_text(PROGRAMS)
    command = [sys.executable, "-m", "jaxmem", "compare", "programs.py:layers", "-b", "2,3,4", "--jobs", "1"]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        first = next(line for line in process.stderr if "1 of 3" in line)
        started = time.monotonic()
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
        assert process.wait() == 130
    assert time.monotonic() - started < 5
    assert "batch 2" in first
    assert "Traceback" not in rest
    done = captures(own_cache)
    assert 1 <= len(done) < 3

    again = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert again.returncode == 0
    assert again.stdout.count("yes") == 3
    assert "1 of 3: programs.py:layers · batch 2" in again.stderr
    assert done < captures(own_cache)


@pytest.mark.slow
def test_a_cluster_that_loses_a_worker_gives_the_same_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    distributed = pytest.importorskip("distributed")
    sizes = (2, 3, 5, 7)
    alone = jaxmem.compare({"layers": layers}, batch_sizes=sizes, use_cache=False)
    victims: list[int] = []
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, silence_logs=50
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        processes = client.run(os.getpid)

        def kill_one(cell: object, done: int, total: int) -> None:
            if done == 1:
                victims.append(next(iter(processes.values())))
                os.kill(victims[0], signal.SIGKILL)

        table = jaxmem.compare(
            {"layers": layers},
            batch_sizes=sizes,
            executor=client.get_executor(),
            use_cache=False,
            on_cell=kill_one,
        )
        client.wait_for_workers(2)
        assert victims[0] not in client.run(os.getpid).values()
    assert isinstance(table, Comparison)
    assert table == alone
