"""What ViT and GPT-2 share: attention (Vaswani et al., arXiv:1706.03762) in a block that normalizes before it attends."""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxmem_models.layers import Activation, add, run_layer


def attend(
    queries: jax.Array, keys: jax.Array, values: jax.Array, *, mask: jax.Array | None = None, drop: Any = None
) -> jax.Array:
    """softmax(Q Kᵀ / √d) V of every head, equation 1 of arXiv:1706.03762, in the scopes ``scores``, ``drop`` and ``mix``.

    Args:
        queries: [batch, length, heads, d].
        keys, values: [batch, other length, groups, d]; each group serves heads / groups heads (arXiv:2305.13245).
        mask: what may be attended to, [length, other length] or with the batch before them; all where none is given.
        drop: dropout of the weights.

    Returns:
        [batch, length, heads, d].
    """
    batch, length, heads, size = queries.shape
    groups = keys.shape[2]
    with jax.named_scope("scores"):
        grouped = queries.reshape(batch, length, groups, heads // groups, size) / math.sqrt(size)
        scores = jnp.einsum("blghd,bmgd->bghlm", grouped, keys)
        # A softmax in bfloat16 would give weights of three digits.
        scores = scores.astype(jnp.float32)
        if mask is not None:
            mask = mask.reshape(-1, 1, 1, *mask.shape[-2:])
            scores = jnp.where(mask, scores, -jnp.inf)
        weights = nnx.softmax(scores).astype(values.dtype)
    if drop is not None:
        with jax.named_scope("drop"):
            weights = drop(weights)
    with jax.named_scope("mix"):
        return jnp.einsum("bghlm,bmgd->blghd", weights, values).reshape(batch, length, heads, size)


class SelfAttention(nnx.Module):
    """Multi-head attention of a sequence to itself, in the layers ``qkv``, ``scores``, ``drop``, ``mix`` and ``project``.

    Args:
        width: of each token's features.
        heads: their number divides the width.
        causal: a token attends to itself and those before it.
        dropout: the share of the weights that training drops.
        init, project_init: of the kernels of ``qkv`` and ``project``.
        formats: ``dtype`` and ``param_dtype``.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        causal: bool,
        dropout: float,
        init: Any,
        project_init: Any,
        rngs: nnx.Rngs,
        **formats: Any,
    ) -> None:
        self.heads, self.causal = heads, causal
        self.qkv = nnx.Linear(width, 3 * width, kernel_init=init, rngs=rngs, **formats)
        self.drop = nnx.Dropout(dropout, rngs=rngs) if dropout else None
        self.project = nnx.Linear(width, width, kernel_init=project_init, rngs=rngs, **formats)

    def __call__(self, features: jax.Array) -> jax.Array:
        """Features [batch, length, width] of features of that shape."""
        batch, length, width = features.shape
        with jax.named_scope("qkv"):
            queries, keys, values = jnp.split(self.qkv(features), 3, axis=-1)
            divided = (batch, length, self.heads, width // self.heads)
            queries, keys, values = (part.reshape(divided) for part in (queries, keys, values))
        with jax.named_scope("scores"):
            mask = jnp.tri(length, dtype=bool) if self.causal else None
        mixed = attend(queries, keys, values, mask=mask, drop=self.drop)
        with jax.named_scope("project"):
            return self.project(mixed.reshape(batch, length, width))


class MLP(nnx.Module):
    """Two dense layers on every token by itself: ``widen``, with the activation, and ``narrow``."""

    def __init__(
        self,
        width: int,
        hidden: int,
        *,
        activation: Activation,
        init: Any,
        project_init: Any,
        rngs: nnx.Rngs,
        **formats: Any,
    ) -> None:
        self.activation = activation
        self.widen = nnx.Linear(width, hidden, kernel_init=init, rngs=rngs, **formats)
        self.narrow = nnx.Linear(hidden, width, kernel_init=project_init, rngs=rngs, **formats)

    def __call__(self, features: jax.Array) -> jax.Array:
        """Features [batch, length, width] of features of that shape."""
        return run_layer(self, "narrow", run_layer(self, "widen", features, self.activation))


class Block(nnx.Module):
    """Attention, then an MLP, each normalized before and added to what came in.

    Its layers: ``norm1``, ``attention``, ``drop1``, ``add1``, ``norm2``, ``mlp``, ``drop2``, ``add2``.

    Args:
        width, heads, causal: see `SelfAttention`.
        hidden: width inside the MLP.
        activation: inside the MLP.
        epsilon: of the layer normalizations.
        dropout: the share that training drops of what is added; 0 leaves the layers out.
        attention_dropout: the share that training drops of the attention's weights.
        init: of every kernel.
        project_init: of the kernels whose results are added: ``attention/project`` and ``mlp/narrow``; as ``init`` where
            none is given.
        formats: ``dtype`` and ``param_dtype``.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        hidden: int,
        *,
        causal: bool = False,
        activation: Activation,
        epsilon: float,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        init: Any,
        project_init: Any = None,
        rngs: nnx.Rngs,
        **formats: Any,
    ) -> None:
        formats |= {"rngs": rngs}
        normalization = partial(nnx.LayerNorm, width, epsilon=epsilon, **formats)
        inits = {"init": init, "project_init": project_init or init}
        self.norm1 = normalization()
        self.attention = SelfAttention(width, heads, causal=causal, dropout=attention_dropout, **inits, **formats)
        self.norm2 = normalization()
        self.mlp = MLP(width, hidden, activation=activation, **inits, **formats)
        self.has_dropout = dropout > 0
        if self.has_dropout:
            self.drop1 = nnx.Dropout(dropout, rngs=rngs)
            self.drop2 = nnx.Dropout(dropout, rngs=rngs)

    def __call__(self, features: jax.Array) -> jax.Array:
        """Features [batch, length, width] of features of that shape."""
        for number, part in ((1, "attention"), (2, "mlp")):
            branch = run_layer(self, part, run_layer(self, f"norm{number}", features))
            if self.has_dropout:
                branch = run_layer(self, f"drop{number}", branch)
            features = add(features, branch, name=f"add{number}")
        return features
