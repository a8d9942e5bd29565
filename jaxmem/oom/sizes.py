"""Sizes as the messages write them: ``16.42G``, ``27.93GiB``, ``6291456 bytes``, ``129.50M``, ``123kB``."""

import re

SIZE = r"[0-9]{1,20}(?:\.[0-9]{1,20})?\s?(?:[KkMGTP]i?B?|B|bytes)?(?![\w.]{0,30}\d)"
"""A pattern without groups. In XLA's messages a bare G is 2^30 bytes, and so is the kernel's kB 2^10."""

_READ = re.compile(r"([0-9]{1,20}(?:\.[0-9]{1,20})?)\s?([KMGTP]?)", re.IGNORECASE)


def read_size(text: str) -> int:
    """The bytes of a size; exactly where it is written in bytes, else as exactly as it is written."""
    match = _READ.match(text.strip())
    assert match is not None, text
    if not match[2] and "." not in match[1]:
        return int(match[1])
    return round(float(match[1]) * 1024 ** " KMGTP".index(match[2].upper() or " "))
