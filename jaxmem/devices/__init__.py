"""The devices a program can be compiled for: name, platform, memory, compile target, each number with its source.

Nothing here imports JAX. The device in this machine (``attached``) is asked for in a process of its own.
"""

import difflib

from jaxmem.devices.attached import attached_device
from jaxmem.devices.data import CudaTarget, Device, TpuTarget
from jaxmem.devices.host import cpu_device
from jaxmem.devices.installed import compiler_packages, obstacle, pip_line
from jaxmem.devices.memory_fraction import (
    DEFAULT_MEMORY_FRACTION,
    asked_for,
    fraction_of,
    refuse_bad_fraction,
    with_memory_fraction,
)
from jaxmem.devices.nvidia import cuda_cards
from jaxmem.devices.own import load_card, save_card
from jaxmem.devices.tpu import Topology, topology_of, tpu_chips
from jaxmem.errors import UsageError

__all__ = [
    "DEFAULT_MEMORY_FRACTION",
    "PLATFORMS",
    "CudaTarget",
    "Device",
    "Topology",
    "TpuTarget",
    "asked_for",
    "attached_device",
    "catalogue",
    "compiler_packages",
    "cpu_device",
    "find_device",
    "fraction_of",
    "load_card",
    "obstacle",
    "pip_line",
    "refuse_bad_fraction",
    "save_card",
    "topology_of",
    "with_memory_fraction",
]

PLATFORMS = ("cpu", "cuda", "tpu")
ATTACHED = "attached"


def catalogue() -> tuple[Device, ...]:
    """Every device that has a name: the processor, NVIDIA's cards, Google's TPUs."""
    return (cpu_device(), *cuda_cards(), *tpu_chips())


def find_device(name: str, memory_fraction: float | None = None) -> Device:
    """The device of that name, of the card file of that path (``*.toml``), or the one in this machine (``attached``).

    Args:
        memory_fraction: what JAX's allocator takes of a GPU; None for its default.

    Raises:
        UsageError: there is none (the message has the nearest names), or the fraction is none.
        InputError: the card file was not understood.
        EnvironmentFailure: JAX could not say what is in this machine.
    """
    refuse_bad_fraction(memory_fraction)  # before a card is asked for, which takes seconds
    return with_memory_fraction(_find_device(name), memory_fraction)


def _find_device(name: str) -> Device:
    if name.lower().endswith(".toml"):
        return load_card(name)
    if name == ATTACHED:
        return attached_device()
    known = {device.name: device for device in catalogue()}
    if name in known:
        return known[name]
    near = difflib.get_close_matches(name.lower(), [*known, ATTACHED], n=3, cutoff=0.5)
    advice = f"Did you mean {' or '.join(near)}?" if near else f"Known devices: {', '.join(known)}, {ATTACHED}."
    raise UsageError(
        f"There is no device {name!r}. {advice} A card that is not listed is described in a file: "
        "jaxmem devices --help."
    )
