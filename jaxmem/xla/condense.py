"""A large dump without what is not read: the values of constants, and fields that jaxmem has no use for.

What makes a dump of hundreds of megabytes is mostly literals. They say what an instruction computes, so that two with the same
value are the same, and nothing else is asked of them: a digest does as well. The file is gone through once, from one end to the
other, and no part of it that is left out is ever held whole.
"""

from collections.abc import Iterator
from hashlib import blake2b
from typing import BinaryIO

from jaxmem.xla.schema import MESSAGES

LARGE_BYTES = 1 << 16
"""Parts up to this size are taken over as they are."""

FREE_FIELDS = 1 << 16
BYTES_A_FIELD = 32
"""So many fields any message may begin with, and then one for so many bytes that have passed: an instruction takes more, and an
empty one of two bytes would take twenty times that while it is gone through."""

_PIECE_BYTES = 1 << 20
_INSIDE = {("HloProto", 1): "HloModule", ("HloModule", 3): "Computation", ("Computation", 2): "Instruction"}
"""(message, field number) → the message in it, where large parts are looked for."""

_VARINT, _FIXED_64, _BYTES, _FIXED_32 = 0, 1, 2, 5
"""Wire types of protocol buffers; the other two, groups, no HloProto has."""


class NotAProto(ValueError):
    """The bytes are no message: they end too early, or a length or a type is none."""


def condensed(stream: BinaryIO, size_bytes: int, *, large_bytes: int = LARGE_BYTES) -> bytes:
    """A serialized HloProto that reads as the one in a stream does.

    Args:
        stream: a buffered stream of a serialized HloProto, not compressed.
        size_bytes: its length.
        large_bytes: the size up to which a part is left as it is.

    Raises:
        NotAProto: it is damaged. What is nested in small parts is not looked at.
    """
    return b"".join(_condensed(stream, "HloProto", size_bytes, large_bytes))


def _condensed(stream: BinaryIO, message: str, left: int, large_bytes: int) -> Iterator[bytes]:
    known = MESSAGES[message].DESCRIPTOR.fields_by_number
    fields, whole = 0, left
    while left > 0:
        fields += 1
        if fields > FREE_FIELDS + (whole - left) // BYTES_A_FIELD:
            raise NotAProto(f"the first {whole - left} bytes of a {message} are {fields} fields, most of them empty")
        tag, used = _varint(stream, left)
        left -= used
        number, wire_type = tag >> 3, tag & 7
        if wire_type == _VARINT:
            value, used = _varint(stream, left)
            left -= used
            yield _as_varint(tag) + _as_varint(value)
        elif wire_type in (_FIXED_64, _FIXED_32):
            size = 8 if wire_type == _FIXED_64 else 4
            left -= size
            if left < 0:
                raise NotAProto(f"field {number} of {message} is longer than what it is in")
            yield _as_varint(tag) + _exactly(stream, size)
        elif wire_type == _BYTES:
            size, used = _varint(stream, left)
            left -= used + size
            if left < 0:
                raise NotAProto(f"field {number} of {message} is longer than what it is in")
            inside = _INSIDE.get((message, number))
            if size > large_bytes and inside is not None:
                content = b"".join(_condensed(stream, inside, size, large_bytes))
            elif size > large_bytes and number not in known:
                digest = _digest(stream, size)
                if message != "Instruction":
                    continue
                content = digest
            else:
                content = _exactly(stream, size)
            yield _as_varint(tag) + _as_varint(len(content)) + content
        else:
            raise NotAProto(f"field {number} of {message} has the wire type {wire_type}")


def _varint(stream: BinaryIO, left: int) -> tuple[int, int]:
    """A number, and how many bytes it took."""
    value = 0
    for used in range(1, min(left, 10) + 1):
        (byte,) = _exactly(stream, 1)
        value |= (byte & 127) << 7 * (used - 1)
        if byte < 128:
            return value, used
    raise NotAProto("a number does not end")


def _as_varint(number: int) -> bytes:
    encoded = bytearray()
    while number > 127:
        encoded.append(number & 127 | 128)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


def _exactly(stream: BinaryIO, size: int) -> bytes:
    content = stream.read(size)
    if len(content) != size:
        raise NotAProto(f"{size} bytes were announced, and {len(content)} are left")
    return content


def _digest(stream: BinaryIO, size: int) -> bytes:
    digest = blake2b(digest_size=32)
    while size:
        digest.update(_exactly(stream, min(size, _PIECE_BYTES)))
        size -= min(size, _PIECE_BYTES)
    return digest.digest()
