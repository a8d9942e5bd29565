"""What each argument is for: one ordered list of rules, each of which answers or passes.

The rules read the arguments' own Python types and pytree paths, and which of them come back as results. None looks at
a part of a name. The order: what the user said, then what a type says, then what a name in a framework's own
vocabulary says, then what the structure says, then what is left.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import jax.numpy as jnp

from jaxmem.roles import OPTIMIZER_ROLES, Role
from jaxmem.tracing.mirrored import mirrored_trees
from jaxmem.tracing.optax_states import field_role, innermost_state, is_optax_state
from jaxmem.tracing.trees import Leaf, Place, is_equinox_module, is_nnx


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What an argument is for.

    Attributes:
        role, rule: the answer, and the rule that gave it.
        parameter_path: keys inside the tree of parameters, model state or moments; empty for everything else.
    """

    role: Role
    rule: str
    parameter_path: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """What the rules know of the whole program.

    Attributes:
        places: every argument leaf, by flat index.
        given: roles the user decided, by path.
        carried: flat indices of the arguments that come back as results.
        differentiates: whether there is a backward pass in the program; None where there is no jaxpr to tell.
        mirrored: for leaves of a tree whose structure a moment of the optimizer repeats, the keys inside that tree.
        mirrors_parameters: likewise for further trees of the same structure (averages of the parameters).
        returned_trees: names of the arguments that come back whole.
    """

    places: tuple[Place, ...]
    given: tuple[tuple[str, Role], ...]
    carried: frozenset[int]
    differentiates: bool | None
    mirrored: Mapping[int, tuple[str, ...]]
    mirrors_parameters: Mapping[int, tuple[str, ...]]
    returned_trees: frozenset[str]


def decide(
    places: Sequence[Place], *, given: tuple[tuple[str, Role], ...], carried: Iterable[int], differentiates: bool | None
) -> tuple[Decision, ...]:
    """The role of every argument leaf, in flat order."""
    places = tuple(sorted(places, key=lambda place: place.leaf.index))
    carried = frozenset(carried)
    decided = {place.leaf.index for place in places if _given_path(place, given) is not None}
    mirrored, further = mirrored_trees([place for place in places if place.leaf.index not in decided], carried)
    signature = Signature(
        places=places,
        given=given,
        carried=carried,
        differentiates=differentiates,
        mirrored=mirrored,
        mirrors_parameters=further,
        returned_trees=_returned_trees(places, carried),
    )
    decisions = [_first_answer(RULES, place, signature) for place in places]
    if not any(decision is not None and decision.role is Role.PARAMETERS for decision in decisions):
        argument = _parameter_argument(places, decisions, signature)
        decisions = [
            _as_parameters(place, signature) if decision is None and place.steps[0].text == argument else decision
            for place, decision in zip(places, decisions, strict=True)
        ]
    return tuple(
        decision or _first_answer(LAST_RULES, place, signature) or _input(place)
        for place, decision in zip(places, decisions, strict=True)
    )


_Rule = Callable[[Place, Signature], Decision | None]


def _first_answer(rules: Sequence[_Rule], place: Place, signature: Signature) -> Decision | None:
    return next((answer for rule in rules if (answer := rule(place, signature)) is not None), None)


def _given(place: Place, signature: Signature) -> Decision | None:
    """The user decided: the argument's name, its path, or a path it lies under."""
    found = _given_path(place, signature.given)
    if found is None:
        return None
    length, role = found
    if role in OPTIMIZER_ROLES or role in (Role.PARAMETERS, Role.MODEL_STATE):
        return Decision(role=role, rule="given by the user", parameter_path=place.keys(length))
    return Decision(role=role, rule="given by the user")


def _given_path(place: Place, given: tuple[tuple[str, Role], ...]) -> tuple[int, Role] | None:
    """How many steps the most particular path covers that the user gave for this leaf, and its role."""
    texts = [step.text for step in place.steps]
    lengths = {"".join(texts[:length]): length for length in range(1, len(texts) + 1)}
    found = [(lengths[path], role) for path, role in given if path in lengths]
    return max(found, key=lambda item: item[0]) if found else None


def _optax_state(place: Place, _: Signature) -> Decision | None:
    """Inside a state of Optax: the innermost one and its field say what it is."""
    number = innermost_state(place.steps)
    if number is None:
        return None
    step = place.steps[number]
    role = field_role(step.owner, str(step.key))
    inside = place.keys(number + 1)
    of_parameter = role is not Role.OPTIMIZER_OTHER or len(inside) > 0
    return Decision(
        role=role, rule=f"optax {type(step.owner).__name__}.{step.key}", parameter_path=inside if of_parameter else ()
    )


def _beside_optax_state(place: Place, _: Signature) -> Decision | None:
    """In a plain tuple next to states of Optax: a transformation of the user's own, in a chain."""
    for step in place.steps:
        if type(step.owner) is tuple and any(is_optax_state(other) for other in step.owner):
            return Decision(role=Role.OPTIMIZER_OTHER, rule="beside optax states in a chain")
    return None


def _nnx_optimizer(place: Place, _: Signature) -> Decision | None:
    """In an NNX optimizer but in no state of Optax: its own step counter. The model it may hold is left to the next
    rule.
    """
    for step in place.steps:
        if is_nnx(step.owner, "Optimizer"):
            if step.key == "model":
                return None
            return Decision(role=Role.OPTIMIZER_OTHER, rule=f"nnx.Optimizer.{step.key}")
    return None


_NNX_VARIABLES = (
    ("Param", Role.PARAMETERS),
    ("BatchStat", Role.MODEL_STATE),
    ("RngState", Role.OTHER_STATE),
    ("Cache", Role.OTHER_STATE),
    ("Variable", Role.OTHER_STATE),
)


def _nnx_variable(place: Place, signature: Signature) -> Decision | None:
    """An NNX variable says by its class what it is; a subclass is what its base is."""
    for step in place.steps:
        for name, role in _NNX_VARIABLES:
            if is_nnx(step.owner, name):
                inside = place.keys() if role in (Role.PARAMETERS, Role.MODEL_STATE) else ()
                return Decision(role=role, rule=f"nnx variable {type(step.owner).__name__}", parameter_path=inside)
    return None


_COLLECTIONS = {"params": Role.PARAMETERS, "batch_stats": Role.MODEL_STATE, "cache": Role.OTHER_STATE}


def _train_state(place: Place, _: Signature) -> Decision | None:
    """The fields of Flax's own TrainState that are no collection: its step counter, and optimizer state without a
    class.
    """
    for step in place.steps:
        if any(
            f"{base.__module__}.{base.__name__}" == "flax.training.train_state.TrainState"
            for base in type(step.owner).__mro__
        ):
            if step.key in ("step", "opt_state"):
                return Decision(role=Role.OPTIMIZER_OTHER, rule=f"TrainState.{step.key}")
            return None
    return None


def _collection(place: Place, _: Signature) -> Decision | None:
    """Inside a Linen collection: a mapping that is called ``params``, ``batch_stats`` or ``cache`` wherever it lies.

    The innermost such name counts, so ``state.params['params']`` begins at the collection proper.
    """
    for number in reversed(range(len(place.steps) - 1)):
        step = place.steps[number]
        following = place.steps[number + 1]
        if step.key in _COLLECTIONS and isinstance(following.owner, Mapping):
            role = _COLLECTIONS[str(step.key)]
            inside = place.keys(number + 1) if role is not Role.OTHER_STATE else ()
            return Decision(role=role, rule=f"collection {step.key!r}", parameter_path=inside)
    return None


def _equinox_state(place: Place, _: Signature) -> Decision | None:
    """In an `equinox.nn.State`: running statistics of the model."""
    for step in place.steps:
        kind = type(step.owner)
        if kind.__name__ == "State" and kind.__module__.startswith("equinox."):
            return Decision(role=Role.MODEL_STATE, rule="equinox.nn.State", parameter_path=place.keys())
    return None


def _equinox_module(place: Place, _: Signature) -> Decision | None:
    """In an Equinox module: real numbers are parameters (what `equinox.filter_grad` differentiates), the rest is
    state.
    """
    for number, step in enumerate(place.steps):
        if is_equinox_module(step.owner):
            name = type(step.owner).__name__
            if _is_real(place.leaf):
                return Decision(
                    role=Role.PARAMETERS,
                    rule=f"inexact array of equinox module {name}",
                    parameter_path=place.keys(number),
                )
            return Decision(role=Role.OTHER_STATE, rule=f"array of equinox module {name}")
    return None


def _mirrored(place: Place, signature: Signature) -> Decision | None:
    """In a tree whose structure a moment of the optimizer repeats: the parameters."""
    if place.leaf.index in signature.mirrored:
        return Decision(
            role=Role.PARAMETERS,
            rule="mirrored by the optimizer's state",
            parameter_path=signature.mirrored[place.leaf.index],
        )
    if place.leaf.index in signature.mirrors_parameters:
        if signature.differentiates is False and place.leaf.index not in signature.carried:
            return Decision(
                role=Role.GRADIENTS,
                rule="a tree like the parameters that does not come back, in a program without a backward pass",
                parameter_path=signature.mirrors_parameters[place.leaf.index],
            )
        return Decision(role=Role.OTHER_STATE, rule="a further tree like the parameters")
    return None


def _returned_state(place: Place, signature: Signature) -> Decision | None:
    """In a tree that comes back beside the parameters in a program that differentiates: running statistics of the
    model.

    In a program without a backward pass it is other state (a key-value cache).
    """
    if place.leaf.index not in signature.carried:
        return None
    owner = place.steps[-1].owner
    # The counters that stand beside running averages belong to them.
    averages = isinstance(owner, Mapping) and any(isinstance(leaf, Leaf) and _is_real(leaf) for leaf in owner.values())
    if signature.differentiates and averages:
        return Decision(role=Role.MODEL_STATE, rule="returned beside the parameters", parameter_path=place.keys())
    return Decision(role=Role.OTHER_STATE, rule="returned")


def _is_real(leaf: Leaf) -> bool:
    return jnp.issubdtype(leaf.dtype, jnp.inexact)


RULES: tuple[_Rule, ...] = (
    _given,
    # Types. Optax before NNX: inside an NNX optimizer every moment is a variable too, and the Optax state says more.
    _optax_state,
    _beside_optax_state,
    _nnx_optimizer,
    _nnx_variable,
    # Structure before names and before Equinox: averages of the parameters are modules and collections as well.
    _mirrored,
    _train_state,
    _collection,
    _equinox_state,
    _equinox_module,
)
"""Asked in this order for every argument."""

LAST_RULES: tuple[_Rule, ...] = (_returned_state,)
"""Asked once it is settled which whole argument is the parameters."""


def _input(place: Place) -> Decision:
    return Decision(role=Role.INPUTS, rule="neither state nor returned")


def _as_parameters(place: Place, signature: Signature) -> Decision:
    rule = "first tree of arrays"
    if place.leaf.index in signature.carried:
        rule = "differentiated and returned" if signature.differentiates else "returned tree of arrays"
    # A whole argument that is one array has no path of its own but its name.
    return Decision(role=Role.PARAMETERS, rule=rule, parameter_path=place.keys() or (str(place.steps[0].key),))


def _parameter_argument(
    places: Sequence[Place], decisions: Sequence[Decision | None], signature: Signature
) -> str | None:
    """The argument that is the parameters where no type says so.

    In a program that differentiates, the first tree of real numbers that comes back, else the first single array that
    does. In any other, the first tree of real numbers: the parameters of an inference function come before its batch
    by custom, and a batch is most often a plain array.
    """
    by_argument: dict[str, list[Place]] = {}
    for place, decision in zip(places, decisions, strict=True):
        if decision is None:
            by_argument.setdefault(place.steps[0].text, []).append(place)
    real = {name: argument for name, argument in by_argument.items() if all(_is_real(place.leaf) for place in argument)}
    trees = [name for name, argument in real.items() if len(argument[0].steps) > 1]
    if signature.differentiates is not False:
        returned = [name for name in real if name in signature.returned_trees]
        return (
            next((name for name in returned if name in trees), None)
            or next(iter(returned), None)
            or next(iter(trees), None)
        )
    return next((name for name in trees if name not in signature.returned_trees), None)


def _returned_trees(places: Sequence[Place], carried: frozenset[int]) -> frozenset[str]:
    names = {place.steps[0].text for place in places}
    return frozenset(names - {place.steps[0].text for place in places if place.leaf.index not in carried})


def layer_of(decision: Decision) -> str:
    """The layer an argument belongs to: its parameter's path without the last key."""
    return "/".join(decision.parameter_path[:-1])
