"""The formula of one program is the same in every answer: told of the same machine, held against the same compile."""

import os
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import jaxmem
from captures_by_hand import DEVICE, make_lowering
from jaxmem.analysis import Target, compare_targets, estimate_target
from jaxmem.analysis.captures import Pending, finished_beside_formula
from jaxmem.assemble import formula_on, read_report
from jaxmem.capture import Capture, load
from jaxmem.errors import EnvironmentFailure
from jaxmem.formula import Formula, derive_formula
from jaxmem.result import Report

CAPTURES = Path(__file__).parents[1] / "golden"


@pytest.mark.parametrize("name", ["thin_maps.cpu", "thin_maps.h100-sxm"])
def test_compare_report_and_estimate_say_the_same(name: str) -> None:
    target = Target(text=str(CAPTURES / f"{name}.jaxmem"))
    report, cell = jaxmem.load(target.text), compare_targets([target]).cells[0]
    assert isinstance(report, Report)
    own = report.estimates[0]
    assert (cell.formula_bytes, cell.formula_error_percent) == (own.bytes, own.error_percent)
    assert estimate_target(target).total_bytes == own.bytes


def test_it_is_derived_while_the_compiler_works(monkeypatch: pytest.MonkeyPatch) -> None:
    capture, derived = load(CAPTURES / "thin_maps.cpu.jaxmem"), threading.Event()
    lowering = replace(make_lowering(), program=capture.program, arguments=capture.arguments, outputs=capture.outputs)

    def compiled(*_: object, progress: object) -> Capture:
        assert derived.wait(timeout=60), "the formula waits for the compiler"
        return replace(capture, layer_table=None)

    def formula_told(*arguments: Any, **named: Any) -> Formula:
        found = formula_on(*arguments, **named)
        derived.set()
        return found

    monkeypatch.setattr("jaxmem.compilers.compile_lowering", compiled)
    monkeypatch.setattr("jaxmem.analysis.captures.formula_on", formula_told)
    monkeypatch.setattr("jaxmem.analysis.captures.this_host", lambda: capture.host)
    traced: Any = SimpleNamespace(layer_table=capture.layer_table)
    pending = Pending(lowering=lowering, traced=traced, device=capture.device, key="", request=None, cache=None)
    found, formula = finished_beside_formula(pending)
    assert found == capture
    assert read_report(found, formula=formula) == read_report(capture)


def test_a_compile_that_fails_is_what_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not what became of the formula meanwhile."""

    def refused(*_: object, progress: object) -> Capture:
        raise EnvironmentFailure("refused")

    monkeypatch.setattr("jaxmem.compilers.compile_lowering", refused)
    traced: Any = SimpleNamespace()  # of which no table can be made
    pending = Pending(lowering=make_lowering(), traced=traced, device=DEVICE, key="", request=None, cache=None)
    with pytest.raises(EnvironmentFailure, match="refused"):
        finished_beside_formula(pending)


def test_the_machine_changes_this_formula() -> None:
    """So that the test above can fail: its processor's library needs memory, known only with the threads."""
    capture = load(CAPTURES / "thin_maps.cpu.jaxmem")
    assert capture.layer_table is not None
    cell = compare_targets([Target(text=str(CAPTURES / "thin_maps.cpu.jaxmem"))]).cells[0]
    bare = derive_formula(
        capture.layer_table, capture.arguments, capture.outputs, capture.program, platform=capture.device.platform
    )
    assert isinstance(cell.formula_bytes, int)
    assert bare.bytes < cell.formula_bytes


SAYS_ALL = """
import sys
import jaxmem
from jaxmem.assemble import formula_of
from jaxmem.capture import load
from jaxmem.result import Reports, to_json
print(formula_of(load(sys.argv[1])), to_json(Reports(reports=(jaxmem.load(sys.argv[1]),))))
"""


def test_the_order_of_nothing_depends_on_the_hash_seed() -> None:
    """The symbols of an optimizer's states came in the order of a set, another one in each process."""
    said = {
        subprocess.run(
            [sys.executable, "-c", SAYS_ALL, str(CAPTURES / "thin_maps.cpu.jaxmem")],
            env=os.environ | {"PYTHONHASHSEED": seed},
            stdout=subprocess.PIPE,
            check=True,
        ).stdout
        for seed in ("0", "1")
    }
    assert len(said) == 1
