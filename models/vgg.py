"""VGG: Simonyan and Zisserman, Very Deep Convolutional Networks for Large-Scale Image Recognition (arXiv:1409.1556).

Table 1 of the paper: convolutions 3x3 with stride 1 and padding 1, each followed by a ReLU; pools 2x2 with stride 2.
The head and the variants with batch normalization are torchvision's (vgg.py). Images are NHWC.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxmem_models.layers import adaptive_average_pool, split_max_pool
from jaxmem_models.remat import rematerialized

# Table 1: the widths of the convolutions, one tuple for each block that a pool ends.
CONFIGURATIONS: dict[str, tuple[tuple[int, ...], ...]] = {
    "A": ((64,), (128,), (256, 256), (512, 512), (512, 512)),
    "B": ((64, 64), (128, 128), (256, 256), (512, 512), (512, 512)),
    "D": ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512)),
    "E": ((64, 64), (128, 128), (256, 256, 256, 256), (512, 512, 512, 512), (512, 512, 512, 512)),
}


class VGG(nnx.Module):
    """VGG 11, 13, 16 and 19 (configurations A, B, D and E).

    The name of a layer is its attribute and its scope: ``conv1_1`` ... ``conv5_4``, ``bn1_1`` ..., ``fc6``, ``drop6``,
    ``fc7``, ``drop7``, ``fc8``; ``pool1`` ... ``pool5``, ``avgpool`` and ``flatten`` are scopes alone. A ReLU stands in
    the scope of the layer that it follows.

    Args:
        configuration: a column of Table 1.
        batch_norm: normalize between each convolution and its ReLU.
        classes: width of ``fc8``.
        hidden: width of ``fc6`` and ``fc7``.
        dropout: the share of ``fc6`` and ``fc7`` that training drops.
        dtype: of the activations.
        param_dtype: of the parameters.
        pool: ``"window"`` for JAX's own max-pool, ``"split"`` for `split_max_pool`: the same numbers, other memory.
        remat: a policy of `jaxmem_models.remat` for each block.
    """

    def __init__(
        self,
        *,
        configuration: str,
        batch_norm: bool = False,
        classes: int = 1000,
        hidden: int = 4096,
        dropout: float = 0.5,
        dtype: Any = jnp.float32,
        param_dtype: Any = jnp.float32,
        pool: str = "window",
        remat: str | None = None,
        rngs: nnx.Rngs,
    ) -> None:
        self.blocks = CONFIGURATIONS[configuration]
        self.batch_norm = batch_norm
        self.pool = pool
        self.remat = remat
        formats = {"dtype": dtype, "param_dtype": param_dtype}
        convolution = partial(
            nnx.Conv,
            kernel_size=(3, 3),
            padding=1,
            kernel_init=nnx.initializers.variance_scaling(2.0, "fan_out", "normal"),
            rngs=rngs,
            **formats,
        )
        dense = partial(nnx.Linear, kernel_init=nnx.initializers.normal(0.01), rngs=rngs, **formats)

        channels = 3
        for block, widths in enumerate(self.blocks, start=1):
            for layer, width in enumerate(widths, start=1):
                setattr(self, f"conv{block}_{layer}", convolution(channels, width))
                if batch_norm:
                    normalization = nnx.BatchNorm(width, momentum=0.9, epsilon=1e-5, rngs=rngs, **formats)
                    setattr(self, f"bn{block}_{layer}", normalization)
                channels = width
        self.fc6 = dense(7 * 7 * channels, hidden)
        self.drop6 = nnx.Dropout(dropout, rngs=rngs)
        self.fc7 = dense(hidden, hidden)
        self.drop7 = nnx.Dropout(dropout, rngs=rngs)
        self.fc8 = dense(hidden, classes)

    def __call__(self, images: jax.Array) -> jax.Array:
        """Logits [batch, classes] of images [batch, height, width, 3]."""
        run_block = rematerialized(VGG.block, self.remat, static_argnums=2)
        features = images
        for block in range(1, len(self.blocks) + 1):
            features = run_block(self, features, block)
            with jax.named_scope(f"pool{block}"):
                if self.pool == "split":
                    features = split_max_pool(features, 2)
                else:
                    features = nnx.max_pool(features, window_shape=(2, 2), strides=(2, 2))
        with jax.named_scope("avgpool"):
            features = adaptive_average_pool(features, 7)
        with jax.named_scope("flatten"):
            features = features.reshape(features.shape[0], -1)
        with jax.named_scope("fc6"):
            features = nnx.relu(self.fc6(features))
        with jax.named_scope("drop6"):
            features = self.drop6(features)
        with jax.named_scope("fc7"):
            features = nnx.relu(self.fc7(features))
        with jax.named_scope("drop7"):
            features = self.drop7(features)
        with jax.named_scope("fc8"):
            return self.fc8(features)

    def block(self, features: jax.Array, block: int) -> jax.Array:
        """The convolutions of one block, counted from 1, without the pool that ends it."""
        for layer in range(1, len(self.blocks[block - 1]) + 1):
            names = (f"conv{block}_{layer}", f"bn{block}_{layer}")[: 1 + self.batch_norm]
            for name in names:
                with jax.named_scope(name):
                    features = getattr(self, name)(features)
                    if name == names[-1]:
                        features = nnx.relu(features)
        return features
