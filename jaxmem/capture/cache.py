"""The cache of captures and estimates: what was compiled or derived once is not done again.

    folder/captures/<key>.jaxmem    a capture, under the digest of everything that decides it (`lowering_key`)
    folder/requests/<key>           the key of a capture, under the digest of a request (`request_key`)
    folder/estimates/<key>          an estimate as text and the digest of it, under the digest of a request

**Source locations count.** The bytecode of a program carries the file and line of every operation, and the report shows
them, so they are part of the key: code that moved by a line, or is called by another path, is compiled again rather
than shown with the wrong lines.

A cache never stops the work: a broken entry is a miss and is replaced, a folder that cannot be written is a warning.
Several processes may use one folder: an entry appears whole or not at all.
"""

import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path

from jaxmem.capture.data import Capture, Host
from jaxmem.capture.file import SCHEMA, load, save
from jaxmem.codec import encode
from jaxmem.devices import Device
from jaxmem.errors import InputError, JaxmemError
from jaxmem.files import UNFINISHED, read_bounded, write_whole
from jaxmem.lowering import AUTOTUNE_RESULTS_OPTION, Lowering
from jaxmem.units import format_bytes

DEFAULT_LIMIT_BYTES = 5 * 2**30
ESTIMATES_LIMIT_BYTES = 2**28
"""What all estimates together may take: some thousand of them."""
_ABANDONED_SECONDS = 3600.0
Versions = tuple[tuple[str, str], ...]

READERS = frozenset(
    """assemble attribution cli difference dump formula hidden measure need oom pause planner profile pytest_plugin reconcile
    report result source_lines together verdict xla""".split()
)
"""The rooms of jaxmem that only read captures: what changes there changes no capture."""


_FILE_OPTIONS = frozenset({AUTOTUNE_RESULTS_OPTION})
"""Compiler options whose value is a file that XLA reads: what is in it decides the compile, not only its name."""


def lowering_key(lowering: Lowering, device: Device, versions: Versions, host: Host) -> str:
    """The digest of everything that decides a capture.

    That is the module with its source locations, the tables of its arguments and results, options and configuration,
    and what is in a file that an option names;
    the device's name and platform (how much memory it has changes no code); the versions, the host and the sources of
    the rooms of jaxmem that make captures.
    """
    values, members = encode(lowering)
    return _digest(
        kind="lowering",
        lowering=values,
        recorded=recorded_digests(lowering.compiler_options),
        members={name: hashlib.sha256(data).hexdigest() for name, data in members.items()},
        device=[device.name, device.platform],
        target=encode(device.target)[0] if device.target is not None else None,
        versions=versions,
        host=encode(host)[0],
        sources=_makers_digest(),
    )


def request_key(
    name: str, options: Mapping[str, str], device: Device, versions: Versions, host: Host, sources: Iterable[str] = ()
) -> str:
    """The digest of a request for a program that jaxmem itself ships: its name and options decide what will be traced.

    Args:
        name: of the model.
        options: mode, batch size, optimizer, compiler options...: all that was asked for, as text.
        versions: of everything that the trace depends on: jax, jaxlib, flax, optax.
        sources: digests of the sources that build the program (`source_digest`); jaxmem's own are always in.
    """
    return _digest(
        kind="request",
        name=name,
        options=sorted(options.items()),
        device=[device.name, device.platform],
        target=encode(device.target)[0] if device.target is not None else None,
        versions=versions,
        host=encode(host)[0],
        sources=[_makers_digest(), *sources],
    )


def recorded_digests(compiler_options: Iterable[tuple[str, str]]) -> dict[str, str]:
    """The digest of each file that a compiler option hands to XLA; empty for one that cannot be read."""
    digests = {}
    for name, value in compiler_options:
        if name in _FILE_OPTIONS:
            content = b""
            with suppress(OSError):
                content = Path(value).read_bytes()
            digests[name] = hashlib.sha256(content).hexdigest() if content else ""
    return digests


def _makers_digest() -> str:
    return source_digest(Path(__file__).parents[1], without=READERS)


@cache
def source_digest(folder: Path, *, without: frozenset[str] = frozenset()) -> str:
    """The digest of every Python file below a folder, by relative path and content.

    Args:
        folder: where the sources are; or one file.
        without: names of files (less ``.py``) and folders directly in it that are left out.
    """
    digest = hashlib.sha256()
    if folder.is_file():
        digest.update(folder.read_bytes())
    for file in sorted(folder.rglob("*.py")):
        if file.relative_to(folder).parts[0].removesuffix(".py") in without:
            continue
        content = file.read_bytes()
        digest.update(f"{file.relative_to(folder).as_posix()}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()


def _digest(**parts: object) -> str:
    text = json.dumps({"schema": SCHEMA, **parts}, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def default_folder() -> Path:
    """``JAXMEM_CACHE_DIR``, or jaxmem's folder in the user's cache folder."""
    if folder := os.environ.get("JAXMEM_CACHE_DIR"):
        return Path(folder)
    from platformdirs import user_cache_path  # imported here: `jaxmem --help` has no use for it

    return user_cache_path("jaxmem", appauthor=False)


def _warn_on_stderr(message: str) -> None:
    print(f"jaxmem: warning: {message}", file=sys.stderr)


class CaptureCache:
    """Captures by key in a folder of bounded size; those used longest ago go first.

    Args:
        folder: where; by default `default_folder`.
        limit_bytes: how much all captures together may take.
        warn: told once when the folder cannot be used.
    """

    def __init__(
        self,
        folder: Path | None = None,
        *,
        limit_bytes: int = DEFAULT_LIMIT_BYTES,
        warn: Callable[[str], None] = _warn_on_stderr,
    ) -> None:
        self.folder = default_folder() if folder is None else folder
        self.limit_bytes = limit_bytes
        self._warn_once: Callable[[str], None] | None = warn

    def get(self, key: str) -> Capture | None:
        """The capture under a key; None where there is none, or none that can be read."""
        path = self._capture_path(key)
        try:
            if not path.is_file():
                return None
            capture = load(path)
        except (InputError, OSError):
            return None
        with suppress(OSError):  # a folder that is only read keeps the times it has
            os.utime(path)  # the time of last use: eviction goes by it
        return capture

    def put(self, key: str, capture: Capture) -> None:
        """Keep a capture, and make room for it. A failure is a warning."""
        path = self._capture_path(key)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            save(capture, path, force=True)
            self._evict(keep=path, limit_bytes=self.limit_bytes)
        except (JaxmemError, OSError) as error:
            self._warn(error)

    def get_request(self, key: str) -> Capture | None:
        """The capture that a request led to; None where it is not known or gone."""
        try:
            capture_key = self._request_path(key).read_text()
        except (OSError, ValueError):
            return None
        return self.get(capture_key) if _is_key(capture_key) else None

    def put_request(self, key: str, capture_key: str) -> None:
        """Remember which capture a request led to. A failure is a warning."""
        path = self._request_path(key)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, capture_key, force=True)
        except (JaxmemError, OSError) as error:
            self._warn(error)

    def get_estimate(self, key: str) -> str | None:
        """The text that a request was answered with; None where there is none, or it is not as it was written."""
        path = self._estimate_path(key)
        try:
            content = read_bounded(path, limit_bytes=ESTIMATES_LIMIT_BYTES).decode()
        except (InputError, UnicodeDecodeError):
            return None
        stated, _, text = content.partition("\n")
        if stated != hashlib.sha256(text.encode()).hexdigest():
            return None
        with suppress(OSError):
            os.utime(path)  # as in `get`
        return text

    def put_estimate(self, key: str, text: str) -> None:
        """Keep the text that answers a request. A failure is a warning."""
        path = self._estimate_path(key)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, f"{hashlib.sha256(text.encode()).hexdigest()}\n{text}", force=True)
            self._evict(keep=path, limit_bytes=ESTIMATES_LIMIT_BYTES)
        except (JaxmemError, OSError) as error:
            self._warn(error)

    def _estimate_path(self, key: str) -> Path:
        return self.folder / "estimates" / _checked(key)

    def _capture_path(self, key: str) -> Path:
        return self.folder / "captures" / f"{_checked(key)}.jaxmem"

    def _request_path(self, key: str) -> Path:
        return self.folder / "requests" / _checked(key)

    def _evict(self, *, keep: Path, limit_bytes: int) -> None:
        """Remove what was used longest ago until the rest fits. Another process may remove the same files meanwhile."""
        files = []
        self._remove_unfinished(keep.parent)
        for file in keep.parent.glob(f"[!.]*{keep.suffix}"):
            try:
                status = file.stat()
            except FileNotFoundError:
                continue
            files.append((status.st_mtime_ns, status.st_size, file))
        total_bytes = sum(size for _, size, _ in files)
        for _, size_bytes, file in sorted(files):
            if total_bytes <= limit_bytes:
                return
            if file != keep:
                file.unlink(missing_ok=True)
                total_bytes -= size_bytes

    def _remove_unfinished(self, folder: Path) -> None:
        """Remove what processes that were killed left behind: nothing takes an hour to write."""
        for file in folder.glob(f".*{UNFINISHED}"):
            with suppress(FileNotFoundError):
                if time.time() - file.stat().st_mtime > _ABANDONED_SECONDS:
                    file.unlink()

    def _warn(self, error: Exception) -> None:
        if self._warn_once is not None:
            self._warn_once(
                f"the cache in {self.folder} (up to {format_bytes(self.limit_bytes)}) cannot be used, "
                f"the work goes on without it: {error}"
            )
            self._warn_once = None


def _is_key(key: str) -> bool:
    return len(key) == 64 and all(character in "0123456789abcdef" for character in key)


def _checked(key: str) -> str:
    if not _is_key(key):  # a key becomes a file name
        raise ValueError(f"{key!r} is no key: expected 64 hexadecimal digits")
    return key
