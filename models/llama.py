"""Llama: Grattafiori et al., The Llama 3 Herd of Models (arXiv:2407.21783).

Section 3.2 and Table 3 of the paper, without the masks between documents. Its parts: RMSNorm (arXiv:1910.07467), SwiGLU
(arXiv:2002.05202), rotary positions (RoFormer, arXiv:2104.09864), attention in groups of heads (arXiv:2305.13245).
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxmem_models.layers import add, run_layer
from jaxmem_models.remat import rematerialized
from jaxmem_models.transformer import attend


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """A column of Table 3.

    Attributes:
        depth: the number of layers.
        width: the model dimension.
        hidden: the dimension inside the feed-forward network.
        heads, groups: of queries, and of keys and values.
        vocabulary: the number of different tokens.
        is_tied: the last layer multiplies by the embedding of the tokens, as in the models of 3.2.
    """

    depth: int
    width: int
    hidden: int
    heads: int
    groups: int
    vocabulary: int = 128_256
    is_tied: bool = False


VARIANTS: dict[str, Shape] = {
    "tiny": Shape(depth=2, width=64, hidden=160, heads=4, groups=2, vocabulary=256),
    "1B": Shape(depth=16, width=2048, hidden=8192, heads=32, groups=8, is_tied=True),
    "8B": Shape(depth=32, width=4096, hidden=14_336, heads=32, groups=8),
}


@jax.tree_util.register_dataclass
@dataclass(frozen=True, slots=True, kw_only=True)
class Cache:
    """Keys and values of the tokens before.

    Attributes:
        keys, values: of each block [batch, length, groups, d]; where the blocks are scanned, of all of them
            [batch, depth, length, groups, d].
        position: how many tokens are kept, a number.
    """

    keys: Any
    values: Any
    position: jax.Array


class Attention(nnx.Module):
    """Attention of grouped heads.

    Its layers: ``queries``, ``keys``, ``values``, ``rotary``, ``cache`` (in decoding), ``scores``, ``mix``, ``project``.
    """

    def __init__(self, width: int, heads: int, groups: int, **formats: Any) -> None:
        self.size = width // heads
        dense = partial(nnx.Linear, use_bias=False, kernel_init=nnx.initializers.normal(0.02), **formats)
        self.queries = dense(width, heads * self.size)
        self.keys = dense(width, groups * self.size)
        self.values = dense(width, groups * self.size)
        self.project = dense(heads * self.size, width)

    def __call__(self, features: jax.Array, rotation: jax.Array) -> jax.Array:
        """Features [batch, length, width] of features of that shape."""
        queries, keys, values = self._projected(features, rotation)
        with jax.named_scope("scores"):
            mask = jnp.tri(features.shape[1], dtype=bool)
        return self._merged(attend(queries, keys, values, mask=mask))

    def decode(
        self,
        features: jax.Array,
        rotation: jax.Array,
        remember: Callable[..., tuple[jax.Array, jax.Array]],
        position: jax.Array,
    ) -> jax.Array:
        """Features [batch, 1, width] of one more token.

        Args:
            features: of that token, [batch, 1, width].
            rotation: of its position.
            remember: keeps its keys and values, and returns them with all before, [batch, length, groups, d].
            position: its number; those after it are not looked at.
        """
        queries, keys, values = self._projected(features, rotation)
        with jax.named_scope("cache"):
            keys, values = remember(keys, values)
        with jax.named_scope("scores"):
            mask = jnp.arange(keys.shape[1])[None] <= position
        return self._merged(attend(queries, keys, values, mask=mask))

    def _projected(self, features: jax.Array, rotation: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        shape = (*features.shape[:2], -1, self.size)
        projected = []
        for name in ("queries", "keys", "values"):
            with jax.named_scope(name):
                projected.append(getattr(self, name)(features).reshape(shape))
        queries, keys, values = projected
        with jax.named_scope("rotary"):
            return rotate(queries, rotation), rotate(keys, rotation), values

    def _merged(self, mixed: jax.Array) -> jax.Array:
        with jax.named_scope("project"):
            return self.project(mixed.reshape(*mixed.shape[:2], -1))


class FeedForward(nnx.Module):
    """SwiGLU: ``down`` of ``up`` times the SiLU of ``gate``."""

    def __init__(self, width: int, hidden: int, **formats: Any) -> None:
        dense = partial(nnx.Linear, use_bias=False, kernel_init=nnx.initializers.normal(0.02), **formats)
        self.gate = dense(width, hidden)
        self.up = dense(width, hidden)
        self.down = dense(hidden, width)

    def __call__(self, features: jax.Array) -> jax.Array:
        """Features [batch, length, width] of features of that shape."""
        gate = run_layer(self, "gate", features, nnx.silu)
        with jax.named_scope("up"):
            hidden = gate * self.up(features)
        return run_layer(self, "down", hidden)


class Block(nnx.Module):
    """``norm1``, ``attention``, ``add1``, ``norm2``, ``mlp``, ``add2``."""

    def __init__(self, shape: Shape, **formats: Any) -> None:
        self.norm1 = nnx.RMSNorm(shape.width, epsilon=1e-5, **formats)
        self.attention = Attention(shape.width, shape.heads, shape.groups, **formats)
        self.norm2 = nnx.RMSNorm(shape.width, epsilon=1e-5, **formats)
        self.mlp = FeedForward(shape.width, shape.hidden, **formats)

    def __call__(self, features: jax.Array, rotation: jax.Array) -> jax.Array:
        """Features [batch, length, width] of features of that shape."""
        return self._run(features, partial(self.attention, rotation=rotation))

    def decode(self, features: jax.Array, **arguments: Any) -> jax.Array:
        """Features [batch, 1, width] of one more token; see `Attention.decode`."""
        return self._run(features, partial(self.attention.decode, **arguments))

    def _run(self, features: jax.Array, attention: Callable[[jax.Array], jax.Array]) -> jax.Array:
        normalized = run_layer(self, "norm1", features)
        with jax.named_scope("attention"):
            branch = attention(normalized)
        features = add(features, branch, name="add1")
        return add(features, run_layer(self, "mlp", run_layer(self, "norm2", features)), name="add2")


class Llama(nnx.Module):
    """A decoder in the shape of Llama 3.

    Its layers: ``token_embedding``, ``rotary``, ``decoder/block1`` ... (scanned: ``decoder`` alone), ``norm``, ``head``.

    Args:
        variant: a column of Table 3, or a smaller one.
        rotary_base: theta of the rotary positions.
        scan: run the blocks as one loop over parameters [depth, ...]: traced and compiled once for all of them.
        dtype: of the activations and the cache.
        param_dtype: of the parameters.
        remat: a policy of `jaxmem_models.remat` for each block.
    """

    def __init__(
        self,
        *,
        variant: str,
        rotary_base: float = 500_000.0,
        scan: bool = False,
        dtype: Any = jnp.float32,
        param_dtype: Any = jnp.float32,
        remat: str | None = None,
        rngs: nnx.Rngs,
    ) -> None:
        self.shape = shape = VARIANTS[variant]
        self.rotary_base, self.scan, self.remat, self.dtype = rotary_base, scan, remat, dtype
        formats: dict[str, Any] = {"dtype": dtype, "param_dtype": param_dtype}
        normal = nnx.initializers.normal(0.02)
        self.token_embedding = nnx.Embed(shape.vocabulary, shape.width, embedding_init=normal, rngs=rngs, **formats)
        if scan:
            keys = jax.random.split(rngs.params(), shape.depth)
            self.decoder: Any = jax.vmap(lambda key: Block(shape, rngs=nnx.Rngs(key), **formats))(keys)
        else:
            self.decoder = nnx.Dict({name: Block(shape, rngs=rngs, **formats) for name in self.block_names})
        self.norm = nnx.RMSNorm(shape.width, epsilon=1e-5, rngs=rngs, **formats)
        if not shape.is_tied:
            self.head = nnx.Linear(
                shape.width, shape.vocabulary, use_bias=False, kernel_init=normal, rngs=rngs, **formats
            )

    @property
    def block_names(self) -> tuple[str, ...]:
        """``block1`` and so on."""
        return tuple(f"block{number}" for number in range(1, self.shape.depth + 1))

    def __call__(self, tokens: jax.Array) -> jax.Array:
        """Logits [batch, length, vocabulary] of tokens [batch, length]."""
        features = run_layer(self, "token_embedding", tokens)
        rotation = self._rotation(jnp.arange(tokens.shape[1]))
        run = rematerialized(Block.__call__, self.remat, transform=jax.checkpoint)
        with jax.named_scope("decoder"):
            if self.scan:
                # A module is a tree of arrays. nnx.scan would also return the parameters of every step, all over again.
                features, _ = jax.lax.scan(
                    lambda features, block: (run(block, features, rotation), None), features, self.decoder
                )
            else:
                for name in self.block_names:
                    with jax.named_scope(name):
                        features = run(self.decoder[name], features, rotation)
        return self._logits(features)

    def cache(self, batch_size: int, length: int) -> Cache:
        """Room for so many sequences of so many tokens, with none in it."""
        shape = self.shape
        size = (length, shape.groups, shape.width // shape.heads)
        depth = (shape.depth,) if self.scan else ()
        number = 1 if self.scan else shape.depth

        def room() -> Any:
            arrays = tuple(jnp.zeros((batch_size, *depth, *size), self.dtype) for _ in range(number))
            return arrays[0] if self.scan else dict(zip(self.block_names, arrays, strict=True))

        return Cache(keys=room(), values=room(), position=jnp.zeros((), jnp.int32))

    def decode(self, tokens: jax.Array, cache: Cache) -> tuple[jax.Array, Cache]:
        """Logits [batch, vocabulary] of what follows ``tokens`` [batch], and the cache with them in it."""
        position = cache.position
        with jax.named_scope("token_embedding"):
            features = self.token_embedding(tokens[:, None])
        arguments = {"rotation": self._rotation(position), "position": position}
        with jax.named_scope("decoder"):
            if self.scan:
                features, keys, values = self._decode_scanned(features, cache, arguments)
            else:
                keys, values = dict(cache.keys), dict(cache.values)
                for name in self.block_names:

                    def remember(new_keys: jax.Array, new_values: jax.Array, name: str = name) -> Any:
                        keys[name] = jax.lax.dynamic_update_slice_in_dim(keys[name], new_keys, position, axis=1)
                        values[name] = jax.lax.dynamic_update_slice_in_dim(values[name], new_values, position, axis=1)
                        return keys[name], values[name]

                    with jax.named_scope(name):
                        features = self.decoder[name].decode(features, remember=remember, **arguments)
        logits = self._logits(features)
        with jax.named_scope("position"):
            return logits[:, 0], Cache(keys=keys, values=values, position=position + 1)

    def _decode_scanned(self, features: jax.Array, cache: Cache, arguments: dict[str, Any]) -> tuple[Any, Any, Any]:
        # The whole cache is carried, not scanned over: what a loop scans over and what it returns are two arrays.
        def step(carry: tuple[Any, Any, Any], layer: tuple[Any, Any]) -> tuple[tuple[Any, Any, Any], None]:
            features, *kept = carry
            block, number = layer

            def remember(*new: jax.Array) -> Any:
                for index, (room, arrays) in enumerate(zip(kept, new, strict=True)):
                    start = (0, number, arguments["position"], 0, 0)
                    kept[index] = jax.lax.dynamic_update_slice(room, arrays[:, None], start)
                return [jax.lax.dynamic_index_in_dim(room, number, axis=1, keepdims=False) for room in kept]

            features = block.decode(features, remember=remember, **arguments)
            return (features, *kept), None

        layers = (self.decoder, jnp.arange(self.shape.depth))
        carry, _ = jax.lax.scan(step, (features, cache.keys, cache.values), layers)
        return carry

    def _rotation(self, positions: jax.Array) -> jax.Array:
        """Cosines and sines [length, 2, 1, d / 2] of the angles position / base^(2i / d); of one position, [1, ...]."""
        size = self.shape.width // self.shape.heads
        with jax.named_scope("rotary"):
            frequencies = self.rotary_base ** (-jnp.arange(0, size, 2, dtype=jnp.float32) / size)
            angles = positions.reshape(-1, 1, 1).astype(jnp.float32) * frequencies
            return jnp.stack([jnp.cos(angles), jnp.sin(angles)], axis=1)

    def _logits(self, features: jax.Array) -> jax.Array:
        features = run_layer(self, "norm", features)
        with jax.named_scope("head"):
            return self.token_embedding.attend(features) if self.shape.is_tied else self.head(features)


def rotate(features: jax.Array, rotation: jax.Array) -> jax.Array:
    """Turn each pair of numbers i and i + d/2 of features [batch, length, heads, d] by the angle of its position.

    The paper pairs neighbours, 2i and 2i + 1: the same but for the order of a head's numbers.
    """
    cosines, sines = rotation[:, 0], rotation[:, 1]
    first, second = jnp.split(features.astype(jnp.float32), 2, axis=-1)
    turned = jnp.concatenate([first * cosines - second * sines, second * cosines + first * sines], axis=-1)
    return turned.astype(features.dtype)
