"""Every VGG of the zoo in both modes, small: all bytes have a role, a layer and a reason; and the cache finds them again."""

import subprocess
import sys
from pathlib import Path

import pytest

import jaxmem
import jaxmem.compilers
from jaxmem.analysis import Target, analyze_target
from jaxmem.result import Report
from jaxmem.roles import Role
from jaxmem_models.registry import MODELS, MODES

VGGS = tuple(row.name for row in MODELS if row.name.startswith("vgg"))
ACTIVATIONS = ("saved activations", "transient")


def target(name: str, mode: str) -> Target:
    return Target(text=name, mode=mode, batch_size=2, device="cpu", settings=(("image_size", "32"),))


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory):
    """A cache of the module's own, in the place of the user's."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAXMEM_CACHE_DIR", str(folder))
        yield folder


@pytest.fixture(scope="module", params=[(name, mode) for name in VGGS for mode in MODES], ids="-".join)
def report(request: pytest.FixtureRequest, cache: Path) -> Report:
    return analyze_target(target(*request.param))


def test_the_zoo_has_all_eight() -> None:
    assert len(VGGS) == 8


def test_every_byte_has_a_role_and_a_reason(report: Report) -> None:
    assert report.unexplained_bytes == 0
    assert report.roles.get(Role.UNATTRIBUTED, 0) == 0
    assert sum(report.roles.values()) == report.required_bytes
    assert sum(row.compiled_bytes for row in report.ledger) == report.required_bytes
    for row in report.ledger:
        assert row.reason
        assert isinstance(row.formula_bytes, int)
        assert row.formula_bytes + sum(item.bytes for item in row.items) == row.compiled_bytes


def test_every_activation_has_a_layer(report: Report) -> None:
    named = {row.layer for row in report.ledger if row.term == "parameters"}
    rows = [row for row in report.ledger if row.term in ACTIVATIONS]
    # A gradient or an index of 64 bytes may belong to the step as a whole; no feature map does.
    assert [row for row in rows if not row.layer and max(row.compiled_bytes, row.formula_bytes) > 64] == []  # type: ignore[type-var]
    assert {row.layer for row in rows if row.layer.startswith(("conv", "bn", "fc"))} <= named
    assert [row for row in report.peak_buffers if row.role in (Role.SAVED_ACTIVATIONS,) and not row.layer] == []


def test_it_comes_back_from_json(report: Report, tmp_path: Path) -> None:
    report.save(tmp_path / "report.json")
    assert jaxmem.load(tmp_path / "report.json") == report


def test_a_second_report_starts_no_compiler(report: Report, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **keywords: object) -> None:
        raise AssertionError("the compiler was started")

    monkeypatch.setattr(jaxmem.compilers, "compile_lowering", refuse)
    monkeypatch.setattr(subprocess, "Popen", refuse)
    assert report.program.mode is not None
    assert analyze_target(target(report.program.name, report.program.mode)) == report


def test_a_cached_report_of_the_zoo_does_not_import_jax(cache: Path) -> None:
    analyze_target(target("vgg11", "infer"))
    program = (
        "import sys\n"
        "from jaxmem.analysis import Target, analyze_target\n"
        "report = analyze_target(Target(text='vgg11', mode='infer', batch_size=2, device='cpu',"
        " settings=(('image_size', '32'),)))\n"
        "assert report.unexplained_bytes == 0\n"
        "print(sorted({name.partition('.')[0] for name in sys.modules} & {'jax', 'jaxlib', 'flax', 'optax', 'numpy'}))\n"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=120)
    assert run.stdout == "[]\n", run.stderr
