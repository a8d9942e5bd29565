"""Captures on disk and in the cache."""

import errno
import io
import json
import os
import struct
import subprocess
import sys
import tracemalloc
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from jaxmem.capture import (
    Capture,
    CaptureCache,
    Cost,
    Host,
    MemoryStatistics,
    default_folder,
    installed_versions,
    load,
    lowering_key,
    request_key,
    save,
    source_digest,
    this_host,
)
from jaxmem.capture import file as capture_file
from jaxmem.capture.cache import READERS
from jaxmem.capture.file import pack, unpack
from jaxmem.devices import Device, cpu_device
from jaxmem.errors import EnvironmentFailure, InputError, UsageError
from jaxmem.layer_table import LayerTable, Operation, Value
from jaxmem.lowering import Argument, Lowering, Output, ProgramFacts
from jaxmem.roles import Phase, Role
from jaxmem.unknown import Unknown

ARGUMENT = Argument(
    path="w",
    shape=(2, 3),
    dtype="float32",
    itemsize_bits=32,
    role=Role.PARAMETERS,
    role_rule="given",
    parameter_number=0,
)
OUTPUT = Output(path="", shape=(2,), dtype="float32", itemsize_bits=32, role=Role.OUTPUTS)
HOST = Host(machine="x86_64", cpu_model="a processor", cpu_features=("avx2", "fma"), threads=2, xla_flags="")
DEVICE = Device(
    name="cpu",
    platform="cpu",
    kind="host processor",
    memory_bytes=2**34,
    memory_source="counted",
    usable_bytes=Unknown("not looked up"),
    usable_source="nobody",
)
TABLE = LayerTable(
    values=(
        Value(shape=(2, 3), dtype="float32", itemsize_bits=32, argument=0),
        Value(shape=(2,), dtype="float32", itemsize_bits=32, operation=0),
    ),
    operations=(
        Operation(primitive="reduce_sum", scope="", layer="", phase=Phase.FORWARD, operands=(0,), results=(1,)),
    ),
    arguments=(0,),
    outputs=(1,),
)


def make_capture(**changes: Any) -> Capture:
    capture = Capture(
        program=ProgramFacts(name="sum", mode="infer", batch_size=2),
        arguments=(ARGUMENT,),
        outputs=(OUTPUT,),
        layer_table=TABLE,
        device=DEVICE,
        device_count=1,
        versions=(("jaxmem", "0.1.0"), ("jax", "0.10.2")),
        compiler_options=(("xla_cpu_enable_fast_math", "false"),),
        configuration=(),
        host=HOST,
        statistics=MemoryStatistics(
            argument_bytes=24,
            output_bytes=8,
            alias_bytes=0,
            temp_bytes=0,
            generated_code_bytes=0,
            reported_peak_bytes=Unknown("not reported by this backend"),
            host_argument_bytes=0,
            host_output_bytes=0,
            host_alias_bytes=0,
            host_temp_bytes=0,
            host_generated_code_bytes=0,
        ),
        cost=Cost(flops=6, transcendentals=0, accessed_bytes=32),
        hlo_proto=b"proto" * 50,
        stablehlo=b"ML\xefR" * 10,
        compile_seconds=0.25,
        worker_start_seconds=1.5,
        created="2026-01-01T00:00:00+00:00",
        failure=None,
    )
    return replace(capture, **changes)


def make_lowering(**changes: Any) -> Lowering:
    lowering = Lowering(
        program=ProgramFacts(name="sum"),
        stablehlo=b"module",
        arguments=(ARGUMENT,),
        outputs=(OUTPUT,),
        compiler_options=(),
    )
    return replace(lowering, **changes)


def rebuild(content: bytes, **members: bytes | None) -> bytes:
    """The archive with members replaced (``capture_json`` is the table), added, or taken out (None)."""
    changes = {"capture.json" if name == "capture_json" else name: data for name, data in members.items()}
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        parts: dict[str, bytes | None] = {name: archive.read(name) for name in archive.namelist()}
    result = io.BytesIO()
    with zipfile.ZipFile(result, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in (parts | changes).items():
            if data is not None:
                archive.writestr(name, data)
    return result.getvalue()


def table_of(content: bytes) -> dict[str, Any]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return json.loads(archive.read("capture.json"))


def claim(content: bytes, name: str, size_bytes: int) -> bytes:
    """The archive with another unpacked size written for a member, in its own header and in the directory."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        start = archive.getinfo(name).header_offset
    directory = content.rindex(b"PK\x01\x02", 0, content.rindex(name.encode()))
    forged = bytearray(content)
    forged[start + 22 : start + 26] = struct.pack("<I", size_bytes)
    forged[directory + 24 : directory + 28] = struct.pack("<I", size_bytes)
    return bytes(forged)


# --- the file


def test_round_trip(tmp_path: Path) -> None:
    capture = make_capture()
    save(capture, tmp_path / "sum.jaxmem")
    assert load(tmp_path / "sum.jaxmem") == capture
    assert list(tmp_path.iterdir()) == [tmp_path / "sum.jaxmem"]


@pytest.mark.parametrize(
    "changes",
    [{"layer_table": None}, {"arguments": (), "outputs": ()}, {"hlo_proto": b"", "failure": "Ran out of memory"}],
)
def test_round_trip_of_what_may_be_absent(changes: dict[str, Any]) -> None:
    capture = make_capture(**changes)
    assert unpack(pack(capture), origin="memory") == capture


def test_equal_captures_are_equal_files() -> None:
    assert pack(make_capture()) == pack(make_capture())


def test_truncated_at_every_byte() -> None:
    content = pack(make_capture())
    for length in range(len(content)):
        with pytest.raises(InputError, match=r"cut\.jaxmem"):
            unpack(content[:length], origin="cut.jaxmem")


@pytest.mark.parametrize(
    "content", [b"", b"not a capture", b"\x7fELF" + bytes(500), b'{"schema": "jaxmem.report/1"}', b"PK\x03\x04"]
)
def test_a_foreign_file(content: bytes) -> None:
    with pytest.raises(InputError, match="foreign"):
        unpack(content, origin="foreign")


def test_a_foreign_archive() -> None:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("holiday.jpg", b"")
    with pytest.raises(InputError, match=r"it has no capture\.json"):
        unpack(content.getvalue(), origin="holiday.zip")


def test_a_newer_version_is_told_from_a_broken_file() -> None:
    newer = rebuild(pack(make_capture()), capture_json=b'{"schema": "jaxmem.capture/2", "new": {}}', more=b"")
    with pytest.raises(InputError) as caught:
        unpack(newer, origin="new.jaxmem")
    assert str(caught.value) == (
        "new.jaxmem was written by a newer jaxmem: its format is jaxmem.capture/2, and this version reads up to "
        "jaxmem.capture/1. Upgrade jaxmem: pip install -U jaxmem."
    )


@pytest.mark.parametrize(
    "schema", ["jaxmem.report/1", "jaxmem.capture/", "jaxmem.capture/x", "jaxmem.capture/²", "", None, 1, []]
)
def test_another_schema(schema: object) -> None:
    content = rebuild(pack(make_capture()), capture_json=json.dumps({"schema": schema, "capture": {}}).encode())
    with pytest.raises(InputError, match="is no capture that jaxmem knows"):
        unpack(content, origin="x")


@pytest.mark.parametrize("table", [b"", b"{", b"[" * 100_000, b"\xff\xfe", b"[]", b"1" * 5000, b'{"schema": NaN}'])
def test_a_broken_table(table: bytes) -> None:
    with pytest.raises(InputError, match="broken"):
        unpack(rebuild(pack(make_capture()), capture_json=table), origin="broken")


@pytest.mark.parametrize("members", [{"hlo_proto": None}, {"stablehlo": None}, {"extra": b"x"}])
def test_members_missing_or_too_many(members: dict[str, bytes | None]) -> None:
    with pytest.raises(InputError, match="its members are"):
        unpack(rebuild(pack(make_capture()), **members), origin="x")


def test_a_member_twice() -> None:
    content = io.BytesIO(pack(make_capture()))
    with zipfile.ZipFile(content, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("hlo_proto", b"other")
    with pytest.raises(InputError, match="its members are"):
        unpack(content.getvalue(), origin="x")


def test_a_wrong_value_is_named_with_its_place() -> None:
    table = table_of(pack(make_capture()))
    table["capture"]["statistics"]["temp_bytes"] = "many"
    with pytest.raises(InputError, match=r"statistics\.temp_bytes: expected int or Unknown, found 'many'"):
        unpack(rebuild(pack(make_capture()), capture_json=json.dumps(table).encode()), origin="x")


def test_a_size_beyond_the_limit_is_refused_unread() -> None:
    with pytest.raises(InputError, match="member stablehlo claims to unpack to 4294967294 bytes"):
        unpack(claim(pack(make_capture()), "stablehlo", 2**32 - 2), origin="x")


def test_the_limit_itself_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    content = pack(make_capture())
    monkeypatch.setitem(capture_file._LIMITS_BYTES, "hlo_proto", 250)
    unpack(content, origin="x")
    monkeypatch.setitem(capture_file._LIMITS_BYTES, "hlo_proto", 249)
    with pytest.raises(InputError, match="claims to unpack to 250 bytes"):
        unpack(content, origin="x")


@pytest.mark.parametrize("size_bytes", [0, 1, 249, 251, 10**6])
def test_a_size_that_is_not_true(size_bytes: int) -> None:
    with pytest.raises(InputError, match="damaged"):
        unpack(claim(pack(make_capture()), "hlo_proto", size_bytes), origin="x")


def test_a_bomb_that_claims_to_be_small_is_not_unpacked() -> None:
    bomb = claim(pack(make_capture(hlo_proto=bytes(256 * 2**20))), "hlo_proto", 100)
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match="damaged"):
            unpack(bomb, origin="x")
        assert tracemalloc.get_traced_memory()[1] < 16 * 2**20
    finally:
        tracemalloc.stop()


def test_an_existing_file_needs_force(tmp_path: Path) -> None:
    path = tmp_path / "sum.jaxmem"
    path.write_text("mine")
    with pytest.raises(UsageError, match="exists"):
        save(make_capture(), path)
    assert path.read_text() == "mine"
    save(make_capture(), path, force=True)
    assert load(path) == make_capture()


def test_a_missing_file_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        load(tmp_path / "none.jaxmem")
    with pytest.raises(InputError, match="cannot be read"):
        load(tmp_path)


@pytest.mark.parametrize("failure", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_nothing_is_left_of_a_file_that_could_not_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: BaseException, call: str
) -> None:
    def fail(*_: object) -> None:
        raise failure

    old = tmp_path / "old.jaxmem"
    save(make_capture(), old)
    monkeypatch.setattr(os, call, fail)
    expected = EnvironmentFailure if isinstance(failure, OSError) else KeyboardInterrupt
    with pytest.raises(expected):
        save(make_capture(failure="new"), tmp_path / "new.jaxmem")
    with pytest.raises(expected):
        save(make_capture(failure="new"), old, force=True)
    monkeypatch.undo()
    assert list(tmp_path.iterdir()) == [old]
    assert load(old) == make_capture()


def test_a_large_table_comes_back_and_stays_small() -> None:
    count = 100_000
    table = LayerTable(
        values=TABLE.values[:1] * count, operations=TABLE.operations * count, arguments=(0,), outputs=(None,)
    )
    capture = make_capture(layer_table=table)
    content = pack(capture)
    assert len(content) < 10 * count
    assert unpack(content, origin="x") == capture


# --- keys


@pytest.mark.parametrize(
    "changes",
    [
        {"stablehlo": b"module at another line"},
        {"program": ProgramFacts(name="product")},
        {"arguments": (replace(ARGUMENT, role=Role.INPUTS),)},
        {"outputs": (replace(OUTPUT, layer="head"),)},
        {"compiler_options": (("xla_a", "1"),)},
        {"configuration": (("jax_enable_x64", "True"),)},
        {"device_count": 2},
        {"platforms": ("cpu", "cuda")},
    ],
)
def test_every_field_of_the_lowering_is_in_the_key(changes: dict[str, Any]) -> None:
    def key(lowering: Lowering) -> str:
        return lowering_key(lowering, DEVICE, (("jax", "1"),), HOST)

    assert key(make_lowering(**changes)) != key(make_lowering())
    assert key(make_lowering()) == key(make_lowering())


def test_device_versions_and_host_are_in_the_key() -> None:
    def key(device: Device = DEVICE, versions: tuple[tuple[str, str], ...] = (("jax", "1"),), host: Host = HOST) -> str:
        return lowering_key(make_lowering(), device, versions, host)

    keys = [
        key(),
        key(device=replace(DEVICE, name="other")),
        key(versions=(("jax", "2"),)),
        key(host=replace(HOST, threads=4)),
        key(host=replace(HOST, cpu_features=("avx2",))),
        key(host=replace(HOST, xla_flags="--xla_cpu_enable_fast_math=true")),
    ]
    assert len(set(keys)) == len(keys)
    assert key(device=replace(DEVICE, usable_bytes=1)) == key()


def test_what_was_asked_for_is_in_the_key_of_a_request() -> None:
    def key(name: str = "vgg16", sources: tuple[str, ...] = ("s",), **options: str) -> str:
        return request_key(name, options, DEVICE, (("jax", "1"),), HOST, sources)

    keys = [key(), key("vgg11"), key(sources=("t",)), key(batch_size="2"), key(batch_size="3"), key(mode="2")]
    assert len(set(keys)) == len(keys)
    assert key(a="1", b="2") == key(b="2", a="1")


def test_sources_are_known_by_path_and_content(tmp_path: Path) -> None:
    def digest(**files: str) -> str:
        folder = tmp_path / "-".join(f"{name}{len(text)}" for name, text in files.items())
        folder.mkdir()
        for name, text in files.items():
            (folder / f"{name}.py").write_text(text)
        return source_digest(folder)

    assert len({digest(a="1"), digest(a="12"), digest(b="1"), digest(a="1", b="")}) == 4


def test_a_reader_of_captures_is_no_part_of_a_key(tmp_path: Path) -> None:
    digests = []
    for name, content in (("one", "1"), ("two", "2"), ("three", "1")):
        folder = tmp_path / name
        (folder / "formula").mkdir(parents=True)
        (folder / "formula" / "rules.py").write_text(content)
        (folder / "verdict.py").write_text(content)
        (folder / "program.py").write_text("2" if name == "three" else "1")
        digests.append(source_digest(folder, without=READERS))
    assert digests[0] == digests[1] != digests[2]


def test_versions_and_host_are_found_without_importing_jax() -> None:
    program = (
        "import sys; from jaxmem.capture import *; installed_versions(); this_host(); CaptureCache(); "
        "sys.exit(any(name.split('.')[0] in ('jax', 'jaxlib', 'numpy') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
    names = [name for name, _ in installed_versions(("jax", "jaxlib", "no-such-package"))]
    assert names == ["jaxmem", "jax", "jaxlib"]
    assert this_host().threads >= 1
    assert cpu_device().platform == "cpu"


def test_threads_follow_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PJRT_NPROC", raising=False)
    monkeypatch.setenv("NPROC", "7")
    assert this_host().threads == 7
    monkeypatch.setenv("PJRT_NPROC", "3")
    assert this_host().threads == 3
    monkeypatch.setenv("PJRT_NPROC", "many")
    assert this_host().threads == 7


# --- the cache

KEY, OTHER, THIRD = "a" * 64, "b" * 64, "c" * 64


def test_what_is_put_is_got(tmp_path: Path) -> None:
    cache = CaptureCache(tmp_path / "made" / "here")
    assert cache.get(KEY) is None
    cache.put(KEY, make_capture())
    assert cache.get(KEY) == make_capture()
    assert cache.get(OTHER) is None


def test_a_request_leads_to_its_capture(tmp_path: Path) -> None:
    cache = CaptureCache(tmp_path)
    assert cache.get_request(OTHER) is None
    cache.put_request(OTHER, KEY)
    assert cache.get_request(OTHER) is None
    cache.put(KEY, make_capture())
    assert cache.get_request(OTHER) == make_capture()


@pytest.mark.parametrize("alias", [b"", b"../../etc/passwd", b"\xff\xfe", b"a" * 63])
def test_a_broken_request_is_a_miss(tmp_path: Path, alias: bytes) -> None:
    cache = CaptureCache(tmp_path)
    cache.put(KEY, make_capture())
    (tmp_path / "requests").mkdir()
    (tmp_path / "requests" / OTHER).write_bytes(alias)
    assert cache.get_request(OTHER) is None


def test_a_broken_entry_is_a_miss_and_is_replaced(tmp_path: Path) -> None:
    cache = CaptureCache(tmp_path)
    cache.put(KEY, make_capture())
    (file,) = (tmp_path / "captures").iterdir()
    file.write_bytes(file.read_bytes()[:-30])
    assert cache.get(KEY) is None
    cache.put(KEY, make_capture())
    assert cache.get(KEY) == make_capture()


def test_an_estimate_is_kept_as_it_was_written(tmp_path: Path) -> None:
    cache = CaptureCache(tmp_path)
    assert cache.get_estimate(KEY) is None
    cache.put_estimate(KEY, "größer\nals 1\n")
    assert cache.get_estimate(KEY) == "größer\nals 1\n"
    assert cache.get_estimate(OTHER) is None


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-1], lambda data: data[:70] + b"2" + data[71:], lambda _: b"\xff"]
)
def test_a_damaged_estimate_is_a_miss_and_is_replaced(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    cache = CaptureCache(tmp_path)
    cache.put_estimate(KEY, "total 1111111")
    (file,) = (tmp_path / "estimates").iterdir()
    file.write_bytes(damage(file.read_bytes()))
    assert cache.get_estimate(KEY) is None
    cache.put_estimate(KEY, "total 1111111")
    assert cache.get_estimate(KEY) == "total 1111111"


def test_estimates_have_a_limit_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jaxmem.capture.cache.ESTIMATES_LIMIT_BYTES", 200)
    cache = CaptureCache(tmp_path)
    cache.put(KEY, make_capture())
    for age, key in ((200, KEY), (100, OTHER)):
        cache.put_estimate(key, "an estimate")
        os.utime(tmp_path / "estimates" / key, (10**9 - age, 10**9 - age))
    cache.get_estimate(KEY)
    cache.put_estimate(THIRD, "an estimate")
    assert [cache.get_estimate(key) is None for key in (KEY, OTHER, THIRD)] == [False, True, False]
    assert cache.get(KEY) is not None


def test_what_was_used_longest_ago_goes_first(tmp_path: Path) -> None:
    size_bytes = len(pack(make_capture()))
    cache = CaptureCache(tmp_path, limit_bytes=2 * size_bytes)
    for age, key in ((200, KEY), (100, OTHER)):
        cache.put(key, make_capture())
        os.utime(tmp_path / "captures" / f"{key}.jaxmem", (10**9 - age, 10**9 - age))
    cache.get(KEY)
    cache.put(THIRD, make_capture())
    assert cache.get(OTHER) is None
    assert cache.get(KEY) is not None
    assert cache.get(THIRD) is not None


def test_the_newest_stays_even_when_it_is_too_large(tmp_path: Path) -> None:
    cache = CaptureCache(tmp_path, limit_bytes=1)
    cache.put(KEY, make_capture())
    cache.put(OTHER, make_capture())
    assert cache.get(KEY) is None
    assert cache.get(OTHER) == make_capture()


def test_a_folder_that_cannot_be_written_is_one_warning(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("a file where the folder should be")
    said: list[str] = []
    cache = CaptureCache(blocked, warn=said.append)
    cache.put(KEY, make_capture())
    cache.put_request(OTHER, KEY)
    cache.put_estimate(OTHER, "an estimate")
    assert cache.get(KEY) is None
    assert cache.get_request(OTHER) is None
    assert cache.get_estimate(OTHER) is None
    (message,) = said
    assert str(blocked) in message
    assert "the work goes on without it" in message


def test_a_full_disk_is_a_warning_on_stderr(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    cache = CaptureCache(tmp_path)
    cache.put(KEY, make_capture())
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("jaxmem: warning: the cache in")
    assert "No space left on device" in captured.err
    assert list((tmp_path / "captures").iterdir()) == []


def test_the_folder_can_be_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAXMEM_CACHE_DIR", str(tmp_path / "mine"))
    assert CaptureCache().folder == tmp_path / "mine"
    monkeypatch.delenv("JAXMEM_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_folder().name == "jaxmem"


@pytest.mark.parametrize("key", ["", "../x", "A" * 64, "a" * 65])
def test_a_key_that_is_none_is_a_mistake_of_the_program(tmp_path: Path, key: str) -> None:
    with pytest.raises(ValueError, match="is no key"):
        CaptureCache(tmp_path).get(key)
