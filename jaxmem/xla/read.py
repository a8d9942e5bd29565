"""From the bytes of an XLA dump to a module and its buffer assignment."""

import zlib
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError

from jaxmem.errors import InputError
from jaxmem.units import format_bytes
from jaxmem.xla.buffers import BufferAssignment
from jaxmem.xla.decode_buffers import decode_buffers
from jaxmem.xla.decode_module import broken, decode_module
from jaxmem.xla.hlo import Module
from jaxmem.xla.schema import MESSAGES

MAXIMUM_DECOMPRESSED_BYTES = 1 << 30
"""A gzip file that grows beyond this is refused: it is a bomb, or a dump that should be handed over unpacked."""

_GZIP_MAGIC = b"\x1f\x8b"
_DUMP_PATTERNS = ("*after_optimizations.hlo.pb", "*after_optimizations.hlo.pb.gz")


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
    proto = _parse("HloProto", data, origin)
    if not proto.HasField("hlo_module"):
        raise broken(origin, "it holds no HLO module")
    module = decode_module(proto.hlo_module, origin=origin)
    if not proto.HasField("buffer_assignment"):
        return module, None
    return module, decode_buffers(proto.buffer_assignment, module, origin=origin)


def find_dump(folder: str | Path) -> Path:
    """The file of a dump folder that holds the optimized module with its buffer assignment.

    Raises:
        InputError: there is none, or more than one.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder. Pass the folder that xla_dump_to named.")
    candidates = sorted(path for pattern in _DUMP_PATTERNS for path in folder.glob(pattern))
    found = [path for path in candidates if _has_buffer_assignment(path)]
    if not found:
        names = ", ".join(path.name for path in candidates) or "no *after_optimizations.hlo.pb at all"
        raise InputError(
            f"No compiled module with a buffer assignment in {folder}: found {names}.\n"
            "Compile with xla_dump_to and xla_dump_hlo_as_proto set. A cached compilation leaves no dump: use a new "
            "folder and set jax_enable_compilation_cache to False."
        )
    if len(found) > 1:
        raise InputError(
            f"{len(found)} compiled modules in {folder}: {', '.join(path.name for path in found)}.\n"
            "Pass the one you mean by its file name."
        )
    return found[0]


def _has_buffer_assignment(path: Path) -> bool:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.") from error
    return bool(_parse("HloProtoOutline", data, str(path)).buffer_assignment)


def _parse(message_name: str, data: bytes, origin: str) -> Any:
    if data.startswith(_GZIP_MAGIC):
        data = _decompress(data, origin)
    if not data:
        raise broken(origin, "it is empty")
    try:
        return MESSAGES[message_name].FromString(data)
    except DecodeError as error:
        raise broken(origin, f"its {len(data)} bytes are truncated or no HloProto ({error})") from error


def _decompress(data: bytes, origin: str) -> bytes:
    parts, size = [], 0
    while data:
        stream = zlib.decompressobj(wbits=31)
        try:
            part = stream.decompress(data, MAXIMUM_DECOMPRESSED_BYTES - size + 1)
        except zlib.error as error:
            raise broken(origin, f"its gzip data is damaged ({error})") from error
        size += len(part)
        if size > MAXIMUM_DECOMPRESSED_BYTES:
            raise InputError(
                f"{origin} unpacks to more than {format_bytes(MAXIMUM_DECOMPRESSED_BYTES)}. If that is right, "
                "unpack it with gunzip and pass the unpacked file."
            )
        if not stream.eof:
            raise broken(origin, "its gzip data ends too early")
        parts.append(part)
        data = stream.unused_data
    return b"".join(parts)
