"""Attention inside windows of an image, with a bias for each relative position: what Swin and MaxViT share.

Pixels of a window stand in one axis: features are [batch, windows, pixels of a window, channels].
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx


def to_windows(features: jax.Array, size: int) -> jax.Array:
    """Cut [batch, height, width, channels] into windows of ``size`` by ``size`` pixels, row by row."""
    batch, height, width, channels = features.shape
    features = features.reshape(batch, height // size, size, width // size, size, channels)
    return features.swapaxes(2, 3).reshape(batch, (height // size) * (width // size), size * size, channels)


def from_windows(windows: jax.Array, height: int, width: int) -> jax.Array:
    """The features that `to_windows` has cut."""
    batch, _, pixels, channels = windows.shape
    size = math.isqrt(pixels)
    windows = windows.reshape(batch, height // size, width // size, size, size, channels)
    return windows.swapaxes(2, 3).reshape(batch, height, width, channels)


def relative_positions(size: int) -> np.ndarray:
    """For each pair of pixels of a window, how far the first stands below and right of the second: [pixels, pixels, 2]."""
    pixels = np.stack(np.meshgrid(np.arange(size), np.arange(size), indexing="ij"), axis=-1).reshape(-1, 2)
    return pixels[:, None] - pixels[None, :]


class PositionTable(nnx.Module):
    """A bias for each head and each relative position in a window of ``size`` by ``size`` pixels, from a trained table."""

    def __init__(self, size: int, heads: int, *, dtype: Any, param_dtype: Any, rngs: nnx.Rngs) -> None:
        init = nnx.initializers.truncated_normal(0.02)
        self.table = nnx.Param(init(rngs.params(), ((2 * size - 1) ** 2, heads), param_dtype))
        self.size, self.dtype = size, dtype

    def __call__(self) -> jax.Array:
        """Biases [heads, pixels, pixels]."""
        distances = relative_positions(self.size) + self.size - 1
        rows = distances[..., 0] * (2 * self.size - 1) + distances[..., 1]
        return jnp.moveaxis(self.table[...].astype(self.dtype)[rows], -1, 0)


def attend_in_windows(
    queries: jax.Array, keys: jax.Array, values: jax.Array, bias: jax.Array, mask: jax.Array | None = None
) -> jax.Array:
    """softmax(Q Kᵀ + bias) V of every head in every window, in the scopes ``scores`` and ``mix``.

    Args:
        queries, keys, values: [batch, windows, pixels, heads, channels of a head], scaled already.
        bias: [heads, pixels, pixels].
        mask: which pixel attends to which, [windows, pixels, pixels]; all to all in a window where none is given.

    Returns:
        [batch, windows, pixels, heads, channels of a head].
    """
    with jax.named_scope("scores"):
        scores = jnp.einsum("bwphc,bwqhc->bwhpq", queries, keys) + bias
        # A softmax in bfloat16 would give weights of three digits.
        scores = scores.astype(jnp.float32)
        if mask is not None:
            scores = jnp.where(mask[:, None], scores, -jnp.inf)
        weights = nnx.softmax(scores).astype(values.dtype)
    with jax.named_scope("mix"):
        return jnp.einsum("bwhpq,bwqhc->bwphc", weights, values)


def split_heads(features: jax.Array, heads: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Queries, keys and values [..., heads, channels of a head] of features [..., 3 * channels]."""
    *where, channels = features.shape
    queries, keys, values = jnp.split(features.reshape(*where, 3 * heads, channels // (3 * heads)), 3, axis=-2)
    return queries, keys, values


class WindowAttention(nnx.Module):
    """Attention of each window to itself, in the layers ``qkv``, ``position_bias``, ``scores``, ``mix`` and ``project``.

    Args:
        channels: of a pixel.
        heads: their number divides the channels.
        size: height and width of a window.
        scale: of the scores; 1 / √(channels of a head) where none is given.
        init: of the kernels.
        formats: ``dtype``, ``param_dtype`` and ``rngs``.
    """

    def __init__(
        self, channels: int, heads: int, size: int, *, scale: float | None = None, init: Any, **formats: Any
    ) -> None:
        self.qkv = nnx.Linear(channels, 3 * channels, kernel_init=init, **formats)
        self.position_bias = PositionTable(size, heads, **formats)
        self.project = nnx.Linear(channels, channels, kernel_init=init, **formats)
        self.heads = heads
        self.scale = scale or math.sqrt(heads / channels)

    def __call__(self, windows: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        """Features in the shape of the input; ``mask`` as `attend_in_windows` takes it."""
        with jax.named_scope("qkv"):
            queries, keys, values = split_heads(self.qkv(windows), self.heads)
            queries = queries * self.scale
        with jax.named_scope("position_bias"):
            bias = self.position_bias()
        mixed = attend_in_windows(queries, keys, values, bias, mask)
        with jax.named_scope("project"):
            return self.project(mixed.reshape(windows.shape))
