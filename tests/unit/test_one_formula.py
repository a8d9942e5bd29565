"""The formula of one program is the same in every answer: told of the same machine, held against the same compile."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import jaxmem
from jaxmem.analysis import Target, compare_targets, estimate_target
from jaxmem.capture import load
from jaxmem.formula import derive_formula
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
