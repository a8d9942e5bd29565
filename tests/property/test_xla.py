"""Random protos round-trip, damaged dumps are refused, and the replay equals a simulation written another way."""

import contextlib
import io
import zlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxmem.errors import InputError
from jaxmem.xla import HeapTrace, LogicalBuffer, TraceEvent, read_hlo_proto, replay_trace
from jaxmem.xla.condense import NotAProto, condensed
from jaxmem.xla.schema import MESSAGES

DUMP = zlib.decompress((Path(__file__).parents[1] / "data" / "dumps" / "mlp_train.cpu.hlo.pb.gz").read_bytes(), 31)


def varint(number):
    encoded = b""
    while number > 127:
        encoded, number = encoded + bytes([number & 127 | 128]), number >> 7
    return encoded + bytes([number])


@st.composite
def unknown_fields(draw):
    """Wire data of fields that no schema names: numbers, bytes, fixed 32 and 64."""
    encoded = b""
    for _ in range(draw(st.integers(0, 3))):
        number, kind = draw(st.integers(500, 90000)), draw(st.sampled_from([0, 1, 2, 5]))
        content = {
            0: varint(draw(st.integers(0, 2**64 - 1))),
            1: draw(st.binary(min_size=8, max_size=8)),
            5: draw(st.binary(min_size=4, max_size=4)),
        }.get(kind)
        if content is None:
            payload = draw(st.binary(max_size=20))
            content = varint(len(payload)) + payload
        encoded += varint(number << 3 | kind) + content
    return encoded


def field(number, payload):
    """A length-delimited field."""
    return varint(number << 3 | 2) + varint(len(payload)) + payload


@st.composite
def modules(draw):
    """A serialized HloProto of one chain of instructions, written byte by byte, and what must be read from it."""
    count = draw(st.integers(1, 8))
    body, expected = b"", []
    for position in range(count):
        dimensions = draw(st.lists(st.integers(0, 2**40), max_size=4))
        operands = draw(st.lists(st.integers(0, position - 1), max_size=3)) if position else []
        op_name = draw(st.text(max_size=20))
        packed = draw(st.booleans())

        def numbers(number, values, packed=packed):
            if packed:
                return field(number, b"".join(map(varint, values)))
            return b"".join(varint(number << 3) + varint(value) for value in values)

        shape = varint(2 << 3) + varint(11) + numbers(3, dimensions) + draw(unknown_fields())
        instruction = (
            field(1, f"i{position}".encode())
            + field(2, b"concatenate" if operands else b"iota")
            + field(3, shape)
            + field(7, field(2, op_name.encode()) + draw(unknown_fields()))
            + varint(35 << 3)
            + varint(position)
            + numbers(36, operands)
            + draw(unknown_fields())
        )
        body += field(2, instruction)
        expected.append((tuple(dimensions), tuple(operands), op_name))
    computation = body + varint(5 << 3) + varint(1) + varint(6 << 3) + varint(count - 1) + draw(unknown_fields())
    module = field(1, b"random") + field(3, computation) + varint(6 << 3) + varint(1) + draw(unknown_fields())
    return draw(unknown_fields()) + field(1, module) + draw(unknown_fields()), expected


@given(modules())
def test_what_is_written_is_read_whatever_stands_around_it(written):
    data, expected = written
    module, assignment = read_hlo_proto(data, origin="random")
    assert assignment is None
    found = [module.instructions[i] for i in module.entry.instruction_ids]
    assert [(each.shape.dimensions, each.operand_ids, each.op_name) for each in found] == expected


def read_or_refuse(data):
    """The module, or None where it was refused in the documented way. Any other exception is the test's failure."""
    try:
        return read_hlo_proto(data, origin="damaged")[0]
    except InputError:
        return None


def test_truncation_at_every_byte_is_refused_or_harmless():
    whole, assignment = read_hlo_proto(DUMP, origin="whole")
    refused = 0
    for end in range(len(DUMP)):
        read = read_or_refuse(DUMP[:end])
        refused += read is None
        # The module is one field: what is read at all is read whole.
        assert read is None or read == whole
    assert assignment is not None
    assert refused > 0.9 * len(DUMP)


@settings(max_examples=300)
@given(st.lists(st.tuples(st.integers(0, len(DUMP) - 1), st.integers(0, 255)), min_size=1, max_size=4))
def test_damaged_bytes_are_refused_or_read(changes):
    damaged = bytearray(DUMP)
    for position, value in changes:
        damaged[position] = value
    read_or_refuse(bytes(damaged))


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_refused_or_read(data):
    read_or_refuse(data)


def test_the_order_of_messages_does_not_matter():
    proto = MESSAGES["HloProto"].FromString(DUMP)
    module, buffers = (
        field(1, proto.hlo_module.SerializeToString()),
        field(3, proto.buffer_assignment.SerializeToString()),
    )
    assert read_hlo_proto(buffers + module, origin="x") == read_hlo_proto(module + buffers, origin="x")


@st.composite
def traces(draw):
    """A valid trace: buffers begin, alone or in the memory of another, live or gone, and all end."""
    sizes = draw(st.lists(st.integers(0, 1000), min_size=1, max_size=8))
    events, live, pending = [], [], list(range(len(sizes)))
    seen = []
    while pending or live:
        if pending and (not live or draw(st.booleans())):
            buffer = pending.pop(0)
            if seen and draw(st.booleans()):
                events.append(("share_with", buffer, draw(st.sampled_from(seen))))
            else:
                events.append(("alloc", buffer, None))
            live.append(buffer)
            seen.append(buffer)
        else:
            events.append(("free", live.pop(draw(st.integers(0, len(live) - 1))), None))
    return sizes, events


def brute_force(sizes, events):
    """Bytes live after each event, from the definition: whose memory does each live buffer hold at that moment?"""
    curve = []
    for end in range(1, len(events) + 1):
        memory_of = {}
        for kind, buffer, other in events[:end]:
            if kind == "free":
                del memory_of[buffer]
            elif kind == "alloc":
                memory_of[buffer] = buffer
            else:
                memory_of[buffer] = memory_of.get(other, other)
        curve.append(sum(sizes[owner] for owner in set(memory_of.values())))
    return curve


@given(traces())
def test_replay_equals_brute_force(drawn):
    sizes, events = drawn
    buffers = {i: LogicalBuffer(id=i, size=size, instruction_id=i) for i, size in enumerate(sizes)}
    trace = HeapTrace(
        events=tuple(TraceEvent(kind=kind, buffer_id=buffer, share_with_id=other) for kind, buffer, other in events)
    )
    curve = brute_force(sizes, events)
    replay = replay_trace(trace, buffers)
    assert list(replay.live_bytes) == curve
    assert replay.peak_bytes == max(curve)
    assert replay.final_bytes == 0
    assert sum(sizes[canonical] for canonical, _ in replay.live_at_peak) == replay.peak_bytes
    if replay.peak_event is None:
        assert not any(curve)
    else:
        assert curve[replay.peak_event] == replay.peak_bytes
        assert max(curve[: replay.peak_event], default=0) < replay.peak_bytes


@pytest.mark.parametrize("depth", [3, 50])
def test_nested_tuples_are_read(depth):
    shape = MESSAGES["Shape"](element_type=11, dimensions=[2])
    for _ in range(depth):
        shape = MESSAGES["Shape"](element_type=13, tuple_shapes=[shape])
    instruction = MESSAGES["Instruction"](id=1, opcode=b"parameter", shape=shape.SerializeToString())
    computation = MESSAGES["Computation"](id=1, instructions=[instruction], root_id=1)
    module = MESSAGES["HloModule"](entry_computation_id=1, computations=[computation.SerializeToString()])
    read, _ = read_hlo_proto(MESSAGES["HloProto"](hlo_module=module).SerializeToString(), origin="nested")
    assert [index for index, _ in read.instructions[1].shape.leaves] == [(0,) * depth]


class Watched(io.BytesIO):
    """A stream that knows the most that was read of it at a time."""

    most = 0

    def read(self, size: int | None = -1, /) -> bytes:
        content = super().read(size)
        self.most = max(self.most, len(content))
        return content


@settings(max_examples=20)
@given(st.integers(0, 5000))
def test_a_condensed_dump_reads_as_the_whole_one(large_bytes):
    found = condensed(io.BytesIO(DUMP), len(DUMP), large_bytes=large_bytes)
    assert read_hlo_proto(found, origin="condensed") == read_hlo_proto(DUMP, origin="whole")


@settings(max_examples=20)
@given(modules(), st.integers(0, 40))
def test_a_condensed_module_reads_as_the_whole_one(written, large_bytes):
    data, _ = written
    found = condensed(io.BytesIO(data), len(data), large_bytes=large_bytes)
    assert read_hlo_proto(found, origin="condensed") == read_hlo_proto(data, origin="whole")


def test_values_of_constants_are_told_apart_and_never_held():
    """Three constants of 3 MB, two of the same value, among instructions that stay as they are."""
    values = [bytes(3_000_000), b"\1" + bytes(2_999_999), bytes(3_000_000)]
    shape = MESSAGES["Shape"](element_type=6, dimensions=[3_000_000]).SerializeToString()
    instructions = [
        MESSAGES["Instruction"](id=number, opcode=b"constant", shape=shape) for number in range(1, len(values) + 1)
    ]
    for instruction, value in zip(instructions, values, strict=True):
        instruction.MergeFromString(field(8, field(3, value)))
    computation = MESSAGES["Computation"](id=1, instructions=instructions, root_id=1).SerializeToString()
    module = MESSAGES["HloModule"](entry_computation_id=1, computations=[computation])
    data = MESSAGES["HloProto"](hlo_module=module).SerializeToString() + field(99, bytes(2_000_000))
    stream = Watched(data)
    found = condensed(stream, len(data))
    assert len(found) < 1000
    assert stream.most <= 1 << 20
    first, other, same = (each.fingerprint for each in read_hlo_proto(found, origin="x")[0].instructions.values())
    assert first == same != other


@settings(max_examples=30)
@given(st.integers(1, len(DUMP) - 1), st.integers(0, 2000))
def test_a_condensed_beginning_reads_as_the_beginning(end, large_bytes):
    """What is cut off is refused, unless the cut is between two parts: then both read the same."""
    whole = read_or_refuse(DUMP[:end])
    try:
        found = read_or_refuse(condensed(io.BytesIO(DUMP[:end]), end, large_bytes=large_bytes))
    except NotAProto:
        found = None
    assert found == whole


@settings(max_examples=200)
@given(st.binary(max_size=200), st.integers(0, 40))
def test_arbitrary_bytes_are_condensed_or_refused(data, large_bytes):
    with contextlib.suppress(NotAProto):
        read_or_refuse(condensed(io.BytesIO(data), len(data), large_bytes=large_bytes))
