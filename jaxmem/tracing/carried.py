"""Which argument a result replaces: matched by tree structure, confirmed by dataflow. Roles need this; it needs no
role.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jaxmem.tracing.dataflow import Flow
from jaxmem.tracing.trees import Leaf, Place

_Keys = tuple[str, ...]
_Array = tuple[tuple[int, ...], str]
_Signature = tuple[tuple[_Keys, _Array], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Keyed:
    """A leaf by its path of keys. It stands in as many subtrees as the path is long, and is read once."""

    keys: _Keys
    leaf: Leaf
    array: _Array


def carried_over(arguments: Sequence[Place], results: Sequence[Place], flow: Flow) -> dict[int, int]:
    """Flat result → flat argument that it is the next value of.

    The largest subtree first: a result tree and an argument tree with the same keys, shapes and dtypes. Of several
    that fit, the one at the same path, then the one under the same name, then the one nearest the top, then the
    first. A tree of gradients looks like the parameters and is told from them by dataflow. A single array counts only
    where more than its shape speaks for it.
    """
    argument_trees, result_trees = _subtrees(arguments), _subtrees(results)
    by_signature: dict[_Signature, list[_Keys]] = defaultdict(list)
    for prefix, places in argument_trees.items():
        by_signature[_signature(prefix, places)].append(prefix)
    matched: dict[int, int] = {}
    taken: set[int] = set()

    def fits(prefix: _Keys, candidate: _Keys) -> bool:
        pairs = list(zip(result_trees[prefix], argument_trees[candidate], strict=True))
        if any(argument.leaf.index in taken for _, argument in pairs):
            return False
        if any(flow.is_gradient(result.leaf.index, argument.leaf.index) for result, argument in pairs):
            return False
        (result, argument), *more = pairs
        return bool(more) or _is_no_coincidence(prefix, candidate, result.leaf, argument.leaf, flow)

    for prefix, places in sorted(result_trees.items(), key=lambda item: -len(item[1])):
        if any(place.leaf.index in matched for place in places):
            continue
        candidates = [keys for keys in by_signature.get(_signature(prefix, places), ()) if fits(prefix, keys)]
        if not candidates:
            continue
        best = min(
            candidates,
            key=lambda keys: (
                keys != prefix,
                keys[-1] != prefix[-1],
                not all(
                    flow.is_sum(result.leaf.index, argument.leaf.index)
                    for result, argument in zip(places, argument_trees[keys], strict=True)
                ),
                len(keys),
            ),
        )
        for result, argument in zip(places, argument_trees[best], strict=True):
            matched[result.leaf.index] = argument.leaf.index
            taken.add(argument.leaf.index)
    return matched


def _is_no_coincidence(result_keys: _Keys, argument_keys: _Keys, result: Leaf, argument: Leaf, flow: Flow) -> bool:
    """Whether one array that has another's shape is its next value."""
    if result_keys == argument_keys:
        return True
    if flow.is_update(result.index, argument.index):
        # Inside trees the name must agree too: a metric computed from a counter is no next value of it.
        whole = len(argument_keys) == 1 and len(result_keys) <= 2
        return (whole and (bool(flow.differentiates) or argument.donated or _is_key(argument))) or (
            argument_keys[-1:] == result_keys[-1:] and not argument_keys[-1].isdigit()
        )
    return len(argument_keys) == 1 and (argument.donated or _is_key(argument))


def _is_key(leaf: Leaf) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _subtrees(places: Iterable[Place]) -> dict[_Keys, list[_Keyed]]:
    """Every subtree by its path of keys, in the order in which they are met. The leaves of each are in the order of their
    keys: a mapping may come back with its keys in another order.
    """
    leaves = [
        _Keyed(keys=place.keys(0), leaf=place.leaf, array=(place.leaf.shape, str(place.leaf.dtype))) for place in places
    ]
    trees: dict[_Keys, list[_Keyed]] = {
        keyed.keys[:length]: [] for keyed in leaves for length in range(1, len(keyed.keys) + 1)
    }
    for keyed in sorted(leaves, key=lambda keyed: keyed.keys):
        for length in range(1, len(keyed.keys) + 1):
            trees[keyed.keys[:length]].append(keyed)
    return trees


def _signature(prefix: _Keys, leaves: Sequence[_Keyed]) -> _Signature:
    return tuple((keyed.keys[len(prefix) :], keyed.array) for keyed in leaves)
