"""A file that says what the arguments of a dumped program are for, in TOML or JSON.

    [roles]
    "params*" = "parameters"          # the name of an argument; * stands for any text, ? for one character
    "opt_state*.mu*" = "optimizer_first_moment"
    4 = "inputs"                      # the number of an argument
    "5-11" = "other_state"            # several numbers

In JSON the same: ``{"roles": {"params*": "parameters", "4": "inputs"}}``. Of several entries that speak of an argument, the
first counts. An entry that speaks of none is an error.
"""

import json
import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from jaxmem.errors import InputError
from jaxmem.files import read_bounded
from jaxmem.roles import STATE_ROLES, Role

ROLES_OF_ARGUMENTS = tuple(role for role in Role if role in STATE_ROLES or role is Role.INPUTS)
_NUMBERS = re.compile(r"([0-9]{1,9})(?:-([0-9]{1,9}))?")
_LIMIT_BYTES = 2**17
"""A thousand names and more."""
_SHOWN = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class RoleTable:
    """What a file says: pairs of an argument (its number, numbers, or a pattern of its name) and a role."""

    origin: str
    entries: tuple[tuple[str, Role], ...]

    def roles(self, names: Sequence[str]) -> dict[int, Role]:
        """The role of each argument that an entry speaks of, by number.

        Args:
            names: of all arguments, by number.

        Raises:
            InputError: an entry speaks of no argument.
        """
        found: dict[int, Role] = {}
        for pattern, role in self.entries:
            spoken_of = [number for number, name in enumerate(names) if _matches(pattern, number, name)]
            if not spoken_of:
                shown = ", ".join(f"{number} {name}" for number, name in enumerate(names[:_SHOWN]))
                more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
                raise InputError(f"{self.origin}: {pattern!r} is no argument of the program. It has: {shown}{more}.")
            found |= {number: role for number in spoken_of if number not in found}
        return found


def read_roles(path: Path) -> RoleTable:
    """Read a file of roles.

    Raises:
        InputError: it cannot be read, is neither TOML nor JSON, or says something else than roles of arguments.
    """
    data = read_bounded(path, limit_bytes=_LIMIT_BYTES)
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is no text: byte {error.start} is not UTF-8.") from error
    try:
        values = json.loads(text, object_pairs_hook=_once) if path.suffix.lower() == ".json" else tomllib.loads(text)
    except (tomllib.TOMLDecodeError, ValueError, RecursionError) as error:
        kind = "JSON" if path.suffix.lower() == ".json" else "TOML"
        raise InputError(f"{path} is not {kind}: {error}.") from error
    table = values.get("roles") if isinstance(values, dict) else None
    if not isinstance(table, dict) or len(values) != 1:
        raise InputError(
            f"{path} does not hold the table roles and nothing else. Write, in TOML:\n"
            '    [roles]\n    "params*" = "parameters"\n    3 = "inputs"'
        )
    return RoleTable(origin=str(path), entries=tuple((key, _role(path, key, value)) for key, value in table.items()))


def _role(path: Path, key: str, value: Any) -> Role:
    known = [role.value for role in ROLES_OF_ARGUMENTS]
    if value not in known:
        raise InputError(
            f"{path}: {key[:60]!r} has the role {repr(value)[:60]}. Roles of arguments: {', '.join(known)}."
        )
    return Role(value)


def _matches(pattern: str, number: int, name: str) -> bool:
    if numbers := _NUMBERS.fullmatch(pattern):
        return int(numbers[1]) <= number <= int(numbers[2] or numbers[1])
    # Brackets are part of many names, so they are no pattern here.
    return fnmatchcase(name, pattern.replace("[", "[[]"))


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """JSON lets a key stand twice, and Python takes the last."""
    values = dict(pairs)
    if len(values) < len(pairs):
        raise ValueError("a key stands there twice")
    return values
