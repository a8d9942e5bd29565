"""From the bytes of an XLA dump to a module and its buffer assignment."""

import contextlib
import io
import os
import stat
import zlib
from pathlib import Path
from typing import Any, BinaryIO

from google.protobuf.message import DecodeError

from jaxmem.errors import InputError
from jaxmem.files import read_bounded, unpacked_limit
from jaxmem.units import format_bytes
from jaxmem.xla.buffers import BufferAssignment
from jaxmem.xla.condense import NotAProto, condensed
from jaxmem.xla.decode_buffers import decode_buffers
from jaxmem.xla.decode_module import broken, decode_module
from jaxmem.xla.density import BYTES_A_MESSAGE, too_dense
from jaxmem.xla.hlo import Module
from jaxmem.xla.schema import MESSAGES

MAXIMUM_DECOMPRESSED_BYTES = 1 << 30
"""A gzip file that grows beyond this is refused: it is a bomb, or a dump that should be handed over unpacked."""

LARGE_BYTES = 1 << 26
"""A dump of more than this is condensed before it is parsed: parsing copies whatever there is, some of it twice."""

_GZIP_MAGIC = b"\x1f\x8b"


def dump_content(path: str | Path) -> bytes:
    """The content of a dump's file; of a large one, what is read of it.

    Raises:
        InputError: it cannot be read, is larger than is read at all, or is large and damaged.
    """
    with contextlib.suppress(OSError, ValueError):  # what is wrong with it is said below
        status = os.stat(path)
        if LARGE_BYTES < status.st_size <= MAXIMUM_DECOMPRESSED_BYTES and stat.S_ISREG(status.st_mode):
            with open(path, "rb") as stream:
                if not stream.peek(2).startswith(_GZIP_MAGIC):
                    return _condensed(stream, os.fstat(stream.fileno()).st_size, str(path))
    return read_bounded(path, limit_bytes=MAXIMUM_DECOMPRESSED_BYTES)


def read_hlo_proto(data: bytes, *, origin: str) -> tuple[Module, BufferAssignment | None]:
    """Read a serialized HloProto, raw or compressed with gzip.

    Args:
        data: the content of an ``*.hlo.pb`` or ``*.hlo.pb.gz`` file.
        origin: what the messages call it, for example the path.

    Returns:
        The module, and its buffer assignment, or None where the dump was made before buffers were assigned.

    Raises:
        InputError: truncated, foreign, or inconsistent data.
    """
    return _decoded(_parse("HloProto", _without_large_parts(data, origin), origin), origin)


def read_hlo_file(path: str | Path) -> tuple[Module, BufferAssignment | None]:
    """`read_hlo_proto` on a file, whose content is let go as soon as it is parsed. Errors also as `dump_content`."""
    return _decoded(_parse("HloProto", dump_content(path), str(path)), str(path))


def _decoded(proto: Any, origin: str) -> tuple[Module, BufferAssignment | None]:
    if not proto.HasField("hlo_module"):
        raise broken(origin, "it holds no HLO module")
    module = decode_module(proto.hlo_module, origin=origin)
    if not proto.HasField("buffer_assignment"):
        return module, None
    return module, decode_buffers(proto.buffer_assignment, module, origin=origin)


def has_buffer_assignment(data: bytes, *, origin: str) -> bool:
    """Whether a serialized HloProto holds a buffer assignment: without reading the module, so in little time.

    Raises:
        InputError: as `read_hlo_proto`.
    """
    return bool(_parse("HloProtoOutline", data, origin).buffer_assignment)


def _parse(message_name: str, data: bytes, origin: str) -> Any:
    if data.startswith(_GZIP_MAGIC):
        data = _without_large_parts(_decompress(data, origin), origin)
    if not data:
        raise broken(origin, "it is empty")
    try:
        if message_name == "HloProto" and too_dense(message_name, data):
            raise broken(
                origin,
                f"its {len(data)} bytes are more than {len(data) // BYTES_A_MESSAGE} messages, most of them empty",
            )
        return MESSAGES[message_name].FromString(data)
    except DecodeError as error:
        raise broken(origin, f"its {len(data)} bytes are truncated or no HloProto ({error})") from error


def _without_large_parts(data: bytes, origin: str) -> bytes:
    if len(data) <= LARGE_BYTES or data.startswith(_GZIP_MAGIC):
        return data
    return _condensed(io.BytesIO(data), len(data), origin)


def _condensed(stream: BinaryIO, size_bytes: int, origin: str) -> bytes:
    try:
        return condensed(stream, size_bytes)
    except NotAProto as error:
        raise broken(origin, f"its {size_bytes} bytes are truncated or no HloProto ({error})") from error


def _decompress(data: bytes, origin: str) -> bytes:
    parts, size, limit_bytes = [], 0, unpacked_limit(len(data), MAXIMUM_DECOMPRESSED_BYTES)
    while data:
        stream = zlib.decompressobj(wbits=31)
        try:
            part = stream.decompress(data, limit_bytes - size + 1)
        except zlib.error as error:
            raise broken(origin, f"its gzip data is damaged ({error})") from error
        size += len(part)
        if size > limit_bytes:
            raise InputError(
                f"{origin} unpacks to more than {format_bytes(limit_bytes)}. If that is right, "
                "unpack it with gunzip and pass the unpacked file."
            )
        if not stream.eof:
            raise broken(origin, "its gzip data ends too early")
        parts.append(part)
        data = stream.unused_data
    return b"".join(parts)
