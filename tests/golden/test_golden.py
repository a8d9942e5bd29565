"""Captures of real compiles for CPU, GPU and TPU, read without JAX: what they report today is what they reported before.

Each ``NAME.DEVICE.txt`` is the report of the capture beside it. ``make_captures.py`` made the captures; ``pytest tests/golden
--update-golden`` writes the reports anew.
"""

import subprocess
import sys
from pathlib import Path

import pytest

import jaxmem
from jaxmem.report import as_text
from jaxmem.result import Report
from jaxmem.roles import Role

FOLDER = Path(__file__).parent
CAPTURES = sorted(FOLDER.glob("*.jaxmem"))
PLATFORMS = ("cpu", "h100-sxm", "tpu-v5e")


@pytest.mark.parametrize("path", CAPTURES, ids=lambda path: path.stem)
def test_the_report_is_what_it_was(path: Path, update_golden: bool) -> None:
    found = report_of(path)
    text, golden = as_text(found), path.with_suffix(".txt")
    if update_golden:
        golden.write_text(text)
    assert text == golden.read_text(), f"`pytest tests/golden --update-golden` writes {golden.name} anew; read its diff"


@pytest.mark.parametrize("path", CAPTURES, ids=lambda path: path.stem)
def test_every_byte_is_explained(path: Path) -> None:
    found = report_of(path)
    assert found.unexplained_bytes == 0
    assert found.roles[Role.UNATTRIBUTED] == 0


def report_of(path: Path) -> Report:
    found = jaxmem.load(path)
    assert isinstance(found, Report)
    return found


def test_every_program_has_a_capture_of_every_platform() -> None:
    names = {path.name.split(".")[0] for path in CAPTURES}
    assert len(names) >= 4
    assert {path.name for path in CAPTURES} == {f"{name}.{device}.jaxmem" for name in names for device in PLATFORMS}


def test_captures_are_read_without_jax() -> None:
    program = (
        "import sys, jaxmem; [jaxmem.load(path) for path in sys.argv[1:]]; "
        "sys.exit(any(name.split('.')[0] in ('jax', 'jaxlib', 'flax') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", program, *map(str, CAPTURES)], check=False).returncode == 0


def test_captures_name_no_folder_of_the_machine_that_made_them() -> None:
    for path in CAPTURES:
        found = report_of(path)
        assert not [row.source for row in found.peak_buffers if row.source.startswith("/")]
