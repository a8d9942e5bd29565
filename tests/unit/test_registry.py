"""The zoo's literal tables: their names, their counts beside torchvision's, and that reading them imports no JAX."""

import csv
import subprocess
import sys
from pathlib import Path

import pytest

from jaxmem_models import registry

TORCHVISION = Path(__file__).parents[1] / "data" / "torchvision_parameter_counts.csv"


NOT_THERE = {"gpt2", "llama", "unet"}
"""Families that torchvision does not have."""

OTHER_HEADS = {"googlenet_auxiliary", "inception_v3_no_auxiliary"}
"""Networks of which torchvision counts the variant with the other heads; their counts are derived in a test below."""


@pytest.fixture(scope="module")
def torchvision() -> dict[str, dict[str, str]]:
    with TORCHVISION.open(newline="") as file:
        return {row["model"]: row for row in csv.DictReader(file)}


@pytest.mark.parametrize(
    "model",
    [model for model in registry.MODELS if model.family not in NOT_THERE and model.name not in OTHER_HEADS],
    ids=lambda model: model.name,
)
def test_counts_are_torchvisions(model: registry.Model, torchvision: dict[str, dict[str, str]]) -> None:
    row = torchvision[model.name]
    assert model.parameter_count == int(row["num_params"])
    assert model.batch_stat_count == int(row["bn_running_stat_elems"])
    assert model.image_size == int(row["input_px"])


def test_auxiliary_classifiers_add_their_layers() -> None:
    def conv_bn(channels: int, filters: int, kernel: int = 1) -> int:
        return kernel * kernel * channels * filters + 2 * filters

    def dense(inputs: int, outputs: int) -> int:
        return inputs * outputs + outputs

    plain, auxiliary = registry.find("googlenet"), registry.find("googlenet_auxiliary")
    heads = sum(conv_bn(channels, 128) + dense(4 * 4 * 128, 1024) + dense(1024, 1000) for channels in (512, 528))
    assert auxiliary.parameter_count - plain.parameter_count == heads
    assert auxiliary.batch_stat_count - plain.batch_stat_count == 2 * 2 * 128

    plain, auxiliary = registry.find("inception_v3_no_auxiliary"), registry.find("inception_v3")
    head = conv_bn(768, 128) + conv_bn(128, 768, 5) + dense(768, 1000)
    assert auxiliary.parameter_count - plain.parameter_count == head
    assert auxiliary.batch_stat_count - plain.batch_stat_count == 2 * (128 + 768)


def test_the_count_of_unet_follows_from_the_figure() -> None:
    """Figure 1 of the paper: the channels at each arrow, from one of the image to the map of two classes."""

    def convolution(channels: int, filters: int, kernel: int) -> int:
        return kernel * kernel * channels * filters + filters

    down = [(1, 64), (64, 64), (64, 128), (128, 128), (128, 256), (256, 256), (256, 512), (512, 512)]
    bottom = [(512, 1024), (1024, 1024)]
    up = [(1024, 512), (512, 512), (512, 256), (256, 256), (256, 128), (128, 128), (128, 64), (64, 64)]
    count = sum(convolution(*channels, 3) for channels in down + bottom + up)
    count += sum(convolution(2 * width, width, 2) for width in (512, 256, 128, 64)) + convolution(64, 2, 1)
    assert registry.find("unet").parameter_count == count == 31_030_658


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
