"""What the name of an instruction tells by itself. Many instructions share one."""

from collections.abc import Container
from dataclasses import dataclass
from functools import cache

from jaxmem.attribution.facts import primitive
from jaxmem.formula.equal import MOVEMENT
from jaxmem.layer_paths import name_stack, place, scope_components

XLA_NAMES = {"select_and_scatter": "select_and_scatter_add"}
"""Names that JAX's lowering gives an operation, where they differ from its primitive's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What one name tells.

    Attributes:
        operation: the operation by the formula's name; empty where the instruction must be looked at.
        place: where in the program the operation stands; None where it is none of the program's.
        is_nameless: no name of JAX's, or that of an argument or of what is around operations.
    """

    operation: str
    place: tuple[str, ...] | None
    is_nameless: bool


@cache
def is_around(given: str) -> bool:
    """Whether a name is of what is around operations: a loop, a branch, a call, a transformation; never of one itself."""
    return bool(given) and not scope_components(given)


def read_name(arguments: Container[str], op_name: str) -> Told:
    """What a name tells; one of the ``arguments``, of no operation.

    A movement may be swallowed by another instruction, and a division may be the last step of a function.
    """
    given = primitive(op_name)
    is_nameless = not given or is_around(given) or op_name in arguments
    operation = "" if is_nameless or given == "div" or given in MOVEMENT else XLA_NAMES.get(given, given)
    return Told(
        operation=operation,
        place=place(name_stack(op_name)) if given else None,
        is_nameless=is_nameless,
    )
