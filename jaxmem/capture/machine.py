"""What a compile depends on besides the program: the versions installed and the machine. Without importing JAX."""

import os
import platform
from collections.abc import Iterable
from functools import cache
from importlib import metadata
from pathlib import Path

import jaxmem
from jaxmem.capture.data import Host

COMPILING_PACKAGES = ("jax", "jaxlib")


def installed_versions(packages: Iterable[str] = COMPILING_PACKAGES) -> tuple[tuple[str, str], ...]:
    """(name, version) of jaxmem and of the packages that are installed, read from their metadata alone."""
    versions = [("jaxmem", jaxmem.__version__)]
    for name in packages:
        try:
            versions.append((name, metadata.version(name)))
        except metadata.PackageNotFoundError:
            continue
    return tuple(versions)


def this_host() -> Host:
    """The machine this process runs on."""
    model, features = _processor()
    return Host(
        machine=platform.machine(),
        cpu_model=model,
        cpu_features=features,
        threads=_threads(),
        xla_flags=os.environ.get("XLA_FLAGS", ""),
    )


def _threads() -> int:
    for name in ("PJRT_NPROC", "NPROC"):
        if os.environ.get(name, "").isdecimal() and int(os.environ[name]) > 0:
            return int(os.environ[name])
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@cache
def _processor() -> tuple[str, tuple[str, ...]]:
    """Model name and extensions of the first processor, from ``/proc/cpuinfo``; elsewhere what Python knows."""
    try:
        text = Path("/proc/cpuinfo").read_text(errors="replace")
    except OSError:
        return platform.processor(), ()
    lines = (line.partition(":") for line in text.split("\n\n")[0].splitlines())
    first = {key.strip(): value.strip() for key, _, value in lines}
    features = first.get("flags") or first.get("Features") or ""
    return first.get("model name", platform.processor()), tuple(sorted(features.split()))
