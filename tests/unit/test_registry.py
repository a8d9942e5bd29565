"""The zoo's literal tables: their names, their counts beside torchvision's, and that reading them imports no JAX."""

import csv
import subprocess
import sys
from pathlib import Path

import pytest

from jaxmem_models import registry

TORCHVISION = Path(__file__).parents[1] / "data" / "torchvision_parameter_counts.csv"


@pytest.fixture(scope="module")
def torchvision() -> dict[str, dict[str, str]]:
    with TORCHVISION.open(newline="") as file:
        return {row["model"]: row for row in csv.DictReader(file)}


NOT_THERE = {"gpt2"}
"""Families that torchvision does not have."""


@pytest.mark.parametrize(
    "model", [model for model in registry.MODELS if model.family not in NOT_THERE], ids=lambda model: model.name
)
def test_counts_are_torchvisions(model: registry.Model, torchvision: dict[str, dict[str, str]]) -> None:
    row = torchvision[model.name]
    assert model.parameter_count == int(row["num_params"])
    assert model.batch_stat_count == int(row["bn_running_stat_elems"])
    assert model.image_size == int(row["input_px"])


def test_names_are_unique() -> None:
    assert [model.name for model in registry.MODELS if model.family == "vgg"] == [
        *("vgg11", "vgg13", "vgg16", "vgg19"),
        *("vgg11_bn", "vgg13_bn", "vgg16_bn", "vgg19_bn"),
    ]
    for table in (registry.MODELS, registry.OPTIMIZERS, registry.PRECISIONS):
        names = [row.name for row in table]
        assert len(set(names)) == len(names)


def test_a_name_is_found() -> None:
    assert registry.find("vgg16").parameter_count == 138_357_544
    assert registry.find_optimizer("adam").constructor == "adam"
    assert registry.find_precision("mixed").parameters == "float32"


@pytest.mark.parametrize(
    ("find", "name", "message"),
    [
        (registry.find, "vgg61", r"There is no model called 'vgg61'\. The nearest: vgg1[0-9_bn]*, "),
        (registry.find, "VGG16", r"There is no model called 'VGG16'\. The nearest: vgg16, "),
        (registry.find, "?", r"There is no model called '\?'\. There are: .*vgg11, vgg13, vgg16, "),
        (registry.find_optimizer, "adamm", r"There is no optimizer called 'adamm'\. The nearest: adam, "),
        (registry.find_precision, "float23", r"There is no dtype called 'float23'\. The nearest: float32, "),
    ],
)
def test_an_unknown_name_gets_the_nearest(find, name: str, message: str) -> None:
    with pytest.raises(registry.UnknownNameError, match=message):
        find(name)


def test_reading_the_registry_imports_no_jax() -> None:
    code = "import sys, jaxmem_models.registry; print(sorted({'jax', 'flax', 'optax', 'numpy'} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
