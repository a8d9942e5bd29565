"""The cache of captures: what was put is got; what is damaged, too old or too large is a miss."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from captures_by_hand import (
    make_capture,
)
from jaxmem.capture import (
    CaptureCache,
    default_folder,
)
from jaxmem.capture.file import pack

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
