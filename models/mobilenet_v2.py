"""MobileNet v2: Sandler et al., MobileNetV2: Inverted Residuals and Linear Bottlenecks (arXiv:1801.04381).

Table 2 of the paper. Every convolution but the last of a block is followed by batch normalization and ReLU6; the last, the
linear bottleneck, by the normalization alone. The number of dropped features is torchvision's (mobilenetv2.py).
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxmem_models.layers import (
    Activation,
    Classifier,
    ConvBatchNorm,
    Residual,
    Sequential,
    round_width,
    run_layer,
)

# Table 2: expansion t, output channels c, number of blocks n, stride s of the first of them.
STAGES: tuple[tuple[int, int, int, int], ...] = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


def inverted_residual(
    channels: int,
    hidden: int,
    width: int,
    *,
    kernel_size: int = 3,
    strides: int,
    activation: Activation,
    squeeze_excitation: nnx.Module | None = None,
    drop_rate: float = 0.0,
    rngs: nnx.Rngs,
    **options: Any,
) -> Sequential:
    """Widen, convolve each channel by itself, narrow again; the narrow ends are added where their shapes agree.

    Its layers: ``expand`` (absent where nothing is widened), ``depthwise``, ``squeeze_excitation`` (where one is given),
    ``project``, ``stochastic_depth`` and ``add``.

    Args:
        channels: of its input.
        hidden: channels after ``expand``.
        width: channels of its result.
        kernel_size: of ``depthwise``.
        strides: of ``depthwise``.
        activation: after ``expand`` and ``depthwise``.
        squeeze_excitation: a layer of ``hidden`` channels.
        drop_rate: of stochastic depth.
        rngs: of the parameters and of stochastic depth.
        options: those of each `ConvBatchNorm`: ``dtype``, ``param_dtype``, ``epsilon`` and ``momentum``.
    """
    options |= {"rngs": rngs}
    layers: dict[str, nnx.Module] = {}
    if hidden != channels:
        layers["expand"] = ConvBatchNorm(channels, hidden, 1, activation=activation, **options)
    layers["depthwise"] = ConvBatchNorm(
        hidden, hidden, kernel_size, strides=strides, groups=hidden, activation=activation, **options
    )
    if squeeze_excitation is not None:
        layers["squeeze_excitation"] = squeeze_excitation
    layers["project"] = ConvBatchNorm(hidden, width, 1, activation=None, **options)
    if strides == 1 and channels == width:
        return Residual(layers, drop_rate=drop_rate, rngs=rngs)
    return Sequential(layers)


def inverted_residuals(
    channels: int, width: int, *, depth: int, expansion: int, strides: int, remat: str | None, **options: Any
) -> Sequential:
    """A stage: ``depth`` inverted residuals, ``block1`` and so on, of which the first has the strides and changes the width.

    Args:
        channels: of its input.
        width: of its result.
        depth: number of blocks.
        expansion: how many times as many channels a block has inside.
        strides: of the first block.
        remat: a policy of `jaxmem_models.remat` for each block.
        options: the rest of those of `inverted_residual`.
    """
    inputs = (channels,) + (width,) * (depth - 1)
    blocks = {
        f"block{block}": inverted_residual(
            channels, expansion * channels, width, strides=strides if block == 1 else 1, **options
        )
        for block, channels in enumerate(inputs, start=1)
    }
    return Sequential(blocks, remat=remat)


class MobileNetV2(nnx.Module):
    """MobileNet v2.

    Its layers: ``stem``, ``stage1/block1`` ... ``stage7/block1``, ``last``, ``head``. A stage is a row of Table 2.

    Args:
        classes: width of ``head/fc``.
        width_multiplier: of all channels but those of ``last``, which grow and do not shrink.
        dropout: the share of the last features that training drops.
        dtype: of the activations.
        param_dtype: of the parameters.
        remat: a policy of `jaxmem_models.remat` for each block.
    """

    def __init__(
        self,
        *,
        classes: int = 1000,
        width_multiplier: float = 1.0,
        dropout: float = 0.2,
        dtype: Any = jnp.float32,
        param_dtype: Any = jnp.float32,
        remat: str | None = None,
        rngs: nnx.Rngs,
    ) -> None:
        formats: dict[str, Any] = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        channels = round_width(32 * width_multiplier)
        self.stem = ConvBatchNorm(3, channels, 3, strides=2, activation=nnx.relu6, **formats)
        for stage, (expansion, width, depth, strides) in enumerate(STAGES, start=1):
            width = round_width(width * width_multiplier)
            blocks = inverted_residuals(
                channels,
                width,
                depth=depth,
                expansion=expansion,
                strides=strides,
                activation=nnx.relu6,
                remat=remat,
                **formats,
            )
            setattr(self, f"stage{stage}", blocks)
            channels = width
        width = round_width(1280 * max(1.0, width_multiplier))
        self.last = ConvBatchNorm(channels, width, 1, activation=nnx.relu6, **formats)
        self.head = Classifier(width, classes, dropout=dropout, **formats)

    def __call__(self, images: jax.Array) -> jax.Array:
        """Logits [batch, classes] of images [batch, height, width, 3]."""
        features = run_layer(self, "stem", images)
        for stage in range(1, len(STAGES) + 1):
            features = run_layer(self, f"stage{stage}", features)
        return run_layer(self, "head", run_layer(self, "last", features))
