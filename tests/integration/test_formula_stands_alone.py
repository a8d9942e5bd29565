"""The formula without a compile: in a process where compiling raises, and as near to the compile as it says."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from jaxmem.analysis import Target, analyze_target
from jaxmem.result import Report

WITHOUT_COMPILERS = """
import sys
from jaxmem.quiet import start_jax

start_jax()
import jaxmem.compilers
import jax._src.compiler

def refuse(*_, **__):
    raise AssertionError("the estimate compiles")

jaxmem.compilers.compile_lowering = refuse
jax._src.compiler.backend_compile_and_load = refuse
from jaxmem.cli import main

sys.exit(main(sys.argv[1:]))
"""


def estimated(*arguments: str) -> int:
    """What `jaxmem estimate` prints as total, in a process where compiling raises."""
    command = [sys.executable, "-c", WITHOUT_COMPILERS, "estimate", *arguments, "--format", "json", "-q", "--no-cache"]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    (report,) = json.loads(run.stdout)["reports"]
    return report["total_bytes"]


@pytest.fixture(scope="module", params=["train", "infer"])
def report(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Report:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAXMEM_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        return analyze_target(Target(text="vgg11", mode=request.param, batch_size=4, device="cpu"))


def test_the_estimate_is_the_one_that_the_report_lays_beside_the_compile(report: Report, tmp_path: Path) -> None:
    assert estimated("vgg11", "--mode", report.program.mode or "", "-b", "4") == report.estimates[0].bytes


def test_vgg_on_a_cpu_is_met(report: Report) -> None:
    """VGG is what the rules were made on: this holds what they reach, it is no measure of how near they come elsewhere."""
    error = report.estimates[0].error_percent
    assert isinstance(error, float)
    assert abs(error) < 3
