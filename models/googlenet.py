"""GoogLeNet: Szegedy et al., Going Deeper with Convolutions (arXiv:1409.4842).

Table 1 of the paper as torchvision has it (googlenet.py): batch normalization behind every convolution instead of response
normalization, 3x3 convolutions where the paper has 5x5, and pools that round up. Images are NHWC.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxmem_models.layers import (
    Branches,
    ConvBatchNorm,
    MaxPool,
    Sequential,
    adaptive_average_pool,
    global_average_pool,
    max_pool,
    run_block,
    run_layer,
)

# Table 1, the filters of each module: 1x1, 3x3 reduce, 3x3, 5x5 reduce, 5x5, pool projection.
INCEPTIONS: dict[str, tuple[int, int, int, int, int, int]] = {
    "3a": (64, 96, 128, 16, 32, 32),
    "3b": (128, 128, 192, 32, 96, 64),
    "4a": (192, 96, 208, 16, 48, 64),
    "4b": (160, 112, 224, 24, 64, 64),
    "4c": (128, 128, 256, 24, 64, 64),
    "4d": (112, 144, 288, 32, 64, 64),
    "4e": (256, 160, 320, 32, 128, 128),
    "5a": (256, 160, 320, 32, 128, 128),
    "5b": (384, 192, 384, 48, 128, 128),
}
# Window of the pool with stride 2 that follows a module.
POOLS: dict[str, int] = {"3b": 3, "4e": 2}
# The auxiliary classifiers and the modules whose results they read (section 5 of the paper).
AUXILIARY: dict[str, str] = {"4a": "auxiliary1", "4d": "auxiliary2"}


class GoogLeNet(nnx.Module):
    """GoogLeNet (Inception v1).

    The name of a layer is its attribute and its scope: ``conv1``, ``conv2``, ``conv3``, ``inception3a/branch1x1`` ...
    ``inception5b/branch_pool/projection``, ``auxiliary1``, ``auxiliary2``, ``drop``, ``fc``; every convolution is a pair
    of ``conv`` and ``bn``. ``pool1`` ... ``pool4``, ``inception3a/concat`` and ``avgpool`` are scopes alone. A ReLU stands
    in the scope of what it follows.

    Args:
        auxiliary: have the two auxiliary classifiers, which take part in training alone.
        classes: width of ``fc``, and of the ``fc2`` of the auxiliary classifiers.
        dropout: the share of the inputs of ``fc`` that training drops.
        auxiliary_dropout: the share of the inputs of ``fc2`` in the auxiliary classifiers.
        dtype: of the activations.
        param_dtype: of the parameters.
        remat: a policy of `jaxmem_models.remat` for each inception module.
        rngs: of the parameters and of dropout.
    """

    def __init__(
        self,
        *,
        auxiliary: bool = False,
        classes: int = 1000,
        dropout: float = 0.2,
        auxiliary_dropout: float = 0.7,
        dtype: Any = jnp.float32,
        param_dtype: Any = jnp.float32,
        remat: str | None = None,
        rngs: nnx.Rngs,
    ) -> None:
        self.auxiliary, self.remat = auxiliary, remat
        self.deterministic = False  # nnx.Module.eval() and train() set it
        formats = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        conv = partial(ConvBatchNorm, epsilon=1e-3, **formats)
        self.conv1 = conv(3, 64, 7, strides=2)
        self.conv2 = conv(64, 64, 1)
        self.conv3 = conv(64, 192, 3)
        channels = 192
        for name, (width1, reduced3, width3, reduced5, width5, projected) in INCEPTIONS.items():
            branches = {
                "branch1x1": conv(channels, width1, 1),
                "branch3x3": Sequential({"reduce": conv(channels, reduced3, 1), "conv3x3": conv(reduced3, width3, 3)}),
                # 3x3 in torchvision too, under the paper's name.
                "branch5x5": Sequential({"reduce": conv(channels, reduced5, 1), "conv5x5": conv(reduced5, width5, 3)}),
                "branch_pool": Sequential(
                    {"pool": MaxPool(3, 1, padding=1), "projection": conv(channels, projected, 1)}
                ),
            }
            setattr(self, f"inception{name}", Branches(branches))
            channels = width1 + width3 + width5 + projected
            if auxiliary and name in AUXILIARY:
                setattr(self, AUXILIARY[name], Auxiliary(channels, classes, auxiliary_dropout, **formats))
        self.drop = nnx.Dropout(dropout, rngs=rngs)
        self.fc = nnx.Linear(channels, classes, **formats)

    def __call__(self, images: jax.Array) -> jax.Array | tuple[jax.Array, jax.Array, jax.Array]:
        """Logits [batch, classes] of images [batch, height, width, 3]; in training the auxiliary ones behind them."""
        features = run_layer(self, "conv1", images)
        with jax.named_scope("pool1"):
            features = max_pool(features, 3, 2, round_up=True)
        features = run_layer(self, "conv3", run_layer(self, "conv2", features))
        with jax.named_scope("pool2"):
            features = max_pool(features, 3, 2, round_up=True)
        auxiliary = []
        for name in INCEPTIONS:
            with jax.named_scope(f"inception{name}"):
                features = run_block(getattr(self, f"inception{name}"), features, remat=self.remat)
            if self.auxiliary and not self.deterministic and name in AUXILIARY:
                auxiliary.append(run_layer(self, AUXILIARY[name], features))
            if name in POOLS:
                with jax.named_scope(f"pool{name[0]}"):
                    features = max_pool(features, POOLS[name], 2, round_up=True)
        with jax.named_scope("avgpool"):
            features = global_average_pool(features)
        logits = run_layer(self, "fc", run_layer(self, "drop", features))
        return (logits, *auxiliary) if auxiliary else logits


class Auxiliary(nnx.Module):
    """A classifier on features of the middle: pooled to 4x4, a 1x1 convolution and two dense layers (section 5)."""

    def __init__(self, channels: int, classes: int, dropout: float, **formats: Any) -> None:
        self.conv = ConvBatchNorm(channels, 128, 1, epsilon=1e-3, **formats)
        self.fc1 = nnx.Linear(4 * 4 * 128, 1024, **formats)
        self.drop = nnx.Dropout(dropout, rngs=formats["rngs"])
        self.fc2 = nnx.Linear(1024, classes, **formats)

    def __call__(self, features: jax.Array) -> jax.Array:
        """Logits [batch, classes]."""
        with jax.named_scope("avgpool"):
            features = adaptive_average_pool(features, 4)
        features = run_layer(self, "conv", features)
        with jax.named_scope("flatten"):
            features = features.reshape(features.shape[0], -1)
        features = run_layer(self, "fc1", features, nnx.relu)
        return run_layer(self, "fc2", run_layer(self, "drop", features))
