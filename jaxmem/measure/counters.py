"""Who is asked how much memory a process takes: the kernel, JAX's allocator, NVIDIA's driver.

A counter is told of three moments: nothing is there yet, the arguments are there, the run is over.
"""

import ctypes
import gc
import os
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from jaxmem.measure.data import Counted
from jaxmem.unknown import Unknown

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_MIB = 1 << 20


class Counter(Protocol):
    """Counts one run."""

    def begin(self) -> None:
        """No argument is there yet."""
        ...

    def arguments_made(self) -> None:
        """The arguments are there, and nothing else."""
        ...

    def ended(self) -> Counted:
        """The run is over; its results are still there."""
        ...


class ResidentMemory:
    """The process's resident memory, by Linux: the high-water mark, started anew before the run.

    Free memory is handed back to the system first, so that the program cannot grow into what the compiler has freed,
    which would not be seen. ``clear_refs`` 5 starts the mark anew (``proc_pid_clear_refs(5)``).
    """

    def begin(self) -> None:
        """As in `Counter`."""
        self._empty = self._resident()

    def arguments_made(self) -> None:
        """As in `Counter`."""
        self._before = self._resident()
        CLEAR.write_text("5")

    def ended(self) -> Counted:
        """As in `Counter`."""
        return Counted(
            argument_bytes=self._before - self._empty,
            step_bytes=_status_bytes("VmHWM") - self._before,
            is_upper_bound=False,
            driver_bytes=Unknown("the processor's memory has no driver of its own"),
        )

    @staticmethod
    def _resident() -> int:
        gc.collect()
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:  # musl has none
            trim(0)
        return _status_bytes("VmRSS")


class AllocatorMemory:
    """What JAX's allocator handed out on a GPU or TPU: ``memory_stats()`` of the device.

    Its ``peak_bytes_in_use`` cannot be started anew. Whatever came before the run and went (XLA tries kernels while it
    compiles) may have left it higher than the arguments explain: then the run's own peak is known only to be no more.

    Args:
        read_statistics: ``memory_stats`` of the device.
        read_driver: what the driver says this process holds.
    """

    def __init__(
        self, read_statistics: Callable[[], Mapping[str, int] | None], read_driver: Callable[[], int | Unknown]
    ) -> None:
        self._statistics, self._driver = read_statistics, read_driver

    def begin(self) -> None:
        """As in `Counter`."""
        self._empty = self._read("bytes_in_use")

    def arguments_made(self) -> None:
        """As in `Counter`."""
        self._before, self._peak_before = self._read("bytes_in_use"), self._read("peak_bytes_in_use")

    def ended(self) -> Counted:
        """As in `Counter`."""
        peak = self._read("peak_bytes_in_use")
        return Counted(
            argument_bytes=self._before - self._empty,
            step_bytes=peak - self._before,
            is_upper_bound=peak == self._peak_before > self._before,
            driver_bytes=self._driver(),
        )

    def _read(self, name: str) -> int:
        statistics = self._statistics() or {}
        if name not in statistics:
            raise NoStatistics(f"the device's memory_stats() has no {name}")
        return int(statistics[name])


class NoStatistics(Exception):
    """The allocator does not count: ``XLA_PYTHON_CLIENT_ALLOCATOR=platform`` makes it so."""


def nvidia_process_bytes() -> int | Unknown:
    """What NVIDIA's driver says this process holds, the CUDA context and the libraries' own memory included.

    ``nvidia-smi`` names processes by their ids outside of a container. Where it does not name this one, but there is
    only one process on the card, it is this one.
    """
    command = ["nvidia-smi", "--query-compute-apps=pid,used_memory", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return Unknown(f"nvidia-smi did not answer: {error}")
    if answer.returncode != 0:
        return Unknown(f"nvidia-smi ended with {answer.returncode}: {(answer.stdout or answer.stderr).strip()}")
    return process_bytes(answer.stdout, os.getpid())


def process_bytes(table: str, process: int) -> int | Unknown:
    """The memory of one process in nvidia-smi's table of ``pid, MiB`` lines."""
    held: dict[int, int] = {}
    for line in table.splitlines():
        number, _, mebibytes = line.partition(",")
        if number.strip().isdecimal() and mebibytes.strip().isdecimal():
            held[int(number)] = held.get(int(number), 0) + int(mebibytes) * _MIB
    if process in held:
        return held[process]
    if len(held) == 1:
        return next(iter(held.values()))
    return Unknown(f"nvidia-smi names {len(held)} processes, and which of them is this one cannot be told")


def _status_bytes(key: str) -> int:
    """A size that the kernel keeps of this process."""
    lines = STATUS.read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:"))
