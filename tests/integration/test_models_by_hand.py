"""Networks of the zoo computed once more in NumPy, from the papers' tables and each operation's definition.

Float64, evaluation mode, small images; nothing of JAX, nothing of the zoo's own code. A forgotten bias or statistic would
show: every vector of a network is drawn between 0.5 and 1.5.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from by_hand import CLOSE, Array, Network, average_to, pool, relu
from jaxmem_models import programs, registry
from jaxmem_models.steps import infer


@pytest.fixture(autouse=True)
def on_cpu():
    with jax.default_device(jax.devices("cpu")[0]):
        yield


def pool_rounding_up(features: Array, window: int, strides: int) -> Array:
    """A last window begins wherever there is a pixel left for it."""
    pads = []
    for length in features.shape[1:3]:
        starts = range(0, max(1, math.ceil((length - window) / strides) + 1) * strides, strides)
        pads.append((0, max(0, starts[-1] + window - length)))
    return pool(features, window, strides, pads=(pads[0], pads[1]))


def alexnet(net: Network, features: Array) -> Array:
    # The figure of arXiv:1404.5997's network: 11x11/4, pool, 5x5, pool, three 3x3, pool, and three dense layers.
    features = pool(relu(net.convolve("conv1", features, strides=4, padding=2)), 3, 2)
    features = pool(relu(net.convolve("conv2", features, padding=2)), 3, 2)
    for layer in ("conv3", "conv4", "conv5"):
        features = relu(net.convolve(layer, features, padding=1))
    features = average_to(pool(features, 3, 2), 6).reshape(len(features), -1)
    return net.dense("fc8", relu(net.dense("fc7", relu(net.dense("fc6", features)))))


def resnet(net: Network, features: Array, blocks: Sequence[int], groups: int = 1) -> Array:
    features = relu(net.normalize("bn1", net.convolve("conv1", features, strides=2, padding=3)))
    features = pool(features, 3, 2, pads=((1, 1), (1, 1)))
    for layer, count in enumerate(blocks, start=1):
        for block in range(1, count + 1):
            path = f"layer{layer}/block{block}"
            strides = 2 if layer > 1 and block == 1 else 1
            if f"{path}/conv3/kernel" in net.arrays:
                convolutions = ((1, 0, 1), (strides, 1, groups), (1, 0, 1))
            else:
                convolutions = ((strides, 1, 1), (1, 1, 1))
            residual = features
            for number, (step, padding, parts) in enumerate(convolutions, start=1):
                residual = net.convolve(f"{path}/conv{number}", residual, strides=step, padding=padding, groups=parts)
                residual = net.normalize(f"{path}/bn{number}", residual)
                residual = relu(residual) if number < len(convolutions) else residual
            if f"{path}/downsample/conv/kernel" in net.arrays:
                features = net.convolve(f"{path}/downsample/conv", features, strides=strides)
                features = net.normalize(f"{path}/downsample/bn", features)
            features = relu(features + residual)
    return net.dense("fc", features.mean(axis=(1, 2)))


def densenet121(net: Network, features: Array) -> Array:
    features = relu(net.normalize("norm0", net.convolve("conv0", features, strides=2, padding=3)))
    features = pool(features, 3, 2, pads=((1, 1), (1, 1)))
    for block, count in enumerate((6, 12, 24, 16), start=1):
        maps = [features]
        for layer in range(1, count + 1):
            path = f"denseblock{block}/layer{layer}"
            new = relu(net.normalize(f"{path}/norm1", np.concatenate(maps, axis=-1)))
            new = relu(net.normalize(f"{path}/norm2", net.convolve(f"{path}/conv1", new)))
            maps.append(net.convolve(f"{path}/conv2", new, padding=1))
        features = np.concatenate(maps, axis=-1)
        if block < 4:
            path = f"transition{block}"
            features = net.convolve(f"{path}/conv", relu(net.normalize(f"{path}/norm", features)))
            features = pool(features, 2, 2, np.mean)
    return net.dense("classifier", relu(net.normalize("norm5", features)).mean(axis=(1, 2)))


def squeezenet(net: Network, features: Array, pools: Sequence[int]) -> Array:
    features = pool_rounding_up(relu(net.convolve("conv1", features, strides=2)), 3, 2)
    for number in range(2, 10):
        squeezed = relu(net.convolve(f"fire{number}/squeeze1x1", features))
        expanded = [
            net.convolve(f"fire{number}/expand1x1", squeezed),
            net.convolve(f"fire{number}/expand3x3", squeezed, padding=1),
        ]
        features = relu(np.concatenate(expanded, axis=-1))
        if number in pools:
            features = pool_rounding_up(features, 3, 2)
    return relu(net.convolve("conv10", features)).mean(axis=(1, 2))


def googlenet(net: Network, features: Array) -> Array:
    features = pool_rounding_up(net.conv_bn_relu("conv1", features, strides=2, padding=3), 3, 2)
    features = net.conv_bn_relu("conv3", net.conv_bn_relu("conv2", features), padding=1)
    features = pool_rounding_up(features, 3, 2)
    for module in ("3a", "3b", "4a", "4b", "4c", "4d", "4e", "5a", "5b"):
        path = f"inception{module}"
        branches = [net.conv_bn_relu(f"{path}/branch1x1", features)]
        for size in ("3x3", "5x5"):
            reduced = net.conv_bn_relu(f"{path}/branch{size}/reduce", features)
            branches.append(net.conv_bn_relu(f"{path}/branch{size}/conv{size}", reduced, padding=1))
        pooled = pool(features, 3, 1, pads=((1, 1), (1, 1)))
        branches.append(net.conv_bn_relu(f"{path}/branch_pool/projection", pooled))
        features = np.concatenate(branches, axis=-1)
        if module in ("3b", "4e"):
            features = pool_rounding_up(features, 3 if module == "3b" else 2, 2)
    return net.dense("fc", features.mean(axis=(1, 2)))


def inception_v3(net: Network, features: Array) -> Array:
    def run(path: str, features: Array, *options: dict[str, Any]) -> Array:
        """conv1, conv2, ... of a branch, one for each set of options."""
        for number, chosen in enumerate(options, start=1):
            features = net.conv_bn_relu(f"{path}/conv{number}", features, **chosen)
        return features

    def pooled(path: str, features: Array) -> Array:
        return run(f"{path}/branch_pool", pool(features, 3, 1, np.mean, ((1, 1), (1, 1))), plain)

    def split(path: str, features: Array) -> Array:
        row = net.conv_bn_relu(f"{path}/split/row", features, padding=(0, 1))
        return np.concatenate((row, net.conv_bn_relu(f"{path}/split/column", features, padding=(1, 0))), axis=-1)

    plain, one, two, row, column, half = (
        {},
        {"padding": 1},
        {"padding": 2},
        {"padding": (0, 3)},
        {"padding": (3, 0)},
        {"strides": 2},
    )
    features = net.conv_bn_relu("conv1a", features, strides=2)
    features = net.conv_bn_relu("conv2b", net.conv_bn_relu("conv2a", features), padding=1)
    features = net.conv_bn_relu("conv4a", net.conv_bn_relu("conv3b", pool(features, 3, 2)))
    features = pool(features, 3, 2)
    for path in [f"mixed_{module}" for module in "5b 5c 5d 6a 6b 6c 6d 6e 7a 7b 7c".split()]:
        if path < "mixed_6":
            branches = [
                run(f"{path}/branch1x1", features, plain),
                run(f"{path}/branch5x5", features, plain, two),
                run(f"{path}/branch3x3double", features, plain, one, one),
                pooled(path, features),
            ]
        elif path == "mixed_6a":
            branches = [
                run(f"{path}/branch3x3", features, half),
                run(f"{path}/branch3x3double", features, plain, one, half),
                pool(features, 3, 2),
            ]
        elif path < "mixed_7":
            branches = [
                run(f"{path}/branch1x1", features, plain),
                run(f"{path}/branch7x7", features, plain, row, column),
                run(f"{path}/branch7x7double", features, plain, column, row, column, row),
                pooled(path, features),
            ]
        elif path == "mixed_7a":
            branches = [
                run(f"{path}/branch3x3", features, plain, half),
                run(f"{path}/branch7x7", features, plain, row, column, half),
                pool(features, 3, 2),
            ]
        else:
            branches = [
                run(f"{path}/branch1x1", features, plain),
                split(f"{path}/branch3x3", run(f"{path}/branch3x3", features, plain)),
                split(f"{path}/branch3x3double", run(f"{path}/branch3x3double", features, plain, one)),
                pooled(path, features),
            ]
        features = np.concatenate(branches, axis=-1)
    return net.dense("fc", features.mean(axis=(1, 2)))


def unet(net: Network, features: Array) -> Array:
    passed = []
    for level in range(1, 6):
        for layer in ("conv1", "conv2"):
            features = relu(net.convolve(f"contract{level}/{layer}", features, padding=1))
        if level < 5:
            passed.append(features)
            features = pool(features, 2, 2)
    for level in range(4, 0, -1):
        # Each pixel becomes 2x2, of which each is a matrix product of its own; Flax counts the matrices from behind.
        kernel = net(f"expand{level}/up/kernel")[::-1, ::-1]
        batch, height, width, _ = features.shape
        features = np.einsum("bhwc,ijco->bhiwjo", features, kernel).reshape(batch, 2 * height, 2 * width, -1)
        features = np.concatenate((passed.pop(), features + net(f"expand{level}/up/bias")), axis=-1)
        for layer in ("conv1", "conv2"):
            features = relu(net.convolve(f"expand{level}/{layer}", features, padding=1))
    return net.convolve("classifier", features)


CASES = {
    "alexnet": (alexnet, 63, {}),
    "densenet121": (densenet121, 45, {}),
    "googlenet": (googlenet, 50, {}),
    "inception_v3_no_auxiliary": (inception_v3, 97, {}),
    "resnet18": (resnet, 50, {"blocks": (2, 2, 2, 2)}),
    "resnet50": (resnet, 33, {"blocks": (3, 4, 6, 3)}),
    "resnext50_32x4d": (resnet, 33, {"blocks": (3, 4, 6, 3), "groups": 32}),
    "squeezenet1_0": (squeezenet, 55, {"pools": (4, 8)}),
    "squeezenet1_1": (squeezenet, 56, {"pools": (3, 5)}),
    "unet": (unet, 32, {}),
}
"""The function in NumPy, the image's size, and what else the function is told."""


@pytest.mark.parametrize("name", CASES)
def test_the_forward_pass_is_the_papers(name: str, with_random_arrays: Any) -> None:
    forward, size, options = CASES[name]
    row = registry.find(name)
    model = with_random_arrays(name, classes=10, **({"hidden": 32} if name == "alexnet" else {}))
    images = np.random.default_rng(3).standard_normal((1, size, size, row.channels))
    network = Network(model, 1e-3 if row.family in ("googlenet", "inception_v3") else 1e-5)
    expected = forward(network, images, **options)
    found = np.asarray(jax.jit(infer)(model, jnp.asarray(images, jnp.float32)))
    assert not network.unused
    assert np.ptp(expected) > 0
    np.testing.assert_allclose(found, expected, rtol=0, atol=CLOSE * np.abs(expected).max())


def head_and_features(model: Any) -> tuple[Network, Array]:
    """The arrays of an auxiliary classifier, and features of the size that its network hands it at the paper's size."""
    network = Network(model, 1e-3)
    channels = next(array.shape[2] for array in network.arrays.values() if array.ndim == 4)
    size = 14 if channels == 512 else 17
    return network, np.random.default_rng(4).standard_normal((2, size, size, channels))


def test_the_auxiliary_classifier_of_googlenet_is_the_papers(with_random_arrays: Any) -> None:
    model = with_random_arrays("googlenet_auxiliary", classes=10).auxiliary1
    network, features = head_and_features(model)
    expected = network.conv_bn_relu("conv", average_to(features, 4)).reshape(2, -1)
    expected = network.dense("fc2", relu(network.dense("fc1", expected)))
    found = jax.jit(infer)(model, jnp.asarray(features, jnp.float32))
    assert not network.unused
    np.testing.assert_allclose(found, expected, rtol=0, atol=CLOSE * np.abs(expected).max())


def test_the_auxiliary_classifier_of_inception_v3_is_the_authors(with_random_arrays: Any) -> None:
    model = with_random_arrays("inception_v3", classes=10).auxiliary
    network, features = head_and_features(model)
    expected = network.conv_bn_relu("conv1", network.conv_bn_relu("conv0", pool(features, 5, 3, np.mean)))
    expected = network.dense("fc", expected.mean(axis=(1, 2)))
    found = jax.jit(infer)(model, jnp.asarray(features, jnp.float32))
    assert not network.unused
    np.testing.assert_allclose(found, expected, rtol=0, atol=CLOSE * np.abs(expected).max())


@pytest.mark.parametrize(("name", "heads"), [("googlenet_auxiliary", 3), ("inception_v3", 2)])
def test_auxiliary_logits_are_returned_in_training_alone(name: str, heads: int) -> None:
    model = programs.abstract_model(name)
    size = registry.find(name).image_size
    images = jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32)
    every_logits = nnx.eval_shape(infer, model, images)
    assert [logits.shape for logits in every_logits] == [(2, 1000)] * heads
    model.eval()
    assert nnx.eval_shape(infer, model, images).shape == (2, 1000)


def test_training_normalizes_with_the_batch_and_keeps_a_tenth_of_its_statistics(with_random_arrays: Any) -> None:
    model = with_random_arrays("resnet18", classes=10)
    model.train()
    network = Network(model)
    images = np.random.default_rng(5).standard_normal((3, 16, 16, 3))
    features = network.convolve("conv1", images, strides=2, padding=3)
    before = {name: network(f"bn1/{name}") for name in ("mean", "var")}
    nnx.jit(infer)(model, jnp.asarray(images, jnp.float32))
    for name, of_batch in (("mean", features.mean(axis=(0, 1, 2))), ("var", features.var(axis=(0, 1, 2)))):
        found = getattr(model.bn1, name).get_value()
        np.testing.assert_allclose(found, 0.9 * before[name] + 0.1 * of_batch, rtol=1e-4)
