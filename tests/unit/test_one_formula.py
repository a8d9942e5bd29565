"""The formula of one program is the same in every answer: told of the same machine, held against the same compile."""

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
