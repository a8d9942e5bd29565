"""Which argument a result replaces: matched by tree structure, confirmed by dataflow. Roles need this; it needs no
role.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence

import jax
import jax.numpy as jnp

from jaxmem.tracing.dataflow import Flow
from jaxmem.tracing.trees import Place

_Keys = tuple[str, ...]
_Signature = tuple[tuple[_Keys, tuple[int, ...], str], ...]


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
        pairs = _pairs(prefix, result_trees[prefix], candidate, argument_trees[candidate])
        if any(argument.leaf.index in taken for _, argument in pairs):
            return False
        if any(flow.is_gradient(result.leaf.index, argument.leaf.index) for result, argument in pairs):
            return False
        return len(pairs) > 1 or _is_no_coincidence(prefix, candidate, *pairs[0], flow)

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
                    for result, argument in _pairs(prefix, places, keys, argument_trees[keys])
                ),
                len(keys),
            ),
        )
        for result, argument in _pairs(prefix, places, best, argument_trees[best]):
            matched[result.leaf.index] = argument.leaf.index
            taken.add(argument.leaf.index)
    return matched


def _is_no_coincidence(result_keys: _Keys, argument_keys: _Keys, result: Place, argument: Place, flow: Flow) -> bool:
    """Whether one array that has another's shape is its next value."""
    if result_keys == argument_keys:
        return True
    if flow.is_update(result.leaf.index, argument.leaf.index):
        # Inside trees the name must agree too: a metric computed from a counter is no next value of it.
        whole = len(argument_keys) == 1 and len(result_keys) <= 2
        return (whole and (bool(flow.differentiates) or argument.leaf.donated or _is_key(argument))) or (
            argument_keys[-1:] == result_keys[-1:] and not argument_keys[-1].isdigit()
        )
    return len(argument_keys) == 1 and (argument.leaf.donated or _is_key(argument))


def _is_key(place: Place) -> bool:
    return jnp.issubdtype(place.leaf.dtype, jax.dtypes.prng_key)


def _subtrees(places: Iterable[Place]) -> dict[_Keys, list[Place]]:
    """Every subtree by its path of keys, in the order in which they are met."""
    trees: dict[_Keys, list[Place]] = defaultdict(list)
    for place in places:
        keys = place.keys(0)
        for length in range(1, len(keys) + 1):
            trees[keys[:length]].append(place)
    return trees


def _signature(prefix: _Keys, places: Sequence[Place]) -> _Signature:
    return tuple(
        (place.keys(0)[len(prefix) :], place.leaf.shape, str(place.leaf.dtype)) for place in _by_keys(prefix, places)
    )


def _pairs(
    result_prefix: _Keys, results: Sequence[Place], argument_prefix: _Keys, arguments: Sequence[Place]
) -> list[tuple[Place, Place]]:
    # A mapping may come back with its keys in another order.
    return list(zip(_by_keys(result_prefix, results), _by_keys(argument_prefix, arguments), strict=True))


def _by_keys(prefix: _Keys, places: Sequence[Place]) -> list[Place]:
    return sorted(places, key=lambda place: place.keys(0)[len(prefix) :])
