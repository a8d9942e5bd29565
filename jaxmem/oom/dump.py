"""The dump that a failed compile left: the module with its buffer assignment is there though the program is not."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from jaxmem.attribution import Attribution, Dataflow, Facts, attribute
from jaxmem.devices import Device
from jaxmem.errors import InputError
from jaxmem.lowering import Argument
from jaxmem.oom.advice import advise
from jaxmem.oom.buffers import KNOWN_WITHOUT_PROGRAM, named
from jaxmem.profile import Buffer, MemoryProfile, profile_memory
from jaxmem.result import LargeBuffer, NamedSize, OutOfMemory
from jaxmem.roles import Phase, Role
from jaxmem.unknown import Unknown
from jaxmem.xla import BufferAssignment, Module, read_hlo_proto

_PATTERNS = ("*after_optimizations.hlo.pb", "*after_optimizations.hlo.pb.gz")
_FAILED = ".oom_intermediate_module.hlo.pb"
_SHOWN = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class _Dumped:
    path: Path
    module: Module
    assignment: BufferAssignment


def explain_dump(path: Path, device: Device | None = None) -> OutOfMemory:
    """What a dumped program needs, and of what.

    Args:
        path: the folder that ``xla_dump_to`` named, or a file of it.
        device: what it was compiled for; without it nobody knows how much memory there is.

    Raises:
        InputError: there is no compiled module with a buffer assignment.
    """
    dumped, others = _chosen(path)
    platform = device.platform if device is not None else _platform(dumped)
    profile = profile_memory(dumped.module, dumped.assignment, platform=platform)
    required_bytes = profile.reserved_bytes
    no_device = Unknown("the dump does not say for which device it was compiled; name it with -d")
    available_bytes = device.usable_bytes if device is not None else no_device
    nothing = Unknown("a compile allocates nothing")
    buffers = _largest(profile)
    sizes = {
        "arguments": sum(a.size for a in profile.allocations if a.is_entry_computation_parameter),
        "constants": sum(a.size for a in profile.allocations if a.is_constant),
        "results beside the arguments": sum(
            a.size for a in profile.allocations if a.maybe_live_out and not a.is_entry_computation_parameter
        ),
    }
    sizes["temporaries"] = required_bytes - sum(sizes.values())
    fits = isinstance(available_bytes, int) and required_bytes <= available_bytes
    notes = [f"{others} other compiled modules are in {path}."] if others else []
    if fits:
        notes.append(f"By itself this program fits {device.name if device else ''}.")
    return OutOfMemory(
        failure="TPU compile" if platform == "tpu" else "compile",
        program=dumped.module.name,
        evidence=str(dumped.path),
        requested_bytes=nothing,
        required_bytes=required_bytes,
        available_bytes=available_bytes,
        free_bytes=nothing,
        sizes_are_rounded=False,
        parts=tuple(NamedSize(name=name, bytes=size) for name, size in sizes.items()),
        buffers=buffers,
        advice=advise(
            "TPU compile" if platform == "tpu" else "compile",
            requested_bytes=nothing,
            required_bytes=required_bytes,
            available_bytes=available_bytes,
            free_bytes=nothing,
            parts=(
                NamedSize(name="maybe_live_out allocation", bytes=sizes["results beside the arguments"]),
                NamedSize(name="HLO temp", bytes=sizes["temporaries"]),
            ),
            buffers=buffers,
        ),
        notes=(*notes, "The buffers are those alive at the peak, the largest of them."),
    )


def _chosen(path: Path) -> tuple[_Dumped, int]:
    """The module to explain, and how many others there are: the one that XLA marks as failed, else the one that needs most."""
    found = list(_modules(path))
    if not found:
        names = sorted(file.name for file in path.iterdir()) if path.is_dir() else [path.name]
        shown = ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
        raise InputError(
            f"No compiled module with a buffer assignment was found in {path}: {shown or 'it is empty'}. "
            "XLA writes one (*after_optimizations.hlo.pb) with the options xla_dump_to and xla_dump_hlo_as_proto."
        )
    failed = {file.name.removesuffix(_FAILED) for file in path.glob(f"*{_FAILED}")} if path.is_dir() else set()
    marked = [dumped for dumped in found if any(dumped.path.name.startswith(f"{stem}.") for stem in failed)]
    return max(marked or found, key=lambda dumped: _reserved(dumped.assignment)), len(found) - 1


def _modules(path: Path) -> Iterator[_Dumped]:
    files = sorted(file for pattern in _PATTERNS for file in path.glob(pattern)) if path.is_dir() else [path]
    for file in files:
        try:
            data = file.read_bytes()
        except OSError as error:
            raise InputError(f"{file} cannot be read: {error.strerror or error}.") from error
        module, assignment = read_hlo_proto(data, origin=str(file))
        if assignment is not None:
            yield _Dumped(path=file, module=module, assignment=assignment)


def _reserved(assignment: BufferAssignment) -> int:
    return sum(allocation.size for allocation in assignment.allocations if not allocation.is_thread_local)


def _platform(dumped: _Dumped) -> str:
    """Only the TPU compiler lays arrays out in tiles; XLA puts ``gpu`` or ``cpu`` into the names of its files."""
    if any(instruction.shape.tiles for instruction in dumped.module.instructions.values()):
        return "tpu"
    return "cuda" if "gpu_after" in dumped.path.name else "cpu"


def _largest(profile: MemoryProfile) -> tuple[LargeBuffer, ...]:
    """The largest buffers at the peak. Arguments stand in for the table that a dump does not have."""
    arguments = [
        Argument(
            path=parameter.name,
            shape=parameter.shape.dimensions,
            dtype=parameter.shape.element_type,
            itemsize_bits=8,
            role=Role.INPUTS,
            role_rule="not known",
            parameter_number=parameter.parameter_number,
        )
        for parameter in profile.module.parameters
    ]
    attributions = attribute(profile, Facts(Dataflow(profile.module), arguments, ()))
    live = [buffer for buffer in profile.buffers if buffer.id in profile.live_at_peak]
    largest = sorted(live, key=lambda buffer: -buffer.size_bytes)[:_SHOWN]
    return tuple(_row(buffer, profile, attributions[buffer.id]) for buffer in largest)


def _row(buffer: Buffer, profile: MemoryProfile, attribution: Attribution) -> LargeBuffer:
    instruction = profile.instruction(buffer)
    frames = profile.module.source(instruction)
    role: Role | Unknown = Unknown("without the program a gradient is not told from the work on it")
    if attribution.role is Role.INPUTS:
        role = Unknown("an argument of the program; a dump does not say what for")
    elif attribution.role in KNOWN_WITHOUT_PROGRAM:
        role = attribution.role
    facts = named(instruction.op_name)
    if "layer" not in facts:
        facts["layer"] = attribution.layer
    return LargeBuffer(
        bytes=buffer.size_bytes,
        padding_bytes=max(0, buffer.size_bytes - buffer.logical_bytes),
        role=role,
        layer=str(facts["layer"]),
        phase=attribution.phase if attribution.phase is not Phase.UNKNOWN else Phase(facts.get("phase", Phase.UNKNOWN)),
        operation=str(facts["operation"]) or instruction.opcode,
        source=f"{frames[0].file}:{frames[0].line}" if frames else "",
        shape=instruction.shape.subshape(buffer.leaf[1]).text(),
    )
