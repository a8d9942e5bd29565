"""AlexNet: Krizhevsky, One weird trick for parallelizing convolutional neural networks (arXiv:1404.5997).

The single column of that paper's section 5, as torchvision has it (alexnet.py): the network of Krizhevsky, Sutskever and
Hinton (2012) without its split over two GPUs and without response normalization. Images are NHWC.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxmem_models.layers import adaptive_average_pool, convolution, max_pool, run_layer
from jaxmem_models.remat import rematerialized

# Filters, kernel, stride and padding of each convolution, and whether a 3x3 pool with stride 2 follows.
CONVOLUTIONS: tuple[tuple[int, int, int, int, bool], ...] = (
    (64, 11, 4, 2, True),
    (192, 5, 1, 2, True),
    (384, 3, 1, 1, False),
    (256, 3, 1, 1, False),
    (256, 3, 1, 1, True),
)


class AlexNet(nnx.Module):
    """AlexNet: five convolutions and three dense layers, each but the last followed by a ReLU.

    The name of a layer is its attribute and its scope: ``conv1`` ... ``conv5``, ``drop6``, ``fc6``, ``drop7``, ``fc7``,
    ``fc8``; ``pool1``, ``pool2``, ``pool5``, ``avgpool`` and ``flatten`` are scopes alone. A ReLU stands in the scope of
    the layer that it follows.

    Args:
        classes: width of ``fc8``.
        hidden: width of ``fc6`` and ``fc7``.
        dropout: the share of the inputs of ``fc6`` and ``fc7`` that training drops.
        dtype: of the activations.
        param_dtype: of the parameters.
        remat: a policy of `jaxmem_models.remat` for each convolution with its ReLU.
        rngs: of the parameters and of dropout.
    """

    def __init__(
        self,
        *,
        classes: int = 1000,
        hidden: int = 4096,
        dropout: float = 0.5,
        dtype: Any = jnp.float32,
        param_dtype: Any = jnp.float32,
        remat: str | None = None,
        rngs: nnx.Rngs,
    ) -> None:
        self.remat = remat
        formats = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        dense = partial(nnx.Linear, kernel_init=nnx.initializers.normal(0.01), **formats)

        channels = 3
        for number, (width, kernel_size, strides, padding, _) in enumerate(CONVOLUTIONS, start=1):
            setattr(
                self,
                f"conv{number}",
                convolution(channels, width, kernel_size, strides=strides, padding=padding, use_bias=True, **formats),
            )
            channels = width
        self.drop6 = nnx.Dropout(dropout, rngs=rngs)
        self.fc6 = dense(6 * 6 * channels, hidden)
        self.drop7 = nnx.Dropout(dropout, rngs=rngs)
        self.fc7 = dense(hidden, hidden)
        self.fc8 = dense(hidden, classes)

    def __call__(self, images: jax.Array) -> jax.Array:
        """Logits [batch, classes] of images [batch, height, width, 3]."""
        run_convolution = rematerialized(AlexNet.convolve, self.remat, static_argnums=2)
        features = images
        for number, (*_, pooled) in enumerate(CONVOLUTIONS, start=1):
            features = run_convolution(self, features, number)
            if pooled:
                with jax.named_scope(f"pool{number}"):
                    features = max_pool(features, 3, 2)
        with jax.named_scope("avgpool"):
            features = adaptive_average_pool(features, 6)
        with jax.named_scope("flatten"):
            features = features.reshape(features.shape[0], -1)
        features = run_layer(self, "drop6", features)
        features = run_layer(self, "fc6", features, nnx.relu)
        features = run_layer(self, "drop7", features)
        features = run_layer(self, "fc7", features, nnx.relu)
        return run_layer(self, "fc8", features)

    def convolve(self, features: jax.Array, number: int) -> jax.Array:
        """One convolution, counted from 1, and its ReLU."""
        return run_layer(self, f"conv{number}", features, nnx.relu)
