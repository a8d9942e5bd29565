"""What stands at the head of an answer: the program and the device, as it names them."""

from dataclasses import replace

from jaxmem.devices import Device
from jaxmem.lowering import ProgramFacts
from jaxmem.result import DeviceFacts
from jaxmem.source_lines import short_source


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


def program_facts(program: ProgramFacts) -> ProgramFacts:
    """What is said of a program: where it is written down without the folders of whoever traced it."""
    return replace(program, source=program.source and short_source(program.source))
