"""SqueezeNet: Iandola et al., SqueezeNet: AlexNet-level accuracy with 50x fewer parameters (arXiv:1602.07360).

Table 1 of the paper is version 1.0; version 1.1 is the authors' later one, with a smaller first convolution and earlier
pools. Pools round up, as torchvision's do (squeezenet.py). Images are NHWC.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxmem_models.layers import concatenate, convolution, global_average_pool, max_pool, run_block, run_layer

# Filters and kernel of conv1, and the layers that a 3x3 pool with stride 2 follows, by version.
VERSIONS: dict[str, tuple[int, int, tuple[int, int, int]]] = {
    "1.0": (96, 7, (1, 4, 8)),
    "1.1": (64, 3, (1, 3, 5)),
}
# Filters of ``squeeze1x1``, and of each of ``expand1x1`` and ``expand3x3``, of fire2 ... fire9.
FIRES: tuple[tuple[int, int], ...] = (
    *((16, 64), (16, 64), (32, 128), (32, 128)),
    *((48, 192), (48, 192), (64, 256), (64, 256)),
)


class SqueezeNet(nnx.Module):
    """SqueezeNet 1.0 and 1.1.

    The name of a layer is its attribute and its scope: ``conv1``, ``fire2/squeeze1x1`` ... ``fire9/expand3x3``, ``drop9``,
    ``conv10``; the pools, such as ``pool1``, ``fire2/concat`` and ``avgpool`` are scopes alone. A ReLU stands in the scope
    of the convolution that it follows.

    Args:
        version: ``"1.0"`` or ``"1.1"``.
        classes: filters of ``conv10``.
        dropout: the share of what ``fire9`` returns that training drops.
        dtype: of the activations.
        param_dtype: of the parameters.
        remat: a policy of `jaxmem_models.remat` for each fire module.
        rngs: of the parameters and of dropout.
    """

    def __init__(
        self,
        *,
        version: str,
        classes: int = 1000,
        dropout: float = 0.5,
        dtype: Any = jnp.float32,
        param_dtype: Any = jnp.float32,
        remat: str | None = None,
        rngs: nnx.Rngs,
    ) -> None:
        self.remat = remat
        formats = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        channels, kernel_size, self.pooled = VERSIONS[version]
        self.conv1 = convolution(3, channels, kernel_size, strides=2, padding=0, use_bias=True, **formats)
        for number, (squeezed, expanded) in enumerate(FIRES, start=2):
            setattr(self, f"fire{number}", Fire(channels, squeezed, expanded, **formats))
            channels = 2 * expanded
        self.drop9 = nnx.Dropout(dropout, rngs=rngs)
        self.conv10 = convolution(channels, classes, 1, use_bias=True, **formats)

    def __call__(self, images: jax.Array) -> jax.Array:
        """Logits [batch, classes] of images [batch, height, width, 3]."""
        features = run_layer(self, "conv1", images, nnx.relu)
        for number in range(1, 2 + len(FIRES)):
            if number > 1:
                with jax.named_scope(f"fire{number}"):
                    features = run_block(getattr(self, f"fire{number}"), features, remat=self.remat)
            if number in self.pooled:
                with jax.named_scope(f"pool{number}"):
                    features = max_pool(features, 3, 2, round_up=True)
        features = run_layer(self, "drop9", features)
        features = run_layer(self, "conv10", features, nnx.relu)
        with jax.named_scope("avgpool"):
            return global_average_pool(features)


class Fire(nnx.Module):
    """A 1x1 convolution to few channels, and a 1x1 and a 3x3 convolution of these side by side (Figure 1)."""

    def __init__(self, channels: int, squeezed: int, expanded: int, **formats: Any) -> None:
        self.squeeze1x1 = convolution(channels, squeezed, 1, use_bias=True, **formats)
        self.expand1x1 = convolution(squeezed, expanded, 1, use_bias=True, **formats)
        self.expand3x3 = convolution(squeezed, expanded, 3, use_bias=True, **formats)

    def __call__(self, features: jax.Array) -> jax.Array:
        """Features [batch, height, width, 2 * expanded]."""
        squeezed = run_layer(self, "squeeze1x1", features, nnx.relu)
        return concatenate([run_layer(self, name, squeezed, nnx.relu) for name in ("expand1x1", "expand3x3")])
