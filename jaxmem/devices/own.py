"""A card of the user's own, described in a small file.

    name = "rtx-4080"
    kind = "NVIDIA GeForce RTX 4080"
    compute_capability = "8.9"
    multiprocessors = 76
    memory = "16 GiB"                # as CUDA reports it: an integer of bytes, or a number and a unit
    memory_bandwidth = "716.8 GB"    # a second
    l2_cache = "64 MiB"
    clock_ghz = 2.505
    source = "NVIDIA's data sheet"

or, exactly, as `jaxmem devices --save-attached FILE` writes it on a machine with the card:

    name = "my-card"
    kind = "NVIDIA H100 80GB HBM3"
    memory = 84942979072
    source = "..."
    target_description = '''gpu_device_info { ... }'''
"""

import os
import tomllib
from pathlib import Path
from typing import Any

from jaxmem.devices.data import CudaTarget, Device
from jaxmem.devices.nvidia import CAPABILITIES, Card, cuda_device, describe, find_capability
from jaxmem.errors import InputError, UsageError
from jaxmem.files import read_bounded, write_whole
from jaxmem.units import parse_bytes

_BY_NUMBERS = ("compute_capability", "multiprocessors", "memory_bandwidth", "l2_cache", "clock_ghz")
_ALWAYS = ("name", "kind", "memory", "source")
_EXACT = "target_description"
_MOST = 2**60
"""Bytes, or whatever else is counted: more is a mistake."""
_LIMIT_BYTES = 2**14
"""A description of a card has less than a thousand characters."""


def load_card(path: str | os.PathLike[str]) -> Device:
    """Read a card file.

    Raises:
        InputError: the file cannot be read, or is not understood; the message names the key.
    """
    origin = os.fspath(path)
    data = read_bounded(origin, limit_bytes=_LIMIT_BYTES, what="The card file")
    try:
        content = tomllib.loads(data.decode())
    except RecursionError as error:
        raise InputError(f"The card file {origin} is nested without end.") from error
    except ValueError as error:  # no TOML, no UTF-8, or a number of thousands of digits
        raise InputError(f"The card file {origin} is not TOML: {error}.") from error
    wanted = {*_ALWAYS, *((_EXACT,) if _EXACT in content else _BY_NUMBERS)}
    if missing := sorted(wanted - content.keys()):
        raise InputError(f"The card file {origin} lacks {', '.join(missing)}.")
    if unknown := sorted(content.keys() - wanted):
        raise InputError(f"The card file {origin} has keys that mean nothing here: {', '.join(unknown)}.")
    reader = _Reader(content, origin)
    source = f"{reader.text('source')} ({origin})"
    memory_bytes = reader.size("memory")
    return cuda_device(
        name=reader.text("name"),
        kind=reader.text("kind"),
        memory_bytes=memory_bytes,
        memory_source=source,
        description=reader.text(_EXACT) if _EXACT in content else describe(_card(reader, memory_bytes, source)),
        target_source=source,
        derived=_EXACT not in content,
    )


def save_card(device: Device, path: str | os.PathLike[str], *, force: bool = False) -> None:
    """Write the card file of a device, with its exact target description.

    Raises:
        UsageError: the device is no NVIDIA card, or the file exists and ``force`` is not given.
        EnvironmentFailure: the file cannot be written.
    """
    if not isinstance(device.target, CudaTarget) or not isinstance(device.memory_bytes, int):
        raise UsageError(f"{device.name} is {device.kind}; a card file describes an NVIDIA card.")
    lines = [f"{key} = {_quoted(value)}" for key, value in (("name", device.name), ("kind", device.kind))]
    lines += [f"memory = {device.memory_bytes}", f"source = {_quoted(device.target_source)}"]
    lines.append(f"{_EXACT} = {_quoted(device.target.description)}")
    write_whole(Path(path), "\n".join(lines) + "\n", force=force)


def _quoted(text: str) -> str:
    """A basic string of TOML, on one line."""
    escapes = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\t": "\\t", "\r": "\\r"}
    written = (escapes.get(one) or (one if one.isprintable() else f"\\u{ord(one):04x}") for one in text)
    return f'"{"".join(written)}"'


def _card(reader: "_Reader", memory_bytes: int, source: str) -> Card:
    capability = reader.text("compute_capability")
    if find_capability(capability) is None:
        raise reader.error("compute_capability", f"one of {', '.join(each.name for each in CAPABILITIES)}")
    return Card(
        name=reader.text("name"),
        kind=reader.text("kind"),
        capability=capability,
        multiprocessors=reader.whole_number("multiprocessors"),
        bandwidth=reader.size("memory_bandwidth"),
        l2_bytes=reader.size("l2_cache"),
        clock_ghz=reader.number("clock_ghz"),
        memory_bytes=memory_bytes,
        memory_source=source,
        source=source,
    )


class _Reader:
    """The values of a card file, each checked as it is read."""

    def __init__(self, content: dict[str, Any], origin: str) -> None:
        self._content, self._origin = content, origin

    def error(self, key: str, expected: str) -> InputError:
        found = repr(self._content[key])
        shown = found if len(found) <= 60 else f"{found[:57]}..."
        return InputError(f"The card file {self._origin}: {key} is {expected}, found {shown}.")

    def text(self, key: str) -> str:
        value = self._content[key]
        # What is shown in tables and put into the target description is one line of text, that description itself apart.
        if not isinstance(value, str) or not value.strip() or (key != _EXACT and set(value) & set('"\\\n\r')):
            raise self.error(key, "a text without quotes, backslashes or line breaks" if key != _EXACT else "a text")
        return value

    def number(self, key: str) -> float:
        value = self._content[key]
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < _MOST:
            raise self.error(key, "a number above 0")
        return float(value)

    def whole_number(self, key: str) -> int:
        value = self._content[key]
        if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < _MOST:
            raise self.error(key, "a whole number above 0")
        return value

    def size(self, key: str) -> int:
        value = self._content[key]
        if isinstance(value, str):
            try:
                value = parse_bytes(value)
            except UsageError as problem:
                raise InputError(f"The card file {self._origin}: {key}: {problem}") from None
        if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < _MOST:
            raise self.error(key, 'a size, for example "16 GiB" or a whole number of bytes')
        return value
