"""Parameter paths that stay apart when a program has several models."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from jaxmem.roles import OPTIMIZER_ROLES, Role
from jaxmem.tracing.roles import Decision
from jaxmem.tracing.trees import Place

_Keys = tuple[str, ...]


def distinct_paths(places: Sequence[Place], decisions: Sequence[Decision]) -> tuple[Decision, ...]:
    """Give parameters of several models paths that tell them apart, and each optimizer's state those of its model.

    Two models of one kind in a program (a generator and a discriminator, a learner and a target) have the same paths
    inside. Then the path begins with the name of the tree. An optimizer's state belongs to the first tree with its
    paths and shapes that no other state of the same kind has yet.
    """
    counts = Counter(decision.parameter_path for decision in decisions if decision.role is Role.PARAMETERS)
    if not counts or max(counts.values()) == 1:
        return tuple(decisions)
    trees: dict[_Keys, dict[_Keys, tuple[int, ...]]] = {}
    moments: dict[tuple[_Keys, Role], dict[_Keys, tuple[int, ...]]] = {}
    roots: dict[int, _Keys] = {}
    for place, decision in zip(places, decisions, strict=True):
        if not decision.parameter_path:
            continue
        keys = place.keys(0)
        root = roots[place.leaf.index] = keys[: len(keys) - len(decision.parameter_path)] or keys[:1]
        if decision.role is Role.PARAMETERS:
            trees.setdefault(root, {})[decision.parameter_path] = place.leaf.shape
        elif decision.role in OPTIMIZER_ROLES:
            moments.setdefault((root, decision.role), {})[decision.parameter_path] = place.leaf.shape
    names = _short_names(tuple(trees))
    owners: dict[tuple[_Keys, Role], str] = {}
    for (root, role), paths in moments.items():
        fitting = [names[tree] for tree, known in trees.items() if paths.keys() <= known.keys()]
        fitting.sort(key=lambda name: sum(1 for (_, other), owner in owners.items() if other is role and owner == name))
        exact = [names[tree] for tree, known in trees.items() if all(known.get(k) == v for k, v in paths.items())]
        owners[root, role] = next((name for name in fitting if name in exact), next(iter(fitting), ""))
    distinct = []
    for place, decision in zip(places, decisions, strict=True):
        root = roots.get(place.leaf.index, ())
        # Model state lies in the same argument as its parameters, under the same name or beside them.
        name = names.get(root) or owners.get((root, decision.role)) or names.get(root[:1], "")
        prefixed = (name, *decision.parameter_path) if name and decision.parameter_path else decision.parameter_path
        distinct.append(replace(decision, parameter_path=prefixed))
    return tuple(distinct)


def _short_names(roots: Sequence[_Keys]) -> dict[_Keys, str]:
    """The shortest ends of the paths that tell the trees apart."""
    for length in range(1, max(map(len, roots)) + 1):
        names = {root: ".".join(root[-length:]) for root in roots}
        if len(set(names.values())) == len(roots):
            return names
    return {root: ".".join(root) for root in roots}
