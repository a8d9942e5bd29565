"""The compiled modules of a dump, read from a file or a folder."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from jaxmem.dump.names import compiled_files, platform_named, ran_out
from jaxmem.errors import InputError
from jaxmem.xla import BufferAssignment, Module, dump_content, has_buffer_assignment, read_hlo_file

_PLATFORM_IN_CONFIGURATION = (
    ("cuda", (b"operation_queue_id", b"fusion_backend_config", b"gemm_backend_config", b"cudnn_conv_backend_config")),
    ("cpu", (b"outer_dimension_partitions", b"ynn_", b"onednn_")),
)
"""What each compiler alone writes into the configuration of its instructions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dump:
    """One compiled module of a dump.

    Attributes:
        platform: ``cpu``, ``cuda`` or ``tpu``: whose compiler wrote it.
        ran_out: XLA marks it as the module whose compile ran out of memory.
    """

    path: Path
    module: Module
    assignment: BufferAssignment
    platform: str
    ran_out: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Unreadable:
    """A file of a dump that should hold a compiled module, and why nothing can be read from it."""

    path: Path
    error: InputError


def modules_in(path: Path, platform: str | None = None) -> Iterator[Dump | Unreadable]:
    """Every compiled module of a folder, or the one of a file.

    Args:
        platform: whose compiler it was, where the dump itself does not tell.

    Raises:
        InputError: there is no file of a compiled module.
    """
    files = [file for file in compiled_files(path) if _may_hold_buffers(file)] if path.is_dir() else [path]
    if not files:
        names = sorted(file.name for file in path.iterdir())
        shown = ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
        raise InputError(
            f"No compiled module with a buffer assignment was found in {path}: {shown or 'it is empty'}. "
            "XLA writes one (*after_optimizations.hlo.pb) with the options xla_dump_to and xla_dump_hlo_as_proto. "
            "A compilation that comes from JAX's own cache leaves none."
        )
    for file in files:
        try:
            yield read_dump(file, platform)
        except InputError as error:
            yield Unreadable(path=file, error=error)


def read_dump(path: Path, platform: str | None = None) -> Dump:
    """One file of a dump.

    Raises:
        InputError: it cannot be read, is damaged, has no buffer assignment, or nothing tells whose compiler wrote it.
    """
    module, assignment = read_hlo_file(path)
    if assignment is None:
        when = (
            "before XLA optimized the module" if "before_optimizations" in path.name else "before buffers were assigned"
        )
        raise InputError(
            f"{path} has no buffer assignment: it was written {when}. "
            "The file that has one is called *after_optimizations.hlo.pb."
        )
    found = _platform(path, module) or platform
    if found is None:
        raise InputError(
            f"Neither the name of {path} nor its instructions tell whose compiler wrote it. Give it the name that XLA "
            "gave it (*.cpu_after_optimizations.hlo.pb, ...), or say for which device it was compiled with -d."
        )
    return Dump(path=path, module=module, assignment=assignment, platform=found, ran_out=ran_out(path))


def find_dump(folder: str | Path) -> Path:
    """The one compiled module of a folder.

    Raises:
        InputError: there is none, or more than one.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder. Pass the folder that xla_dump_to named.")
    found = [dump for dump in modules_in(folder) if isinstance(dump, Dump)]
    if len(found) != 1:
        names = ", ".join(dump.path.name for dump in found)
        raise InputError(
            f"{len(found)} compiled modules in {folder}: {names}.\nPass the one you mean by its file name."
        )
    return found[0].path


def _may_hold_buffers(path: Path) -> bool:
    """Whether a file is to be read: it has a buffer assignment, or is too broken to tell."""
    try:
        return has_buffer_assignment(dump_content(path), origin=str(path))
    except InputError:
        return True


def _platform(path: Path, module: Module) -> str | None:
    """Only the TPU compiler lays arrays out in tiles; else the name of the file tells, else the instructions do."""
    if any(instruction.shape.tiles for instruction in module.instructions.values()):
        return "tpu"
    if (named := platform_named(path)) is not None:
        return named
    configurations = [instruction.backend_config for instruction in module.instructions.values()]
    for platform, words in _PLATFORM_IN_CONFIGURATION:
        if any(word in configuration for configuration in configurations for word in words):
            return platform
    return None
