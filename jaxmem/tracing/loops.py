"""What scan, while and cond run, on what, and how often."""

from dataclasses import dataclass
from typing import Any

LOOPS = frozenset({"scan", "while", "cond"})
"""The primitives that run their bodies more or less often than once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Loop:
    """An equation that runs its bodies more or less often than once.

    Attributes:
        primitive: what it is lowered to, ``while`` or ``cond``.
        bodies: each with what it receives, and how many of that are the same in every turn.
        carries: number of arrays that it hands from turn to turn.
        turns: None where that is not known.
    """

    primitive: str
    bodies: tuple[tuple[Any, list[Any], int], ...]
    carries: int
    turns: int | None

    @property
    def is_branch(self) -> bool:
        return self.primitive == "cond"

    @property
    def lasting(self) -> list[Any]:
        """What a loop receives and reads in every turn; of what it carries, only the first turn sees what comes in."""
        return [
            atom
            for _, atoms, constants in self.bodies
            for position, atom in enumerate(atoms)
            if not constants <= position < constants + self.carries
        ]

    @classmethod
    def of(cls, equation: Any) -> "Loop":
        parameters, atoms = equation.params, list(equation.invars)
        match equation.primitive.name:
            case "scan":
                bodies = [(parameters["jaxpr"], atoms, parameters["num_consts"])]
                return cls(
                    primitive="while", bodies=tuple(bodies), carries=parameters["num_carry"], turns=parameters["length"]
                )
            case "while":
                of_condition, of_body = parameters["cond_nconsts"], parameters["body_nconsts"]
                carry = atoms[of_condition + of_body :]
                bodies = [
                    (parameters["cond_jaxpr"], atoms[:of_condition] + carry, of_condition),
                    (parameters["body_jaxpr"], atoms[of_condition : of_condition + of_body] + carry, of_body),
                ]
                return cls(primitive="while", bodies=tuple(bodies), carries=len(carry), turns=None)
        bodies = [(branch, atoms[1:], len(atoms) - 1) for branch in parameters["branches"]]
        return cls(primitive="cond", bodies=tuple(bodies), carries=0, turns=1)
