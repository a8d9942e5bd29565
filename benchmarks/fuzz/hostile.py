"""Inputs made by hand to exhaust a reader: bombs, circles, depth without end, numbers without end, quadratic traps."""

import gzip
import io
import json
import zipfile
import zlib
from collections.abc import Callable
from functools import partial
from typing import Any

from benchmarks.fuzz.readers import DATA, archive
from jaxmem.xla.schema import MESSAGES

MIB = 1 << 20


def _zeros_in_gzip(size_mib: int) -> bytes:
    packer = zlib.compressobj(9, wbits=31)
    return b"".join([*(packer.compress(bytes(MIB)) for _ in range(size_mib)), packer.flush()])


def _repeated_in_gzip(piece: bytes, size_mib: int) -> bytes:
    """Of a HloProto whose module is nothing but ``piece`` again and again."""
    size = size_mib * MIB // len(piece) * len(piece)
    packer = zlib.compressobj(1, wbits=31)
    block = piece * (MIB // len(piece))
    whole, rest = divmod(size, len(block))
    return b"".join(
        [
            packer.compress(b"\x0a" + _varint(size)),
            *(packer.compress(block) for _ in range(whole)),
            packer.compress(block[:rest]),
            packer.flush(),
        ]
    )


def of_empty_messages(message: str, size_mib: int) -> bytes:
    """A HloProto that is read but for one kind of message, of which there are as many as two or three bytes each allow."""
    place = {
        "logical buffers": ("BufferAssignment", 1),
        "allocations": ("BufferAssignment", 3),
        "heap traces": ("BufferAssignment", 4),
        "events": ("BufferAssignment", 4, 1),
        "donors": ("HloModule", 18, 1),
        "dimensions of a window": ("Instruction", 15, 1),
        "instructions": ("Computation", 2),
    }
    holder, *numbers = place[message]
    empty = _varint(numbers[-1] << 3 | 2) + b"\x00"
    content = empty * (size_mib * MIB // len(empty))
    for number in reversed(numbers[:-1]):
        content = _field(number, content)
    instruction = _instruction(1, b"iota").SerializeToString() + (content if holder == "Instruction" else b"")
    computation = MESSAGES["Computation"](id=1, name=b"c", root_id=1).SerializeToString() + _field(2, instruction)
    computation += content if holder == "Computation" else b""
    module = MESSAGES["HloModule"](name=b"m", entry_computation_id=1).SerializeToString() + _field(3, computation)
    module += content if holder == "HloModule" else b""
    return _field(1, module) + _field(3, content if holder == "BufferAssignment" else b"")


def _field(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _in_gzip(content: bytes) -> bytes:
    return gzip.compress(content, compresslevel=6, mtime=0)


def _varint(number: int) -> bytes:
    encoded = b""
    while number > 127:
        encoded, number = encoded + bytes([number & 127 | 128]), number >> 7
    return encoded + bytes([number])


def _members() -> dict[str, bytes]:
    with zipfile.ZipFile(DATA / "captures" / "looped.cpu.jaxmem") as opened:
        return {name: opened.read(name) for name in opened.namelist()}


def _deflated(members: dict[str, bytes]) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as opened:
        for name, data in members.items():
            opened.writestr(name, data)
    return content.getvalue()


def _capture_with(**changed: bytes) -> bytes:
    return _deflated(_members() | {name.replace("table", "capture.json"): data for name, data in changed.items()})


def _many_members() -> bytes:
    return archive(_members() | {f"more/{number}": b"" for number in range(50_000)})


def _path_traversal() -> bytes:
    return archive(_members() | {"../../outside": b"written where it should not be"})


def _long_columns() -> bytes:
    """A table of arguments that is a million rows long."""
    table = json.loads(_members()["capture.json"])
    arguments = table["capture"]["arguments"]
    table["capture"]["arguments"] = {name: column[:1] * 1_000_000 for name, column in arguments.items()}
    return _capture_with(table=json.dumps(table).encode())


# Modules.


def _instruction(
    number: int, opcode: bytes, *, operands: tuple[int, ...] = (), calls: tuple[int, ...] = (), **more: Any
) -> Any:
    shape = more.pop("shape", MESSAGES["Shape"](element_type=11)).SerializeToString()
    return MESSAGES["Instruction"](
        id=number,
        name=b"i%d" % number,
        opcode=opcode,
        shape=shape,
        operand_ids=operands,
        called_computation_ids=calls,
        **more,
    )


def _computation(number: int, *instructions: Any, root: int) -> bytes:
    return MESSAGES["Computation"](
        id=number, name=b"c%d" % number, instructions=instructions, root_id=root
    ).SerializeToString()


def _module(*computations: bytes, entry: int, **more: Any) -> bytes:
    module = MESSAGES["HloModule"](name=b"m", computations=computations, entry_computation_id=entry, **more)
    return MESSAGES["HloProto"](hlo_module=module, buffer_assignment=MESSAGES["BufferAssignment"]()).SerializeToString()


def _calls(levels: int, each: int, opcode: bytes) -> bytes:
    """Every computation calls the one before, ``each`` times."""
    computations = [_computation(1, _instruction(1, b"iota"), root=1)]
    for level in range(2, levels + 1):
        first = level * 10
        calls = [_instruction(first + number, opcode, calls=(level - 1,)) for number in range(each)]
        computations.append(_computation(level, *calls, root=first))
    return _module(*computations, entry=levels)


def _circle() -> bytes:
    return _module(
        _computation(1, _instruction(1, b"call", calls=(2,)), root=1),
        _computation(2, _instruction(2, b"call", calls=(1,)), root=2),
        entry=1,
    )


def _nested_shape(depth: int) -> bytes:
    shape = b"\x10\x0b"  # element_type f32; around it, element_type tuple and what is in it
    for _ in range(depth):
        shape = b"\x10\x0d\x22" + _varint(len(shape)) + shape
    instruction = MESSAGES["Instruction"](id=1, name=b"i1", opcode=b"parameter", shape=shape)
    return _module(_computation(1, instruction, root=1), entry=1)


def _wide_shape() -> bytes:
    shape = MESSAGES["Shape"](element_type=13, tuple_shapes=[MESSAGES["Shape"](element_type=11)] * 300_000)
    return _module(_computation(1, _instruction(1, b"parameter", shape=shape), root=1), entry=1)


def _frames(circle: bool) -> bytes:
    """A hundred thousand stack frames, each called by the one before; in a circle, or below as many instructions."""
    count = 30_000
    frames = [MESSAGES["StackFrame"](file_location_id=1, parent_frame_id=number) for number in range(count)]
    if circle:
        frames[0].parent_frame_id = count
    index = MESSAGES["StackFrameIndex"](
        file_names=[b"f"],
        function_names=[b"g"],
        file_locations=[MESSAGES["FileLocation"](file_name_id=1, function_name_id=1)],
        stack_frames=frames,
    )
    metadata = MESSAGES["Metadata"](stack_frame_id=count).SerializeToString()
    instructions = [_instruction(number + 1, b"iota", metadata=metadata) for number in range(count)]
    return _module(_computation(1, *instructions, root=1), entry=1, stack_frame_index=index)


def _chain(opcode: bytes, count: int) -> bytes:
    """One value handed on again and again."""
    first = _instruction(1, b"iota")
    rest = [_instruction(number, opcode, operands=(number - 1,)) for number in range(2, count + 1)]
    module = MESSAGES["HloModule"](computations=[_computation(1, first, *rest, root=count)], entry_computation_id=1)
    buffers = [
        MESSAGES["LogicalBuffer"](id=number, size=4, defined_at=MESSAGES["Location"](instruction_id=number))
        for number in range(1, count + 1, 2)
    ]
    assignment = MESSAGES["BufferAssignment"](logical_buffers=buffers)
    return MESSAGES["HloProto"](hlo_module=module, buffer_assignment=assignment).SerializeToString()


def _shares_in_a_circle() -> bytes:
    module = MESSAGES["HloModule"](
        computations=[_computation(1, _instruction(1, b"iota"), _instruction(2, b"iota"), root=1)],
        entry_computation_id=1,
    )
    place = MESSAGES["Location"](instruction_id=1), MESSAGES["Location"](instruction_id=2)
    event = MESSAGES["TraceEvent"]
    assignment = MESSAGES["BufferAssignment"](
        logical_buffers=[
            MESSAGES["LogicalBuffer"](id=number, size=8, defined_at=place[number - 1]) for number in (1, 2)
        ],
        buffer_allocations=[
            MESSAGES["BufferAllocation"](
                size=8,
                assigned=[MESSAGES["Assigned"](logical_buffer_id=number, size=8) for number in (1, 2)],
            )
        ],
        heap_simulator_traces=[
            MESSAGES["HeapSimulatorTrace"](
                events=[
                    event(kind=2, buffer_id=1, share_with_canonical_id=2),
                    event(kind=2, buffer_id=2, share_with_canonical_id=1),
                    event(kind=1, buffer_id=1),
                    event(kind=1, buffer_id=2),
                ]
            )
        ],
    )
    return MESSAGES["HloProto"](hlo_module=module, buffer_assignment=assignment).SerializeToString()


def _report_with(key: str, value: str) -> bytes:
    return ('{"schema": "jaxmem.report/1", "' + key + '": ' + value + "}").encode()


HOSTILE: dict[str, tuple[str, Callable[[], bytes]]] = {
    "gzip that unpacks to 2 GiB": ("hlo", partial(_zeros_in_gzip, 2048)),
    "gzip that unpacks to just below its limit": ("hlo", partial(_zeros_in_gzip, 63)),
    "half a million empty computations in gzip": ("hlo", partial(_repeated_in_gzip, b"\x1a\x00", 1)),
    "64 MiB of empty computations in gzip": ("hlo", partial(_repeated_in_gzip, b"\x1a\x00", 63)),
    **{
        f"{size} MiB of empty {message}{' in gzip' if packed else ''}": (
            "hlo",
            partial(lambda message, size, pack: pack(of_empty_messages(message, size)), message, size, pack),
        )
        for message, size in (
            ("logical buffers", 63), ("allocations", 63), ("heap traces", 63), ("events", 63), ("donors", 63),
            ("dimensions of a window", 63), ("instructions", 63), ("instructions", 128),
        )
        for packed, pack in ((False, bytes), (True, _in_gzip))
        if not packed or size < 64
    },
    "a length of 2^63 bytes": ("hlo", lambda: b"\x0a" + _varint(2**63) + b"\x00"),
    "protobuf groups nested a million deep": ("hlo", lambda: b"\x0b" * 1_000_000),
    "computations that call each other in a circle": ("dump", _circle),
    "sixty computations, each called twice by the next": ("dump", partial(_calls, 60, 2, b"call")),
    "sixty fusions, each called twice by the next": ("dump", partial(_calls, 60, 2, b"fusion")),
    "ten thousand computations inside one another": ("dump", partial(_calls, 10_000, 1, b"call")),
    "a tuple 90 deep": ("dump", partial(_nested_shape, 90)),
    "a tuple 110 deep": ("hlo", partial(_nested_shape, 110)),
    "a tuple of 300,000 elements": ("dump", _wide_shape),
    "30,000 stack frames in a circle": ("hlo", partial(_frames, True)),
    "30,000 stack frames below 30,000 instructions": ("dump", partial(_frames, False)),
    "a value handed on 20,000 times": ("dump", partial(_chain, b"bitcast", 20_000)),
    "buffers that share each other's memory in a circle": ("dump", _shares_in_a_circle),
    "a capture whose module unpacks to 1.5 GiB": ("capture", lambda: _capture_with(hlo_proto=bytes(1536 * MIB))),
    "a capture whose table is 250 MiB of lists": ("capture", lambda: _capture_with(table=b"[" * (250 * MIB))),
    "a capture whose table is a list of 32 million zeros": (
        "capture",
        lambda: _capture_with(table=b"[" + b"0," * (32 * MIB) + b"0]"),
    ),
    "a capture with a million arguments": ("capture", _long_columns),
    "a capture with fifty thousand members": ("capture", _many_members),
    "a capture with a member outside of it": ("capture", _path_traversal),
    "JSON nested ten million deep": ("json", lambda: b"[" * 10_000_000),
    "a number of ten million digits": ("json", lambda: _report_with("reports", "9" * 10_000_000)),
    "a report with a list of 16 million zeros": ("json", lambda: _report_with("reports", "[" + "0," * 16_000_000 + "0]")),
    "a report with a text of 200 MiB": ("json", lambda: _report_with("reports", '"' + "x" * (200 * MIB) + '"')),
    "a card file nested a hundred thousand deep": ("card", lambda: b"name = " + b"[" * 100_000),
    "a card file with a key of eight thousand parts": ("card", lambda: b"a" + b".a" * 8_000 + b" = 1"),
    "a file of roles with a pattern of 60 stars": ("roles", lambda: b'[roles]\n"' + b"*a" * 60 + b'" = "inputs"'),
    "a card file of 200 MiB": ("card", lambda: b"#" * (200 * MIB)),
    "a size of a hundred thousand digits": ("size", lambda: b"9" * 100_000),
    "32 MiB of beginnings of one message": (
        "message",
        lambda: b"Ran out of memory on HBM, the total memory required for " * (32 * MIB // 56),
    ),
    "32 MiB of killed processes on one line": (
        "message",
        lambda: b"Out of memory: Killed process 1 " * MIB,
    ),
    "a size of ten million digits in a message": (
        "message",
        lambda: b"Out of memory while trying to allocate " + b"1" * 10_000_000,
    ),
    "a message that lists 100,000 buffers": (
        "message",
        lambda: b"Out of memory while trying to allocate 8 bytes\n"
        + b"Buffer 1:\n  Size: 4.0KiB\n  Shape: f32[8]\n  ==========================\n" * 100_000,
    ),
    "16 MiB of beginnings of a card in autotune results": ("autotune", lambda: b"CUDA: " * (16 * MIB // 6)),
}  # fmt: skip
"""Name → the reader, and what makes the input."""
