"""The compiled modules of a dump folder, in one table."""

from dataclasses import dataclass
from typing import Literal

from jaxmem.result.shown import Shown
from jaxmem.unknown import Unknown

DUMP_FOLDER_SCHEMA = "jaxmem.dump/1"


@dataclass(frozen=True, slots=True, kw_only=True)
class DumpedModule:
    """One compiled module; unknown for a file that cannot be read.

    Attributes:
        module: XLA's name of it.
        platform: ``cpu``, ``cuda`` or ``tpu``: whose compiler wrote it.
        live_peak_bytes, reserved_bytes: as in a `Report`.
        file: its name in the folder.
    """

    module: str | Unknown
    platform: str | Unknown
    live_peak_bytes: int | Unknown
    reserved_bytes: int | Unknown
    file: str


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class DumpFolder(Shown):
    """The compiled modules of a folder, those with the highest live peak first."""

    schema: Literal["jaxmem.dump/1"] = DUMP_FOLDER_SCHEMA
    folder: str
    modules: tuple[DumpedModule, ...]
