"""Which argument a result replaces: matched by tree structure, then by shape. Roles are not needed for this, they need it."""

from collections import defaultdict
from collections.abc import Iterable, Sequence

import jax

from jaxmem.tracing.trees import Place

_Signature = tuple[tuple[tuple[str, ...], tuple[int, ...], str], ...]


def carried_over(
    arguments: Sequence[Place], results: Sequence[Place], *, differentiates: bool
) -> dict[int, int]:
    """Flat result → flat argument that it is the next value of.

    The largest subtree first: a result tree and an argument tree with the same keys, shapes and dtypes in the same order of
    keys. Of several that fit, the one at the same path, then the one nearest the top, then the first. An array that is a whole
    argument counts only where it cannot be a mere coincidence of shapes: a typed key, a donated array, or in a program that
    differentiates, an array that is no scalar.
    """
    argument_trees, result_trees = _subtrees(arguments), _subtrees(results)
    by_signature: dict[_Signature, list[tuple[str, ...]]] = defaultdict(list)
    for prefix, places in argument_trees.items():
        by_signature[_signature(prefix, places)].append(prefix)
    matched: dict[int, int] = {}
    taken: set[int] = set()
    for prefix, places in sorted(result_trees.items(), key=lambda item: -len(item[1])):
        if places[0].leaf.index in matched:
            continue
        candidates = [
            candidate
            for candidate in by_signature.get(_signature(prefix, places), ())
            if not any(place.leaf.index in taken for place in argument_trees[candidate])
            and (len(places) > 1 or _is_no_coincidence(prefix, candidate, argument_trees[candidate][0], differentiates))
        ]
        if not candidates:
            continue
        best = min(candidates, key=lambda candidate: (candidate != prefix, candidate[-1] != prefix[-1], len(candidate)))
        for result, argument in zip(_by_keys(prefix, places), _by_keys(best, argument_trees[best]), strict=True):
            matched[result.leaf.index] = argument.leaf.index
            taken.add(argument.leaf.index)
    return matched


def _is_no_coincidence(result: tuple[str, ...], argument: tuple[str, ...], place: Place, differentiates: bool) -> bool:
    if result == argument:
        return True
    if len(result) > 2 or len(argument) > 1:  # an array somewhere inside a tree that as a whole does not come back
        return len(argument) > 1 and len(result) > 1 and result[-1] == argument[-1] and not argument[-1].isdigit()
    is_key = jax.dtypes.issubdtype(place.leaf.dtype, jax.dtypes.prng_key)
    return is_key or place.leaf.donated or (differentiates and place.leaf.shape != ())


def _subtrees(places: Iterable[Place]) -> dict[tuple[str, ...], list[Place]]:
    """Every subtree by its path of keys, in the order in which they are met."""
    trees: dict[tuple[str, ...], list[Place]] = defaultdict(list)
    for place in places:
        keys = place.keys(0)
        for length in range(1, len(keys) + 1):
            trees[keys[:length]].append(place)
    return trees


def _signature(prefix: tuple[str, ...], places: Sequence[Place]) -> _Signature:
    return tuple(
        (place.keys(0)[len(prefix) :], place.leaf.shape, str(place.leaf.dtype)) for place in _by_keys(prefix, places)
    )


def _by_keys(prefix: tuple[str, ...], places: Sequence[Place]) -> list[Place]:
    # A mapping may come back with its keys in another order.
    return sorted(places, key=lambda place: place.keys(0)[len(prefix) :])
