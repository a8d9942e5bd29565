"""An estimate of a zoo model is derived once: the second is the first, without JAX, until something that decides it changes."""

import hashlib
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import jaxmem.tracing
from jaxmem.analysis import Target, estimate_target
from jaxmem.devices import find_device
from jaxmem.result import EstimateReport

TARGET = Target(text="vgg11", mode="infer", batch_size=2, device="cpu", settings=(("image_size", "32"),))


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def used(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAXMEM_CACHE_DIR", str(cache))


@pytest.fixture
def fresh() -> EstimateReport:
    return estimate_target(replace(TARGET, use_cache=False))


def refuse_to_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **keywords: object) -> None:
        raise AssertionError("the program was traced")

    monkeypatch.setattr(jaxmem.tracing, "trace", refuse)


def test_the_second_is_the_first(fresh: EstimateReport, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    assert estimate_target(TARGET) == fresh
    refuse_to_trace(monkeypatch)
    assert estimate_target(TARGET, progress=lambda phase, _: told.append(phase)) == fresh
    assert told == ["found in the cache"]
    for other in (replace(TARGET, use_cache=False), replace(TARGET, batch_size=3), replace(TARGET, device="h100-sxm")):
        with pytest.raises(AssertionError, match="was traced"):
            estimate_target(other)


def test_it_does_not_import_jax(fresh: EstimateReport) -> None:
    estimate_target(TARGET)
    program = (
        "import sys\n"
        "from jaxmem.cli import main\n"
        "code = main(sys.argv[1:])\n"
        "heavy = {'jax', 'jaxlib', 'flax', 'optax', 'numpy'} & {name.partition('.')[0] for name in sys.modules}\n"
        "sys.exit(code or ' '.join(sorted(heavy)) or 0)\n"
    )
    command = ("estimate", "vgg11", "--mode", "infer", "-b", "2", "--image-size", "32", "--format", "json")
    run = subprocess.run([sys.executable, "-c", program, *command], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert "found in the cache" in run.stderr
    assert json.loads(run.stdout)["reports"][0]["total_bytes"] == fresh.total_bytes


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        '{"schema": "jaxmem.estimate/1", "reports": []}',
        '{"schema": "jaxmem.comparison/1", "cells": []}',
        "",
    ],
)
def test_what_is_no_estimate_is_a_miss_and_is_replaced(
    cache: Path, fresh: EstimateReport, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    estimate_target(TARGET)
    (file,) = (cache / "estimates").iterdir()
    file.write_text(f"{hashlib.sha256(text.encode()).hexdigest()}\n{text}")
    assert estimate_target(TARGET) == fresh
    refuse_to_trace(monkeypatch)
    assert estimate_target(TARGET) == fresh


def test_a_total_that_the_rows_do_not_make_is_a_miss(cache: Path, fresh: EstimateReport) -> None:
    estimate_target(TARGET)
    (file,) = (cache / "estimates").iterdir()
    total = str(fresh.total_bytes)
    text = file.read_text().partition("\n")[2].replace(f'"total_bytes": {total}', f'"total_bytes": {total}0')
    file.write_text(f"{hashlib.sha256(text.encode()).hexdigest()}\n{text}")
    assert estimate_target(TARGET) == fresh


def test_the_memory_of_the_device_is_that_of_today(fresh: EstimateReport, monkeypatch: pytest.MonkeyPatch) -> None:
    estimate_target(TARGET)
    small = replace(find_device("cpu"), memory_bytes=2**30)
    monkeypatch.setattr(Target, "find_device", lambda _: small)
    refuse_to_trace(monkeypatch)
    assert estimate_target(TARGET).device.memory_bytes == 2**30
    assert fresh.device.memory_bytes != 2**30
