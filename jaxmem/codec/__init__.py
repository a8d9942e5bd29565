"""Frozen dataclasses to JSON values and back, by their type annotations alone.

    values, members = encode(capture)                      # JSON values, and the bytes fields apart
    capture == decode(Capture, values, members=members)

The annotations are the schema, and it is strict: an unknown or missing key, a value of the wrong type, a member too
many or too few is a `Mismatch` that names the place (``statistics.temp_bytes: expected int or Unknown, found 'many'``).

| annotation | JSON |
|---|---|
| ``bool``, ``int``, ``float``, ``str``, ``None`` | itself; a float is finite, a bool is no int, an int may be a float |
| enum, ``Literal`` | its value |
| ``tuple[T, ...]``, ``tuple[A, B]`` | array |
| ``Mapping[str, T]``, ``dict[str, T]`` | object; comes back as a dict |
| ``A | B`` | whichever fits; dataclasses are told apart by their keys |
| `Unknown` | ``{"unknown": reason}`` |
| dataclass | object with exactly its init fields |
| ``bytes`` | ``{"member": name}``; the bytes travel beside the JSON |

A tuple of one dataclass can be written by columns (``columns``: the classes it applies to), one object of equally long
arrays instead of one object for each row: shorter, and the checks of a column are done at once.
"""

from jaxmem.codec.decoding import decode
from jaxmem.codec.encoding import encode
from jaxmem.codec.kinds import Mismatch
from jaxmem.codec.text import parse_json

__all__ = ["Mismatch", "decode", "encode", "parse_json"]
