"""Captures that earlier versions wrote must be read by every later one.

``frozen/capture-N`` holds captures of schema ``jaxmem.capture/N`` from every platform, as the version that introduced it wrote
them. They are never made anew: SHA256SUMS stands for their bytes. A new schema adds a folder, and the old ones stay.
"""

import hashlib
from pathlib import Path

import pytest

import jaxmem
from jaxmem.capture import SCHEMA
from jaxmem.result import Report

FOLDER = Path(__file__).parent / "frozen"
DIGESTS = {name: digest for digest, name in (line.split() for line in (FOLDER / "SHA256SUMS").read_text().splitlines())}


@pytest.mark.parametrize("name", DIGESTS)
def test_an_old_capture_is_still_read(name: str) -> None:
    content = (FOLDER / name).read_bytes()
    assert hashlib.sha256(content).hexdigest() == DIGESTS[name], "a frozen capture stays as its version wrote it"
    report = jaxmem.load(FOLDER / name)
    assert isinstance(report, Report)
    assert sum(report.roles.values()) == report.required_bytes > 0


def test_every_frozen_capture_is_listed() -> None:
    assert {str(path.relative_to(FOLDER)) for path in FOLDER.glob("*/*.jaxmem")} == set(DIGESTS)


def test_the_present_schema_is_frozen_for_every_platform() -> None:
    folder = SCHEMA.removeprefix("jaxmem.").replace("/", "-")
    devices = {name.split(".")[1] for name in DIGESTS if name.startswith(f"{folder}/")}
    assert devices == {"cpu", "h100-sxm", "tpu-v5e"}
