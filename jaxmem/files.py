"""Writing a file whole or not at all, and reading one that may be anything."""

import os
import stat
from pathlib import Path

from jaxmem.errors import EnvironmentFailure, InputError, UsageError
from jaxmem.units import format_bytes

UNFINISHED = ".unfinished"
"""How a file is called, a dot before and this behind, until it is whole. One that stays was being written by a process that
was killed."""

_FREELY_UNPACKED_BYTES = 64 * 2**20
_MOST_UNPACKED = 100
"""Compiled modules shrink 2 to 8 times, tables up to 20 times; what unpacks to more than this many times its size is a bomb."""


def unpacked_limit(packed_bytes: int, limit_bytes: int) -> int:
    """How many bytes so many packed ones may become, at most ``limit_bytes``."""
    return min(limit_bytes, max(_FREELY_UNPACKED_BYTES, _MOST_UNPACKED * packed_bytes))


def check_writable(path: str | Path, *, force: bool) -> None:
    """Refuse early what `write_whole` would refuse late, before minutes of work.

    Raises:
        UsageError: the file exists and ``force`` is not given, it is a folder, or its folder does not exist.
    """
    path = Path(path)
    if path.is_dir():
        raise UsageError(f"{path} is a folder. Give the name of a file.")
    if path.is_file() and not force:
        raise UsageError(f"{path} exists and is left as it is. Give another name, or --force to replace it.")
    if not path.parent.is_dir():
        raise UsageError(f"The folder of {path} does not exist. Make it first: mkdir -p {path.parent}")


def write_whole(path: str | Path, content: bytes | str, *, force: bool = False) -> None:
    """Write a file so that it is either complete or untouched, whatever happens on the way.

    The content goes to a new file in the same folder, which then takes the name. Pipes and devices (``/dev/stdout``)
    are written to directly.

    Raises:
        UsageError: as `check_writable`.
        EnvironmentFailure: the system refused: disk full, no permission.
    """
    check_writable(path, force=force)
    data = content.encode() if isinstance(content, str) else content
    try:
        if os.path.exists(path) and not os.path.isfile(path):
            with open(path, "wb") as stream:
                stream.write(data)
            return
        # A link keeps pointing where it points: the file behind it is the one replaced.
        target = Path(path).resolve()
        unfinished = target.with_name(f".{target.name[:80]}.{os.urandom(6).hex()}{UNFINISHED}")
        try:
            with open(unfinished, "xb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            if target.exists():
                unfinished.chmod(target.stat().st_mode & 0o7777)
            os.replace(unfinished, target)
        finally:
            unfinished.unlink(missing_ok=True)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise EnvironmentFailure(
            f"{path} could not be written: {error.strerror or error}. Nothing was left behind; free some space "
            "or choose another place."
        ) from error


def read_bounded(path: str | Path, *, limit_bytes: int, what: str = "") -> bytes:
    """The content of a file that may come from anywhere: never more of it than the limit is held.

    Args:
        path: a file; pipes and devices are read until they end or pass the limit.
        what: what to call it in messages, before its path: ``The card file``.

    Raises:
        InputError: it cannot be read, or is larger than the limit.
    """
    name = f"{what} {path}".strip()
    try:
        with open(path, "rb") as stream:
            status = os.fstat(stream.fileno())
            if stat.S_ISREG(status.st_mode) and status.st_size <= limit_bytes:
                return stream.read()
            pieces, size_bytes = [], status.st_size if stat.S_ISREG(status.st_mode) else 0
            while size_bytes <= limit_bytes and (piece := stream.read(1 << 20)):
                pieces.append(piece)
                size_bytes += len(piece)
    except (OSError, ValueError) as error:  # a name with a zero byte in it is a ValueError
        raise InputError(f"{name} cannot be read: {getattr(error, 'strerror', None) or error}.") from error
    if size_bytes > limit_bytes:
        raise InputError(f"{name} is larger than {format_bytes(limit_bytes)}, which is more than such a file may have.")
    return b"".join(pieces)
