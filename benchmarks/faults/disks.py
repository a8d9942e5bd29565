"""Disks that are full, or can only be read."""

import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.faults.commands import command, ended
from benchmarks.faults.rows import Row
from benchmarks.faults.writing import KEYS, SEED_FILE
from jaxmem.capture import CaptureCache, load


@contextmanager
def small_disk(size_bytes: int) -> Iterator[Path | None]:
    """A file system of so many bytes; None where none can be mounted."""
    folder = Path(tempfile.mkdtemp(prefix="jaxmem-faults-"))
    mounted = subprocess.run(
        ("mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", str(folder)), capture_output=True, check=False
    )
    try:
        yield folder if mounted.returncode == 0 else None
    finally:
        if mounted.returncode == 0:
            subprocess.run(("umount", "-l", str(folder)), check=False)
        shutil.rmtree(folder, ignore_errors=True)


def disks() -> Iterator[Row]:
    """A full disk under the output, the cache and the temporary files; a cache that can only be read."""
    capture = load(SEED_FILE)
    with small_disk(64 * 1024) as disk, tempfile.TemporaryDirectory(prefix="jaxmem-faults-") as name:
        if disk is None:
            yield Row(
                part="disks", fault="a full disk", trials=0, good=0, found="not tried: nothing can be mounted here"
            )
            return
        (disk / "other").write_bytes(b"x" * 60 * 1024)
        folder = Path(name)
        for what, arguments, variables, expected, words in (
            ("the output", ("report", str(SEED_FILE), "-o", str(disk / "r.json")), {}, 5, "No space left"),
            ("the cache", ("report", "programs.py:layers"), {"JAXMEM_CACHE_DIR": str(disk / "cache")}, 0, "warning"),
            ("temporary files", ("report", "programs.py:layers", "--no-cache"), {"TMPDIR": str(disk)}, 5, "space"),
        ):
            status, out, err = ended(command(folder, *arguments, **variables))
            left = sorted(path.name for path in disk.rglob("*") if path.is_file() and path.name != "other")
            right = status == expected and words in err and "Traceback" not in err and not left
            right = right and (expected != 0 or "Required" in out)
            yield Row(
                part="disks",
                fault=f"a full disk under {what}",
                trials=1,
                good=int(right),
                found=_without_places(
                    f"exit code {status}: {next((line for line in err.splitlines() if words in line), err[-200:])}"
                )
                + (f"; left: {', '.join(left)}" if left else ""),
            )
            for path in disk.iterdir():
                if path.name != "other":
                    shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink()
    with small_disk(16 << 20) as disk:
        assert disk is not None
        CaptureCache(disk).put(KEYS[0], capture)
        subprocess.run(("mount", "-o", "remount,ro", str(disk)), check=True)
        warnings: list[str] = []
        cache = CaptureCache(disk, warn=warnings.append)
        cache.put(KEYS[1], capture)
        cache.put_request(KEYS[1], KEYS[0])
        right = cache.get(KEYS[0]) == capture and cache.get(KEYS[1]) is None and len(warnings) == 1
        yield Row(
            part="disks",
            fault="a cache that can only be read",
            trials=1,
            good=int(right),
            found=_without_places(f"what is in it is found; one warning: {warnings[0] if warnings else 'none'}"),
        )


def _without_places(said: str) -> str:
    """What was said, without the names of temporary folders and the keys of captures."""
    return re.sub(r"[0-9a-f]{64}", "KEY", re.sub(r"\S*/jaxmem-faults-\w+(/jaxmem-\w+)?", "DISK", said))
