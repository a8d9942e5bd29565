"""Networks that another installed package adds to the zoo: a distribution in a folder, found by its metadata."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROWS = """
from jaxmem_models.registry import Model

def row(name, **other):
    return Model(name=name, family="perceptron", constructor="perceptrons.network:Perceptron",
                 arguments=(("hidden", 5),), parameter_count=5 * (8 * 8 * 3 + 1) + 2 * (5 + 1), batch_stat_count=0,
                 classes=2, image_size=8, reference="Rosenblatt 1958", **other)

MODELS = [row("{name}")]
def more():
    return [row("{name}_more")]
"""

NETWORK = """
import jax.numpy as jnp
from flax import nnx

class Perceptron(nnx.Module):
    def __init__(self, *, hidden, classes=2, dtype=jnp.float32, param_dtype=jnp.float32, remat=None, rngs):
        self.first = nnx.Linear(8 * 8 * 3, hidden, dtype=dtype, param_dtype=param_dtype, rngs=rngs)
        self.second = nnx.Linear(hidden, classes, dtype=dtype, param_dtype=param_dtype, rngs=rngs)

    def __call__(self, images):
        return self.second(nnx.relu(self.first(images.reshape(images.shape[0], -1))))
"""


def install(folder: Path, package: str, *, name: str, rows: str = ROWS, entry: str = "rows:MODELS") -> Path:
    """A distribution as pip leaves it: the package, and beside it the metadata that pip writes."""
    module = package.replace("-", "_")
    (folder / module).mkdir(parents=True)
    (folder / module / "__init__.py").write_text("")
    (folder / module / "rows.py").write_text(rows.replace("{name}", name))
    (folder / module / "network.py").write_text(NETWORK)
    metadata = folder / f"{module}-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(f"[jaxmem.models]\nnetworks = {module}.{entry}\n")
    return folder


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A command in a process in which the folder is a place for installed packages."""
    path = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path, "JAXMEM_CACHE_DIR": str(folder / "cache")}
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, check=False, env=environment, cwd=folder
    )


def jaxmem(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run(folder, "-m", "jaxmem", *arguments)


def test_it_is_listed_and_analysed_like_any_other(tmp_path: Path) -> None:
    folder = install(tmp_path, "perceptrons", name="perceptron")
    listed = jaxmem(folder, "models", "--format", "json")
    names = [row["name"] for row in json.loads(listed.stdout)["models"]]
    assert names[-1] == "perceptron"
    assert "vgg16" in names
    result = jaxmem(folder, "report", "perceptron", "--mode", "train", "-b", "3", "--format", "json", "-q")
    assert result.returncode == 0, result.stderr
    (report,) = json.loads(result.stdout)["reports"]
    assert report["program"]["parameter_count"] == 5 * 193 + 2 * 6
    assert report["roles"]["parameters"] == 4 * (5 * 193 + 2 * 6)
    assert report["unexplained_bytes"] == 0


def test_a_change_of_its_sources_is_another_request(tmp_path: Path) -> None:
    folder = install(tmp_path, "perceptrons", name="perceptron")
    command = ("report", "perceptron", "--mode", "infer", "--format", "json", "-q")
    first = json.loads(jaxmem(folder, *command).stdout)["reports"][0]
    network = folder / "perceptrons" / "network.py"
    network.write_text(network.read_text().replace("nnx.relu", "nnx.tanh").replace("hidden, dtype", "9, dtype"))
    network.write_text(network.read_text().replace("nnx.Linear(hidden", "nnx.Linear(9"))
    second = json.loads(jaxmem(folder, *command).stdout)["reports"][0]
    assert (first["program"]["parameter_count"], second["program"]["parameter_count"]) == (977, 9 * 193 + 2 * 10)


def test_rows_from_a_function_and_no_jax(tmp_path: Path) -> None:
    folder = install(tmp_path, "perceptrons", name="perceptron", entry="rows:more")
    code = (
        "import sys; from jaxmem_models.registry import find; print(find('perceptron_more').family,"
        " sorted({'jax', 'flax', 'optax', 'numpy', 'perceptrons.network'} & set(sys.modules)))"
    )
    assert run(folder, "-c", code).stdout.strip() == "perceptron []"


@pytest.mark.parametrize("owner", ["jaxmem", "others"])
def test_a_name_that_two_packages_register_names_both(tmp_path: Path, owner: str) -> None:
    name = "vgg16" if owner == "jaxmem" else "perceptron"
    install(tmp_path, "perceptrons", name=name)
    if owner != "jaxmem":
        install(tmp_path, owner, name=name)
    result = jaxmem(tmp_path, "estimate", "vgg16")
    assert result.returncode == 5
    assert "Traceback" not in result.stderr
    said = " ".join(result.stderr.split())
    assert f"Two models are called '{name}': one of the package {owner}, one of the package perceptrons." in said


@pytest.mark.parametrize(
    ("rows", "entry", "message"),
    [
        ("raise OSError('no disk')", "rows:MODELS", "which cannot be read: OSError: no disk."),
        ("", "rows:MODELS", "which cannot be read: AttributeError: "),
        ("MODELS = ['vgg']", "rows:MODELS", "which gives 'vgg': not a jaxmem_models.registry.Model."),
        (ROWS + "MODELS = [row('x', task='art')]", "rows:MODELS", "x: there is no task called 'art', only"),
        (ROWS + "MODELS = [row('x', task='language')]", "rows:MODELS", "a network for language has sequence_length"),
    ],
)
def test_what_cannot_be_read_names_the_package(tmp_path: Path, rows: str, entry: str, message: str) -> None:
    install(tmp_path, "perceptrons", name="perceptron", rows=rows, entry=entry)
    result = jaxmem(tmp_path, "models")
    assert result.returncode == 5
    said = " ".join(result.stderr.split())
    assert "The package perceptrons registers models with jaxmem as networks = 'perceptrons.rows:MODELS'" in said
    assert message in said
    assert "Mend or uninstall that package." in said
