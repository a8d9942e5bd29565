"""How much a program may grow: a size, or a percentage of what it needed."""

import re
from dataclasses import dataclass
from fractions import Fraction

from jaxmem.errors import UsageError
from jaxmem.units import parse_bytes

_PERCENT = re.compile(r"\s*(\d+(?:\.\d+)?)\s*%\s*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tolerance:
    """A number of bytes, or a percentage of the old size; exactly one of them is 0."""

    bytes: int = 0
    percent: Fraction = Fraction(0)

    def allowed_bytes(self, old_bytes: int) -> int:
        """By how much something of ``old_bytes`` may grow, rounded down."""
        return self.bytes + int(self.percent * old_bytes / 100)


NO_GROWTH = Tolerance()
"""Whatever grows, grew too much; what shrinks is always welcome."""


def parse_tolerance(text: str | int) -> Tolerance:
    """Read ``"64MiB"``, ``"1%"`` or a number of bytes.

    Raises:
        UsageError: it is neither a size nor a percentage, or negative.
    """
    if isinstance(text, int) and not isinstance(text, bool) and text >= 0:
        return Tolerance(bytes=text)
    if isinstance(text, str) and (match := _PERCENT.fullmatch(text)):
        return Tolerance(percent=Fraction(match[1]))
    try:
        return Tolerance(bytes=parse_bytes(text if isinstance(text, str) else repr(text)))
    except UsageError:
        raise UsageError(
            f"{text!r} is no tolerance. Write a size or a percentage, for example 64MiB or 1%; 0 allows no growth."
        ) from None
