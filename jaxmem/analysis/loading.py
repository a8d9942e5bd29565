"""Answers that were saved, and dumps that XLA left."""

from pathlib import Path
from typing import Any

from jaxmem.assemble import list_dumps, read_dump_report, read_report
from jaxmem.capture import load as load_capture
from jaxmem.devices import find_device
from jaxmem.dump.files import Dump, modules_in
from jaxmem.dump.names import is_dump
from jaxmem.dump.roles import read_roles
from jaxmem.errors import UsageError
from jaxmem.result import DumpFolder, Report, Reports
from jaxmem.result import load as load_result


def analyze_dump(
    path: str | Path,
    *,
    device: str | None = None,
    roles: str | Path | None = None,
    memory_fraction: float | None = None,
) -> Report | DumpFolder:
    """What an XLA dump says of a compiled program, whichever framework had it compiled; nothing is imported from any.

    Args:
        path: an ``*.hlo.pb`` or ``*.hlo.pb.gz``, or the folder that ``xla_dump_to`` named; one that has several compiled
            modules comes as their list.
        device: what it was compiled for, for the verdict; the dump does not tell.
        roles: a file that says what the arguments are for; see `jaxmem.dump.roles`.
        memory_fraction: what JAX's allocator takes of a GPU; None for its default, 0.75.

    Raises:
        InputError: there is no compiled module with a buffer assignment, it is damaged, or the file of roles is.
        UsageError: the device is of another platform than the compiler, or one device or file of roles is to serve several
            modules.
    """
    path, target = Path(path), None if device is None else find_device(device, memory_fraction)
    table = None if roles is None else read_roles(Path(roles))
    found = list(modules_in(path, None if target is None else target.platform))
    if len(found) > 1:
        if target is not None or table is not None:
            raise UsageError(
                f"{path} has {len(found)} compiled modules, and a device or a file of roles is for one. Name its file; "
                "without these the modules are listed."
            )
        return list_dumps(path, found)
    if not isinstance(dump := found[0], Dump):
        raise dump.error
    if target is not None and target.platform != dump.platform:
        raise UsageError(
            f"{dump.path} was written by the compiler for {dump.platform}, and {target.name} is of the platform "
            f"{target.platform}."
        )
    return read_dump_report(dump, target, table)


def load(path: str | Path) -> Report | Reports | Any:
    """A saved report (``.json``), capture (``.jaxmem``) or XLA dump as a report; several in one file come as `Reports`."""
    if is_dump(str(path)):
        return analyze_dump(path)
    if str(path).lower().endswith(".jaxmem"):
        return read_report(load_capture(Path(path)), origin=str(path))
    results = load_result(path)
    return results.reports[0] if isinstance(results, Reports) and len(results.reports) == 1 else results
