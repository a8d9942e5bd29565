"""Trees whose structure a moment of the optimizer repeats: the parameters, and what looks like them."""

from collections.abc import Sequence

from jaxmem.roles import Role
from jaxmem.tracing.optax_states import field_role, innermost_state, is_optax_state
from jaxmem.tracing.trees import Place


def mirrored_trees(
    places: Sequence[Place], carried: frozenset[int]
) -> tuple[dict[int, tuple[str, ...]], dict[int, tuple[str, ...]]]:
    """Trees outside the optimizer's state whose keys a moment inside it repeats.

    A moment may be spread over several states (masked, multi_transform): the parts are joined first. Shapes must
    agree where both have more than one key only by key, for a factored moment has other shapes. Of several trees that
    fit, those that come back come first: gradients handed in look the same, but do not come back.
    """
    moments: dict[tuple[str, str, str], dict[tuple[str, ...], tuple[int, ...]]] = {}
    outside: list[Place] = []
    for place in places:
        number = innermost_state(place.steps)
        if number is None:
            outside.append(place)
            continue
        step = place.steps[number]
        if field_role(step.owner, str(step.key)) is Role.OPTIMIZER_OTHER:
            continue
        first = next(position for position, other in enumerate(place.steps) if is_optax_state(other.owner))
        state = "".join(other.text for other in place.steps[:first])
        key = (state, type(step.owner).__name__, str(step.key))
        moments.setdefault(key, {})[place.keys(number + 1)] = place.leaf.shape

    trees: dict[tuple[str, ...], list[Place]] = {}
    for place in outside:
        # NNX variables and modules of Equinox in a moment keep their keys, so paths compare as text.
        for length in range(1, len(place.steps) + 1):
            trees.setdefault(tuple(step.text for step in place.steps[:length]), []).append(place)

    mirrored: dict[int, tuple[str, ...]] = {}
    further: dict[int, tuple[str, ...]] = {}
    for keys in {frozenset(moment): moment for moment in moments.values()}.values():
        fitting = [
            (len(prefix), tree)
            for prefix, tree in trees.items()
            if len(tree) == len(keys)
            and {place.keys(len(prefix)) for place in tree} == set(keys)
            and (len(keys) > 1 or keys[tree[0].keys(len(prefix))] == tree[0].leaf.shape)
        ]
        # The longest path to the same leaves begins at the tree itself.
        unique = {tuple(place.leaf.index for place in tree): (length, tree) for length, tree in fitting}
        # In a mapping, averages may stand before the parameters they are of: a tree called `params` is no average.
        ordered = sorted(
            unique.values(),
            key=lambda item: (
                not all(place.leaf.index in carried for place in item[1]),
                item[1][0].steps[item[0] - 1].key != "params",
            ),
        )
        for position, (length, tree) in enumerate(ordered):
            target = mirrored if position == 0 else further
            for place in tree:
                target[place.leaf.index] = place.keys(length) or (str(place.steps[-1].key),)
    return mirrored, further
