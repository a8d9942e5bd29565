"""U-Net: Ronneberger, Fischer and Brox, U-Net: Convolutional Networks for Biomedical Image Segmentation (arXiv:1505.04597).

Figure 1 of the paper, but for its convolutions: here they are padded, so that the map of classes is as large as the image
and nothing is cropped. Dropout stands at the end of the contracting path (section 3.1), behind its last two levels. Images
are NHWC.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxmem_models.layers import concatenate, convolution, max_pool, run_block, run_layer

# Filters of each level, from the top of the U to its bottom.
WIDTHS: tuple[int, ...] = (64, 128, 256, 512, 1024)


class UNet(nnx.Module):
    """U-Net: a class for every pixel.

    The name of a layer is its attribute and its scope: ``contract1/conv1`` ... ``contract5/conv2``, ``drop4``, ``drop5``,
    ``expand4/up``, ``expand4/conv1``, ``expand4/conv2`` ... ``expand1/conv2``, ``classifier``; ``pool1`` ... ``pool4`` and
    ``expand4/concat`` are scopes alone. A ReLU stands in the scope of the convolution that it follows.

    Args:
        channels: of the images.
        classes: of a pixel.
        dropout: the share of what levels 4 and 5 return that training drops.
        dtype: of the activations.
        param_dtype: of the parameters.
        remat: a policy of `jaxmem_models.remat` for each pair of convolutions.
        rngs: of the parameters and of dropout.
    """

    def __init__(
        self,
        *,
        channels: int = 1,
        classes: int = 2,
        dropout: float = 0.5,
        dtype: Any = jnp.float32,
        param_dtype: Any = jnp.float32,
        remat: str | None = None,
        rngs: nnx.Rngs,
    ) -> None:
        self.remat = remat
        formats = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        for level, width in enumerate(WIDTHS, start=1):
            setattr(self, f"contract{level}", Contract(channels, width, **formats))
            channels = width
        self.drop4 = nnx.Dropout(dropout, rngs=rngs)
        self.drop5 = nnx.Dropout(dropout, rngs=rngs)
        for level in range(len(WIDTHS) - 1, 0, -1):
            width = WIDTHS[level - 1]
            setattr(self, f"expand{level}", Expand(channels, width, **formats))
            channels = width
        self.classifier = convolution(channels, classes, 1, use_bias=True, **formats)

    def __call__(self, images: jax.Array) -> jax.Array:
        """Logits [batch, height, width, classes] of images [batch, height, width, channels], sizes multiples of 16."""
        features, passed = images, {}
        for level in range(1, len(WIDTHS) + 1):
            with jax.named_scope(f"contract{level}"):
                features = run_block(getattr(self, f"contract{level}"), features, remat=self.remat)
            if level >= 4:
                features = run_layer(self, f"drop{level}", features)
            if level < len(WIDTHS):
                passed[level] = features
                with jax.named_scope(f"pool{level}"):
                    features = max_pool(features, 2, 2)
        for level in range(len(WIDTHS) - 1, 0, -1):
            with jax.named_scope(f"expand{level}"):
                features = run_block(getattr(self, f"expand{level}"), features, passed[level], remat=self.remat)
        return run_layer(self, "classifier", features)


class Contract(nnx.Module):
    """Two 3x3 convolutions."""

    def __init__(self, channels: int, width: int, **formats: Any) -> None:
        self.conv1 = convolution(channels, width, 3, use_bias=True, **formats)
        self.conv2 = convolution(width, width, 3, use_bias=True, **formats)

    def __call__(self, features: jax.Array) -> jax.Array:
        """Features [batch, height, width, width of the convolutions]."""
        return run_layer(self, "conv2", run_layer(self, "conv1", features, nnx.relu), nnx.relu)


class Expand(nnx.Module):
    """A 2x2 up-convolution to twice the size, beside it what the contracting path had there, and two 3x3 convolutions."""

    def __init__(self, channels: int, width: int, **formats: Any) -> None:
        self.up = nnx.ConvTranspose(channels, width, kernel_size=(2, 2), strides=(2, 2), padding="VALID", **formats)
        self.conv1 = convolution(2 * width, width, 3, use_bias=True, **formats)
        self.conv2 = convolution(width, width, 3, use_bias=True, **formats)

    def __call__(self, features: jax.Array, passed: jax.Array) -> jax.Array:
        """Features as large as ``passed`` from ``features`` half as high and wide."""
        features = concatenate((passed, run_layer(self, "up", features)))
        return run_layer(self, "conv2", run_layer(self, "conv1", features, nnx.relu), nnx.relu)
