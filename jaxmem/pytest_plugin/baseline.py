"""What programs needed when somebody said that it was right: ``memory_baseline.json``, beside the tests.

One file a folder, one entry for each test, program, device and version of the compiler. An entry keeps what a diff tells by:
the account by role and layer, and the largest buffers at the peak. No path of a machine, no size of a device and no date are
in it: it is committed, and its changes are read in reviews.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from jaxmem.capture import this_host
from jaxmem.codec import Mismatch, decode, encode, parse_json
from jaxmem.devices.library_kernels import instruction_set
from jaxmem.difference import Side, side_of
from jaxmem.errors import InputError, InvariantError
from jaxmem.files import write_whole
from jaxmem.lowering import ProgramFacts
from jaxmem.result import BufferRow, BufferTable, DeviceFacts, Report, Versions
from jaxmem.result.json_text import layout
from jaxmem.roles import Role
from jaxmem.unknown import Unknown

FILE_NAME = "memory_baseline.json"
_SCHEMA = "jaxmem.baseline/1"
_KEPT_BUFFERS = 50
_NOT_KEPT = Unknown("a baseline keeps no sizes of devices")


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Key:
    """Whose baseline it is, whatever the compiler.

    Attributes:
        test: the file's name and the test in it, ``test_model.py::test_step[8]``.
        program: its name and mode; the second of that name in one test is ``step #2``.
        device, device_count: what it is compiled for.
    """

    test: str
    program: str
    device: str
    device_count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountRow:
    """The bytes of one role in one layer."""

    role: Role
    layer: str
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Baseline:
    """What one program needed.

    Attributes:
        compiler: ``jaxlib 0.10.2``; on a TPU with the version of libtpu.
        platform: of the device.
        host: on CPU the kind of machine, which the program is compiled for; else empty.
        required_bytes, required_is_lower_bound: as in a `Report`.
        account: sums to ``required_bytes``.
        kept_from_bytes: smaller buffers than this were not kept.
        peak_buffers: the largest at the peak, the largest first.
    """

    key: Key
    compiler: str
    platform: str
    host: str
    facts: ProgramFacts
    versions: Versions
    required_bytes: int
    required_is_lower_bound: bool
    account: tuple[AccountRow, ...]
    kept_from_bytes: int
    peak_buffers: BufferTable

    def __post_init__(self) -> None:
        total = sum(row.bytes for row in self.account)
        if total != self.required_bytes:
            raise InvariantError(
                f"the account of {self.key.program} adds up to {total} B, not to {self.required_bytes} B."
            )
        if len({(row.role, row.layer) for row in self.account}) != len(self.account):
            raise InvariantError(f"the account of {self.key.program} has a role of a layer twice.")

    def side(self, name: str) -> Side:
        """The baseline as a side of a diff."""
        return Side(
            name=name,
            program=self.facts,
            device=DeviceFacts(
                name=self.key.device,
                platform=self.platform,
                memory_bytes=_NOT_KEPT,
                usable_bytes=_NOT_KEPT,
                device_count=self.key.device_count,
            ),
            versions=self.versions,
            required_bytes=self.required_bytes,
            required_is_lower_bound=self.required_is_lower_bound,
            account={(row.role, row.layer): row.bytes for row in self.account},
            peak_buffers=tuple(self.peak_buffers.rows()),
            kept_from_bytes=self.kept_from_bytes,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _File:
    """What the file holds."""

    schema: Literal["jaxmem.baseline/1"] = _SCHEMA
    baselines: tuple[Baseline, ...]


def baseline_of(report: Report, key: Key) -> Baseline:
    """What is kept of a report."""
    buffers = report.peak_buffers
    kept_from_bytes = buffers[_KEPT_BUFFERS].bytes + 1 if len(buffers) > _KEPT_BUFFERS else 1
    account = side_of(report, "now").account
    return Baseline(
        key=key,
        compiler=compiler_of(report.versions),
        platform=report.device.platform,
        host=host_of(report.device.platform),
        facts=replace(report.program, source=_without_folders(report.program.source)),
        versions=report.versions,
        required_bytes=report.required_bytes,
        required_is_lower_bound=report.required_is_lower_bound,
        account=tuple(
            AccountRow(role=role, layer=layer, bytes=size) for (role, layer), size in sorted(account.items()) if size
        ),
        kept_from_bytes=kept_from_bytes,
        peak_buffers=BufferTable.from_rows(_portable(row) for row in buffers[:_KEPT_BUFFERS]),
    )


def compiler_of(versions: Versions) -> str:
    """Which compiler made it: ``jaxlib 0.10.2``, on a TPU ``jaxlib 0.10.2, libtpu 0.0.42.1``."""
    named = (("jaxlib", versions.jaxlib), ("libtpu", versions.libtpu))
    return ", ".join(f"{name} {version}" for name, version in named if isinstance(version, str)) or "unknown"


def host_of(platform: str) -> str:
    """``x86_64 with AVX-512, 2 threads`` where the program is compiled for the machine that compiles it."""
    if platform != "cpu":
        return ""
    host = this_host()
    kind = instruction_set(frozenset(host.cpu_features))
    return f"{host.machine}{f' with {kind}' if kind != 'other' else ''}, {host.threads} threads"


def read(path: Path) -> tuple[Baseline, ...]:
    """Every baseline of a file; none where there is no file.

    Raises:
        InputError: it cannot be read, is damaged or in conflict, or a newer jaxmem wrote it.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read: {error}.") from error
    try:
        return decode(_File, parse_json(text)).baselines
    except (ValueError, Mismatch, InvariantError) as error:
        problem = str(error).splitlines()[0].removeprefix("Internal check failed: ").rstrip(".")
        raise InputError(
            f"{path} is not a file of baselines as this jaxmem writes it: {problem}. If two branches changed it, take either "
            "side; `pytest --jaxmem-update` writes the baselines of the tests that it runs anew."
        ) from error


def record(path: Path, baseline: Baseline) -> None:
    """Put one baseline into the file, in place of the one it had. Several processes may do so at once.

    Raises:
        InputError: what is there cannot be read.
        EnvironmentFailure: the disk is full or the folder not writable.
    """
    with _locked(path.parent):
        known = {(one.key, one.compiler): one for one in read(path)}
        known[baseline.key, baseline.compiler] = baseline
        content = _File(baselines=tuple(known[place] for place in sorted(known)))
        write_whole(path, layout(encode(content)[0]) + "\n", force=True)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the folder, so that nothing is left behind that a lock file would be."""
    try:
        import fcntl
    except ImportError:  # Windows: whole files all the same, but two writers at once may lose an entry
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _portable(row: BufferRow) -> BufferRow:
    return replace(row, source=_without_folders(row.source) or "")


def _without_folders(source: str | None) -> str | None:
    return source.replace("\\", "/").rsplit("/", 1)[-1] if source else source
