"""Bytes in and out of text.

The only module that divides by 1024: everywhere else a size is an integer number of bytes.
"""

import re

from jaxmem.errors import UsageError

_BINARY = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
_FACTORS = {"": 1, "b": 1, "byte": 1, "bytes": 1} | {
    f"{prefix}{suffix}": base**power
    for power, prefix in enumerate("kmgtp", start=1)
    for suffix, base in (("", 1024), ("ib", 1024), ("b", 1000))
}
_LARGEST, _LARGEST_BYTES = "1024 PiB", 2.0**60
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*")


def format_bytes(size_bytes: int) -> str:
    """Write a size for people: ``format_bytes(6176187540) == '5.75 GiB'``; below 1 KiB exactly, in B."""
    size, unit = float(abs(size_bytes)), 0
    while size >= 1024 and unit < len(_BINARY) - 1:
        size, unit = size / 1024, unit + 1
    digits = 0 if unit == 0 else 2 if size < 100 else 1
    return f"{'-' if size_bytes < 0 else ''}{size:.{digits}f} {_BINARY[unit]}"


def format_difference(size_bytes: int) -> str:
    """Write a signed size, ``+1.50 MiB`` or ``-12 B``; zero is ``0 B``."""
    return f"+{format_bytes(size_bytes)}" if size_bytes > 0 else format_bytes(size_bytes)


def parse_bytes(text: str) -> int:
    """Read a size such as ``'2 GiB'``, ``'1.5G'``, ``'300 MB'`` or ``'4096'`` as bytes.

    ``KiB`` and the bare letter ``K`` are 1024; ``kB`` and ``KB`` are 1000, as the standards have it.

    Raises:
        UsageError: the text is not a size.
    """
    match = _SIZE.fullmatch(text)
    factor = _FACTORS.get(match[2].lower()) if match else None
    if match is None or factor is None:
        raise UsageError(f"{text!r} is not a size. Write a number and a unit, for example 2GiB, 300MB or 4096.")
    size = float(match[1]) * factor
    if size > _LARGEST_BYTES:
        raise UsageError(f"{text[:40]!r} is more memory than there is. Write a size below {_LARGEST}.")
    return round(size)
