"""How a cell is spelled in every form of output: the same words and units, and nothing that acts on who reads it.

Names come from programs and from other people's files, so they may hold anything: here what would move a cursor, turn
the direction of writing or end a line becomes plain to see. What else means something to a form of output, such as ``<``
or ``|``, its renderer escapes.
"""

import re

from jaxmem.report.document import Cell, Difference, Missing, Percent, Share, Size, Text
from jaxmem.units import format_bytes, format_difference

_BAR_WIDTH = 20
_FULL_BLOCK, PARTIAL_BLOCKS = "█", " ▏▎▍▌▋▊▉"

_BREAKS = re.compile(r"[\t\n\v\f\r\x1c-\x1e\x85\u2028\u2029]")
_ACTING = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")
"""Control characters, those that turn the direction of writing, and halves of a character."""


def visible(text: str) -> str:
    """The text on one line; a character that acts instead of being seen is written as Python writes it: ``\\u202e``."""
    if text.isascii() and text.isprintable():
        return text
    return _ACTING.sub(lambda found: ascii(found[0])[1:-1], _BREAKS.sub(" ", text))


def shortened(text: str, width: int) -> str:
    """At most ``width`` characters, the middle left out: both ends of a path or of a name tell it apart."""
    if len(text) <= width:
        return text
    head = (width - 1) // 2
    return text[:head] + "…" + text[len(text) - (width - 1 - head) :]


def spelled(cell: Cell) -> str:
    """What a cell says, without its tone."""
    match cell:
        case Text(text=text):
            return visible(text)
        case Size(bytes=size, at_least=at_least, exact=exact):
            text = f"≥ {format_bytes(size)}" if at_least else format_bytes(size)
            # Below 1 KiB the short form is exact already.
            return f"{text} ({size:,} B)" if exact and abs(size) >= 1024 else text
        case Difference(bytes=size):
            return format_difference(size)
        case Percent(value=value, signed=signed):
            return f"{value:+.1f} %" if signed else f"{value:.1f} %"
        case Share(fraction=fraction):
            return _bar(fraction)
        case Missing():
            return "unknown"


def _bar(fraction: float) -> str:
    eighths = round(max(0.0, min(1.0, fraction)) * _BAR_WIDTH * 8)
    full, rest = divmod(eighths, 8)
    return (_FULL_BLOCK * full + PARTIAL_BLOCKS[rest]).rstrip()
