"""The keys of captures in the cache: everything that decides one is in its key, and nothing else."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from captures_by_hand import ARGUMENT, DEVICE, HOST, OUTPUT, make_lowering
from jaxmem.capture import (
    Host,
    installed_versions,
    lowering_key,
    request_key,
    source_digest,
    this_host,
)
from jaxmem.capture.cache import READERS
from jaxmem.devices import Device, cpu_device
from jaxmem.lowering import Lowering, ProgramFacts
from jaxmem.roles import Role


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
