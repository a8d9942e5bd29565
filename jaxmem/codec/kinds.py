"""What JSON writes as it is, and what is raised where values are not of the type asked for."""

import types

SCALARS: tuple[type, ...] = (bool, int, float, str, types.NoneType)
PLAIN = frozenset({bool, int, str, types.NoneType})
"""What JSON writes as it is."""


class Mismatch(Exception):
    """The values are not of the type asked for. ``path`` leads to the place, ``problem`` says what is wrong there."""

    def __init__(self, problem: str, path: str = "") -> None:
        super().__init__(f"{path}: {problem}" if path else problem)
        self.problem, self.path = problem, path

    def inside(self, part: str) -> "Mismatch":
        """The same mismatch, seen from one level further out."""
        joint = "" if not self.path or self.path.startswith("[") else "."
        return Mismatch(self.problem, f"{part}{joint}{self.path}")
