"""DenseNet: Huang et al., Densely Connected Convolutional Networks (arXiv:1608.06993).

Table 1 of the paper, with bottlenecks and compression (DenseNet-BC), as torchvision has it (densenet.py). Images are NHWC.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxmem_models.layers import (
    Sequential,
    batch_norm,
    concatenate,
    convolution,
    global_average_pool,
    max_pool,
    run_block,
    run_layer,
)

# Growth rate, and the layers of each dense block, by depth. The first convolution has twice the growth rate in filters.
CONFIGURATIONS: dict[int, tuple[int, tuple[int, int, int, int]]] = {
    121: (32, (6, 12, 24, 16)),
    161: (48, (6, 12, 36, 24)),
    169: (32, (6, 12, 32, 32)),
    201: (32, (6, 12, 48, 32)),
}


class DenseNet(nnx.Module):
    """DenseNet 121, 161, 169 and 201.

    The name of a layer is its attribute and its scope: ``conv0``, ``norm0``, ``denseblock1/layer1/norm1`` ...
    ``denseblock4/layer16/conv2``, ``transition1/norm``, ``transition1/conv``, ``norm5``, ``classifier``; ``pool0``,
    ``denseblock1/layer1/concat``, ``transition1/pool`` and ``avgpool`` are scopes alone. A ReLU stands in the scope of the
    normalization that it follows.

    Args:
        depth: a column of Table 1.
        classes: width of ``classifier``.
        dtype: of the activations.
        param_dtype: of the parameters.
        remat: a policy of `jaxmem_models.remat` for each dense block.
        rngs: of the parameters.
    """

    def __init__(
        self,
        *,
        depth: int,
        classes: int = 1000,
        dtype: Any = jnp.float32,
        param_dtype: Any = jnp.float32,
        remat: str | None = None,
        rngs: nnx.Rngs,
    ) -> None:
        self.remat = remat
        formats = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        growth_rate, counts = CONFIGURATIONS[depth]
        channels = 2 * growth_rate
        self.conv0 = convolution(3, channels, 7, strides=2, **formats)
        self.norm0 = batch_norm(channels, **formats)
        for number, count in enumerate(counts, start=1):
            layers: dict[str, nnx.Module] = {}
            for layer in range(1, count + 1):
                layers[f"layer{layer}"] = DenseLayer(channels, growth_rate, **formats)
                channels += growth_rate
            setattr(self, f"denseblock{number}", Sequential(layers))
            if number < len(counts):
                setattr(self, f"transition{number}", Transition(channels, channels // 2, **formats))
                channels //= 2
        self.norm5 = batch_norm(channels, **formats)
        self.classifier = nnx.Linear(channels, classes, **formats)

    def __call__(self, images: jax.Array) -> jax.Array:
        """Logits [batch, classes] of images [batch, height, width, 3]."""
        features = run_layer(self, "conv0", images)
        features = run_layer(self, "norm0", features, nnx.relu)
        with jax.named_scope("pool0"):
            features = max_pool(features, 3, 2, padding=1)
        for number in range(1, 5):
            with jax.named_scope(f"denseblock{number}"):
                features = run_block(getattr(self, f"denseblock{number}"), features, remat=self.remat)
            if number < 4:
                features = run_layer(self, f"transition{number}", features)
        features = run_layer(self, "norm5", features, nnx.relu)
        with jax.named_scope("avgpool"):
            features = global_average_pool(features)
        return run_layer(self, "classifier", features)


class DenseLayer(nnx.Module):
    """Appends ``growth_rate`` channels to its input: a 1x1 convolution to four times as many, and a 3x3 to these."""

    def __init__(self, channels: int, growth_rate: int, **formats: Any) -> None:
        self.norm1 = batch_norm(channels, **formats)
        self.conv1 = convolution(channels, 4 * growth_rate, 1, **formats)
        self.norm2 = batch_norm(4 * growth_rate, **formats)
        self.conv2 = convolution(4 * growth_rate, growth_rate, 3, **formats)

    def __call__(self, features: jax.Array) -> jax.Array:
        """Features [batch, height, width, channels + growth rate]."""
        new = run_layer(self, "conv1", run_layer(self, "norm1", features, nnx.relu))
        new = run_layer(self, "conv2", run_layer(self, "norm2", new, nnx.relu))
        return concatenate((features, new))


class Transition(nnx.Module):
    """Between two dense blocks: a 1x1 convolution to fewer channels, and half the height and width."""

    def __init__(self, channels: int, width: int, **formats: Any) -> None:
        self.norm = batch_norm(channels, **formats)
        self.conv = convolution(channels, width, 1, **formats)

    def __call__(self, features: jax.Array) -> jax.Array:
        """Features [batch, height / 2, width / 2, width of the convolution]."""
        features = run_layer(self, "conv", run_layer(self, "norm", features, nnx.relu))
        with jax.named_scope("pool"):
            return nnx.avg_pool(features, window_shape=(2, 2), strides=(2, 2))
