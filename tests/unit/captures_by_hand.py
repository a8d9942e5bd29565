"""A capture and a lowering put together by hand, and files of them taken apart and put together anew."""

import io
import json
import struct
import zipfile
from dataclasses import replace
from typing import Any

from jaxmem.capture import (
    Capture,
    Cost,
    Host,
    MemoryStatistics,
)
from jaxmem.devices import Device
from jaxmem.layer_table import LayerTable, Operation, Value
from jaxmem.lowering import Argument, Lowering, Output, ProgramFacts
from jaxmem.roles import Phase, Role
from jaxmem.unknown import Unknown

ARGUMENT = Argument(
    path="w",
    shape=(2, 3),
    dtype="float32",
    itemsize_bits=32,
    role=Role.PARAMETERS,
    role_rule="given",
    parameter_number=0,
)
OUTPUT = Output(path="", shape=(2,), dtype="float32", itemsize_bits=32, role=Role.OUTPUTS)
HOST = Host(machine="x86_64", cpu_model="a processor", cpu_features=("avx2", "fma"), threads=2, xla_flags="")
DEVICE = Device(
    name="cpu",
    platform="cpu",
    kind="host processor",
    memory_bytes=2**34,
    memory_source="counted",
    usable_bytes=Unknown("not looked up"),
    usable_source="nobody",
)
TABLE = LayerTable(
    values=(
        Value(shape=(2, 3), dtype="float32", itemsize_bits=32, argument=0),
        Value(shape=(2,), dtype="float32", itemsize_bits=32, operation=0),
    ),
    operations=(
        Operation(primitive="reduce_sum", scope="", layer="", phase=Phase.FORWARD, operands=(0,), results=(1,)),
    ),
    arguments=(0,),
    outputs=(1,),
)


def make_capture(**changes: Any) -> Capture:
    capture = Capture(
        program=ProgramFacts(name="sum", mode="infer", batch_size=2),
        arguments=(ARGUMENT,),
        outputs=(OUTPUT,),
        layer_table=TABLE,
        device=DEVICE,
        device_count=1,
        versions=(("jaxmem", "0.1.0"), ("jax", "0.10.2")),
        compiler_options=(("xla_cpu_enable_fast_math", "false"),),
        configuration=(),
        host=HOST,
        statistics=MemoryStatistics(
            argument_bytes=24,
            output_bytes=8,
            alias_bytes=0,
            temp_bytes=0,
            generated_code_bytes=0,
            reported_peak_bytes=Unknown("not reported by this backend"),
            host_argument_bytes=0,
            host_output_bytes=0,
            host_alias_bytes=0,
            host_temp_bytes=0,
            host_generated_code_bytes=0,
        ),
        cost=Cost(flops=6, transcendentals=0, accessed_bytes=32),
        hlo_proto=b"proto" * 50,
        stablehlo=b"ML\xefR" * 10,
        compile_seconds=0.25,
        worker_start_seconds=1.5,
        created="2026-01-01T00:00:00+00:00",
        failure=None,
    )
    return replace(capture, **changes)


def make_lowering(**changes: Any) -> Lowering:
    lowering = Lowering(
        program=ProgramFacts(name="sum"),
        stablehlo=b"module",
        arguments=(ARGUMENT,),
        outputs=(OUTPUT,),
        compiler_options=(),
    )
    return replace(lowering, **changes)


def rebuild(content: bytes, **members: bytes | None) -> bytes:
    """The archive with members replaced (``capture_json`` is the table), added, or taken out (None)."""
    changes = {"capture.json" if name == "capture_json" else name: data for name, data in members.items()}
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        parts: dict[str, bytes | None] = {name: archive.read(name) for name in archive.namelist()}
    result = io.BytesIO()
    with zipfile.ZipFile(result, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in (parts | changes).items():
            if data is not None:
                archive.writestr(name, data)
    return result.getvalue()


def table_of(content: bytes) -> dict[str, Any]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return json.loads(archive.read("capture.json"))


def claim(content: bytes, name: str, size_bytes: int) -> bytes:
    """The archive with another unpacked size written for a member, in its own header and in the directory."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        start = archive.getinfo(name).header_offset
    directory = content.rindex(b"PK\x01\x02", 0, content.rindex(name.encode()))
    forged = bytearray(content)
    forged[start + 22 : start + 26] = struct.pack("<I", size_bytes)
    forged[directory + 24 : directory + 28] = struct.pack("<I", size_bytes)
    return bytes(forged)
