"""Networks for phones, their descendants, and those that attend in windows: once more in NumPy, from the papers' tables.

Attention is computed between all pairs of pixels at once, with those of other windows left out: no window is ever cut.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import erf

from by_hand import CLOSE, Array, Network, pool, relu
from jaxmem_models import registry
from jaxmem_models.regnet import stages
from jaxmem_models.steps import infer

Activation = Callable[[Array], Array]


@pytest.fixture(autouse=True)
def on_cpu():
    with jax.default_device(jax.devices("cpu")[0]):
        yield


def relu6(features: Array) -> Array:
    return np.clip(features, 0, 6)


def sigmoid(features: Array) -> Array:
    return 1 / (1 + np.exp(-features))


def silu(features: Array) -> Array:
    return features * sigmoid(features)


def hard_sigmoid(features: Array) -> Array:
    return np.clip(features / 6 + 1 / 2, 0, 1)


def hard_swish(features: Array) -> Array:
    return features * hard_sigmoid(features)


def gelu(features: Array) -> Array:
    return features * (1 + erf(features / math.sqrt(2))) / 2


def identity(features: Array) -> Array:
    return features


def layer_norm(net: Network, path: str, features: Array, epsilon: float) -> Array:
    centred = features - features.mean(axis=-1, keepdims=True)
    deviation = np.sqrt((centred**2).mean(axis=-1, keepdims=True) + epsilon)
    return centred / deviation * net(f"{path}/scale") + net(f"{path}/bias")


def unit(net: Network, path: str, features: Array, activation: Activation, strides: int = 1, groups: int = 1) -> Array:
    """Convolution, batch normalization, activation."""
    padding = net.arrays[f"{path}/conv/kernel"].shape[0] // 2
    features = net.convolve(f"{path}/conv", features, strides=strides, padding=padding, groups=groups)
    return activation(net.normalize(f"{path}/bn", features))


def excite(net: Network, path: str, features: Array, activation: Activation, gate: Activation) -> Array:
    means = features.mean(axis=(1, 2), keepdims=True)
    return features * gate(net.convolve(f"{path}/fc2", activation(net.convolve(f"{path}/fc1", means))))


def inverted_residual(
    net: Network,
    path: str,
    features: Array,
    strides: int,
    activation: Activation,
    inside: Activation = relu,
    gate: Activation = sigmoid,
) -> Array:
    residual = features
    if f"{path}/expand/conv/kernel" in net.arrays:
        residual = unit(net, f"{path}/expand", residual, activation)
    residual = unit(net, f"{path}/depthwise", residual, activation, strides, residual.shape[-1])
    if f"{path}/squeeze_excitation/fc1/kernel" in net.arrays:
        residual = excite(net, f"{path}/squeeze_excitation", residual, inside, gate)
    residual = unit(net, f"{path}/project", residual, identity)
    return features + residual if residual.shape == features.shape and strides == 1 else residual


def head(net: Network, features: Array) -> Array:
    return net.dense("head/fc", features.mean(axis=(1, 2)))


def mobilenet_v2(net: Network, features: Array) -> Array:
    features = unit(net, "stem", features, relu6, 2)
    for stage, (count, strides) in enumerate(((1, 1), (2, 2), (3, 2), (4, 2), (3, 1), (3, 2), (1, 1)), start=1):
        for block in range(1, count + 1):
            path = f"stage{stage}/block{block}"
            features = inverted_residual(net, path, features, strides if block == 1 else 1, relu6)
    return head(net, unit(net, "last", features, relu6))


def mnasnet(net: Network, features: Array) -> Array:
    features = unit(net, "stem", features, relu, 2)
    for stage, (count, strides) in enumerate(((1, 1), (3, 2), (3, 2), (3, 2), (2, 1), (4, 2), (1, 1)), start=1):
        for block in range(1, count + 1):
            path = f"stage{stage}/block{block}"
            features = inverted_residual(net, path, features, strides if block == 1 else 1, relu)
    return head(net, unit(net, "last", features, relu))


def mobilenet_v3_small(net: Network, features: Array) -> Array:
    features = unit(net, "stem", features, hard_swish, 2)
    for block, strides in enumerate((2, 2, 1, 2, 1, 1, 1, 1, 2, 1, 1), start=1):
        activation = relu if block <= 3 else hard_swish
        features = inverted_residual(net, f"blocks/block{block}", features, strides, activation, relu, hard_sigmoid)
    features = unit(net, "last", features, hard_swish).mean(axis=(1, 2))
    return net.dense("fc2", hard_swish(net.dense("fc1", features)))


def efficientnet(net: Network, features: Array, counts: tuple[int, ...], strides: tuple[int, ...]) -> Array:
    features = unit(net, "stem", features, silu, 2)
    for stage, (count, first) in enumerate(zip(counts, strides, strict=True), start=1):
        for block in range(1, count + 1):
            path, step = f"stage{stage}/block{block}", first if block == 1 else 1
            if f"{path}/depthwise/conv/kernel" in net.arrays:
                features = inverted_residual(net, path, features, step, silu, silu)
                continue
            if f"{path}/conv/conv/kernel" in net.arrays:
                residual = unit(net, f"{path}/conv", features, silu, step)
            else:
                residual = unit(net, f"{path}/project", unit(net, f"{path}/expand", features, silu, step), identity)
            features = features + residual if step == 1 and residual.shape == features.shape else residual
    return head(net, unit(net, "last", features, silu))


def regnet(net: Network, features: Array, counts: tuple[int, ...], group_width: int) -> Array:
    features = unit(net, "stem", features, relu, 2)
    for stage, count in enumerate(counts, start=1):
        for block in range(1, count + 1):
            path, strides = f"stage{stage}/block{block}", 2 if block == 1 else 1
            residual = unit(net, f"{path}/conv1", features, relu)
            residual = unit(net, f"{path}/conv2", residual, relu, strides, residual.shape[-1] // group_width)
            if f"{path}/squeeze_excitation/fc1/kernel" in net.arrays:
                residual = excite(net, f"{path}/squeeze_excitation", residual, relu, sigmoid)
            residual = unit(net, f"{path}/conv3", residual, identity)
            if block == 1:
                features = unit(net, f"{path}/downsample", features, identity, 2)
            features = relu(features + residual)
    return head(net, features)


def shufflenet_v2(net: Network, features: Array) -> Array:
    features = pool(unit(net, "conv1", features, relu, 2), 3, 2, pads=((1, 1), (1, 1)))
    for stage, count in ((2, 4), (3, 8), (4, 4)):
        for block in range(1, count + 1):
            path, strides = f"stage{stage}/block{block}", 2 if block == 1 else 1
            if block == 1:
                first, second = features, features
                first = unit(net, f"{path}/branch1/depthwise", first, identity, 2, first.shape[-1])
                first = unit(net, f"{path}/branch1/project", first, relu)
            else:
                middle = features.shape[-1] // 2
                first, second = features[..., :middle], features[..., middle:]
            second = unit(net, f"{path}/branch2/conv1", second, relu)
            second = unit(net, f"{path}/branch2/depthwise", second, identity, strides, second.shape[-1])
            second = unit(net, f"{path}/branch2/conv2", second, relu)
            features = np.empty((*second.shape[:3], 2 * second.shape[-1]))
            features[..., 0::2], features[..., 1::2] = first, second
    return head(net, unit(net, "conv5", features, relu))


def mlp(net: Network, path: str, features: Array) -> Array:
    return net.dense(f"{path}/narrow", gelu(net.dense(f"{path}/widen", features)))


def convnext(net: Network, features: Array, counts: tuple[int, ...]) -> Array:
    features = net.convolve("stem/patchify", features, strides=4)
    features = layer_norm(net, "stem/norm", features, 1e-6)
    for stage, count in enumerate(counts, start=1):
        if stage > 1:
            features = layer_norm(net, f"downsample{stage}/norm", features, 1e-6)
            features = net.convolve(f"downsample{stage}/conv", features, strides=2)
        for block in range(1, count + 1):
            path = f"stage{stage}/block{block}"
            residual = net.convolve(f"{path}/depthwise", features, padding=3, groups=features.shape[-1])
            residual = mlp(net, f"{path}/mlp", layer_norm(net, f"{path}/norm", residual, 1e-6))
            features = features + residual * net(f"{path}/layer_scale/scale")
    return net.dense("fc", layer_norm(net, "norm", features.mean(axis=(1, 2)), 1e-6))


def attend(
    net: Network, path: str, features: Array, windows: Any, places: Any, size: int, heads: int, scale: float
) -> Array:
    """Attention between pixels of one window.

    Args:
        features: [height, width, channels].
        windows: [height * width, n]: two pixels are in one window where all n numbers agree.
        places: [height * width, 2], row and column in the window.
        size: of a window.
        scale: of the scores; 0 for cosines with trained factors.
    """
    height, width, channels = features.shape
    flat = features.reshape(-1, channels)
    together = (windows[:, None] == windows[None, :]).all(axis=-1)
    rows, columns = np.where(together[..., None], places[:, None] - places[None, :], 0).transpose(2, 0, 1)
    if scale:
        projected = net.dense(f"{path}/qkv", flat)
        table = net(f"{path}/position_bias/table")
    else:
        offset = net(f"{path}/qkv/bias").copy()
        offset[channels : 2 * channels] = 0
        projected = flat @ net(f"{path}/qkv/kernel") + offset
        distances = (pixels(2 * size - 1, 2 * size - 1) - (size - 1)) / (size - 1) * 8
        logarithms = np.sign(distances) * np.log2(1 + np.abs(distances)) / 3
        hidden = relu(net.dense(f"{path}/position_bias/fc1", logarithms))
        table = 16 * sigmoid(hidden @ net(f"{path}/position_bias/fc2/kernel"))
    bias = table[(rows + size - 1) * (2 * size - 1) + columns + size - 1]
    mixed = []
    for one in range(heads):
        queries, keys, values = (
            projected[:, part * channels :][:, one * channels // heads : (one + 1) * channels // heads]
            for part in range(3)
        )
        if scale:
            scores = queries @ keys.T * scale
        else:
            # The key of a pixel that pads the image is zero, for keys have no bias.
            queries, keys = (
                vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)
                for vectors in (queries, keys)
            )
            scores = queries @ keys.T * math.exp(min(net(f"{path}/scale/logarithm")[one], math.log(100)))
        weights = np.where(together, np.exp(scores + bias[..., one]), 0)
        mixed.append(weights / weights.sum(axis=-1, keepdims=True) @ values)
    return net.dense(f"{path}/project", np.concatenate(mixed, axis=-1)).reshape(height, width, channels)


def pixels(height: int, width: int) -> Any:
    return np.stack(np.meshgrid(np.arange(height), np.arange(width), indexing="ij"), axis=-1).reshape(-1, 2)


def shifted_windows(
    net: Network, path: str, features: Array, size: int, heads: int, shifted: bool, cosine: bool
) -> Array:
    height, width, channels = features.shape
    padded = np.zeros((math.ceil(height / size) * size, math.ceil(width / size) * size, channels))
    padded[:height, :width] = features
    where = pixels(*padded.shape[:2])
    extent = np.array(padded.shape[:2])
    shift = np.where(extent > size, size // 2, 0) if shifted else np.zeros(2, int)
    moved = (where - shift) % extent
    # Pixels that the shift carries to the other side share a window with others, and nothing else.
    windows = np.concatenate((moved // size, where < shift), axis=-1)
    scale = 0.0 if cosine else (channels / heads) ** -0.5
    return attend(net, path, padded, windows, moved % size, size, heads, scale)[:height, :width]


def swin(net: Network, features: Array, version: int) -> Array:
    size = 7 if version == 1 else 8
    features = layer_norm(net, "stem/norm", net.convolve("stem/patchify", features, strides=4), 1e-5)[0]
    for stage, (count, heads) in enumerate(((2, 3), (2, 6), (6, 12), (2, 24)), start=1):
        if stage > 1:
            height, width, channels = features.shape
            even = np.zeros((height + height % 2, width + width % 2, channels))
            even[:height, :width] = features
            corners = (even[0::2, 0::2], even[1::2, 0::2], even[0::2, 1::2], even[1::2, 1::2])
            features = np.concatenate(corners, axis=-1)
            if version == 1:
                features = layer_norm(net, f"merge{stage}/norm", features, 1e-5)
            features = features @ net(f"merge{stage}/reduce/kernel")
            if version == 2:
                features = layer_norm(net, f"merge{stage}/norm", features, 1e-5)
        for block in range(1, count + 1):
            path = f"stage{stage}/block{block}"
            for number in (1, 2):

                def normalize(features: Array, path: str = f"{path}/norm{number}") -> Array:
                    return layer_norm(net, path, features, 1e-5)

                branch = normalize(features) if version == 1 else features
                if number == 1:
                    branch = shifted_windows(
                        net, f"{path}/attention", branch, size, heads, block % 2 == 0, version == 2
                    )
                else:
                    branch = mlp(net, f"{path}/mlp", branch)
                features = features + (branch if version == 1 else normalize(branch))
    return head(net, layer_norm(net, "norm", features, 1e-5)[None])


def maxvit(net: Network, features: Array, size: int) -> Array:
    features = net.convolve("stem/conv2", unit(net, "stem/conv1", features, gelu, 2), padding=1)
    for stage, count in enumerate((2, 2, 5, 2), start=1):
        for block in range(1, count + 1):
            path, strides = f"stage{stage}/block{block}/mbconv", 2 if block == 1 else 1
            residual = unit(net, f"{path}/expand", net.normalize(f"{path}/norm", features), gelu)
            residual = unit(net, f"{path}/depthwise", residual, gelu, strides, residual.shape[-1])
            residual = excite(net, f"{path}/squeeze_excitation", residual, silu, sigmoid)
            residual = net.convolve(f"{path}/project", residual)
            if block == 1:
                features = net.convolve(f"{path}/shortcut", pool(features, 3, 2, np.mean, ((1, 1), (1, 1))))
            image = (features + residual)[0]
            height, width, channels = image.shape
            where, distance = pixels(height, width), np.array((height, width)) // size
            for part, windows, places in (
                ("windows", where // size, where % size),
                ("grid", where % distance, where // distance),
            ):
                path = f"stage{stage}/block{block}/{part}"
                branch = layer_norm(net, f"{path}/norm1", image, 1e-5)
                branch = attend(net, f"{path}/attention", branch, windows, places, size, channels // 32, channels**-0.5)
                image = image + branch
                image = image + mlp(net, f"{path}/mlp", layer_norm(net, f"{path}/norm2", image, 1e-5))
            features = image[None]
    features = layer_norm(net, "norm", features.mean(axis=(1, 2)), 1e-5)
    return np.tanh(net.dense("fc1", features)) @ net("fc2/kernel")


B_STRIDES, V2_STRIDES = (1, 2, 2, 2, 1, 2, 1), (1, 2, 2, 2, 1, 2)
CASES: dict[str, tuple[Any, int, dict[str, Any], dict[str, Any], float]] = {
    "convnext_tiny": (convnext, 37, {"counts": (3, 3, 9, 3)}, {}, 0.0),
    "efficientnet_b0": (efficientnet, 45, {"counts": (1, 2, 2, 3, 3, 4, 1), "strides": B_STRIDES}, {}, 1e-5),
    # A third of the blocks of each stage, rounded up, and half of their channels.
    "efficientnet_b5": (
        efficientnet,
        45,
        {"counts": (1, 1, 1, 1, 1, 2, 1), "strides": B_STRIDES},
        {"depth_multiplier": 0.33, "width_multiplier": 0.5},
        1e-3,
    ),
    "efficientnet_v2_s": (
        efficientnet,
        45,
        {"counts": (1, 2, 2, 2, 3, 5), "strides": V2_STRIDES},
        {"depth_multiplier": 0.33},
        1e-3,
    ),
    "maxvit_t": (maxvit, 64, {"size": 2}, {"partition": 2}, 1e-3),
    "mnasnet0_5": (mnasnet, 45, {}, {}, 1e-5),
    "mobilenet_v2": (mobilenet_v2, 45, {}, {}, 1e-5),
    "mobilenet_v3_small": (mobilenet_v3_small, 45, {}, {}, 1e-3),
    "regnet_x_400mf": (regnet, 45, {"counts": (1, 2, 7, 12), "group_width": 16}, {}, 1e-5),
    "regnet_y_400mf": (regnet, 45, {"counts": (1, 3, 6, 6), "group_width": 8}, {}, 1e-5),
    "shufflenet_v2_x0_5": (shufflenet_v2, 45, {}, {}, 1e-5),
    # 9 by 9 patches: the windows are padded and shifted, and the merging meets odd numbers.
    "swin_t": (swin, 36, {"version": 1}, {}, 0.0),
    "swin_v2_t": (swin, 36, {"version": 2}, {}, 0.0),
}
"""The function in NumPy, the image's size, what else it is told, arguments of the network, epsilon of batch normalization."""


@pytest.mark.parametrize("name", CASES)
def test_the_forward_pass_is_the_papers(name: str, with_random_arrays: Any) -> None:
    forward, size, options, arguments, epsilon = CASES[name]
    model = with_random_arrays(name, classes=10, **arguments)
    images = np.random.default_rng(3).standard_normal((1, size, size, 3))
    network = Network(model, epsilon)
    expected = forward(network, images, **options)
    found = np.asarray(jax.jit(infer)(model, jnp.asarray(images, jnp.float32)))
    assert not network.unused
    assert np.ptp(expected) > 0
    np.testing.assert_allclose(found, expected, rtol=0, atol=CLOSE * np.abs(expected).max())


def test_every_family_here_is_computed() -> None:
    families = (
        "convnext efficientnet maxvit mnasnet mobilenet_v2 mobilenet_v3 regnet shufflenet_v2 swin swin_v2".split()
    )
    assert {registry.find(name).family for name in CASES} == set(families)


def test_a_regnet_has_the_stages_of_the_paper() -> None:
    # Table 3 of arXiv:2003.13678: depths and widths of RegNetX-3.2GF, and Table 4: RegNetY-400MF.
    assert stages(25, 88, 26.31, 2.25, 48) == ((96, 2, 48), (192, 6, 48), (432, 15, 48), (1008, 2, 48))
    assert [row[:2] for row in stages(16, 48, 27.89, 2.09, 8)] == [(48, 1), (104, 3), (208, 6), (440, 6)]
