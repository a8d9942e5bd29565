"""What JAX's allocator takes of an NVIDIA card (``XLA_PYTHON_CLIENT_MEM_FRACTION``), and what is no such fraction."""

from collections.abc import Iterable
from dataclasses import replace

from jaxmem.devices.data import Device
from jaxmem.errors import UsageError
from jaxmem.unknown import Unknown

DEFAULT_MEMORY_FRACTION = 0.75
"""Unless told otherwise (``xla/pjrt/plugin/xla_gpu/xla_gpu_allocator_config.h``)."""


def refuse_bad_fraction(fraction: float | None, platforms: Iterable[str] = ("cuda",), *, found: str = "") -> None:
    """The one place where a memory fraction is refused.

    Args:
        fraction: None is what JAX takes by default, on any device.
        platforms: of the devices that it is for; a GPU among them is enough.
        found: what to say of them where none is a GPU.

    Raises:
        UsageError: it is not above 0 and at most 1, or means nothing on these devices.
    """
    if fraction is None:
        return
    if not 0 < fraction <= 1:
        raise UsageError(f"The memory fraction is {fraction:g}; it is above 0 and at most 1.")
    if "cuda" not in platforms:
        raise UsageError(
            f"A memory fraction is what JAX's allocator takes of a GPU, and {found}. --limit sets a budget on any device."
        )


def with_memory_fraction(device: Device, fraction: float | None) -> Device:
    """The device where JAX's allocator takes another fraction of a card.

    Args:
        fraction: above 0, at most 1; None leaves the device as it is, and only a card has such an allocator.
    """
    refuse_bad_fraction(fraction)
    if fraction is None or device.platform != "cuda" or isinstance(device.memory_bytes, Unknown):
        return device
    return replace(
        device,
        usable_bytes=fraction_of(device.memory_bytes, fraction),
        usable_source=asked_for(fraction),
    )


def asked_for(fraction: float) -> str:
    """Who says how much of a card is usable, where a person does."""
    return f"{100 * fraction:g}% of the memory: what JAX's allocator is told to take"


def fraction_of(memory_bytes: int, fraction: float) -> int:
    """What JAX's allocator takes of a card, bytes."""
    return int(memory_bytes * fraction)
