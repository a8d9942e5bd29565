"""The device, as an answer names it."""

from jaxmem.devices import Device
from jaxmem.result import DeviceFacts


def device_facts(device: Device, device_count: int = 1) -> DeviceFacts:
    """What is said of a device beside the bytes that it needs."""
    return DeviceFacts(
        name=device.name,
        platform=device.platform,
        memory_bytes=device.memory_bytes,
        usable_bytes=device.usable_bytes,
        device_count=device_count,
        attached=device.attached or device.platform == "cpu",
    )
