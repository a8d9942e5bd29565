"""MNASNet: Tan et al., MnasNet: Platform-Aware Neural Architecture Search for Mobile (arXiv:1807.11626), MnasNet-B1.

Figure 7 of the first version of the paper: the blocks are the inverted residuals of MobileNet v2, with plain ReLU. Scaled
widths and the slow normalization are torchvision's (mnasnet.py).
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxmem_models.layers import Classifier, ConvBatchNorm, round_width, run_layer
from jaxmem_models.mobilenet_v2 import inverted_residuals

# Kernel, stride of the first block, expansion, channels, number of blocks. The first row, which widens nothing, is SepConv.
STAGES: tuple[tuple[int, int, int, int, int], ...] = (
    (3, 1, 1, 16, 1),
    (3, 2, 3, 24, 3),
    (5, 2, 3, 40, 3),
    (5, 2, 6, 80, 3),
    (3, 1, 6, 96, 2),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)


class MNASNet(nnx.Module):
    """MNASNet.

    Its layers: ``stem``, ``stage1/block1`` ... ``stage7/block1``, ``last``, ``head``.

    Args:
        width_multiplier: of all channels but the 1280 of ``last``; each is rounded to a multiple of 8.
        dropout: the share of the last features that training drops.
        classes: width of ``head/fc``.
        dtype: of the activations.
        param_dtype: of the parameters.
        remat: a policy of `jaxmem_models.remat` for each block.
    """

    def __init__(
        self,
        *,
        width_multiplier: float = 1.0,
        dropout: float = 0.2,
        classes: int = 1000,
        dtype: Any = jnp.float32,
        param_dtype: Any = jnp.float32,
        remat: str | None = None,
        rngs: nnx.Rngs,
    ) -> None:
        formats: dict[str, Any] = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        options: dict[str, Any] = formats | {"momentum": 0.9997}
        channels = round_width(32 * width_multiplier)
        self.stem = ConvBatchNorm(3, channels, 3, strides=2, **options)
        for stage, (kernel_size, strides, expansion, width, depth) in enumerate(STAGES, start=1):
            width = round_width(width * width_multiplier)
            blocks = inverted_residuals(
                channels,
                width,
                depth=depth,
                expansion=expansion,
                kernel_size=kernel_size,
                strides=strides,
                activation=nnx.relu,
                remat=remat,
                **options,
            )
            setattr(self, f"stage{stage}", blocks)
            channels = width
        self.last = ConvBatchNorm(channels, 1280, 1, **options)
        self.head = Classifier(1280, classes, dropout=dropout, **formats)

    def __call__(self, images: jax.Array) -> jax.Array:
        """Logits [batch, classes] of images [batch, height, width, 3]."""
        features = run_layer(self, "stem", images)
        for stage in range(1, len(STAGES) + 1):
            features = run_layer(self, f"stage{stage}", features)
        return run_layer(self, "head", run_layer(self, "last", features))
