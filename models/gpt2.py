"""GPT-2: Radford et al., Language Models are Unsupervised Multitask Learners (OpenAI, 2019).

Table 2 and section 2.3 of the paper; dropout and GELU as in its predecessor (Improving Language Understanding by Generative
Pre-Training, 2018). The smallest has the 12 heads, and the others as many more, that OpenAI published them with.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxmem_models.layers import Sequential, run_layer
from jaxmem_models.transformer import Block

# Table 2: layers and d_model; and the number of heads.
VARIANTS: dict[str, tuple[int, int, int]] = {
    "small": (12, 768, 12),
    "medium": (24, 1024, 16),
    "large": (36, 1280, 20),
    "xl": (48, 1600, 25),
}


class GPT2(nnx.Module):
    """GPT-2, whose last layer multiplies by the embedding of the tokens.

    Its layers: ``token_embedding``, ``position_embedding``, ``drop``, ``decoder/block1`` ..., ``norm``, ``head``, which has no
    parameters of its own.

    Args:
        variant: a row of Table 2.
        vocabulary: the number of different tokens.
        context: the longest sequence.
        depth: the number of blocks; the variant's where none is given.
        dropout: the share that training drops of the embeddings, of the attention's weights and of what each block adds.
        dtype: of the activations.
        param_dtype: of the parameters.
        remat: a policy of `jaxmem_models.remat` for each block.
    """

    def __init__(
        self,
        *,
        variant: str,
        vocabulary: int = 50_257,
        context: int = 1024,
        depth: int | None = None,
        dropout: float = 0.1,
        dtype: Any = jnp.float32,
        param_dtype: Any = jnp.float32,
        remat: str | None = None,
        rngs: nnx.Rngs,
    ) -> None:
        layers, width, heads = VARIANTS[variant]
        depth = depth or layers
        formats: dict[str, Any] = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        normal = nnx.initializers.normal
        self.token_embedding = nnx.Embed(vocabulary, width, embedding_init=normal(0.02), **formats)
        self.position_embedding = nnx.Embed(context, width, embedding_init=normal(0.01), **formats)
        self.drop = nnx.Dropout(dropout, rngs=rngs)
        block = partial(
            Block,
            *(width, heads, 4 * width),
            causal=True,
            activation=nnx.gelu,  # by its tanh approximation
            epsilon=1e-5,
            dropout=dropout,
            attention_dropout=dropout,
            init=normal(0.02),
            # Section 2.3: scaled by the number of residual layers, two in each block.
            project_init=normal(0.02 / (2 * depth) ** 0.5),
            **formats,
        )
        self.decoder = Sequential({f"block{number}": block() for number in range(1, depth + 1)}, remat=remat)
        self.norm = nnx.LayerNorm(width, epsilon=1e-5, **formats)

    def __call__(self, tokens: jax.Array) -> jax.Array:
        """Logits [batch, length, vocabulary] of tokens [batch, length]."""
        features = run_layer(self, "token_embedding", tokens)
        with jax.named_scope("position_embedding"):
            features = features + self.position_embedding(jnp.arange(tokens.shape[1]))
        for name in ("drop", "decoder", "norm"):
            features = run_layer(self, name, features)
        with jax.named_scope("head"):
            return self.token_embedding.attend(features)
