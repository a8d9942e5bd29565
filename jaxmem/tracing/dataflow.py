"""What a result is made of outside the model: tells a new parameter (the old one and an update) from a gradient.

JAX marks what differentiation made in the name stack: ``jvp(...)`` for the forward pass, ``transpose(...)`` for the
backward pass. Walking from the arguments, every array knows which arguments reach it without passing through either,
and whether a backward pass does.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Flow:
    """What reaches each flat result.

    Attributes:
        differentiates: there is a backward pass in the program; None where there is no jaxpr to look at.
        reached_by: for each flat result, the flat arguments that reach it outside the model.
        added_to: for each flat result, the arguments it is a sum with: a parameter and its update, but not the
            gradient, which an update scales.
        from_backward: for each flat result, whether the backward pass reaches it.
    """

    differentiates: bool | None
    reached_by: tuple[frozenset[int], ...] = ()
    added_to: tuple[frozenset[int], ...] = ()
    from_backward: tuple[bool, ...] = ()

    def is_gradient(self, result: int, argument: int) -> bool:
        """Whether a result shaped like an argument is its gradient, not its next value."""
        return bool(self.from_backward) and self.from_backward[result] and argument not in self.reached_by[result]

    def is_update(self, result: int, argument: int) -> bool:
        """Whether a result is made of the argument without passing through the model."""
        return bool(self.reached_by) and argument in self.reached_by[result]

    def is_sum(self, result: int, argument: int) -> bool:
        """Whether a result is the argument and something added to it."""
        return bool(self.added_to) and argument in self.added_to[result]


UNKNOWN_FLOW = Flow(differentiates=None)
"""Of a program without a jaxpr."""


def read_flow(closed_jaxpr: Any) -> Flow:
    """Walk a traced program front to back, in time linear in its equations."""
    jaxpr, equations = closed_jaxpr.jaxpr, _Equations()
    # A set of arguments is the bits of an integer; the lowest bit is the backward pass.
    arguments = [2 << index for index in range(len(jaxpr.invars))]
    masks = _walk(jaxpr, arguments, equations, sums_only=False)
    return Flow(
        differentiates=equations.contain_backward(jaxpr),
        reached_by=_sets(masks),
        added_to=_sets(_walk(jaxpr, arguments, equations, sums_only=True)),
        from_backward=tuple(bool(mask & 1) for mask in masks),
    )


def _sets(masks: Sequence[int]) -> tuple[frozenset[int], ...]:
    return tuple(frozenset(_arguments_in(mask)) for mask in masks)


def _arguments_in(mask: int) -> Iterator[int]:
    """The arguments of a set. A network has thousands, and of most sets one or two: only those are looked at."""
    mask >>= 1
    while mask:
        lowest = mask & -mask
        yield lowest.bit_length() - 1
        mask ^= lowest


@dataclass(frozen=True, slots=True, kw_only=True)
class _Equation:
    """What a walk asks of an equation.

    Attributes:
        made_by: ``transpose``, ``jvp``, or empty for what differentiation has not made.
        inner: the jaxprs among its parameters.
        contains_backward: any of these has a backward pass in it.
    """

    equation: Any
    made_by: str
    inner: tuple[Any, ...]
    contains_backward: bool


class _Equations:
    """The equations of jaxprs, each read once however often it is walked over."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[_Equation, ...]] = {}  # by identity: the program keeps its jaxprs

    def of(self, jaxpr: Any) -> tuple[_Equation, ...]:
        known = self._known.get(id(jaxpr))
        if known is None:
            known = self._known[id(jaxpr)] = tuple(map(self._read, jaxpr.eqns))
        return known

    def contain_backward(self, jaxpr: Any) -> bool:
        """Whether any equation, at any depth, belongs to a backward pass."""
        return any(each.made_by == "transpose" or each.contains_backward for each in self.of(jaxpr))

    def _read(self, equation: Any) -> _Equation:
        stack, inner = str(equation.source_info.name_stack), tuple(_inner_jaxprs(equation))
        return _Equation(
            equation=equation,
            made_by="transpose" if "transpose(" in stack else "jvp" if "jvp(" in stack else "",
            inner=inner,
            contains_backward=any(map(self.contain_backward, inner)),
        )


_SUMS = frozenset({"add", "add_any", "sub", "convert_element_type", "copy", "reshape", "squeeze", "select_n"})
"""Primitives that keep a sum a sum."""


def _walk(jaxpr: Any, arguments: Sequence[int], equations: _Equations, *, sums_only: bool) -> list[int]:
    masks: dict[Any, int] = dict(zip(jaxpr.invars, arguments, strict=True))

    def of(atom: Any) -> int:
        return 0 if hasattr(atom, "val") else masks.get(atom, 0)

    for each in equations.of(jaxpr):
        equation = each.equation
        operands = [of(atom) for atom in equation.invars]
        if each.made_by == "transpose":
            results = [1] * len(equation.outvars)
        elif each.made_by == "jvp":
            results = [0] * len(equation.outvars)
        elif len(each.inner) == 1 and _is_call(equation, each.inner[0]):
            results = _walk(each.inner[0], operands, equations, sums_only=sums_only)
        elif equation.primitive.name in ("scan", "while") and each.contains_backward:
            results = _walk_loop(equation, operands, equations, sums_only=sums_only)
        elif sums_only and equation.primitive.name not in _SUMS:
            results = [0] * len(equation.outvars)
        elif each.contains_backward:
            results = [1] * len(equation.outvars)  # a branch in which the backward pass is
        else:
            everything = 0
            for mask in operands:
                everything |= mask
            results = [everything] * len(equation.outvars)
        masks.update(zip(equation.outvars, results, strict=True))
    return [of(atom) for atom in jaxpr.outvars]


def _walk_loop(equation: Any, operands: Sequence[int], equations: _Equations, *, sums_only: bool) -> list[int]:
    """A loop over steps or micro-batches: what it carries is reached by whatever reaches it in any of its turns.

    State of which each turn makes a new version is reached by itself; gradients that are added up from zeros are not.
    """
    parameters = equation.params
    if equation.primitive.name == "scan":
        body, constants, carries = parameters["jaxpr"].jaxpr, parameters["num_consts"], parameters["num_carry"]
        before = list(operands)
    else:
        body, constants = parameters["body_jaxpr"].jaxpr, parameters["body_nconsts"]
        before = list(operands[parameters["cond_nconsts"] :])
        carries = len(before) - constants
    while True:
        after = _walk(body, before, equations, sums_only=sums_only)
        carried = [one | other for one, other in zip(before[constants : constants + carries], after, strict=False)]
        if carried == before[constants : constants + carries]:
            return carried + after[carries:]
        before[constants : constants + carries] = carried


def _is_call(equation: Any, body: Any) -> bool:
    """A call hands its operands over one by one; a loop does not."""
    return (
        equation.primitive.name not in ("scan", "while", "cond")
        and len(body.invars) == len(equation.invars)
        and len(body.outvars) == len(equation.outvars)
    )


def _inner_jaxprs(equation: Any) -> Iterator[Any]:
    for value in equation.params.values():
        for inner in value if isinstance(value, tuple | list) else (value,):
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                yield inner
