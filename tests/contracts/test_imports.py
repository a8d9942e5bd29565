"""What a command imports, seen in a process of its own."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from jaxmem.cli import COMMANDS

GOLDEN = Path(__file__).parents[1] / "golden"
DUMPS = Path(__file__).parents[1] / "data" / "dumps"
HEAVY = {"jax", "jaxlib", "flax", "optax", "numpy", "rich", "google.protobuf", "bokeh"}

PROBE = """
import sys, json
from jaxmem.cli import main
code = main({arguments!r})
sys.stdout.flush()
print(json.dumps([code, sorted(sys.modules)]), file=sys.stderr)
"""


def imported_by(arguments: list[str], folder: Path) -> tuple[int, set[str]]:
    done = subprocess.run(
        [sys.executable, "-c", PROBE.format(arguments=arguments)],
        capture_output=True,
        text=True,
        cwd=folder,
        check=True,
    )
    code, modules = json.loads(done.stderr.splitlines()[-1])
    return code, set(modules)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--version"],
        *([command, "--help"] for command, _ in COMMANDS),
    ],
)
def test_help_imports_nothing_heavy(arguments: list[str], tmp_path: Path) -> None:
    code, modules = imported_by(arguments, tmp_path)
    assert code == 0
    assert sorted(modules & HEAVY) == []


@pytest.mark.parametrize(
    "arguments",
    [["models"], ["models", "--format", "json"], ["devices"], ["devices", "--format", "json"], ["schema", "report"]],
)
def test_the_catalogues_import_no_jax(arguments: list[str], tmp_path: Path) -> None:
    code, modules = imported_by(arguments, tmp_path)
    assert code == 0
    assert sorted(modules & (HEAVY - {"rich"})) == []


def test_a_diff_of_captures_imports_no_jax(tmp_path: Path) -> None:
    captures = [str(GOLDEN / f"pools.{device}.jaxmem") for device in ("cpu", "h100-sxm")]
    code, modules = imported_by(["diff", *captures], tmp_path)
    assert code == 0
    assert sorted(modules & (HEAVY - {"rich", "google.protobuf"})) == []


def test_a_mistake_imports_no_jax(tmp_path: Path) -> None:
    code, modules = imported_by(["report", "vgg61"], tmp_path)
    assert code == 2
    assert sorted(modules & (HEAVY - {"rich"})) == []


def test_a_dump_is_read_without_jax(tmp_path: Path) -> None:
    code, modules = imported_by(["report", str(DUMPS / "tensorflow"), "--format", "markdown"], tmp_path)
    assert code == 0
    assert sorted(modules & {"jax", "jaxlib", "flax", "optax", "numpy", "tensorflow"}) == []


def test_the_probe_sees_jax(tmp_path: Path) -> None:
    """The check itself is checked: a process that does import JAX is found out."""
    probe = "import jax\n" + PROBE.format(arguments=["--version"])
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert {"jax", "numpy"} <= set(json.loads(done.stderr.splitlines()[-1])[1])
