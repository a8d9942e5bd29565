"""What each optimizer keeps, derived by hand from its update rule.

With w the bytes of all parameters, in the optimizer's own number format:

- sgd: θ ← θ − η·g keeps nothing.
- momentum (Polyak 1964), rmsprop (Tieleman & Hinton 2012), adagrad (Duchi et al. 2011): one accumulator a parameter, w.
- adam (Kingma & Ba 2015), adamw, nadam, lamb: two moments and the number of steps taken (s32), 2w + 4.
- amsgrad (Reddi et al. 2018): the running maximum of the second moment besides, 3w + 4.
- lion (Chen et al. 2023): one moment and the number of steps, w + 4.

The number of arrays is that of the rule; a schedule or a wrapper of the user's may add more, which shows as a difference.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from jaxmem.layer_table import LayerTable
from jaxmem.lowering import Output
from jaxmem.roles import OPTIMIZER_ROLES, Role


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizerRule:
    """State by the update rule: copies of the parameters by role, and bytes that do not depend on them."""

    first_moments: int = 0
    second_moments: int = 0
    other_copies: int = 0
    constant_bytes: int = 0

    def state_bytes(self, role: Role, parameter_bytes: int) -> int:
        """Bytes of the state of one role."""
        copies = {
            Role.OPTIMIZER_FIRST_MOMENT: self.first_moments,
            Role.OPTIMIZER_SECOND_MOMENT: self.second_moments,
            Role.OPTIMIZER_OTHER: self.other_copies,
        }[role]
        return copies * parameter_bytes + (self.constant_bytes if role is Role.OPTIMIZER_OTHER else 0)

    def symbol(self, role: Role) -> str:
        """How the formula writes the state of one role."""
        copies = {
            Role.OPTIMIZER_FIRST_MOMENT: self.first_moments,
            Role.OPTIMIZER_SECOND_MOMENT: self.second_moments,
            Role.OPTIMIZER_OTHER: self.other_copies,
        }[role]
        constant = self.constant_bytes if role is Role.OPTIMIZER_OTHER else 0
        terms = ([f"{copies if copies > 1 else ''}w"] if copies else []) + ([str(constant)] if constant else [])
        return " + ".join(terms) or "0"


RULES = {
    "sgd": OptimizerRule(),
    "momentum": OptimizerRule(first_moments=1),
    "rmsprop": OptimizerRule(second_moments=1),
    "adagrad": OptimizerRule(second_moments=1),
    "adam": OptimizerRule(first_moments=1, second_moments=1, constant_bytes=4),
    "adamw": OptimizerRule(first_moments=1, second_moments=1, constant_bytes=4),
    "nadam": OptimizerRule(first_moments=1, second_moments=1, constant_bytes=4),
    "lamb": OptimizerRule(first_moments=1, second_moments=1, constant_bytes=4),
    "amsgrad": OptimizerRule(first_moments=1, second_moments=1, other_copies=1, constant_bytes=4),
    "lion": OptimizerRule(first_moments=1, constant_bytes=4),
}


def state_bytes(optimizer: str, parameter_bytes: int) -> int:
    """Bytes of an optimizer's state by its rule.

    Raises:
        KeyError: no rule is written down for the optimizer.
    """
    return sum(RULES[optimizer].state_bytes(role, parameter_bytes) for role in OPTIMIZER_ROLES)


def follows_optimizer(table: LayerTable, outputs: Sequence[Output]) -> set[int]:
    """The values that depend on the optimizer's state: what the update makes of a gradient, and no gradient itself."""
    late = {
        table.arguments[output.argument_index]
        for output in outputs
        if output.role in OPTIMIZER_ROLES and output.argument_index is not None
    }
    for operation in table.operations:
        if not late.isdisjoint(operation.operands[: operation.hands_on or None]):
            late.update(operation.results)
    return late
