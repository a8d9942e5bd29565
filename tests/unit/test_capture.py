"""The capture file: what is written is read again, and nothing else is."""

import errno
import io
import json
import os
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import pytest

from captures_by_hand import (
    TABLE,
    claim,
    make_capture,
    rebuild,
    table_of,
)
from jaxmem.capture import file as capture_file
from jaxmem.capture import (
    load,
    save,
)
from jaxmem.capture.file import pack, unpack
from jaxmem.errors import EnvironmentFailure, InputError, UsageError
from jaxmem.layer_table import LayerTable


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
