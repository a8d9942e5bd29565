"""RegNet: Radosavovic et al., Designing Network Design Spaces (arXiv:2003.13678), RegNetX and RegNetY.

Section 3.3 of the paper: a network of the design space is four numbers and the width of its groups, from which the depth and
the width of every stage follow. The numbers are those of torchvision (regnet.py), a little beside the paper's.
"""

import math
from itertools import groupby
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxmem_models.layers import (
    Classifier,
    ConvBatchNorm,
    Sequential,
    SqueezeExcitation,
    add,
    round_width,
    run_layer,
)


def stages(depth: int, w0: int, wa: float, wm: float, group_width: int) -> tuple[tuple[int, int, int], ...]:
    """Width, number of blocks and group width of each stage: equations 2 to 4 of the paper.

    Block j wants the width ``u_j = w0 + wa j``. It gets the nearest ``w0 wm^s`` with a whole s, as a multiple of 8. Blocks of
    one width are a stage. At last each width is made a multiple of the group's, which is never wider than the stage.
    """
    exponents = [round(math.log(1 + wa * block / w0) / math.log(wm)) for block in range(depth)]
    widths = [8 * round(w0 * wm**exponent / 8) for exponent in exponents]
    counts = [(width, len(tuple(blocks))) for width, blocks in groupby(widths)]
    return tuple(
        (round_width(width, min(group_width, width)), count, min(group_width, width)) for width, count in counts
    )


class Bottleneck(nnx.Module):
    """The X block, and with squeeze-and-excitation the Y block: 1x1, grouped 3x3 and 1x1 convolutions, all of one width.

    Its layers: ``conv1``, ``conv2``, ``squeeze_excitation`` in a Y block, ``conv3``, ``downsample`` where the shape changes,
    ``add``.

    Args:
        channels: of its input.
        width: of its convolutions and its result.
        strides: of ``conv2`` and ``downsample``.
        group_width: channels of each group of ``conv2``.
        squeeze_ratio: channels that squeeze-and-excitation keeps, of those of the input; 0 makes an X block.
        formats: ``dtype``, ``param_dtype`` and ``rngs``.
    """

    def __init__(
        self, channels: int, width: int, *, strides: int, group_width: int, squeeze_ratio: float, **formats: Any
    ) -> None:
        layers: dict[str, nnx.Module] = {
            "conv1": ConvBatchNorm(channels, width, 1, **formats),
            "conv2": ConvBatchNorm(width, width, 3, strides=strides, groups=width // group_width, **formats),
        }
        if squeeze_ratio:
            layers["squeeze_excitation"] = SqueezeExcitation(width, round(squeeze_ratio * channels), **formats)
        layers["conv3"] = ConvBatchNorm(width, width, 1, activation=None, **formats)
        for name, layer in layers.items():
            setattr(self, name, layer)
        self.names = tuple(layers)
        self.reshapes = strides > 1 or channels != width
        if self.reshapes:
            self.downsample = ConvBatchNorm(channels, width, 1, strides=strides, activation=None, **formats)

    def __call__(self, features: jax.Array) -> jax.Array:
        """Features [batch, height / strides, width / strides, channels]."""
        residual = features
        for name in self.names:
            residual = run_layer(self, name, residual)
        shortcut = run_layer(self, "downsample", features) if self.reshapes else features
        return add(shortcut, residual, nnx.relu)


class RegNet(nnx.Module):
    """RegNetX and RegNetY.

    Its layers: ``stem``, ``stage1/block1`` ..., ``head``.

    Args:
        depth: number of blocks, d in the paper.
        w0, wa, wm: initial width, slope and multiplier, from which the widths follow.
        group_width: channels of a group, g.
        squeeze_ratio: 0 for RegNetX, a quarter for RegNetY.
        classes: width of ``head/fc``.
        dtype: of the activations.
        param_dtype: of the parameters.
        remat: a policy of `jaxmem_models.remat` for each block.
    """

    def __init__(
        self,
        *,
        depth: int,
        w0: int,
        wa: float,
        wm: float,
        group_width: int,
        squeeze_ratio: float = 0.0,
        classes: int = 1000,
        dtype: Any = jnp.float32,
        param_dtype: Any = jnp.float32,
        remat: str | None = None,
        rngs: nnx.Rngs,
    ) -> None:
        formats: dict[str, Any] = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        channels = 32
        self.stem = ConvBatchNorm(3, channels, 3, strides=2, **formats)
        self.stages = stages(depth, w0, wa, wm, group_width)
        for stage, (width, count, group) in enumerate(self.stages, start=1):
            blocks = {}
            for block in range(1, count + 1):
                blocks[f"block{block}"] = Bottleneck(
                    channels,
                    width,
                    strides=2 if block == 1 else 1,
                    group_width=group,
                    squeeze_ratio=squeeze_ratio,
                    **formats,
                )
                channels = width
            setattr(self, f"stage{stage}", Sequential(blocks, remat=remat))
        self.head = Classifier(channels, classes, **formats)

    def __call__(self, images: jax.Array) -> jax.Array:
        """Logits [batch, classes] of images [batch, height, width, 3]."""
        features = run_layer(self, "stem", images)
        for stage in range(1, len(self.stages) + 1):
            features = run_layer(self, f"stage{stage}", features)
        return run_layer(self, "head", features)
