"""MaxViT: Tu et al., MaxViT: Multi-Axis Vision Transformer (arXiv:2204.01697).

Figure 2 of the paper: a block is an inverted residual with squeeze-and-excitation, attention in windows, and attention in a
grid, whose pixels stand far apart. What the paper leaves open is torchvision's (maxvit.py), the scale of the scores too: it is
1 / √channels, not of one head. GELU is the exact one.
"""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxmem_models.layers import (
    ConvBatchNorm,
    Sequential,
    SqueezeExcitation,
    add,
    batch_norm,
    convolution,
    global_average_pool,
    run_layer,
    stochastic_depth,
)
from jaxmem_models.transformer import MLP
from jaxmem_models.windows import WindowAttention, from_windows, to_windows

# Table 1 of the paper: channels of the stem, channels and number of blocks of each stage; channels of a head.
CONFIGURATIONS: dict[str, tuple[int, tuple[int, ...], tuple[int, ...], int]] = {
    "T": (64, (64, 128, 256, 512), (2, 2, 5, 2), 32),
}

gelu = partial(nnx.gelu, approximate=False)
init = nnx.initializers.normal(0.02)


class MBConv(nnx.Module):
    """An inverted residual that normalizes first and whose last convolution has a bias and no normalization.

    Its layers: ``norm``, ``expand``, ``depthwise``, ``squeeze_excitation``, ``project``, ``stochastic_depth``; ``pool`` where
    the image is halved and ``shortcut`` where the shape changes; ``add``.

    Args:
        channels: of its input.
        width: of its result; between them, four times as many.
        strides: of ``depthwise``.
        drop_rate: of stochastic depth; 0 leaves its layers out.
        formats: ``dtype``, ``param_dtype`` and ``rngs``.
    """

    def __init__(self, channels: int, width: int, *, strides: int, drop_rate: float, **formats: Any) -> None:
        options: dict[str, Any] = formats | {"epsilon": 1e-3, "momentum": 0.99}
        hidden = 4 * width
        self.norm = batch_norm(channels, **options)
        self.expand = ConvBatchNorm(channels, hidden, 1, activation=gelu, **options)
        self.depthwise = ConvBatchNorm(hidden, hidden, 3, strides=strides, groups=hidden, activation=gelu, **options)
        self.squeeze_excitation = SqueezeExcitation(hidden, width // 4, activation=nnx.silu, **formats)
        self.project = convolution(hidden, width, 1, use_bias=True, **formats)
        self.names = ("norm", "expand", "depthwise", "squeeze_excitation", "project")
        if drop_rate:
            self.stochastic_depth = stochastic_depth(drop_rate, rngs=formats["rngs"])
            self.names += ("stochastic_depth",)
        self.pools = strides == 2
        self.reshapes = strides > 1 or channels != width
        if self.reshapes:
            self.shortcut = convolution(channels, width, 1, use_bias=True, **formats)

    def __call__(self, features: jax.Array) -> jax.Array:
        """Features [batch, height / strides, width / strides, channels]."""
        residual = features
        for name in self.names:
            residual = run_layer(self, name, residual)
        shortcut = features
        if self.pools:
            padding: Any = ((1, 1), (1, 1))  # Flax types it as text alone; the zeros count in the means
            with jax.named_scope("pool"):
                shortcut = nnx.avg_pool(shortcut, (3, 3), strides=(2, 2), padding=padding)
        if self.reshapes:
            shortcut = run_layer(self, "shortcut", shortcut)
        return add(shortcut, residual)


class PartitionAttention(nnx.Module):
    """Attention inside the parts of an image, and an MLP, each added to what came in.

    Its layers: ``partition``, ``norm1``, ``attention``, ``stochastic_depth1``, ``add1``, ``norm2``, ``mlp``,
    ``stochastic_depth2``, ``add2``, ``merge``.

    Args:
        channels: of a pixel.
        heads: of the attention.
        size: pixels of a part, in height and in width.
        grid: a part is a grid over the whole image, with equal distances, instead of a window of neighbours.
        drop_rate: of stochastic depth; 0 leaves its layers out.
        formats: ``dtype``, ``param_dtype`` and ``rngs``.
    """

    def __init__(self, channels: int, heads: int, size: int, *, grid: bool, drop_rate: float, **formats: Any) -> None:
        self.norm1 = nnx.LayerNorm(channels, epsilon=1e-5, **formats)
        self.attention = WindowAttention(channels, heads, size, scale=1 / math.sqrt(channels), init=init, **formats)
        self.norm2 = nnx.LayerNorm(channels, epsilon=1e-5, **formats)
        self.mlp = MLP(channels, 4 * channels, activation=gelu, init=init, project_init=init, **formats)
        self.drops = drop_rate > 0
        if self.drops:
            self.stochastic_depth1 = stochastic_depth(drop_rate, rngs=formats["rngs"])
            self.stochastic_depth2 = stochastic_depth(drop_rate, rngs=formats["rngs"])
        self.size, self.grid = size, grid

    def __call__(self, features: jax.Array) -> jax.Array:
        """Features [batch, height, width, channels] of features of that shape."""
        _, height, width, _ = features.shape
        with jax.named_scope("partition"):
            parts = to_grids(features, self.size) if self.grid else to_windows(features, self.size)
        for number, part in ((1, "attention"), (2, "mlp")):
            branch = run_layer(self, part, run_layer(self, f"norm{number}", parts))
            if self.drops:
                branch = run_layer(self, f"stochastic_depth{number}", branch)
            parts = add(parts, branch, name=f"add{number}")
        with jax.named_scope("merge"):
            return (from_grids if self.grid else from_windows)(parts, height, width)


def to_grids(features: jax.Array, size: int) -> jax.Array:
    """Cut [batch, height, width, channels] into grids of ``size`` by ``size`` pixels that lie evenly over the image."""
    batch, height, width, channels = features.shape
    features = features.reshape(batch, size, height // size, size, width // size, channels)
    features = features.transpose(0, 2, 4, 1, 3, 5)
    return features.reshape(batch, (height // size) * (width // size), size * size, channels)


def from_grids(grids: jax.Array, height: int, width: int) -> jax.Array:
    """The features that `to_grids` has cut."""
    batch, _, pixels, channels = grids.shape
    size = math.isqrt(pixels)
    grids = grids.reshape(batch, height // size, width // size, size, size, channels)
    return grids.transpose(0, 3, 1, 4, 2, 5).reshape(batch, height, width, channels)


class MaxViT(nnx.Module):
    """MaxViT.

    Its layers: ``stem/conv1``, ``stem/conv2``; ``stage1/block1/mbconv``, ``windows`` and ``grid`` ...; ``avgpool``, ``norm``,
    ``fc1``, ``fc2``.

    Args:
        configuration: ``T``.
        partition: height and width of a window and of a grid; 32 times as many pixels divide the image.
        drop_rate: of stochastic depth; it grows from 0 at the first block to this at the last.
        classes: width of ``fc2``.
        dtype: of the activations.
        param_dtype: of the parameters.
        remat: a policy of `jaxmem_models.remat` for each block.
    """

    def __init__(
        self,
        *,
        configuration: str,
        partition: int = 7,
        drop_rate: float = 0.2,
        classes: int = 1000,
        dtype: Any = jnp.float32,
        param_dtype: Any = jnp.float32,
        remat: str | None = None,
        rngs: nnx.Rngs,
    ) -> None:
        formats: dict[str, Any] = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        channels, widths, depths, head = CONFIGURATIONS[configuration]
        self.partition = partition
        conv1 = ConvBatchNorm(3, channels, 3, strides=2, activation=gelu, epsilon=1e-3, momentum=0.99, **formats)
        self.stem = Sequential({"conv1": conv1, "conv2": convolution(channels, channels, 3, use_bias=True, **formats)})
        built = 0
        for stage, (width, depth) in enumerate(zip(widths, depths, strict=True), start=1):
            blocks = {}
            for block in range(1, depth + 1):
                rate = drop_rate * built / (sum(depths) - 1)
                attention = partial(PartitionAttention, width, width // head, partition, drop_rate=rate, **formats)
                blocks[f"block{block}"] = Sequential(
                    {
                        "mbconv": MBConv(channels, width, strides=2 if block == 1 else 1, drop_rate=rate, **formats),
                        "windows": attention(grid=False),
                        "grid": attention(grid=True),
                    }
                )
                channels = width
                built += 1
            setattr(self, f"stage{stage}", Sequential(blocks, remat=remat))
        self.norm = nnx.LayerNorm(channels, epsilon=1e-5, **formats)
        self.fc1 = nnx.Linear(channels, channels, kernel_init=init, **formats)
        self.fc2 = nnx.Linear(channels, classes, use_bias=False, kernel_init=init, **formats)

    def __call__(self, images: jax.Array) -> jax.Array:
        """Logits [batch, classes] of images [batch, height, width, 3]."""
        multiple = 32 * self.partition
        if any(length % multiple or not length for length in images.shape[1:3]):
            raise ValueError(
                f"An image of {images.shape[1]} by {images.shape[2]} pixels does not divide into windows: MaxViT with "
                f"windows of {self.partition} needs a multiple of {multiple}."
            )
        features = run_layer(self, "stem", images)
        for stage in range(1, 5):
            features = run_layer(self, f"stage{stage}", features)
        with jax.named_scope("avgpool"):
            features = global_average_pool(features)
        features = run_layer(self, "fc1", run_layer(self, "norm", features), jnp.tanh)
        return run_layer(self, "fc2", features)
