"""A compile that happens elsewhere: a lowering goes out as bytes, a capture comes back as bytes.

No code travels and nothing is pickled but these bytes and the name of `compile_packed`: the other side needs jaxmem and the
compiler in the same versions, never the user's program.
"""

import io
import json
import zipfile
from dataclasses import dataclass, replace

from jaxmem.capture import Capture, installed_versions, this_host
from jaxmem.capture.file import pack, unpack
from jaxmem.capture.machine import COMPILING_PACKAGES
from jaxmem.codec import Mismatch, decode, encode
from jaxmem.compilers.run import compile_lowering
from jaxmem.devices import Device, compiler_packages
from jaxmem.errors import EnvironmentFailure
from jaxmem.layer_table import LayerTable
from jaxmem.lowering import Argument, Lowering, Output

_TABLE = "job.json"
_COLUMNS = (Argument, Output)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    lowering: Lowering
    device: Device
    timeout: float | None


def pack_job(lowering: Lowering, device: Device, *, timeout: float | None) -> bytes:
    """Everything that `compile_packed` needs, in one zip archive."""
    values, members = encode(_Job(lowering=lowering, device=device, timeout=timeout), columns=_COLUMNS)
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED, compresslevel=3) as archive:
        for name, data in {_TABLE: json.dumps(values).encode(), **members}.items():
            archive.writestr(name, data)
    return content.getvalue()


def compile_packed(job: bytes) -> bytes:
    """Compile what `pack_job` packed, in a worker process of this machine; returns the capture as the bytes of its file.

    Raises:
        EnvironmentFailure: another version of jaxmem packed it; or as `compile_lowering`.
        UsageError: as `compile_lowering`.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(job)) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        unpacked = decode(_Job, json.loads(members.pop(_TABLE)), members=members, columns=_COLUMNS)
    except Mismatch as mismatch:
        raise EnvironmentFailure(
            f"This machine's jaxmem does not read what it was sent ({mismatch}). Install the same version on both sides."
        ) from mismatch
    return pack(compile_lowering(unpacked.lowering, None, unpacked.device, timeout=unpacked.timeout))


def unpack_capture(content: bytes, layer_table: LayerTable | None, device: Device) -> Capture:
    """The capture that came back, with the layer table that stayed here.

    Raises:
        EnvironmentFailure: it was compiled by other versions than are installed here or, for a processor, on another one:
            it answers another question.
    """
    capture = unpack(content, origin="the capture that came back")
    here = installed_versions((*COMPILING_PACKAGES, *compiler_packages(device.platform)))
    if capture.versions != here:
        wrong = (f"{name} {version}" for name, version in dict(capture.versions).items() if (name, version) not in here)
        installed = (f"{name} {version}" for name, version in dict(here).items())
        raise EnvironmentFailure(
            f"It was compiled with {', '.join(wrong) or 'fewer packages'}, and here is {', '.join(installed)}. "
            "Install the same versions on both sides."
        )
    if device.platform == "cpu" and capture.host != this_host():
        raise EnvironmentFailure(
            f"It was compiled for another processor ({capture.host.cpu_model}, {capture.host.threads} threads). "
            "A program for cpu is compared where it will run; cards and TPUs are described, so any machine compiles "
            "for them."
        )
    return replace(capture, layer_table=layer_table)
