"""What decides an answer about a model of the zoo: whatever changes is another request. Without JAX."""

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import jaxmem
from jaxmem.analysis.requests import zoo_request
from jaxmem.analysis.targets import Target
from jaxmem.devices import find_device
from jaxmem.errors import UsageError

TARGET = Target(text="vgg11", mode="train", batch_size=2, device="cpu")

CHANGED = {
    "the model": replace(TARGET, text="vgg13"),
    "the mode": replace(TARGET, mode="infer"),
    "the batch": replace(TARGET, batch_size=3),
    "a setting": replace(TARGET, settings=(("image_size", "64"),)),
    "another setting": replace(TARGET, settings=(("dtype", "bfloat16"),)),
    "the device": replace(TARGET, device="h100-sxm"),
    "the mesh": replace(TARGET, mesh=(("data", 2),)),
    "the sharding": replace(TARGET, mesh=(("data", 2),), sharding="fsdp"),
    "a compiler option": replace(TARGET, compiler_options=(("xla_a", "1"),)),
}


def key(target: Target) -> str:
    return zoo_request(target, find_device(target.device or "cpu"), "estimate")


def test_every_option_is_in_the_key() -> None:
    keys = {"nothing": key(TARGET), **{name: key(target) for name, target in CHANGED.items()}}
    assert len(set(keys.values())) == len(keys)
    assert key(TARGET) == keys["nothing"]
    assert zoo_request(TARGET, find_device("cpu"), "capture") not in keys.values()


def test_the_settings_of_jax_are_in_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    without = key(TARGET)
    monkeypatch.setenv("JAX_PLATFORMS", "cpu,cuda")  # no trace depends on it
    assert key(TARGET) == without
    monkeypatch.setenv("JAX_ENABLE_X64", "1")
    assert key(TARGET) != without


def test_the_versions_are_in_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    without = key(TARGET)
    monkeypatch.setattr("jaxmem.analysis.requests.installed_versions", lambda packages=(): (("flax", "9"),))
    assert key(TARGET) != without


def test_a_model_that_is_none_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="There is no model called 'vgg12'"):
        key(replace(TARGET, text="vgg12"))


def test_the_formula_decides_an_estimate_and_no_capture(tmp_path: Path) -> None:
    (package,) = jaxmem.__path__
    copy = shutil.copytree(package, tmp_path / "jaxmem", ignore=shutil.ignore_patterns("__pycache__", "schemas"))
    program = (
        "import sys\n"
        "from jaxmem.analysis.requests import zoo_request\n"
        "from jaxmem.analysis.targets import Target\n"
        "from jaxmem.devices import find_device\n"
        "target = Target(text='vgg11', mode='train', batch_size=2, device='cpu')\n"
        "print(*(zoo_request(target, find_device('cpu'), answer) for answer in ('estimate', 'capture')))\n"
        "assert not {'jax', 'numpy', 'flax', 'optax'} & set(sys.modules)\n"
    )

    def keys() -> list[str]:
        command = [sys.executable, "-c", program]
        run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert run.returncode == 0, run.stderr
        return run.stdout.split()

    estimate, capture = keys()
    rule = Path(copy) / "formula" / "derive.py"
    rule.write_text(rule.read_text() + "# changed\n")
    changed_estimate, same_capture = keys()
    assert changed_estimate != estimate
    assert same_capture == capture
