"""What the backward pass computes again instead of keeping it: the policies of the registry."""

from collections.abc import Callable
from functools import wraps
from typing import Any

import jax
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

_INPUT = "input of a block"


def rematerialized(
    block: Callable[..., Any], policy: str | None, *, transform: Callable[..., Any] = nnx.remat, **options: Any
) -> Callable[..., Any]:
    """The function of a block of layers, so that what it computes is not all kept for the backward pass.

    Args:
        block: takes the module, the features, and what else it needs.
        policy: ``"blocks"`` keeps only the features that enter the block; ``"dots"`` also what its convolutions and matrix
            products return; ``"offload"`` keeps what ``"blocks"`` does, in the memory of the host. None keeps all that
            the derivative needs.
        transform: ``jax.checkpoint`` for a module that is a tree of arrays.
        options: for ``transform``.
    """
    policies = jax.checkpoint_policies
    if policy is None:
        return block
    if policy == "dots":
        return transform(block, policy=policies.dots_saveable, **options)
    if policy == "offload":
        to_the_host = policies.save_and_offload_only_these_names(
            names_which_can_be_saved=[],
            names_which_can_be_offloaded=[_INPUT],
            offload_src="device",
            offload_dst="pinned_host",
        )
        return transform(_with_named_input(block), policy=to_the_host, **options)
    return transform(block, **options)


def _with_named_input(block: Callable[..., Any]) -> Callable[..., Any]:
    """Names the features inside the block, so that the policy can move them: what only enters it is kept where it is."""

    @wraps(block)
    def named(module: Any, features: jax.Array, *others: Any) -> Any:
        return block(module, checkpoint_name(features, _INPUT), *others)

    return named
