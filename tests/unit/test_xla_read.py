"""Dumps built by hand, field by field, and one real dump; every way in which they can be broken is refused."""

import gzip
import zlib
from pathlib import Path

import pytest

from jaxmem.errors import InputError
from jaxmem.xla import Frame, InputOutputAlias, Shape, read, read_hlo_proto
from jaxmem.xla.schema import MESSAGES

DUMP = Path(__file__).parents[1] / "data" / "dumps" / "mlp_train.cpu.hlo.pb.gz"

F32, TUPLE = 11, 13


def shape(*dimensions, element_type=F32):
    return MESSAGES["Shape"](element_type=element_type, dimensions=dimensions)


def pair():
    return MESSAGES["Shape"](element_type=TUPLE, tuple_shapes=[shape(3), shape(5)])


def nothing():
    return MESSAGES["Shape"](element_type=TUPLE)


def instruction(identifier, opcode, operands=(), result=None, **fields):
    return MESSAGES["Instruction"](
        id=identifier,
        name=f"{opcode}.{identifier}".encode(),
        opcode=opcode.encode(),
        operand_ids=operands,
        shape=(result or shape(3)).SerializeToString(),
        **fields,
    )


def metadata(**fields):
    return MESSAGES["Metadata"](**fields).SerializeToString()


def computation(identifier, *instructions, root=None):
    return MESSAGES["Computation"](
        id=identifier,
        name=f"computation.{identifier}".encode(),
        instructions=instructions,
        root_id=instructions[-1].id if root is None else root,
    )


def module(*computations, entry=1, **fields):
    return MESSAGES["HloModule"](
        name=b"hand",
        entry_computation_id=entry,
        computations=[each.SerializeToString() for each in computations],
        **fields,
    )


def read_module(*computations, entry=1, **fields):
    data = MESSAGES["HloProto"](hlo_module=module(*computations, entry=entry, **fields)).SerializeToString()
    return read_hlo_proto(data, origin="hand.hlo.pb")[0]


def add():
    """Two parameters and their sum."""
    return computation(
        1, instruction(1, "parameter"), instruction(2, "parameter", parameter_number=1), instruction(3, "add", (1, 2))
    )


def read_assignment(**fields):
    proto = MESSAGES["HloProto"](
        hlo_module=module(add()), buffer_assignment=MESSAGES["BufferAssignment"](**fields)
    ).SerializeToString()
    return read_hlo_proto(proto, origin="hand.hlo.pb")[1]


def buffer(identifier, instruction_id=3, size=12, **location):
    where = MESSAGES["Location"](instruction_id=instruction_id, **location)
    return MESSAGES["LogicalBuffer"](id=identifier, size=size, defined_at=where)


def assigned(identifier, offset=0, size=12):
    return MESSAGES["Assigned"](logical_buffer_id=identifier, offset=offset, size=size)


def allocation(index, size, *places, **fields):
    return MESSAGES["BufferAllocation"](index=index, size=size, assigned=places, **fields)


class TestShape:
    def test_text_is_that_of_hlo(self):
        plain = Shape(element_type="f32", dimensions=(32, 224, 224, 64), minor_to_major=(3, 2, 1, 0))
        assert plain.text() == "f32[32,224,224,64]{3,2,1,0}"
        tiled = Shape(
            element_type="bf16", dimensions=(8, 3), minor_to_major=(1, 0), tiles=((8, 128), (2, 1)), memory_space=1
        )
        assert tiled.text() == "bf16[8,3]{1,0:T(8,128)(2,1)S(1)}"
        assert Shape(element_type="tuple", tuple_shapes=(plain, Shape(element_type="token"))).text() == (
            "(f32[32,224,224,64]{3,2,1,0}, token[])"
        )
        assert Shape(element_type="f32").text() == "f32[]"

    @pytest.mark.parametrize(
        ("given", "expected"),
        [
            (Shape(element_type="f32"), 4),
            (Shape(element_type="c128", dimensions=(3,)), 48),
            (Shape(element_type="pred", dimensions=(7,)), 7),
            (Shape(element_type="f32", dimensions=(4, 0)), 0),
            # A narrow type takes a byte an element, unless the layout packs it: 7 × 4 bits are 28, in 4 bytes.
            (Shape(element_type="s4", dimensions=(7,)), 7),
            (Shape(element_type="s4", dimensions=(7,), element_size_in_bits=4), 4),
            (Shape(element_type="token"), 0),
            (Shape(element_type="opaque"), 0),
            (Shape(element_type="tuple", tuple_shapes=(Shape(element_type="f32"),)), 0),
        ],
    )
    def test_logical_bytes(self, given, expected):
        assert given.logical_bytes == expected

    def test_leaves_and_subshapes_of_nested_tuples(self):
        leaf, other = Shape(element_type="f32", dimensions=(2,)), Shape(element_type="s32")
        inner = Shape(element_type="tuple", tuple_shapes=(leaf, other))
        outer = Shape(element_type="tuple", tuple_shapes=(other, inner, Shape(element_type="tuple")))
        assert outer.leaves == (((0,), other), ((1, 0), leaf), ((1, 1), other))
        assert outer.subshape((1, 0)) is leaf
        with pytest.raises(InputError, match=r"has no element \(1, 2\)"):
            outer.subshape((1, 2))


class TestModule:
    def test_parameters_and_scalars_that_proto3_leaves_out(self):
        read_add = read_module(add())
        assert [parameter.parameter_number for parameter in read_add.parameters] == [0, 1]
        result = read_add.instructions[3]
        assert (result.opcode, result.operand_ids, result.parameter_number, result.tuple_index) == (
            "add",
            (1, 2),
            None,
            None,
        )
        assert read_add.entry.root_id == 3

    def test_a_name_that_is_no_utf8_is_still_read(self):
        odd = instruction(1, "parameter")
        odd.name = b"weights\xff"
        assert read_module(computation(1, odd)).instructions[1].name == "weights�"

    def test_first_tuple_element(self):
        chosen = computation(
            1, instruction(1, "parameter", result=pair()), instruction(2, "get-tuple-element", (1,), tuple_index=0)
        )
        assert read_module(chosen).instructions[2].tuple_index == 0

    def test_stack_frames_leaf_first(self):
        frames = MESSAGES["StackFrameIndex"](
            file_names=[b"model.py", b"train.py"],
            function_names=[b"forward", b"main"],
            file_locations=[
                MESSAGES["FileLocation"](file_name_id=1, function_name_id=1, line=10, column=4),
                MESSAGES["FileLocation"](file_name_id=2, function_name_id=2, line=99),
            ],
            stack_frames=[
                MESSAGES["StackFrame"](file_location_id=2),
                MESSAGES["StackFrame"](file_location_id=1, parent_frame_id=1),
            ],
        )
        placed = instruction(1, "parameter", metadata=metadata(stack_frame_id=2))
        found = read_module(computation(1, placed), stack_frame_index=frames)
        assert found.source(found.instructions[1]) == (
            Frame(file="model.py", function="forward", line=10, column=4),
            Frame(file="train.py", function="main", line=99, column=0),
        )

    def test_source_of_compilers_without_stack_frames(self):
        placed = instruction(1, "parameter", metadata=metadata(source_file=b"old.py", source_line=7))
        found = read_module(computation(1, placed))
        assert found.source(found.instructions[1]) == (Frame(file="old.py", function="", line=7, column=0),)

    @pytest.mark.parametrize(
        ("computations", "message"),
        [
            ([computation(2, instruction(1, "parameter"))], "none is the entry 1"),
            ([add(), add()], "two computations have the id 1"),
            (
                [add(), computation(2, instruction(3, "parameter"))],
                "two instructions have the id 3",
            ),
            ([computation(1, instruction(1, "negate", (2,)), instruction(2, "negate", (1,)))], "uses operand 2"),
            ([computation(1, instruction(1, "negate", (9,)))], "uses operand 9"),
            ([computation(1, instruction(1, "parameter"), root=4)], "has the root 4"),
            ([computation(1, instruction(1, ""))], "has no opcode"),
            ([computation(1, instruction(1, "broadcast"))], r"broadcast\.1 \(broadcast\) is given no array"),
            (
                [computation(1, instruction(1, "tuple", (), nothing()), instruction(2, "slice", (1,)))],
                "is given no array",
            ),
            ([computation(1, instruction(1, "parameter", control_predecessor_ids=[8]))], "must run after 8"),
            ([computation(1, instruction(1, "call", called_computation_ids=[5]))], "calls computation 5"),
            (
                [
                    computation(1, instruction(1, "call", called_computation_ids=[2])),
                    computation(2, instruction(2, "call", called_computation_ids=[1])),
                ],
                "in a circle: computation",
            ),
            ([computation(1, instruction(1, "parameter", parameter_number=3))], "parameters are numbered 3"),
            ([computation(1, instruction(1, "parameter", result=shape(-1)))], "unbounded or negative"),
            ([computation(1, instruction(1, "parameter", result=shape(element_type=99)))], "element type 99"),
            (
                [
                    computation(
                        1,
                        instruction(1, "parameter", result=pair()),
                        instruction(2, "get-tuple-element", (1,), tuple_index=2),
                    )
                ],
                "takes element 2 of a tuple of 2",
            ),
            (
                [
                    computation(
                        1,
                        instruction(1, "parameter", metadata=metadata(stack_frame_id=1)),
                    )
                ],
                "names stack frame 1 of 0",
            ),
        ],
    )
    def test_what_does_not_fit_together_is_refused(self, computations, message):
        with pytest.raises(InputError, match=message) as caught:
            read_module(*computations)
        assert str(caught.value).startswith("hand.hlo.pb is not a usable XLA dump: ")
        assert "xla_dump_to" in str(caught.value)

    def test_stack_frames_that_call_themselves(self):
        frames = MESSAGES["StackFrameIndex"](
            file_names=[b"a.py"],
            function_names=[b"f"],
            file_locations=[MESSAGES["FileLocation"](file_name_id=1, function_name_id=1)],
            stack_frames=[
                MESSAGES["StackFrame"](file_location_id=1, parent_frame_id=2),
                MESSAGES["StackFrame"](file_location_id=1, parent_frame_id=1),
            ],
        )
        with pytest.raises(InputError, match="stack frame 1 is called, in the end, by itself"):
            read_module(add(), stack_frame_index=frames)

    @pytest.mark.parametrize(("number", "place"), [(7, ()), (0, (1,))])
    def test_a_donated_array_that_no_parameter_has_is_refused(self, number, place):
        entry = MESSAGES["AliasEntry"](parameter_number=number, parameter_shape_index=place, kind=1)
        with pytest.raises(
            InputError, match=f"of parameter {number} is donated, and the entry computation has no such"
        ):
            read_module(add(), input_output_alias=MESSAGES["InputOutputAlias"](entries=[entry]))

    @pytest.mark.parametrize(
        ("key", "order", "message"),
        [(1, [1, 2], "not an order of its"), (1, [1, 2, 2], "not an order"), (7, [], "computation 7")],
    )
    def test_schedule_must_order_a_computation(self, key, order, message):
        entry = MESSAGES["ScheduleEntry"](key=key, value=MESSAGES["InstructionSequence"](instruction_ids=order))
        with pytest.raises(InputError, match=message):
            read_module(add(), schedule=MESSAGES["Schedule"](sequences=[entry]))


class TestFingerprint:
    def fingerprints(self, *changes):
        """Of instructions of one module that differ in what is given: fields, and more of its bytes under ``extra``."""
        made = [instruction(1, "parameter")]
        for number, fields in enumerate(changes, start=2):
            extra = fields.pop("extra", b"")
            made.append(instruction(number, fields.pop("opcode", "reduce-window"), (1,), **fields))
            made[-1].MergeFromString(extra)
        return [each.fingerprint for each in read_module(computation(1, *made)).instructions.values()][1:]

    def test_names_places_and_layouts_do_not_count(self):
        here = metadata(op_name=b"here")
        laid_out = MESSAGES["Shape"](
            element_type=F32, dimensions=[3], layout=MESSAGES["Layout"](minor_to_major=[0], memory_space=1)
        )
        elsewhere = {"metadata": here, "backend_config": b"tuned", "sharding": b"x", "frontend_attributes": b"x"}
        plain, other = self.fingerprints({}, {**elsewhere, "result": laid_out})
        assert plain == other

    @pytest.mark.parametrize("field", ["sharding", "frontend_attributes", "statistics_viz", "original_value"])
    def test_what_few_instructions_have_does_not_count(self, field):
        assert len(set(self.fingerprints({}, {field: b"x"}, {field: b"y"}))) == 1

    def test_what_must_run_before_does_not_count_and_stays(self):
        free = instruction(1, "parameter")
        bound = [
            instruction(at, "add", (1, 1), control_predecessor_ids=before) for at, before in ((2, [1]), (3, [2, 1]))
        ]
        read = read_module(computation(1, free, *bound)).instructions
        assert read[2].fingerprint == read[3].fingerprint
        assert [each.control_predecessor_ids for each in read.values()] == [(), (1,), (2, 1)]

    def test_everything_else_counts_also_what_the_schema_does_not_name(self):
        window = b"\x7a\x02\x08\x01"  # field 15, two bytes
        other_window = b"\x7a\x02\x08\x02"
        found = self.fingerprints(
            {},
            {"opcode": "reduce"},
            {"result": shape(4)},
            {"result": shape(3, element_type=12)},
            {"dimensions": [1]},
            {"extra": window},
            {"extra": other_window},
        )
        assert len(set(found)) == len(found)

    def test_configuration_counts_for_custom_calls_alone(self):
        for opcode, counts in (("custom-call", True), ("add", False)):
            for field in ("backend_config", "backend_config_payload"):
                configured, plain = self.fingerprints({"opcode": opcode, field: b"x"}, {"opcode": opcode})
                assert (configured != plain) is counts


class TestBuffers:
    def test_values_places_and_aliases(self):
        assignment = read_assignment(
            logical_buffers=[buffer(7)],
            buffer_aliases=[
                MESSAGES["BufferAlias"](source_buffer_id=7, location=MESSAGES["Location"](instruction_id=at))
                for at in (3, 1)
            ],
            buffer_allocations=[allocation(0, 64, assigned(7, offset=52), color=1, is_constant=True)],
        )
        assert assignment is not None
        # The buffer's own position, instruction 3, is no alias of it.
        assert assignment.aliases == {7: ((1, ()),)}
        (only,) = assignment.allocations
        assert (only.size, only.color, only.is_constant, only.is_temporary) == (64, 1, True, False)
        assert (only.assigned[0].buffer_id, only.assigned[0].offset, only.assigned[0].size) == (7, 52, 12)

    def test_a_position_by_name_as_older_compilers_write_it(self):
        assignment = read_assignment(logical_buffers=[buffer(7, instruction_id=0, instruction_name=b"add.3")])
        assert assignment is not None
        assert assignment.buffers[7].instruction_id == 3

    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            ({"logical_buffers": [buffer(7), buffer(7)]}, "two logical buffers have the id 7"),
            ({"logical_buffers": [buffer(7, size=-1)]}, "has the size -1"),
            ({"logical_buffers": [buffer(7, instruction_id=9)]}, "at instruction 9, which is not in the module"),
            ({"logical_buffers": [buffer(7, shape_index=[0])]}, r"at element \(0,\) of add.3"),
            ({"buffer_allocations": [allocation(0, 12, assigned(7))]}, "allocation 0 names logical buffer 7"),
            ({"buffer_allocations": [allocation(0, -1)]}, "allocation 0 has the size -1"),
            (
                {"logical_buffers": [buffer(7)], "buffer_allocations": [allocation(0, 12, assigned(7, offset=1))]},
                "buffer 7 takes bytes 1 to 13 of allocation 0, which has 12",
            ),
            (
                {"logical_buffers": [buffer(7)], "buffer_allocations": [allocation(0, 12, assigned(7, offset=-1))]},
                "takes bytes -1 to 11",
            ),
            (
                {
                    "logical_buffers": [buffer(7)],
                    "buffer_allocations": [allocation(0, 12, assigned(7)), allocation(1, 12, assigned(7))],
                },
                "buffer 7 is assigned twice, in allocation 0 and in allocation 1",
            ),
            ({"buffer_allocations": [allocation(0, 1), allocation(0, 1)]}, "two allocations have the index 0"),
            (
                {
                    "buffer_allocations": [
                        allocation(0, 1, is_entry_computation_parameter=True, parameter_number=2),
                    ]
                },
                "is parameter 2 of a program with 2",
            ),
            (
                {
                    "heap_simulator_traces": [
                        MESSAGES["HeapSimulatorTrace"](events=[MESSAGES["TraceEvent"](buffer_id=7)])
                    ]
                },
                "a heap trace names logical buffer 7",
            ),
            (
                {"heap_simulator_traces": [MESSAGES["HeapSimulatorTrace"](events=[MESSAGES["TraceEvent"](kind=5)])]},
                "unknown kind 5",
            ),
        ],
    )
    def test_what_does_not_fit_together_is_refused(self, fields, message):
        with pytest.raises(InputError, match=message):
            read_assignment(**fields)

    def test_a_dump_from_before_buffers_were_assigned(self):
        data = MESSAGES["HloProto"](hlo_module=module(add())).SerializeToString()
        assert read_hlo_proto(data, origin="early")[1] is None


class TestFiles:
    def test_a_real_dump(self):
        compressed = DUMP.read_bytes()
        found, assignment = read_hlo_proto(compressed, origin=DUMP.name)
        assert read_hlo_proto(zlib.decompress(compressed, 31), origin="raw") == (found, assignment)
        assert [parameter.op_name for parameter in found.parameters] == ["weights['a']", "weights['b']", "x"]
        assert found.parameters[0].shape.text() == "f32[8,16]{1,0}"
        assert found.input_output_alias[0] == InputOutputAlias(
            output_shape_index=(0,), parameter_number=0, parameter_shape_index=(), kind="may"
        )
        assert set(found.schedule[found.entry_computation_id]) == set(found.entry.instruction_ids)
        products = [each for each in found.instructions.values() if each.opcode == "dot"]
        assert {found.source(each)[0].file for each in products} == {"mlp_train.py"}
        assert assignment is not None
        # a 8·16, b 16·4, x 32·8 numbers of four bytes.
        parameters = [each for each in assignment.allocations if each.is_entry_computation_parameter]
        assert {each.parameter_number: each.size for each in parameters} == {0: 512, 1: 256, 2: 1024}
        assert len(assignment.traces) == 1

    @pytest.mark.parametrize(
        ("data", "message"),
        [
            (b"", "it is empty"),
            (b"#!/bin/sh\necho no dump\n", "truncated or no HloProto"),
            (b"\x10\x01", "it holds no HLO module"),
            (gzip.compress(b"abc")[:-9], "ends too early"),
            (b"\x1f\x8bnot gzip at all", "is damaged"),
        ],
    )
    def test_foreign_bytes(self, data, message):
        with pytest.raises(InputError, match=message) as caught:
            read_hlo_proto(data, origin="some/file.pb")
        assert "some/file.pb" in str(caught.value)

    def test_a_bomb_is_not_unpacked(self, monkeypatch):
        monkeypatch.setattr(read, "MAXIMUM_DECOMPRESSED_BYTES", 1000)
        with pytest.raises(InputError, match="unpacks to more than 1000 B"):
            read_hlo_proto(gzip.compress(bytes(1001)), origin="bomb")
        # Two members of 600 bytes each: the limit is on their sum.
        with pytest.raises(InputError, match="unpacks to more than 1000 B"):
            read_hlo_proto(gzip.compress(bytes(600)) * 2, origin="bomb")
