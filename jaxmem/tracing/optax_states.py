"""Optax states by class and field: which field is a first moment, which a second.

Every state is a NamedTuple of Optax's own; the class and the field say what an array is, whatever it is nested in
(chain, masked, multi_transform, inject_hyperparams, MultiSteps). What stands in no row here is `optimizer_other`:
step counts, scales, hyperparameters, the running maximum of AMSGrad, L-BFGS histories. Classes and fields as in Optax
0.2.8 (``optax/_src``, ``optax/transforms``, ``optax/contrib``).
"""

from collections.abc import Sequence
from typing import Any

from jaxmem.roles import Role
from jaxmem.tracing.trees import Step

_FIRST, _SECOND, _OTHER_STATE = Role.OPTIMIZER_FIRST_MOMENT, Role.OPTIMIZER_SECOND_MOMENT, Role.OTHER_STATE

_FIELDS: dict[tuple[str, str], Role] = {
    # Momentum, and Adam with everything derived from it (adamw, lamb, nadam, adamax, yogi, radam share the state).
    ("TraceState", "trace"): _FIRST,
    ("ScaleByAdamState", "mu"): _FIRST,
    ("ScaleByAdamState", "nu"): _SECOND,
    ("ScaleByAmsgradState", "mu"): _FIRST,
    ("ScaleByAmsgradState", "nu"): _SECOND,
    ("ScaleByBeliefState", "mu"): _FIRST,
    ("ScaleByBeliefState", "nu"): _SECOND,
    ("ScaleByNovogradState", "mu"): _FIRST,
    ("ScaleByNovogradState", "nu"): _SECOND,
    ("ScaleByLionState", "mu"): _FIRST,
    ("ScaleByAdanState", "m"): _FIRST,
    ("ScaleByAdanState", "n"): _SECOND,
    ("ScaleBySM3State", "mu"): _FIRST,
    ("ScaleBySM3State", "nu"): _SECOND,
    # Mean square without a first moment.
    ("ScaleByRmsState", "nu"): _SECOND,
    ("ScaleByRmsWithCountState", "nu"): _SECOND,
    ("ScaleByRStdDevState", "mu"): _FIRST,
    ("ScaleByRStdDevState", "nu"): _SECOND,
    ("ScaleByRStdDevWithCountState", "mu"): _FIRST,
    ("ScaleByRStdDevWithCountState", "nu"): _SECOND,
    ("ScaleByRssState", "sum_of_squares"): _SECOND,
    ("ScaleByAdaDeltaState", "e_g"): _SECOND,
    # Adafactor: the second moment as a row and a column where it factors, whole where it does not.
    ("FactoredState", "v_row"): _SECOND,
    ("FactoredState", "v_col"): _SECOND,
    ("FactoredState", "v"): _SECOND,
    # optax.contrib
    ("ScaleByAdemamixState", "m1"): _FIRST,
    ("ScaleByAdemamixState", "m2"): _FIRST,
    ("ScaleByAdemamixState", "nu"): _SECOND,
    ("ScaleBySimplifiedAdEMAMixState", "m"): _FIRST,
    ("ScaleBySimplifiedAdEMAMixState", "n"): _SECOND,
    ("DAdaptAdamWState", "exp_avg"): _FIRST,
    ("DAdaptAdamWState", "exp_avg_sq"): _SECOND,
    ("ProdigyState", "exp_avg"): _FIRST,
    ("ProdigyState", "exp_avg_sq"): _SECOND,
    ("MomoState", "exp_avg"): _FIRST,
    ("MomoAdamState", "exp_avg"): _FIRST,
    ("MomoAdamState", "exp_avg_sq"): _SECOND,
    ("MadgradState", "grad_sum_sq"): _SECOND,
    ("MadgradState", "s"): _FIRST,
    ("MuonState", "mu"): _FIRST,
    ("SophiaState", "mu"): _FIRST,
    ("SophiaState", "nu"): _SECOND,
    # Not the optimizer's own memory, but carried in its state: averages, and gradients summed over several steps.
    ("EmaState", "ema"): _OTHER_STATE,
    ("MultiStepsState", "acc_grads"): _OTHER_STATE,
    ("ApplyEvery", "grad_acc"): _OTHER_STATE,
}


def is_optax_state(owner: Any) -> bool:
    """Whether a container is a state of Optax: one of its NamedTuples."""
    return isinstance(owner, tuple) and hasattr(owner, "_fields") and type(owner).__module__.split(".")[0] == "optax"


def innermost_state(steps: Sequence[Step]) -> int | None:
    """Number of the step out of the innermost Optax state on the way to a leaf; None where there is none."""
    return next((number for number in reversed(range(len(steps))) if is_optax_state(steps[number].owner)), None)


def field_role(state: Any, field: str) -> Role:
    """What a field of an Optax state is for."""
    return _FIELDS.get((type(state).__name__, field), Role.OPTIMIZER_OTHER)
