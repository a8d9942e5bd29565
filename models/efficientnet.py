"""EfficientNet, both versions, of Tan and Le: EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks
(arXiv:1905.11946) and EfficientNetV2: Smaller Models and Faster Training (arXiv:2104.00298).

Table 1 of the first paper, Table 4 of the second and what its authors published for M and L. B1 to B7 widen and deepen B0.
What the papers leave open is torchvision's (efficientnet.py). SiLU throughout.
"""

import math
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx

from jaxmem_models.layers import (
    Classifier,
    ConvBatchNorm,
    Residual,
    Sequential,
    SqueezeExcitation,
    round_width,
    run_layer,
)
from jaxmem_models.mobilenet_v2 import inverted_residual

Stage = tuple[Literal["MBConv", "FusedMBConv"], int, int, int, int, int]
"""Kind of block, expansion, kernel, stride of the first block, channels, number of blocks."""

B0: tuple[Stage, ...] = (
    ("MBConv", 1, 3, 1, 16, 1),
    ("MBConv", 6, 3, 2, 24, 2),
    ("MBConv", 6, 5, 2, 40, 2),
    ("MBConv", 6, 3, 2, 80, 3),
    ("MBConv", 6, 5, 1, 112, 3),
    ("MBConv", 6, 5, 2, 192, 4),
    ("MBConv", 6, 3, 1, 320, 1),
)
V2_S: tuple[Stage, ...] = (
    ("FusedMBConv", 1, 3, 1, 24, 2),
    ("FusedMBConv", 4, 3, 2, 48, 4),
    ("FusedMBConv", 4, 3, 2, 64, 4),
    ("MBConv", 4, 3, 2, 128, 6),
    ("MBConv", 6, 3, 1, 160, 9),
    ("MBConv", 6, 3, 2, 256, 15),
)
V2_M: tuple[Stage, ...] = (
    ("FusedMBConv", 1, 3, 1, 24, 3),
    ("FusedMBConv", 4, 3, 2, 48, 5),
    ("FusedMBConv", 4, 3, 2, 80, 5),
    ("MBConv", 4, 3, 2, 160, 7),
    ("MBConv", 6, 3, 1, 176, 14),
    ("MBConv", 6, 3, 2, 304, 18),
    ("MBConv", 6, 3, 1, 512, 5),
)
V2_L: tuple[Stage, ...] = (
    ("FusedMBConv", 1, 3, 1, 32, 4),
    ("FusedMBConv", 4, 3, 2, 64, 7),
    ("FusedMBConv", 4, 3, 2, 96, 7),
    ("MBConv", 4, 3, 2, 192, 10),
    ("MBConv", 6, 3, 1, 224, 19),
    ("MBConv", 6, 3, 2, 384, 25),
    ("MBConv", 6, 3, 1, 640, 7),
)
CONFIGURATIONS: dict[str, tuple[int, tuple[Stage, ...]]] = {
    "B": (32, B0),
    "V2-S": (24, V2_S),
    "V2-M": (24, V2_M),
    "V2-L": (32, V2_L),
}
"""Channels of the stem, and the stages."""


def fused_mbconv(
    channels: int,
    hidden: int,
    width: int,
    *,
    kernel_size: int,
    strides: int,
    drop_rate: float,
    rngs: nnx.Rngs,
    **options: Any,
) -> Sequential:
    """A block whose first convolution widens and looks around at once.

    Its layers: ``expand`` and ``project``, or ``conv`` alone where nothing is widened; ``stochastic_depth`` and ``add`` where
    input and result have one shape. The arguments are those of `inverted_residual`.
    """
    options |= {"rngs": rngs}
    layers: dict[str, nnx.Module]
    if hidden == channels:
        layers = {"conv": ConvBatchNorm(channels, width, kernel_size, strides=strides, activation=nnx.silu, **options)}
    else:
        layers = {
            "expand": ConvBatchNorm(channels, hidden, kernel_size, strides=strides, activation=nnx.silu, **options),
            "project": ConvBatchNorm(hidden, width, 1, activation=None, **options),
        }
    if strides == 1 and channels == width:
        return Residual(layers, drop_rate=drop_rate, rngs=rngs)
    return Sequential(layers)


def mbconv(channels: int, hidden: int, width: int, **options: Any) -> Sequential:
    """An inverted residual with squeeze-and-excitation, to a quarter of the channels that enter the block."""
    formats = {name: options[name] for name in ("dtype", "param_dtype", "rngs")}
    squeeze_excitation = SqueezeExcitation(hidden, max(1, channels // 4), activation=nnx.silu, **formats)
    return inverted_residual(
        channels, hidden, width, activation=nnx.silu, squeeze_excitation=squeeze_excitation, **options
    )


class EfficientNet(nnx.Module):
    """EfficientNet B0 to B7, and V2 S, M and L.

    Its layers: ``stem``, ``stage1/block1`` ..., ``last``, ``head``. A stage is a row of the papers' tables.

    Args:
        configuration: a name in `CONFIGURATIONS`.
        width_multiplier: of all channels; each is rounded to a multiple of 8.
        depth_multiplier: of the number of blocks of each stage, rounded up.
        dropout: the share of the last features that training drops.
        drop_rate: of stochastic depth; it grows from 0 at the first block almost to this at the last.
        epsilon, momentum: of batch normalization.
        classes: width of ``head/fc``.
        dtype: of the activations.
        param_dtype: of the parameters.
        remat: a policy of `jaxmem_models.remat` for each block.
    """

    def __init__(
        self,
        *,
        configuration: str,
        width_multiplier: float = 1.0,
        depth_multiplier: float = 1.0,
        dropout: float = 0.2,
        drop_rate: float = 0.2,
        epsilon: float = 1e-5,
        momentum: float = 0.9,
        classes: int = 1000,
        dtype: Any = jnp.float32,
        param_dtype: Any = jnp.float32,
        remat: str | None = None,
        rngs: nnx.Rngs,
    ) -> None:
        formats: dict[str, Any] = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        options: dict[str, Any] = formats | {"epsilon": epsilon, "momentum": momentum}
        stem, stages = CONFIGURATIONS[configuration]
        depths = [math.ceil(depth * depth_multiplier) for *_, depth in stages]
        channels = round_width(stem * width_multiplier)
        self.stem = ConvBatchNorm(3, channels, 3, strides=2, activation=nnx.silu, **options)
        self.stages = len(stages)
        built = 0
        for stage, (kind, expansion, kernel_size, strides, width, _) in enumerate(stages, start=1):
            width = round_width(width * width_multiplier)
            blocks = {}
            for block in range(1, depths[stage - 1] + 1):
                blocks[f"block{block}"] = (mbconv if kind == "MBConv" else fused_mbconv)(
                    channels,
                    round_width(channels * expansion),
                    width,
                    kernel_size=kernel_size,
                    strides=strides if block == 1 else 1,
                    drop_rate=drop_rate * built / sum(depths),
                    **options,
                )
                channels = width
                built += 1
            setattr(self, f"stage{stage}", Sequential(blocks, remat=remat))
        width = round_width(1280 * width_multiplier)
        self.last = ConvBatchNorm(channels, width, 1, activation=nnx.silu, **options)
        self.head = Classifier(width, classes, dropout=dropout, **formats)

    def __call__(self, images: jax.Array) -> jax.Array:
        """Logits [batch, classes] of images [batch, height, width, 3]."""
        features = run_layer(self, "stem", images)
        for stage in range(1, self.stages + 1):
            features = run_layer(self, f"stage{stage}", features)
        return run_layer(self, "head", run_layer(self, "last", features))
