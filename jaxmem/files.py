"""Writing a file whole or not at all."""

import os
import secrets
from pathlib import Path

from jaxmem.errors import EnvironmentFailure, UsageError


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
        unfinished = target.with_name(f".{target.name[:80]}.{secrets.token_hex(6)}.unfinished")
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
