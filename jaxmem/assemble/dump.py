"""Dump → Report: a compiled module without its program, so without formula; and a folder of them as a list."""

from collections.abc import Iterable
from pathlib import Path

import jaxmem
from jaxmem.assemble.compiled import Compiled, buffer_rows, layer_rows, role_sums, schedule_of, unexplained_sum
from jaxmem.assemble.facts import other_memories
from jaxmem.assemble.headings import device_facts
from jaxmem.attribution import take_account
from jaxmem.devices import Device
from jaxmem.dump.attributed import NEEDS_NAMES, attribute_dump
from jaxmem.dump.files import Dump, Unreadable
from jaxmem.dump.roles import RoleTable
from jaxmem.dump.tables import tables
from jaxmem.hidden import opaque_fusions
from jaxmem.lowering import ProgramFacts
from jaxmem.profile import MAIN_COLORS, profile_memory
from jaxmem.reconcile import compiled_rows
from jaxmem.result import (
    DeviceFacts,
    DumpedModule,
    DumpFolder,
    Hidden,
    HiddenFusion,
    Report,
    Versions,
    XlaNumbers,
)
from jaxmem.result.facts import NO_LIBTPU
from jaxmem.unknown import Unknown
from jaxmem.verdict import judge_dump
from jaxmem.xla import live_peak_bytes

NO_PROGRAM = Unknown("a dump has the compiled module and not the program")
_NO_DEVICE = Unknown("the dump does not say for which device it was compiled; name it with -d")
_NOT_IN_DUMP = Unknown("a dump does not say it")
_NO_STATISTICS = Unknown("memory_analysis() belongs to the executable; a dump does not have it")


def read_dump_report(dump: Dump, device: Device | None = None, roles: RoleTable | None = None) -> Report:
    """Everything that a compiled module says by itself.

    Args:
        device: what it was compiled for; without it nobody knows whether it fits.
        roles: what its arguments are for; those of which it says nothing are unattributed.

    Raises:
        InputError: the file of roles speaks of other arguments than the program has.
        InvariantError: a sum that must close does not.
    """
    known = tables(dump.module, roles)
    profile = profile_memory(dump.module, dump.assignment, platform=dump.platform)
    facts, attributions = attribute_dump(profile, known)
    compiled = Compiled(
        profile=profile, facts=facts, attributions=attributions, account=take_account(profile, attributions)
    )
    hidden = _hidden(dump)
    required_bytes = profile.reserved_bytes + (hidden.bytes or 0)
    ledger = compiled_rows(compiled.account, hidden_bytes=hidden.bytes or 0, reason=NO_PROGRAM)
    peak_buffers, buffers = buffer_rows(compiled)
    return Report(
        program=ProgramFacts(
            name=dump.module.name, donated=any(one.donated for one in known.arguments), source=str(dump.path)
        ),
        device=_device(dump.platform, device),
        versions=Versions(
            jaxmem=jaxmem.__version__,
            jax=_NOT_IN_DUMP,
            jaxlib=_NOT_IN_DUMP,
            libtpu=_NOT_IN_DUMP if dump.platform == "tpu" else NO_LIBTPU,
        ),
        xla=XlaNumbers(
            argument_bytes=_NO_STATISTICS,
            output_bytes=_NO_STATISTICS,
            alias_bytes=_NO_STATISTICS,
            temp_bytes=_NO_STATISTICS,
            generated_code_bytes=_NO_STATISTICS,
            reported_peak_bytes=_NO_STATISTICS,
        ),
        live_peak_bytes=profile.live_peak_bytes,
        reserved_bytes=profile.reserved_bytes,
        hidden=hidden,
        required_bytes=required_bytes,
        required_is_lower_bound=hidden.bytes is None,
        roles=role_sums(ledger),
        ledger=ledger,
        unexplained_bytes=unexplained_sum(ledger),
        layers=layer_rows(ledger, None, no_formula=NO_PROGRAM),
        peak_buffers=peak_buffers,
        buffers=buffers,
        schedule=schedule_of(profile),
        other_memories=other_memories(dump.assignment, dump.platform),
        verdict=judge_dump(device, _NO_DEVICE, platform=dump.platform, required_bytes=required_bytes),
        notes=_notes(dump, len(known.unknown), len(known.arguments), {one.rule for one in attributions.values()}),
    )


def list_dumps(folder: Path, dumps: Iterable[Dump | Unreadable]) -> DumpFolder:
    """The modules of a folder, those that need most first."""
    rows = [_unread(dump) if isinstance(dump, Unreadable) else _listed(dump) for dump in dumps]
    rows.sort(key=lambda row: -row.live_peak_bytes if isinstance(row.live_peak_bytes, int) else 1)
    return DumpFolder(folder=str(folder), modules=tuple(rows))


def _listed(dump: Dump) -> DumpedModule:
    colors = MAIN_COLORS[dump.platform]
    main = [each for each in dump.assignment.allocations if each.color in colors and not each.is_thread_local]
    return DumpedModule(
        module=dump.module.name,
        platform=dump.platform,
        live_peak_bytes=live_peak_bytes(dump.assignment, colors),
        reserved_bytes=sum(allocation.size for allocation in main),
        file=dump.path.name,
    )


def _unread(dump: Unreadable) -> DumpedModule:
    unknown = Unknown(str(dump.error))
    return DumpedModule(
        module=unknown, platform=unknown, live_peak_bytes=unknown, reserved_bytes=unknown, file=dump.path.name
    )


def _hidden(dump: Dump) -> Hidden:
    if dump.platform != "cpu":
        return _HIDDEN[dump.platform]
    # What a library's fusion needs depends on the threads that share its work, and the dump does not tell their number.
    fusions = opaque_fusions(dump.module, threads=1, features=frozenset())
    if not fusions:
        return Hidden(bytes=0, reason="no opaque fusions")
    return Hidden(
        bytes=None,
        reason=_THREADS.reason,
        fusions=tuple(HiddenFusion(instruction=fusion.name, layer="", bytes=_THREADS) for fusion in fusions),
    )


_THREADS = Unknown(
    "opaque fusions run inside a library, which needs the more memory the more threads share its work; the dump does not "
    "say how many there were"
)
_HIDDEN = {
    "cuda": Hidden(
        bytes=None,
        reason="the program's code, the CUDA context and NCCL's buffers are not in the dump, nor is the workspace of "
        "cuDNN's convolutions where XLA compiled without the card.",
    ),
    "tpu": Hidden(bytes=None, reason="the size of the program's code, which takes HBM, is not in the dump."),
}


def _device(platform: str, device: Device | None) -> DeviceFacts:
    if device is not None:
        return device_facts(device)
    return DeviceFacts(
        name=f"unknown {platform} device", platform=platform, memory_bytes=_NO_DEVICE, usable_bytes=_NO_DEVICE
    )


def _notes(dump: Dump, unknown: int, arguments: int, rules: Iterable[str]) -> tuple[str, ...]:
    notes = [f"There is no formula: {NO_PROGRAM.reason}."]
    if unknown:
        notes.append(
            f"The roles of {unknown} of {arguments} arguments are not known, and what depends on them is not either: both "
            "are unattributed. A file of roles says what they are for: --roles FILE."
        )
    if NEEDS_NAMES in rules:
        notes.append(f"{NEEDS_NAMES[:1].upper()}{NEEDS_NAMES[1:]}.")
    if dump.ran_out:
        notes.append("XLA marks this module as one whose compile ran out of memory; see jaxmem oom.")
    return tuple(notes)
