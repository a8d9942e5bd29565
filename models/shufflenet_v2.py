"""ShuffleNet v2: Ma et al., ShuffleNet V2: Practical Guidelines for Efficient CNN Architecture Design (arXiv:1807.11164).

Table 5 of the paper, and its Figure 3: (c) the unit that halves its channels, (d) the one that halves the image.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxmem_models.layers import Classifier, ConvBatchNorm, Sequential, concatenate, max_pool, run_layer

# Table 5: channels of stages 2, 3 and 4, and of conv5, for each width.
WIDTHS: dict[str, tuple[int, int, int, int]] = {
    "0.5": (48, 96, 192, 1024),
    "1.0": (116, 232, 464, 1024),
    "1.5": (176, 352, 704, 1024),
    "2.0": (244, 488, 976, 2048),
}
UNITS: tuple[int, int, int] = (4, 8, 4)


class Unit(nnx.Module):
    """Two branches beside one another whose channels are interleaved at the end.

    Its layers: ``branch1`` (``depthwise``, ``project``) where the image is halved; without it, ``split`` hands the first half
    of the channels on as it is. ``branch2`` (``conv1``, ``depthwise``, ``conv2``), ``concat`` and ``shuffle``.

    Args:
        channels: of its input.
        width: of its result.
        strides: 2 for the first unit of a stage, else 1 and ``channels == width``.
        formats: ``dtype``, ``param_dtype`` and ``rngs``.
    """

    def __init__(self, channels: int, width: int, *, strides: int, **formats: Any) -> None:
        half = width // 2
        self.halves_image = strides == 2
        if self.halves_image:
            self.branch1 = Sequential(
                {
                    "depthwise": ConvBatchNorm(
                        channels, channels, 3, strides=2, groups=channels, activation=None, **formats
                    ),
                    "project": ConvBatchNorm(channels, half, 1, **formats),
                }
            )
        self.branch2 = Sequential(
            {
                "conv1": ConvBatchNorm(channels if self.halves_image else half, half, 1, **formats),
                "depthwise": ConvBatchNorm(half, half, 3, strides=strides, groups=half, activation=None, **formats),
                "conv2": ConvBatchNorm(half, half, 1, **formats),
            }
        )

    def __call__(self, features: jax.Array) -> jax.Array:
        """Features [batch, height / strides, width / strides, channels]."""
        if self.halves_image:
            first, second = run_layer(self, "branch1", features), features
        else:
            with jax.named_scope("split"):
                first, second = jnp.split(features, 2, axis=-1)
        features = concatenate((first, run_layer(self, "branch2", second)))
        with jax.named_scope("shuffle"):
            return channel_shuffle(features)


def channel_shuffle(features: jax.Array) -> jax.Array:
    """Interleave the two halves of the channels: 0, n/2, 1, n/2 + 1, ..."""
    *image, channels = features.shape
    return features.reshape(*image, 2, channels // 2).swapaxes(-1, -2).reshape(features.shape)


class ShuffleNetV2(nnx.Module):
    """ShuffleNet v2.

    Its layers: ``conv1``, ``maxpool``, ``stage2/block1`` ... ``stage4/block4``, ``conv5``, ``head``.

    Args:
        width: a column of Table 5.
        classes: width of ``head/fc``.
        dtype: of the activations.
        param_dtype: of the parameters.
        remat: a policy of `jaxmem_models.remat` for each unit.
    """

    def __init__(
        self,
        *,
        width: str,
        classes: int = 1000,
        dtype: Any = jnp.float32,
        param_dtype: Any = jnp.float32,
        remat: str | None = None,
        rngs: nnx.Rngs,
    ) -> None:
        formats: dict[str, Any] = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        *widths, last = WIDTHS[width]
        channels = 24
        self.conv1 = ConvBatchNorm(3, channels, 3, strides=2, **formats)
        for stage, (outputs, count) in enumerate(zip(widths, UNITS, strict=True), start=2):
            blocks = {}
            for block in range(1, count + 1):
                blocks[f"block{block}"] = Unit(channels, outputs, strides=2 if block == 1 else 1, **formats)
                channels = outputs
            setattr(self, f"stage{stage}", Sequential(blocks, remat=remat))
        self.conv5 = ConvBatchNorm(channels, last, 1, **formats)
        self.head = Classifier(last, classes, **formats)

    def __call__(self, images: jax.Array) -> jax.Array:
        """Logits [batch, classes] of images [batch, height, width, 3]."""
        features = run_layer(self, "conv1", images)
        with jax.named_scope("maxpool"):
            features = max_pool(features, 3, 2, padding=1)
        for stage in (2, 3, 4):
            features = run_layer(self, f"stage{stage}", features)
        return run_layer(self, "head", run_layer(self, "conv5", features))
