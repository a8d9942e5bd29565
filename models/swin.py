"""Swin Transformer of Liu et al.: Swin Transformer: Hierarchical Vision Transformer using Shifted Windows (arXiv:2103.14030)
and Swin Transformer V2: Scaling Up Capacity and Resolution (arXiv:2111.09883).

Figure 3 and section 3.3 of the first paper; from the second, figure 1: normalization behind each branch instead of before it,
attention by cosines, and biases from a small network on the logarithms of distances. The rest is torchvision's
(swin_transformer.py). Images are NHWC, and a window of pixels is an axis only inside the attention.
"""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxmem_models.layers import Classifier, Sequential, add, run_layer, stochastic_depth
from jaxmem_models.transformer import MLP
from jaxmem_models.windows import (
    WindowAttention,
    attend_in_windows,
    from_windows,
    relative_positions,
    split_heads,
    to_windows,
)

# Section 3.3: channels of the first stage, number of blocks, heads; and the rate of stochastic depth in versions 1 and 2.
CONFIGURATIONS: dict[str, tuple[int, tuple[int, ...], tuple[int, ...], tuple[float, float]]] = {
    "T": (96, (2, 2, 6, 2), (3, 6, 12, 24), (0.2, 0.2)),
    "S": (96, (2, 2, 18, 2), (3, 6, 12, 24), (0.3, 0.3)),
    "B": (128, (2, 2, 18, 2), (4, 8, 16, 32), (0.5, 0.5)),
}
LONGEST_SCALE = math.log(100)
"""Section 3.2 of version 2: the logarithm of the largest factor of a cosine."""

init = nnx.initializers.truncated_normal(0.02)


class PositionNetwork(nnx.Module):
    """Biases of relative positions from the dense layers ``fc1`` and ``fc2``: section 3.3 of version 2."""

    def __init__(self, size: int, heads: int, **formats: Any) -> None:
        self.fc1 = nnx.Linear(2, 512, kernel_init=init, **formats)
        self.fc2 = nnx.Linear(512, heads, use_bias=False, kernel_init=init, **formats)
        self.size = size

    def __call__(self) -> jax.Array:
        """Biases [heads, pixels, pixels], between 0 and 16."""
        side = np.arange(1 - self.size, self.size)
        distances = np.stack(np.meshgrid(side, side, indexing="ij"), axis=-1) * 8 / (self.size - 1)
        logarithms = np.sign(distances) * np.log2(np.abs(distances) + 1) / np.log2(8)
        features = run_layer(self, "fc1", jnp.asarray(logarithms, jnp.float32), nnx.relu)
        table = run_layer(self, "fc2", features)
        with jax.named_scope("gather"):
            rows, columns = np.moveaxis(relative_positions(self.size) + self.size - 1, -1, 0)
            return jnp.moveaxis(16 * nnx.sigmoid(table[rows, columns]), -1, 0)


class LogarithmicScale(nnx.Module):
    """A factor for each head, kept as its logarithm."""

    def __init__(self, heads: int, *, param_dtype: Any) -> None:
        self.logarithm = nnx.Param(jnp.full(heads, math.log(10), param_dtype))

    def __call__(self, queries: jax.Array) -> jax.Array:
        """Queries [..., heads, channels of a head], each head times its factor, at most 100."""
        scale = jnp.exp(jnp.minimum(self.logarithm[...], LONGEST_SCALE))
        return queries * scale[:, None].astype(queries.dtype)


class KeysWithoutBias(nnx.Linear):
    """Queries, keys and values of which the keys get no bias: their third of it stands there and is never read."""

    def __call__(self, inputs: jax.Array, out_sharding: Any = None) -> jax.Array:
        """[..., 3 * channels] of [..., channels]."""
        del out_sharding
        assert self.bias is not None
        inputs, kernel, bias = self.promote_dtype((inputs, self.kernel[...], self.bias[...]), dtype=self.dtype)
        third = len(bias) // 3
        return inputs @ kernel + bias.at[third : 2 * third].set(0)


class CosineAttention(nnx.Module):
    """Attention by the cosine of query and key: section 3.2 of version 2.

    Its layers: ``qkv``, ``normalize``, ``scale``, ``position_bias``, ``scores``, ``mix`` and ``project``. The arguments are
    those of `WindowAttention`.
    """

    def __init__(self, channels: int, heads: int, size: int, **formats: Any) -> None:
        self.qkv = KeysWithoutBias(channels, 3 * channels, kernel_init=init, **formats)
        self.scale = LogarithmicScale(heads, param_dtype=formats["param_dtype"])
        self.position_bias = PositionNetwork(size, heads, **formats)
        self.project = nnx.Linear(channels, channels, kernel_init=init, **formats)
        self.heads = heads

    def __call__(self, windows: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        """Features in the shape of the input."""
        with jax.named_scope("qkv"):
            queries, keys, values = split_heads(self.qkv(windows), self.heads)
        with jax.named_scope("normalize"):
            queries, keys = unit_length(queries), unit_length(keys)
        with jax.named_scope("scale"):
            queries = self.scale(queries)
        with jax.named_scope("position_bias"):
            bias = self.position_bias()
        mixed = attend_in_windows(queries, keys, values, bias, mask)
        with jax.named_scope("project"):
            return self.project(mixed.reshape(windows.shape))


def unit_length(vectors: jax.Array) -> jax.Array:
    """Vectors along the last axis divided by their length, or by 1e-12 where they are shorter."""
    squares = jnp.sum(jnp.square(vectors.astype(jnp.float32)), axis=-1, keepdims=True)
    return (vectors * jax.lax.rsqrt(jnp.maximum(squares, 1e-24))).astype(vectors.dtype)


def same_side(padded: tuple[int, ...], shifts: tuple[int, ...], size: int) -> np.ndarray:
    """Which pixels of a window stood beside one another before the shift: [windows, pixels, pixels]."""
    regions = []
    for length, shift in zip(padded, shifts, strict=True):
        # Behind the last whole window stands what the shift has carried over from the other side.
        position = np.arange(length)
        regions.append(
            (position >= length - size).astype(int) + (position >= length - shift) if shift else 0 * position
        )
    sides = 3 * regions[0][:, None] + regions[1][None, :]
    sides = sides.reshape(padded[0] // size, size, padded[1] // size, size).swapaxes(1, 2).reshape(-1, size * size)
    return sides[:, :, None] == sides[:, None, :]


class Block(nnx.Module):
    """Attention in windows of the image, which may be shifted by half a window, and an MLP, each added to what came in.

    Its layers: ``norm1``, ``partition`` (pads the image to whole windows, shifts it and cuts it), ``attention``, ``merge``,
    which undoes the cut, ``stochastic_depth1``, ``add1``, ``norm2``, ``mlp``, ``stochastic_depth2``, ``add2``; in version 2 a
    normalization follows its branch. A shifted window at the edge holds pixels of opposite sides, which do not attend to one
    another. Where one window spans the image, nothing is shifted.

    Args:
        channels, heads: of the attention.
        size: height and width of a window.
        shifted: the windows stand half a window down and right.
        version: 1 or 2.
        drop_rate: of stochastic depth; 0 leaves its layers out.
        formats: ``dtype`` and ``param_dtype``.
    """

    def __init__(
        self,
        channels: int,
        heads: int,
        size: int,
        *,
        shifted: bool,
        version: int,
        drop_rate: float,
        rngs: nnx.Rngs,
        **formats: Any,
    ) -> None:
        formats |= {"rngs": rngs}
        if version == 1:
            self.attention = WindowAttention(channels, heads, size, init=init, **formats)
        else:
            self.attention = CosineAttention(channels, heads, size, **formats)
        self.norm1 = nnx.LayerNorm(channels, epsilon=1e-5, **formats)
        self.norm2 = nnx.LayerNorm(channels, epsilon=1e-5, **formats)
        self.mlp = MLP(
            channels,
            4 * channels,
            activation=partial(nnx.gelu, approximate=False),
            init=init,
            project_init=init,
            **formats,
        )
        self.drops = drop_rate > 0
        if self.drops:
            self.stochastic_depth1 = stochastic_depth(drop_rate, rngs=rngs)
            self.stochastic_depth2 = stochastic_depth(drop_rate, rngs=rngs)
        self.size, self.shifted, self.version = size, shifted, version

    def __call__(self, features: jax.Array) -> jax.Array:
        """Features [batch, height, width, channels] of features of that shape."""
        for number in (1, 2):
            branch = features
            if self.version == 1:
                branch = run_layer(self, f"norm{number}", branch)
            branch = self.attend(branch) if number == 1 else run_layer(self, "mlp", branch)
            if self.version == 2:
                branch = run_layer(self, f"norm{number}", branch)
            if self.drops:
                branch = run_layer(self, f"stochastic_depth{number}", branch)
            features = add(features, branch, name=f"add{number}")
        return features

    def attend(self, features: jax.Array) -> jax.Array:
        """The layers ``partition``, ``attention`` and ``merge``."""
        _, height, width, _ = features.shape
        size = self.size
        with jax.named_scope("partition"):
            features = jnp.pad(features, ((0, 0), (0, -height % size), (0, -width % size), (0, 0)))
            padded = features.shape[1:3]
            shifts = tuple(size // 2 if self.shifted and length > size else 0 for length in padded)
            features = jnp.roll(features, (-shifts[0], -shifts[1]), axis=(1, 2)) if any(shifts) else features
            windows = to_windows(features, size)
            mask = jnp.asarray(same_side(padded, shifts, size)) if any(shifts) else None
        with jax.named_scope("attention"):
            windows = self.attention(windows, mask)
        with jax.named_scope("merge"):
            features = from_windows(windows, *padded)
            features = jnp.roll(features, shifts, axis=(1, 2)) if any(shifts) else features
            return features[:, :height, :width]


class PatchMerging(nnx.Module):
    """Every four neighbours become one pixel with the channels of two.

    Its layers: ``gather``, ``norm`` and ``reduce``; in version 2 the normalization comes last.
    """

    def __init__(self, channels: int, *, version: int, **formats: Any) -> None:
        self.reduce = nnx.Linear(4 * channels, 2 * channels, use_bias=False, kernel_init=init, **formats)
        self.norm = nnx.LayerNorm((4 if version == 1 else 2) * channels, epsilon=1e-5, **formats)
        self.version = version

    def __call__(self, features: jax.Array) -> jax.Array:
        """Features [batch, height / 2 rounded up, width / 2 rounded up, 2 * channels]."""
        with jax.named_scope("gather"):
            _, height, width, _ = features.shape
            features = jnp.pad(features, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)))
            # Column by column, as torchvision has it: down first, then right.
            corners = [features[:, row::2, column::2] for column in (0, 1) for row in (0, 1)]
            features = jnp.concatenate(corners, axis=-1)
        for name in ("norm", "reduce") if self.version == 1 else ("reduce", "norm"):
            features = run_layer(self, name, features)
        return features


class SwinTransformer(nnx.Module):
    """Swin Transformer, versions 1 and 2.

    Its layers: ``stem/patchify`` and ``stem/norm``; ``stage1/block1/norm1`` ... ``stage4/block2/add2``; ``merge2`` before
    stage 2, and so on; ``norm``, ``head``.

    Args:
        configuration: ``T``, ``S`` or ``B``.
        version: 1 or 2.
        window: height and width of a window.
        classes: width of ``head/fc``.
        dtype: of the activations.
        param_dtype: of the parameters.
        remat: a policy of `jaxmem_models.remat` for each block.
    """

    def __init__(
        self,
        *,
        configuration: str,
        version: int,
        window: int,
        classes: int = 1000,
        dtype: Any = jnp.float32,
        param_dtype: Any = jnp.float32,
        remat: str | None = None,
        rngs: nnx.Rngs,
    ) -> None:
        formats: dict[str, Any] = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        channels, depths, heads, rates = CONFIGURATIONS[configuration]
        patchify = nnx.Conv(3, channels, (4, 4), strides=4, padding="VALID", kernel_init=init, **formats)
        self.stem = Sequential({"patchify": patchify, "norm": nnx.LayerNorm(channels, epsilon=1e-5, **formats)})
        built = 0
        for stage, (depth, count) in enumerate(zip(depths, heads, strict=True), start=1):
            if stage > 1:
                setattr(self, f"merge{stage}", PatchMerging(channels, version=version, **formats))
                channels *= 2
            blocks = {}
            for block in range(1, depth + 1):
                blocks[f"block{block}"] = Block(
                    channels,
                    count,
                    window,
                    shifted=block % 2 == 0,
                    version=version,
                    # The rate grows from 0 at the first block to its full size at the last.
                    drop_rate=rates[version - 1] * built / (sum(depths) - 1),
                    **formats,
                )
                built += 1
            setattr(self, f"stage{stage}", Sequential(blocks, remat=remat))
        self.norm = nnx.LayerNorm(channels, epsilon=1e-5, **formats)
        self.head = Classifier(channels, classes, **formats)

    def __call__(self, images: jax.Array) -> jax.Array:
        """Logits [batch, classes] of images [batch, height, width, 3]."""
        features = run_layer(self, "stem", images)
        for stage in range(1, 5):
            if stage > 1:
                features = run_layer(self, f"merge{stage}", features)
            features = run_layer(self, f"stage{stage}", features)
        return run_layer(self, "head", run_layer(self, "norm", features))
