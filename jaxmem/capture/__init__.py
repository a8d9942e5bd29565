"""Capture: everything one compile left behind, in one file, and the cache of such files.

A capture replays without JAX, on any machine: it carries the compiled module with its buffer assignment as XLA wrote
it, what JAX reports of its memory, the tables of the lowering and the traced program, and what they were made with.
"""

from jaxmem.capture.cache import (
    CaptureCache,
    default_folder,
    lowering_key,
    recorded_digests,
    request_key,
    source_digest,
)
from jaxmem.capture.data import Capture, Cost, Host, MemoryStatistics
from jaxmem.capture.file import SCHEMA, load, save
from jaxmem.capture.machine import installed_versions, this_host

__all__ = [
    "SCHEMA",
    "Capture",
    "CaptureCache",
    "Cost",
    "Host",
    "MemoryStatistics",
    "default_folder",
    "installed_versions",
    "load",
    "lowering_key",
    "recorded_digests",
    "request_key",
    "save",
    "source_digest",
    "this_host",
]
