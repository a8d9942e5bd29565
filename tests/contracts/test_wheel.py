"""The wheel, installed as a user has it: both import names work outside the repository, and no `models` collides."""

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

import jaxmem

REPOSITORY = Path(__file__).parents[2]
SOURCES = {"jaxmem": REPOSITORY / "jaxmem", "jaxmem_models": REPOSITORY / "models"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy of the sources: a build leaves folders behind."""
    copy, wheels = tmp_path_factory.mktemp("sources"), tmp_path_factory.mktemp("wheels")
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        (copy / name).write_bytes((REPOSITORY / name).read_bytes())
    for folder in SOURCES.values():
        for file in folder.rglob("*"):
            if file.is_file() and "__pycache__" not in file.parts:
                target = copy / file.relative_to(REPOSITORY)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(file.read_bytes())
    run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(wheels), str(copy))
    (built,) = wheels.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of a fresh environment that has the wheel, and borrows its dependencies from this one."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    run(str(python), "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", str(wheel))
    (packages,) = folder.glob("lib/python*/site-packages")
    # A path entry comes after the environment's own packages; and it runs no import hook of an editable install here.
    (packages / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


def run(*command: str, **options) -> str:
    """Standard output of a command, in an environment that knows nothing of the repository."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    result = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, **options)
    assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
    return result.stdout


def test_every_source_file_is_in_the_wheel_and_nothing_else(wheel: Path) -> None:
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    sources = {
        f"{package}/{file.relative_to(folder).as_posix()}"
        for package, folder in SOURCES.items()
        for file in folder.rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    assert names == sources
    assert {"jaxmem/py.typed", "jaxmem_models/py.typed", "jaxmem_models/vgg.py"} <= names
    assert not any(name.startswith("models/") for name in names)


def test_the_wheel_says_who_it_is(wheel: Path) -> None:
    assert wheel.name.startswith(f"jaxmem-{jaxmem.__version__}-py3-none-any")
    with zipfile.ZipFile(wheel) as archive:
        folder = f"jaxmem-{jaxmem.__version__}.dist-info"
        assert "Apache License" in archive.read(f"{folder}/licenses/LICENSE").decode()
        assert archive.read(f"{folder}/entry_points.txt").decode().split() == [
            "[console_scripts]",
            "jaxmem",
            "=",
            "jaxmem.cli:main",
            "[pytest11]",
            "jaxmem",
            "=",
            "jaxmem.pytest_plugin",
        ]


def test_it_imports_from_its_own_place(python: Path, tmp_path: Path) -> None:
    code = "import jaxmem, jaxmem_models.vgg as vgg; print(jaxmem.__file__); print(vgg.__file__)"
    for file in run(str(python), "-c", code, cwd=tmp_path).split():
        assert Path(file).is_relative_to(python.parents[1])
    code = "import importlib.util; print(importlib.util.find_spec('models'))"
    assert run(str(python), "-c", code, cwd=tmp_path).strip() == "None"


def test_the_installed_command_lists_the_zoo(python: Path, tmp_path: Path) -> None:
    printed = run(str(python.with_name("jaxmem")), "models", cwd=tmp_path)
    assert "vgg16" in printed
    assert "138,357,544" in printed


def test_pytest_finds_its_plugin(python: Path, tmp_path: Path) -> None:
    """By its entry point; and ``-p no:jaxmem`` turns it off."""
    assert "--jaxmem-update" in run(str(python), "-m", "pytest", "--help", cwd=tmp_path)
    assert "--jaxmem-update" not in run(str(python), "-m", "pytest", "-p", "no:jaxmem", "--help", cwd=tmp_path)


def test_a_program_of_the_installed_zoo_is_built(python: Path, tmp_path: Path) -> None:
    code = (
        "from jaxmem_models.programs import build; "
        "spec = build('vgg16', mode='infer', batch_size=2); "
        "print(spec.function.eval_shape(*spec.arguments).shape)"
    )
    assert run(str(python), "-c", code, cwd=tmp_path).strip() == "(2, 1000)"
