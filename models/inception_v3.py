"""Inception v3: Szegedy et al., Rethinking the Inception Architecture for Computer Vision (arXiv:1512.00567).

Table 1 of the paper as torchvision has it (inception.py), after the authors' published network: its layers' names, an
auxiliary classifier with batch normalization, modules of five kinds. Images are NHWC.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxmem_models.layers import (
    NO_PIXEL,
    Branches,
    ConvBatchNorm,
    MaxPool,
    Sequential,
    global_average_pool,
    max_pool,
    run_block,
    run_layer,
)

# The modules in order: kind, and the number that tells those of one kind apart (the filters of the pool branch in A, of the
# factorized 7x7 convolutions in C).
MODULES: dict[str, tuple[str, int]] = {
    "mixed_5b": ("A", 32),
    "mixed_5c": ("A", 64),
    "mixed_5d": ("A", 64),
    "mixed_6a": ("B", 0),
    "mixed_6b": ("C", 128),
    "mixed_6c": ("C", 160),
    "mixed_6d": ("C", 160),
    "mixed_6e": ("C", 192),
    "mixed_7a": ("D", 0),
    "mixed_7b": ("E", 0),
    "mixed_7c": ("E", 0),
}


class InceptionV3(nnx.Module):
    """Inception v3.

    The name of a layer is its attribute and its scope: ``conv1a``, ``conv2a``, ``conv2b``, ``conv3b``, ``conv4a``,
    ``mixed_5b/branch1x1`` ... ``mixed_7c/branch_pool/conv1``, ``auxiliary``, ``drop``, ``fc``; every convolution is a pair
    of ``conv`` and ``bn``. ``pool1``, ``pool2``, ``mixed_5b/concat`` and ``avgpool`` are scopes alone. A ReLU stands in the
    scope of the normalization that it follows.

    Args:
        auxiliary: have the auxiliary classifier behind ``mixed_6e``, which takes part in training alone and asks for images
            of 299 pixels or more; without it 75 will do.
        classes: width of ``fc``, also of the auxiliary one.
        dropout: the share of the inputs of ``fc`` that training drops.
        dtype: of the activations.
        param_dtype: of the parameters.
        remat: a policy of `jaxmem_models.remat` for each mixed module.
        rngs: of the parameters and of dropout.
    """

    def __init__(
        self,
        *,
        auxiliary: bool = True,
        classes: int = 1000,
        dropout: float = 0.5,
        dtype: Any = jnp.float32,
        param_dtype: Any = jnp.float32,
        remat: str | None = None,
        rngs: nnx.Rngs,
    ) -> None:
        self.remat = remat
        self.deterministic = False  # nnx.Module.eval() and train() set it
        formats = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        conv = partial(ConvBatchNorm, epsilon=1e-3, **formats)
        self.conv1a = conv(3, 32, 3, strides=2, padding=0)
        self.conv2a = conv(32, 32, 3, padding=0)
        self.conv2b = conv(32, 64, 3)
        self.conv3b = conv(64, 80, 1)
        self.conv4a = conv(80, 192, 3, padding=0)
        channels = 192
        for name, (kind, number) in MODULES.items():
            branches, channels = _mixed(kind, number, channels, conv)
            setattr(self, name, branches)
            if name == "mixed_6e":
                self.auxiliary = Auxiliary(channels, classes, **formats) if auxiliary else None
        self.drop = nnx.Dropout(dropout, rngs=rngs)
        self.fc = nnx.Linear(channels, classes, **formats)

    def __call__(self, images: jax.Array) -> jax.Array | tuple[jax.Array, jax.Array]:
        """Logits [batch, classes] of images [batch, height, width, 3]; in training the auxiliary ones behind them."""
        features = images
        for name in ("conv1a", "conv2a", "conv2b"):
            features = run_layer(self, name, features)
        with jax.named_scope("pool1"):
            features = max_pool(features, 3, 2)
        for name in ("conv3b", "conv4a"):
            features = run_layer(self, name, features)
        with jax.named_scope("pool2"):
            features = max_pool(features, 3, 2)
        auxiliary = None
        for name in MODULES:
            with jax.named_scope(name):
                features = run_block(getattr(self, name), features, remat=self.remat)
            if name == "mixed_6e" and self.auxiliary is not None and not self.deterministic:
                auxiliary = run_layer(self, "auxiliary", features)
        with jax.named_scope("avgpool"):
            features = global_average_pool(features)
        logits = run_layer(self, "fc", run_layer(self, "drop", features))
        return logits if auxiliary is None else (logits, auxiliary)


class Auxiliary(nnx.Module):
    """A classifier on features of the middle: a pool, a 1x1 and a 5x5 convolution, and a dense layer (section 4)."""

    def __init__(self, channels: int, classes: int, **formats: Any) -> None:
        self.conv0 = ConvBatchNorm(channels, 128, 1, epsilon=1e-3, **formats)
        self.conv1 = ConvBatchNorm(128, 768, 5, padding=0, epsilon=1e-3, **formats)
        self.fc = nnx.Linear(768, classes, **formats)

    def __call__(self, features: jax.Array) -> jax.Array:
        """Logits [batch, classes]."""
        with jax.named_scope("pool"):
            features = nnx.avg_pool(features, window_shape=(5, 5), strides=(3, 3))
        features = run_layer(self, "conv1", run_layer(self, "conv0", features))
        with jax.named_scope("avgpool"):
            features = global_average_pool(features)
        return run_layer(self, "fc", features)


class AveragePool(nnx.Module):
    """The mean of each 3x3 window, zeros counted around the edge; the size stays."""

    def __call__(self, features: jax.Array) -> jax.Array:
        """Features [batch, height, width, channels]."""
        if 0 in features.shape[1:3]:
            raise ValueError(NO_PIXEL)
        return nnx.avg_pool(features, window_shape=(3, 3), strides=(1, 1), padding="SAME")


def _mixed(kind: str, number: int, channels: int, conv: Any) -> tuple[Branches, int]:
    """One module of the given kind, and the channels it returns. ``conv`` makes a `ConvBatchNorm`."""

    def chain(*convolutions: tuple[Any, ...], then: nnx.Module | None = None) -> Sequential:
        """Convolutions (filters, kernel) one after another; (filters, kernel, 2) halves the size, without padding."""
        layers: dict[str, nnx.Module] = {}
        width = channels
        for place, (filters, kernel, *strides) in enumerate(convolutions, start=1):
            halving = {"strides": strides[0], "padding": 0} if strides else {}
            layers[f"conv{place}"] = conv(width, filters, kernel, **halving)
            width = filters
        return Sequential(layers | ({"split": then} if then is not None else {}))

    def average_pool(filters: int) -> Sequential:
        return Sequential({"pool": AveragePool(), "conv1": conv(channels, filters, 1)})

    def split(width: int) -> Branches:
        """A 3x3 convolution taken apart into a row and a column, side by side (Figure 7 of the paper)."""
        return Branches({"row": conv(width, 384, (1, 3)), "column": conv(width, 384, (3, 1))})

    if kind == "A":  # Figure 5
        branches = {
            "branch1x1": chain((64, 1)),
            "branch5x5": chain((48, 1), (64, 5)),
            "branch3x3double": chain((64, 1), (96, 3), (96, 3)),
            "branch_pool": average_pool(number),
        }
        return Branches(branches), 64 + 64 + 96 + number
    if kind == "B":  # Figure 10
        branches = {
            "branch3x3": chain((384, 3, 2)),
            "branch3x3double": chain((64, 1), (96, 3), (96, 3, 2)),
            "branch_pool": MaxPool(3, 2),
        }
        return Branches(branches), 384 + 96 + channels
    if kind == "C":  # Figure 6
        branches = {
            "branch1x1": chain((192, 1)),
            "branch7x7": chain((number, 1), (number, (1, 7)), (192, (7, 1))),
            "branch7x7double": chain((number, 1), (number, (7, 1)), (number, (1, 7)), (number, (7, 1)), (192, (1, 7))),
            "branch_pool": average_pool(192),
        }
        return Branches(branches), 4 * 192
    if kind == "D":
        branches = {
            "branch3x3": chain((192, 1), (320, 3, 2)),
            "branch7x7": chain((192, 1), (192, (1, 7)), (192, (7, 1)), (192, 3, 2)),
            "branch_pool": MaxPool(3, 2),
        }
        return Branches(branches), 320 + 192 + channels
    branches = {
        "branch1x1": chain((320, 1)),
        "branch3x3": chain((384, 1), then=split(384)),
        "branch3x3double": chain((448, 1), (384, 3), then=split(384)),
        "branch_pool": average_pool(192),
    }
    return Branches(branches), 320 + 2 * 2 * 384 + 192
