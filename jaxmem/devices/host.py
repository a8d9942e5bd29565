"""The machine's own processor as a device: its memory, and the limit of a container."""

import os
from pathlib import Path

from jaxmem.devices.data import Device
from jaxmem.unknown import Unknown


def cpu_device(root: Path = Path("/")) -> Device:
    """This machine's processor.

    Its memory is what the operating system reports. Usable is that, or the limit of the control group the process runs
    in (a container's limit), whichever is smaller: the machine kills a process beyond it.

    Args:
        root: where ``/proc`` and ``/sys`` are looked for.
    """
    memory_bytes, memory_source = _physical_memory()
    usable_bytes, usable_source = memory_bytes, memory_source
    limit = _control_group_limit(root)
    if limit is not None and (isinstance(memory_bytes, Unknown) or limit[0] < memory_bytes):
        usable_bytes, usable_source = limit
    return Device(
        name="cpu",
        platform="cpu",
        kind="host processor",
        memory_bytes=memory_bytes,
        memory_source=memory_source,
        usable_bytes=usable_bytes,
        usable_source=usable_source,
        attached=True,
    )


def _physical_memory() -> tuple[int | Unknown, str]:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf(
            "SC_PAGE_SIZE"
        ), "physical memory, as the operating system reports it"
    except (AttributeError, ValueError, OSError):
        return Unknown("this operating system does not report its physical memory"), "the operating system"


def _control_group_limit(root: Path) -> tuple[int, str] | None:
    """The smallest memory limit of the control groups that hold this process, and the file that says so."""
    limits = []
    for folder, name, top in _control_groups(root):
        # A limit binds everything below it, so every ancestor counts. In a container the path may lie outside of what
        # is mounted: then the mount's own top is the group.
        for group in (folder, *folder.parents):
            limit = _read_limit(group / name)
            if limit is not None:
                limits.append((limit, f"memory limit of the control group, {group / name}"))
            if group == top:
                break
    return min(limits, default=None)


def _control_groups(root: Path) -> list[tuple[Path, str, Path]]:
    """(folder, file of the limit, top of the mount) of the groups this process is in, version 2 and version 1."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    groups = []
    for line in lines:
        _, controllers, path = line.split(":", 2) if line.count(":") >= 2 else ("", "none", "")
        if controllers == "":
            top, name = root / "sys/fs/cgroup", "memory.max"
        elif "memory" in controllers.split(","):
            top, name = root / "sys/fs/cgroup/memory", "memory.limit_in_bytes"
        else:
            continue
        inside = [part for part in path.split("/") if part not in ("", "..", ".")]
        groups.append((top.joinpath(*inside), name, top))
    return groups


def _read_limit(file: Path) -> int | None:
    """None where there is no such file or it sets no limit (``max``; version 1 writes a huge number instead)."""
    try:
        text = file.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() and int(text) < 2**60 else None
