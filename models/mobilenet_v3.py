"""MobileNet v3: Howard et al., Searching for MobileNetV3 (arXiv:1905.02244), Large and Small.

Tables 1 and 2 of the paper: the inverted residuals of version 2, most with squeeze-and-excitation, the later ones with the
hard swish in place of the ReLU. Widths of squeeze-and-excitation and the normalization are torchvision's (mobilenetv3.py).
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxmem_models.layers import (
    ConvBatchNorm,
    Sequential,
    SqueezeExcitation,
    global_average_pool,
    round_width,
    run_layer,
)
from jaxmem_models.mobilenet_v2 import inverted_residual

# Tables 1 and 2, a row a block: kernel, channels inside, channels out, squeeze-and-excitation, nonlinearity, stride.
Row = tuple[int, int, int, bool, str, int]
LARGE: tuple[Row, ...] = (
    (3, 16, 16, False, "RE", 1),
    (3, 64, 24, False, "RE", 2),
    (3, 72, 24, False, "RE", 1),
    (5, 72, 40, True, "RE", 2),
    (5, 120, 40, True, "RE", 1),
    (5, 120, 40, True, "RE", 1),
    (3, 240, 80, False, "HS", 2),
    (3, 200, 80, False, "HS", 1),
    (3, 184, 80, False, "HS", 1),
    (3, 184, 80, False, "HS", 1),
    (3, 480, 112, True, "HS", 1),
    (3, 672, 112, True, "HS", 1),
    (5, 672, 160, True, "HS", 2),
    (5, 960, 160, True, "HS", 1),
    (5, 960, 160, True, "HS", 1),
)
SMALL: tuple[Row, ...] = (
    (3, 16, 16, True, "RE", 2),
    (3, 72, 24, False, "RE", 2),
    (3, 88, 24, False, "RE", 1),
    (5, 96, 40, True, "HS", 2),
    (5, 240, 40, True, "HS", 1),
    (5, 240, 40, True, "HS", 1),
    (5, 120, 48, True, "HS", 1),
    (5, 144, 48, True, "HS", 1),
    (5, 288, 96, True, "HS", 2),
    (5, 576, 96, True, "HS", 1),
    (5, 576, 96, True, "HS", 1),
)
CONFIGURATIONS: dict[str, tuple[tuple[Row, ...], int]] = {"Large": (LARGE, 1280), "Small": (SMALL, 1024)}
"""The blocks, and the width of the first dense layer."""


class MobileNetV3(nnx.Module):
    """MobileNet v3.

    Its layers: ``stem``, ``blocks/block1`` ..., ``last``, ``avgpool``, ``fc1``, ``drop``, ``fc2``.

    Args:
        configuration: ``Large`` or ``Small``.
        dropout: the share of the features of ``fc1`` that training drops.
        classes: width of ``fc2``.
        dtype: of the activations.
        param_dtype: of the parameters.
        remat: a policy of `jaxmem_models.remat` for each block.
    """

    def __init__(
        self,
        *,
        configuration: str,
        dropout: float = 0.2,
        classes: int = 1000,
        dtype: Any = jnp.float32,
        param_dtype: Any = jnp.float32,
        remat: str | None = None,
        rngs: nnx.Rngs,
    ) -> None:
        formats: dict[str, Any] = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        options: dict[str, Any] = formats | {"epsilon": 1e-3, "momentum": 0.99}
        rows, hidden = CONFIGURATIONS[configuration]
        channels = 16
        self.stem = ConvBatchNorm(3, channels, 3, strides=2, activation=nnx.hard_swish, **options)
        blocks = {}
        for number, (kernel_size, inside, width, squeezes, nonlinearity, strides) in enumerate(rows, start=1):
            squeeze_excitation = None
            if squeezes:
                squeeze_excitation = SqueezeExcitation(
                    inside, round_width(inside // 4), gate=nnx.hard_sigmoid, **formats
                )
            blocks[f"block{number}"] = inverted_residual(
                channels,
                inside,
                width,
                kernel_size=kernel_size,
                strides=strides,
                activation=nnx.hard_swish if nonlinearity == "HS" else nnx.relu,
                squeeze_excitation=squeeze_excitation,
                **options,
            )
            channels = width
        self.blocks = Sequential(blocks, remat=remat)
        self.last = ConvBatchNorm(channels, 6 * channels, 1, activation=nnx.hard_swish, **options)
        kernel_init = nnx.initializers.normal(0.01)
        self.fc1 = nnx.Linear(6 * channels, hidden, kernel_init=kernel_init, **formats)
        self.drop = nnx.Dropout(dropout, rngs=rngs)
        self.fc2 = nnx.Linear(hidden, classes, kernel_init=kernel_init, **formats)

    def __call__(self, images: jax.Array) -> jax.Array:
        """Logits [batch, classes] of images [batch, height, width, 3]."""
        features = run_layer(self, "blocks", run_layer(self, "stem", images))
        features = run_layer(self, "last", features)
        with jax.named_scope("avgpool"):
            features = global_average_pool(features)
        features = run_layer(self, "fc1", features, nnx.hard_swish)
        return run_layer(self, "fc2", run_layer(self, "drop", features))
