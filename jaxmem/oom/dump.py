"""The dump that a failed compile left: the module with its buffer assignment is there though the program is not."""

from pathlib import Path

from jaxmem.attribution import Attribution
from jaxmem.devices import Device
from jaxmem.dump.attributed import attribute_dump
from jaxmem.dump.files import Dump, modules_in
from jaxmem.dump.tables import tables
from jaxmem.layer_paths import operation
from jaxmem.oom.advice import advise
from jaxmem.profile import Buffer, MemoryProfile, profile_memory
from jaxmem.result import LargeBuffer, NamedSize, OutOfMemory
from jaxmem.roles import Role
from jaxmem.source_lines import short_source
from jaxmem.unknown import Unknown
from jaxmem.xla import BufferAssignment

_SHOWN = 12


def explain_dump(path: Path, device: Device | None = None) -> OutOfMemory:
    """What a dumped program needs, and of what.

    Args:
        path: the folder that ``xla_dump_to`` named, or a file of it.
        device: what it was compiled for; without it nobody knows how much memory there is.

    Raises:
        InputError: there is no compiled module with a buffer assignment.
    """
    dumped, others = _chosen(path, device.platform if device is not None else None)
    platform = dumped.platform
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


def _chosen(path: Path, platform: str | None) -> tuple[Dump, int]:
    """The module to explain, and how many others there are: the one that XLA marks as failed, else the one that needs most."""
    found = []
    for dump in modules_in(path, platform):
        if not isinstance(dump, Dump):
            raise dump.error
        found.append(dump)
    marked = [dump for dump in found if dump.ran_out]
    return max(marked or found, key=lambda dump: _reserved(dump.assignment)), len(found) - 1


def _reserved(assignment: BufferAssignment) -> int:
    return sum(allocation.size for allocation in assignment.allocations if not allocation.is_thread_local)


def _largest(profile: MemoryProfile) -> tuple[LargeBuffer, ...]:
    """The largest buffers at the peak."""
    _, attributions = attribute_dump(profile, tables(profile.module))
    live = [buffer for buffer in profile.buffers if buffer.id in profile.live_at_peak]
    largest = sorted(live, key=lambda buffer: -buffer.size_bytes)[:_SHOWN]
    return tuple(_row(buffer, profile, attributions[buffer.id]) for buffer in largest)


def _row(buffer: Buffer, profile: MemoryProfile, attribution: Attribution) -> LargeBuffer:
    instruction = profile.instruction(buffer)
    frames = profile.module.source(instruction)
    return LargeBuffer(
        bytes=buffer.size_bytes,
        padding_bytes=max(0, buffer.size_bytes - buffer.logical_bytes),
        role=Unknown(attribution.rule) if attribution.role is Role.UNATTRIBUTED else attribution.role,
        layer=attribution.layer,
        phase=attribution.phase,
        operation=operation(instruction.op_name) or instruction.opcode,
        source=short_source(f"{frames[0].file}:{frames[0].line}") if frames else "",
        shape=instruction.shape.subshape(buffer.leaf[1]).text(),
    )
