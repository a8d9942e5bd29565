"""How arguments and results lie on several devices, from JAX's stages.

JAX has no public way to ask a traced program for the shardings of its arguments; everything that looks inside is here.
"""

from collections.abc import Iterable, Sequence
from typing import Any

Shardings = Sequence[Any]
"""A JAX sharding for each flat array, or None where nothing is said; empty where nothing is said of any."""


def traced_shardings(traced: Any) -> tuple[Shardings, Shardings]:
    """Of a ``jax.stages.Traced``: its arguments', as given to ``jit`` or carried by the arrays, and its results'."""
    parameters = getattr(traced, "_params", {})
    carried = [getattr(kind, "sharding", None) for kind in getattr(traced, "_meta_tys_flat", ())]
    asked = parameters.get("in_shardings") or [None] * len(carried)
    received = [_known(one) or _known(other) for one, other in zip(asked, carried, strict=True)]
    return received, [_known(one) for one in parameters.get("out_shardings") or ()]


def lowered_shardings(lowered: Any, count: int) -> tuple[Shardings, Shardings]:
    """Of a ``jax.stages.Lowered`` with ``count`` flat arguments, of which it lists those that the program uses."""
    arguments = getattr(getattr(lowered, "_lowering", None), "compile_args", None) or {}
    kept: Iterable[int] = sorted(arguments.get("kept_var_idx") or ())
    received: list[Any] = [None] * count
    for index, sharding in zip(kept, arguments.get("in_shardings") or (), strict=False):
        received[index] = _known(sharding)
    return received, [_known(one) for one in arguments.get("out_shardings") or ()]


def _known(sharding: Any) -> Any:
    """The sharding; None for one that is left open, or that spreads nothing."""
    return sharding if getattr(sharding, "num_devices", 1) > 1 and hasattr(sharding, "shard_shape") else None
