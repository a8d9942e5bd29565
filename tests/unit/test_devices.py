"""The processor as a device: its memory, and the limit of a container."""

from pathlib import Path

import pytest

from jaxmem.devices import cpu_device, find_device
from jaxmem.errors import UsageError
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
    with pytest.raises(UsageError, match=r"Known devices: cpu\."):
        find_device("quantum")
    assert find_device("cpu").platform == "cpu"
