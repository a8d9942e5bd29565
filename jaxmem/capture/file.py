"""A capture as one file: a zip archive of ``capture.json`` and the bytes it refers to.

    capture.json   {"schema": "jaxmem.capture/1", "capture": {...}}, the fields of `Capture`; the long tables by columns
    hlo_proto      the compiled module with its buffer assignment, as XLA wrote it
    stablehlo      the module that was compiled

Anything that reads zip archives can take one apart. Reading trusts nothing: sizes are bounded before anything is
unpacked.
"""

import io
import json
import os
import zipfile
import zlib
from pathlib import Path
from typing import Any

from jaxmem.capture.check import check_tables
from jaxmem.capture.data import Capture
from jaxmem.codec import Mismatch, decode, encode, parse_json
from jaxmem.errors import InputError
from jaxmem.files import read_bounded, unpacked_limit, write_whole
from jaxmem.layer_table import Operation, Value
from jaxmem.lowering import Argument, Output

SCHEMA = "jaxmem.capture/1"
_FAMILY, _VERSION = "jaxmem.capture", 1

_TABLE = "capture.json"
_COLUMNS = (Argument, Output, Value, Operation)
_LIMITS_BYTES = {_TABLE: 256 * 2**20, "hlo_proto": 2**30, "stablehlo": 2**30}
"""The largest each member may unpack to. A module of 1 GiB, or a table of 256 MiB, has millions of operations."""

_LIMIT_BYTES = 2**30
"""The largest that a capture itself may be."""

_AGAIN = "Make the capture anew: jaxmem capture PROGRAM -o FILE."


def save(capture: Capture, path: str | os.PathLike[str], *, force: bool = False) -> None:
    """Write a capture to one file, whole or not at all.

    Raises:
        UsageError: the file exists and ``force`` is not given, or its folder does not exist.
        EnvironmentFailure: the disk is full, or the file cannot be written.
    """
    write_whole(Path(path), pack(capture), force=force)


def load(path: str | os.PathLike[str]) -> Capture:
    """Read what `save` wrote.

    Raises:
        InputError: the file cannot be read, is truncated, damaged, no capture, or written by a newer jaxmem; or its
            tables do not fit together.
    """
    content = read_bounded(os.fspath(path), limit_bytes=_LIMIT_BYTES, what="The capture")
    capture = unpack(content, origin=os.fspath(path))
    try:
        check_tables(capture)
    except Mismatch as mismatch:
        raise _mismatched(os.fspath(path), mismatch) from mismatch
    return capture


def pack(capture: Capture) -> bytes:
    """The content of the file. Equal captures give equal bytes: the archive carries no times."""
    values, members = encode(capture, columns=_COLUMNS)
    table = json.dumps({"schema": SCHEMA, "capture": values}, separators=(",", ":"), allow_nan=False).encode()
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, data in {_TABLE: table, **members}.items():
            # A fast level: what is written once is read many times, and the proto shrinks six times even so.
            archive.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED, compresslevel=3)
    return content.getvalue()


def unpack(content: bytes, *, origin: str) -> Capture:
    """Read the content of a file; ``origin`` names it in messages. Errors as in `load`, which also checks the tables."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            return _read(archive, origin)
    # What zipfile, zlib and json raise on damaged input is not one family.
    except (
        zipfile.BadZipFile,
        zlib.error,
        EOFError,
        NotImplementedError,
        OverflowError,
        RuntimeError,
        ValueError,
    ) as error:
        raise InputError(_damaged(content, origin, error)) from error


def _read(archive: zipfile.ZipFile, origin: str) -> Capture:
    infos = {info.filename: info for info in archive.infolist()}
    if _TABLE not in infos:
        raise InputError(
            f"{origin} is a zip archive, but no capture of jaxmem: it has no {_TABLE}. Check the name of the file."
        )
    table = _table(_unpack_member(archive, infos[_TABLE], origin), origin)
    if len(infos) != len(archive.infolist()) or infos.keys() != _LIMITS_BYTES.keys():
        found = ", ".join(sorted(info.filename for info in archive.infolist()))
        raise InputError(
            f"{origin} is damaged: its members are {found}, a capture has {', '.join(_LIMITS_BYTES)}. {_AGAIN}"
        )
    members = {name: _unpack_member(archive, infos[name], origin) for name in infos if name != _TABLE}
    try:
        return decode(Capture, table, members=members, columns=_COLUMNS)
    except Mismatch as mismatch:
        raise _mismatched(origin, mismatch) from mismatch


def _mismatched(origin: str, mismatch: Mismatch) -> InputError:
    return InputError(f"{origin} is damaged, in {_TABLE} at {mismatch}. {_AGAIN}")


def _table(data: bytes, origin: str) -> Any:
    """The fields of the capture, once it is known that this jaxmem can read them."""
    document = parse_json(data.decode())
    schema = document.get("schema") if isinstance(document, dict) else None
    if schema == SCHEMA and document.keys() == {"schema", "capture"}:
        return document["capture"]
    family, _, version = schema.rpartition("/") if isinstance(schema, str) else ("", "", "")
    if family == _FAMILY and version.isdecimal() and len(version) < 10 and int(version) > _VERSION:
        raise InputError(
            f"{origin} was written by a newer jaxmem: its format is {schema}, and this version reads up to {SCHEMA}. "
            "Upgrade jaxmem: pip install -U jaxmem."
        )
    raise InputError(
        f"{origin} is no capture that jaxmem knows: its schema is {schema!r}, expected {SCHEMA!r}. {_AGAIN}"
    )


def _unpack_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, origin: str) -> bytes:
    """One member, never more than its limit whatever the archive says about its size."""
    limit_bytes = unpacked_limit(info.compress_size, _LIMITS_BYTES.get(info.filename, 0))
    if info.file_size > limit_bytes:
        raise InputError(
            f"{origin} is refused: its member {info.filename} claims to unpack to {info.file_size} bytes, "
            f"and from a capture of this size at most {limit_bytes} are unpacked there."
        )
    if info.flag_bits & 0x1 or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise InputError(
            f"{origin} is refused: its member {info.filename} is encrypted or packed in a way captures are not."
        )
    pieces, size_bytes = [], 0
    with archive.open(info) as stream:
        # In pieces: a single read unpacks all there is before it compares with the size claimed.
        while piece := stream.read(2**20):
            pieces.append(piece)
            size_bytes += len(piece)
    if size_bytes != info.file_size:
        raise InputError(
            f"{origin} is damaged: its member {info.filename} has {size_bytes} bytes, not {info.file_size}. {_AGAIN}"
        )
    return b"".join(pieces)


def _damaged(content: bytes, origin: str, error: Exception) -> str:
    if not content:
        return f"{origin} is empty. {_AGAIN}"
    if not content.startswith(b"PK"):
        return f"{origin} is no capture of jaxmem: it is not a zip archive. Check the name of the file."
    return (
        f"{origin} is a capture, but damaged or cut off ({error}). If it was copied, copy it again; otherwise: {_AGAIN}"
    )
