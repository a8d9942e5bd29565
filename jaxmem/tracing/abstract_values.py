"""An abstract value as the array that XLA stores."""

import re
from functools import cache
from typing import Any


def array_of(aval: Any) -> tuple[tuple[int, ...], str, int]:
    """Shape, dtype name and bits an element as XLA stores them. A typed PRNG key is its ``uint32`` words; a token is empty."""
    dtype = getattr(aval, "dtype", None)
    if dtype is None:
        return (0,), "token", 0
    shape = tuple(int(size) for size in aval.shape)
    key_shape = getattr(getattr(dtype, "_impl", None), "key_shape", None)
    if key_shape is not None:
        return shape + tuple(key_shape), "uint32", 32
    return shape, *_name_and_bits(dtype)


@cache
def _name_and_bits(dtype: Any) -> tuple[str, int]:
    name = str(dtype)
    match = re.search(r"int([24])$", name)
    return name, 8 if name == "bool" else int(match[1]) if match else int(dtype.itemsize) * 8
