"""The catalogue, card files, what is installed, and the processor with the limit of a container."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from jaxmem.cli import devices as devices_command
from jaxmem.cli import main
from jaxmem.devices import (
    CudaTarget,
    Device,
    TpuTarget,
    catalogue,
    cpu_device,
    find_device,
    installed,
    load_card,
    obstacle,
    save_card,
    topology_of,
)
from jaxmem.devices.attached import device_from
from jaxmem.errors import EnvironmentFailure, InputError, UsageError
from jaxmem.unknown import Unknown


def machine(root: Path, cgroup: str, **limits: str) -> Path:
    """A file system with that ``/proc/self/cgroup`` and those limit files (``__`` stands for a slash)."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(cgroup)
    for name, text in limits.items():
        file = root / "sys/fs/cgroup" / name.replace("__", "/").replace("_dot_", ".")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return root


def test_without_a_control_group_all_memory_is_usable(tmp_path: Path) -> None:
    device = cpu_device(tmp_path)
    assert not isinstance(device.memory_bytes, Unknown)
    assert device.memory_bytes > 0
    assert device.usable_bytes == device.memory_bytes
    assert device.usable_source == device.memory_source


def test_the_tightest_limit_of_the_group_and_its_ancestors_counts(tmp_path: Path) -> None:
    root = machine(
        tmp_path, "0::/outer/inner\n", outer__inner__memory_dot_max="3000000\n", outer__memory_dot_max="2000000\n"
    )
    device = cpu_device(root)
    assert device.usable_bytes == 2_000_000
    assert device.usable_source.endswith("outer/memory.max")
    assert device.memory_bytes == cpu_device(tmp_path / "none").memory_bytes


def test_no_limit_is_written_max(tmp_path: Path) -> None:
    device = cpu_device(machine(tmp_path, "0::/\n", memory_dot_max="max\n"))
    assert device.usable_bytes == device.memory_bytes


def test_version_one_writes_a_huge_number_for_no_limit(tmp_path: Path) -> None:
    lines = "9:name=systemd:/\n4:memory:/job\n1:cpu:/\n"
    free = machine(tmp_path / "free", lines, memory__job__memory_dot_limit_in_bytes="9223372036854771712\n")
    tight = machine(tmp_path / "tight", lines, memory__job__memory_dot_limit_in_bytes="4096000\n")
    assert cpu_device(free).usable_bytes == cpu_device(free).memory_bytes
    assert cpu_device(tight).usable_bytes == 4_096_000


def test_a_group_outside_of_the_mount_falls_back_to_its_top(tmp_path: Path) -> None:
    device = cpu_device(machine(tmp_path, "0::/../elsewhere\n", memory_dot_max="5000000\n"))
    assert device.usable_bytes == 5_000_000


def test_an_unknown_device_gets_the_nearest_names() -> None:
    with pytest.raises(UsageError, match=r"There is no device 'cpuu'\. Did you mean cpu\?"):
        find_device("cpuu")
    with pytest.raises(UsageError, match=r"Did you mean .*h100-sxm"):
        find_device("H100")
    with pytest.raises(UsageError, match=r"Known devices: cpu, .*h100-sxm.*tpu7x, attached\."):
        find_device("quantum")
    assert find_device("cpu").platform == "cpu"


# The catalogue.

EVERY = catalogue()
CARDS = [device for device in EVERY if device.platform == "cuda"]
FIELDS_THAT_XLA_NEEDS = (
    *("threads_per_warp: 32", "block_dim_limit_x: 2147483647", "block_dim_limit_y: 65535", "block_dim_limit_z: 65535"),
    *("cuda_compute_capability {", "shared_memory_per_core: ", "shared_memory_per_block_optin: "),
    *("threads_per_block_limit: 1024", "shared_memory_per_block: 49152", "core_count: ", "threads_per_core_limit: "),
    *("l2_cache_size: ", "memory_bandwidth: ", "clock_rate_ghz: ", "fpus_per_core: ", "device_memory_size: "),
)


@pytest.mark.parametrize("device", EVERY, ids=lambda device: device.name)
def test_every_number_has_a_source(device: Device) -> None:
    assert isinstance(device.memory_bytes, int)
    assert isinstance(device.usable_bytes, int)
    assert 0 < device.usable_bytes <= device.memory_bytes
    assert len(device.memory_source) > 20
    assert len(device.usable_source) > 20
    assert (device.target is None) == (device.platform == "cpu")
    assert bool(device.target_source) == (device.target is not None)
    assert find_device(device.name) == device


def test_names_are_unique() -> None:
    assert len({device.name for device in EVERY}) == len(EVERY) == 1 + 21 + 7


@pytest.mark.parametrize("device", CARDS, ids=lambda device: device.name)
def test_a_target_description_has_what_xla_needs(device: Device) -> None:
    assert isinstance(device.target, CudaTarget)
    lines = [line.strip() for line in device.target.description.splitlines()]
    for field in FIELDS_THAT_XLA_NEEDS:
        assert len([line for line in lines if line.startswith(field)]) == 1, field
    assert f"device_memory_size: {device.memory_bytes}" in lines
    assert lines.count("}") == len([line for line in lines if line.endswith("{")])


def test_the_table_of_capabilities_is_that_of_xlas_own_descriptions() -> None:
    """A few, as XLA's specifications have them: (shared memory of a multiprocessor, of a block, threads, units)."""
    expected = {
        "a100-sxm-80": (167936, 166912, 2048, 64),
        "a6000": (102400, 101376, 1536, 128),
        "gb300": (233472, 232448, 2048, 128),
        "h100-sxm": (233472, 232448, 2048, 128),
        "p100": (65536, 49152, 2048, 64),
        "rtx6000pro": (131072, 101376, 1536, 128),
        "v100-16": (98304, 98304, 2048, 64),
    }
    names = ("shared_memory_per_core", "shared_memory_per_block_optin", "threads_per_core_limit", "fpus_per_core")
    for name, values in expected.items():
        target = find_device(name).target
        assert isinstance(target, CudaTarget)
        for field, value in zip(names, values, strict=True):
            assert f"  {field}: {value}\n" in target.description, (name, field)


def test_the_memory_of_a_card_is_xlas_and_usable_is_what_jax_takes() -> None:
    card = find_device("h100-sxm")
    assert card.memory_bytes == 84_942_979_072
    assert card.usable_bytes == 63_707_234_304  # three quarters
    assert not card.derived
    assert find_device("t4").derived


def test_the_limit_of_a_chip_lies_in_the_range_that_libtpu_rounds_to() -> None:
    rounded = {"tpu-v2": 7.48, "tpu-v3": 15.48, "tpu-v4": 30.75, "tpu-v5e": 15.75, "tpu-v5p": 95.74, "tpu-v6e": 31.25}
    for name, gib in (rounded | {"tpu7x": 94.75}).items():
        usable = find_device(name).usable_bytes
        assert isinstance(usable, int)
        assert round(usable / 2**30, 2) == gib


@pytest.mark.parametrize(
    ("name", "count", "topology", "chips_per_host"),
    [
        ("tpu-v5e", 1, "v5e:1x1", (1, 1, 1)),
        ("tpu-v5e", 2, "v5e:1x2", (1, 2, 1)),
        ("tpu-v5e", 8, "v5e:2x4", (2, 2, 1)),
        ("tpu-v6e", 256, "v6e:16x16", (2, 2, 1)),
        ("tpu-v5p", 1, "v5p:1x1x1", (1, 1, 1)),
        ("tpu-v5p", 8, "v5p:2x2x2", (2, 2, 1)),
        ("tpu-v4", 64, "v4:4x4x4", (2, 2, 1)),
        ("tpu7x", 1, "tpu7x:1x1x1", (1, 1, 1)),
        ("tpu7x", 8, "tpu7x:2x2x1", (2, 2, 1)),
        ("tpu-v3", 4, "v3:1x2", (1, 2, 1)),
    ],
)
def test_the_chips_of_a_topology(name: str, count: int, topology: str, chips_per_host: tuple[int, int, int]) -> None:
    target = find_device(name).target
    assert isinstance(target, TpuTarget)
    found = topology_of(target, count)
    assert (found.name, found.chips_per_host) == (topology, chips_per_host)


def test_chips_that_no_topology_joins() -> None:
    target = find_device("tpu-v5e").target
    assert isinstance(target, TpuTarget)
    with pytest.raises(UsageError, match="6 devices would need 6 chips"):
        topology_of(target, 6)


# Card files.

CARD = """
name = "rtx-4090"
kind = "NVIDIA GeForce RTX 4090"
compute_capability = "8.9"
multiprocessors = 128
memory = "24564 MiB"
memory_bandwidth = "1008.096 GB"
l2_cache = "72 MiB"
clock_ghz = 2.52
source = "a data sheet"
"""


def test_a_card_file_gives_what_the_catalogue_gives(tmp_path: Path) -> None:
    file = tmp_path / "card.toml"
    file.write_text(CARD)
    card, listed = find_device(str(file)), find_device("rtx-4090")
    assert (card.target, card.memory_bytes, card.usable_bytes) == (
        listed.target,
        listed.memory_bytes,
        listed.usable_bytes,
    )
    assert card.target_source == f"a data sheet ({file})"


def test_a_saved_card_is_read_back_exactly(tmp_path: Path) -> None:
    original = find_device("b200")
    file = tmp_path / "b200.toml"
    save_card(original, file)
    again = find_device(str(file))
    assert (again.name, again.kind, again.target, again.memory_bytes, again.derived) == (
        original.name,
        original.kind,
        original.target,
        original.memory_bytes,
        False,
    )
    with pytest.raises(UsageError, match="exists"):
        save_card(original, file)
    with pytest.raises(UsageError, match="a card file describes an NVIDIA card"):
        save_card(find_device("tpu-v4"), tmp_path / "v4.toml")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("clock_ghz = 2.52\n", ""), "lacks clock_ghz"),
        (("clock_ghz", "clock"), "lacks clock_ghz"),
        (("name", 'colour = "green"\nname'), "mean nothing here: colour"),
        (('"8.9"', '"8.8"'), "compute_capability is one of 6.0, .*found '8.8'"),
        (("= 128", "= 0"), "multiprocessors is a whole number above 0, found 0"),
        (("= 128", "= true"), "multiprocessors is a whole number above 0, found True"),
        (("2.52", "nan"), "clock_ghz is a number above 0"),
        (("24564 MiB", "much"), "memory: 'much' is not a size"),
        (('"24564 MiB"', "-1"), "memory is a size"),
        (('"a data sheet"', '"a \\" b"'), "source is a text without quotes"),
        (("name =", "name"), "is not TOML"),
    ],
)
def test_a_card_file_that_is_not_understood(tmp_path: Path, change: tuple[str, str], message: str) -> None:
    file = tmp_path / "card.toml"
    file.write_text(CARD.replace(*change, 1))
    with pytest.raises(InputError, match=message):
        load_card(file)


def test_a_card_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read: No such file"):
        find_device(str(tmp_path / "none.toml"))


# The device in this machine.


def test_an_attached_card_brings_its_own_description() -> None:
    facts = {"platform": "gpu", "kind": "NVIDIA X", "memory_bytes": 4000, "target_description": "gpu_device_info {}"}
    device = device_from(facts)
    assert device.target == CudaTarget(description="gpu_device_info {}")
    assert (device.name, device.kind, device.memory_bytes, device.usable_bytes) == ("attached", "NVIDIA X", 4000, 3000)
    assert device.attached
    assert not device.derived


def test_an_attached_chip_is_found_in_the_catalogue() -> None:
    chip = device_from({"platform": "tpu", "kind": "TPU v5 lite"})
    assert chip == replace(find_device("tpu-v5e"), attached=True)
    assert device_from({"platform": "tpu", "kind": "TPU v5"}).name == "tpu-v5p"


def test_without_an_accelerator_the_processor_is_attached() -> None:
    assert device_from({"platform": "cpu", "kind": "cpu"}) == find_device("cpu")
    assert find_device("cpu").attached


def test_an_attached_device_that_nobody_knows() -> None:
    with pytest.raises(EnvironmentFailure, match=r"JAX sees TPU v99 \(tpu\) in this machine"):
        device_from({"platform": "tpu", "kind": "TPU v99"})


# What is installed.


def versions(monkeypatch: pytest.MonkeyPatch, **found: str) -> None:
    monkeypatch.setattr(installed, "version_of", lambda package: found.get(package.replace("-", "_")))


def test_what_is_missing_is_named_with_the_line_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    versions(monkeypatch, jaxlib="0.10.2", jax_cuda12_plugin="0.10.2", jax_cuda12_pjrt="0.10.2")
    assert obstacle("cpu") is None
    assert obstacle("cuda") == 'not installed: nvidia-cuda-nvcc-cu12. Install: pip install "jaxmem[cuda]"'
    assert obstacle("tpu") == 'not installed: libtpu. Install: pip install "jaxmem[tpu]"'


def test_a_plugin_of_another_version_is_no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    packages = {"jax_cuda12_plugin": "0.11.0", "jax_cuda12_pjrt": "0.11.0", "nvidia_cuda_nvcc_cu12": "12.9.86"}
    versions(monkeypatch, jaxlib="0.10.2", **packages)
    problem = obstacle("cuda")
    assert problem is not None
    assert "jax-cuda12-plugin is 0.11.0, and jaxlib 0.10.2 loads its own version alone" in problem
    assert problem.endswith("pip install jax-cuda12-plugin==0.10.2 jax-cuda12-pjrt==0.10.2")
    versions(monkeypatch, jaxlib="0.11.0", **packages)
    assert obstacle("cuda") is None


# The command.


def test_the_command_prints_every_device(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["devices"]) == 0
    printed = capsys.readouterr().out
    assert all(device.name in printed for device in EVERY)
    assert main(["devices", "--format", "json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert [device["name"] for device in answer["devices"]] == [device.name for device in EVERY]
    assert all(device["memory_source"] for device in answer["devices"])
    assert {row["platform"] for row in answer["compilers"]} == {"cpu", "cuda", "tpu"}


def test_the_command_names_what_to_install(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    versions(monkeypatch, jaxlib="0.10.2")
    assert main(["devices"]) == 0
    assert 'pip install "jaxmem[tpu]"' in capsys.readouterr().out


def test_the_example_in_the_help_is_a_card_file(tmp_path: Path) -> None:
    example = devices_command.__doc__
    assert example is not None
    file = tmp_path / "card.toml"
    file.write_text("\n".join(line.strip() for line in example.splitlines() if line.startswith("  ")))
    assert load_card(file).memory_bytes == 16 * 2**30
