"""ViT: Dosovitskiy et al., An Image is Worth 16x16 Words: Transformers for Image Recognition at Scale (arXiv:2010.11929).

Section 3.1 and Table 1 of the paper. Dropout is torchvision's (vision_transformer.py), none; so is the head, one dense layer.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxmem_models.layers import Sequential, convolution, run_layer
from jaxmem_models.transformer import Block

# Table 1: layers, hidden size D, MLP size, heads.
VARIANTS: dict[str, tuple[int, int, int, int]] = {
    "Base": (12, 768, 3072, 12),
    "Large": (24, 1024, 4096, 16),
    "Huge": (32, 1280, 5120, 16),
}


class ClassToken(nnx.Module):
    """A token of its own before those of the image, the same for every image."""

    def __init__(self, width: int, *, dtype: Any, param_dtype: Any) -> None:
        self.dtype = dtype
        self.embedding = nnx.Param(jnp.zeros((width,), param_dtype))

    def __call__(self, tokens: jax.Array) -> jax.Array:
        """[batch, length, width] to [batch, 1 + length, width]."""
        shape = (tokens.shape[0], 1, tokens.shape[2])
        token = jnp.broadcast_to(self.embedding[...].astype(self.dtype), shape)
        return jnp.concatenate([token, tokens], axis=1)


class Positions(nnx.Module):
    """A learned vector for each position, added to the token that stands there."""

    def __init__(self, length: int, width: int, *, dtype: Any, param_dtype: Any, rngs: nnx.Rngs) -> None:
        self.dtype = dtype
        self.embedding = nnx.Param(nnx.initializers.normal(0.02)(rngs.params(), (length, width), param_dtype))

    def __call__(self, tokens: jax.Array) -> jax.Array:
        """[batch, length, width] to the same."""
        length, expected = tokens.shape[1], self.embedding.shape[0]
        if length != expected:
            raise ValueError(f"The image has {length} tokens, and there are positions for {expected}.")
        return tokens + self.embedding[...].astype(self.dtype)


class ViT(nnx.Module):
    """Vision transformer.

    Its layers: ``patches``, ``flatten``, ``class_token``, ``positions``, ``encoder/block1`` ..., ``norm``, ``head``.

    Args:
        variant: a row of Table 1.
        patch_size: height and width of the square that becomes one token.
        image_size: height and width of the images, a multiple of ``patch_size``; there is a position for each patch.
        classes: width of ``head``.
        depth: the number of blocks; the variant's where none is given.
        dtype: of the activations.
        param_dtype: of the parameters.
        remat: a policy of `jaxmem_models.remat` for each block.
    """

    def __init__(
        self,
        *,
        variant: str,
        patch_size: int,
        image_size: int = 224,
        classes: int = 1000,
        depth: int | None = None,
        dtype: Any = jnp.float32,
        param_dtype: Any = jnp.float32,
        remat: str | None = None,
        rngs: nnx.Rngs,
    ) -> None:
        layers, width, hidden, heads = VARIANTS[variant]
        formats: dict[str, Any] = {"dtype": dtype, "param_dtype": param_dtype}
        self.patches = convolution(
            3, width, patch_size, strides=patch_size, padding=0, use_bias=True, rngs=rngs, **formats
        )
        self.class_token = ClassToken(width, **formats)
        self.positions = Positions(1 + (image_size // patch_size) ** 2, width, rngs=rngs, **formats)
        block = partial(
            Block,
            *(width, heads, hidden),
            activation=partial(nnx.gelu, approximate=False),
            epsilon=1e-6,
            init=nnx.initializers.xavier_uniform(),
            rngs=rngs,
            **formats,
        )
        self.encoder = Sequential(
            {f"block{number}": block() for number in range(1, (depth or layers) + 1)}, remat=remat
        )
        self.norm = nnx.LayerNorm(width, epsilon=1e-6, rngs=rngs, **formats)
        self.head = nnx.Linear(width, classes, kernel_init=nnx.initializers.zeros, rngs=rngs, **formats)

    def __call__(self, images: jax.Array) -> jax.Array:
        """Logits [batch, classes] of images [batch, height, width, 3]."""
        features = run_layer(self, "patches", images)
        with jax.named_scope("flatten"):
            tokens = features.reshape(features.shape[0], -1, features.shape[-1])
        for name in ("class_token", "positions", "encoder", "norm"):
            tokens = run_layer(self, name, tokens)
        with jax.named_scope("head"):
            return self.head(tokens[:, 0])
