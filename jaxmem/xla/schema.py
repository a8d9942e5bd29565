"""The part of XLA's protocol buffers that jaxmem reads, as message classes of the `protobuf` runtime.

Field numbers are those of `xla/service/hlo.proto` and `xla/xla_data.proto` (jaxlib 0.10.2). Fields that are not listed
are skipped by the parser. Three simplifications, all compatible on the wire:

- every integer and enumeration is read as ``int64``;
- text is read as ``bytes``, since a name that is not UTF-8 must not make a dump unreadable;
- a message that is decoded later, or only hashed, is read as ``bytes``.

Repeated numbers are accepted packed and unpacked, as the runtime does for every proto3 field.
"""

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_FIELDS = {
    "HloProto": "hlo_module=1 HloModule, buffer_assignment=3 BufferAssignment",
    "HloModule": """name=1 bytes, computations=3 *bytes, entry_computation_id=6 int, schedule=7 Schedule,
        input_output_alias=8 InputOutputAlias, stack_frame_index=17 StackFrameIndex, buffer_donor=18 BufferDonor""",
    "Computation": """name=1 bytes, instructions=2 *Instruction, id=5 int, root_id=6 int, is_fusion_computation=7 bool,
        execution_thread=8 bytes""",
    "SmallComputation": """name=1 bytes, instructions=2 *InstructionIdentity, id=5 int, root_id=6 int,
        is_fusion_computation=7 bool, execution_thread=8 bytes""",
    # Declared below: what is read, and what the fingerprint leaves out. All else stays unknown to the parser, which
    # keeps it byte for byte, and so reaches the fingerprint.
    "Instruction": """name=1 bytes, opcode=2 bytes, shape=3 bytes, metadata=7 bytes, parameter_number=9 int,
        fusion_kind=11 bytes, tuple_index=13 int, dimensions=14 *int, window=15 Window,
        convolution_dimension_numbers=16 ConvolutionDimensionNumbers, slice_dimensions=17 *SliceDimensions,
        custom_call_target=28 bytes,
        dot_dimension_numbers=30 DotDimensionNumbers, id=35 int, operand_ids=36 *int,
        control_predecessor_ids=37 *int, called_computation_ids=38 *int, sharding=40 bytes,
        backend_config=43 bytes, frontend_attributes=68 bytes, output_operand_aliasing=74 *OutputOperandAliasing,
        statistics_viz=82 bytes, original_value=88 bytes, backend_config_payload=99 bytes""",
    # The same, with all that it computes left unknown.
    "InstructionIdentity": """name=1 bytes, metadata=7 bytes, id=35 int, operand_ids=36 *int, called_computation_ids=38 *int,
        backend_config=43 bytes""",
    "SliceDimensions": "start=1 int, limit=2 int, stride=3 int",
    "Window": "dimensions=1 *WindowDimension",
    "WindowDimension": """size=1 int, stride=2 int, padding_low=3 int, padding_high=4 int, window_dilation=5 int,
        base_dilation=6 int""",
    "ConvolutionDimensionNumbers": """kernel_input_feature_dimension=3 int, kernel_output_feature_dimension=4 int,
        input_batch_dimension=7 int, input_feature_dimension=8 int, output_batch_dimension=9 int,
        output_feature_dimension=10 int, input_spatial_dimensions=11 *int, output_spatial_dimensions=12 *int""",
    "DotDimensionNumbers": """lhs_contracting_dimensions=1 *int, rhs_contracting_dimensions=2 *int,
        lhs_batch_dimensions=3 *int, rhs_batch_dimensions=4 *int""",
    "OutputOperandAliasing": "output_shape_index=1 *int, operand_index=2 int, operand_shape_index=3 *int",
    "Metadata": "op_name=2 bytes, source_file=3 bytes, source_line=4 int, stack_frame_id=15 int",
    "Shape": "element_type=2 int, dimensions=3 *int, tuple_shapes=4 *Shape, layout=5 Layout",
    "Layout": "minor_to_major=1 *int, tiles=6 *Tile, element_size_in_bits=7 int, memory_space=8 int",
    "Tile": "dimensions=1 *int",
    "Schedule": "sequences=1 *ScheduleEntry",
    "ScheduleEntry": "key=1 int, value=2 InstructionSequence",
    "InstructionSequence": "instruction_ids=1 *int",
    "InputOutputAlias": "entries=1 *AliasEntry",
    "AliasEntry": "output_shape_index=1 *int, parameter_number=2 int, parameter_shape_index=3 *int, kind=4 int",
    "BufferDonor": "entries=1 *DonorEntry",
    "DonorEntry": "parameter_number=1 int, parameter_shape_index=2 *int",
    "StackFrameIndex": "file_names=1 *bytes, function_names=2 *bytes, file_locations=3 *FileLocation, "
    "stack_frames=4 *StackFrame",
    "FileLocation": "file_name_id=1 int, function_name_id=2 int, line=3 int, column=4 int",
    "StackFrame": "file_location_id=1 int, parent_frame_id=2 int",
    "BufferAssignment": """logical_buffers=1 *LogicalBuffer, buffer_aliases=2 *BufferAlias,
        buffer_allocations=3 *BufferAllocation, heap_simulator_traces=4 *HeapSimulatorTrace,
        peak_buffers=5 *PeakBuffers""",
    "LogicalBuffer": "id=1 int, size=2 int, defined_at=3 Location, color=4 int",
    "Location": "instruction_name=2 bytes, shape_index=3 *int, instruction_id=4 int",
    "BufferAlias": "source_buffer_id=1 int, location=2 Location",
    "BufferAllocation": """index=1 int, size=2 int, is_thread_local=3 bool, is_entry_computation_parameter=5 bool,
        parameter_number=6 int, maybe_live_out=7 bool, color=8 int, assigned=9 *Assigned, parameter_shape_index=10 *int,
        is_tuple=11 bool, is_constant=12 bool, is_parameter_aliased_with_output=13 bool""",
    "Assigned": "logical_buffer_id=1 int, offset=2 int, size=3 int",
    "HeapSimulatorTrace": "events=1 *TraceEvent, whole_module_simulation=2 bool, buffer_allocation_index=3 int",
    "TraceEvent": "kind=1 int, buffer_id=2 int, computation_name=3 bytes, instruction_name=4 bytes, "
    "share_with_canonical_id=5 int",
    "PeakBuffers": "index=1 int, logical_buffer_ids=2 *int",
}

OUTLINE = "Outline"
_PACKAGE = "jaxmem.xla"
_Field = descriptor_pb2.FieldDescriptorProto
_SCALARS = {"int": _Field.TYPE_INT64, "bool": _Field.TYPE_BOOL, "bytes": _Field.TYPE_BYTES}


def _message_classes() -> dict[str, Any]:
    file = descriptor_pb2.FileDescriptorProto(name="jaxmem/xla.proto", package=_PACKAGE, syntax="proto3")
    outlines = {f"{name}{OUTLINE}": fields for name, fields in _FIELDS.items()}
    for message_name, fields in (_FIELDS | outlines).items():
        message = file.message_type.add(name=message_name)
        for field_text in fields.split(","):
            field_name, number_and_type = field_text.strip().split("=")
            number, type_name = number_and_type.split()
            repeated, type_name = type_name.startswith("*"), type_name.removeprefix("*")
            if message_name in outlines and type_name not in _SCALARS:
                type_name = "bytes"
            field = message.field.add(name=field_name, number=int(number))
            field.label = _Field.LABEL_REPEATED if repeated else _Field.LABEL_OPTIONAL
            field.type = _SCALARS.get(type_name, _Field.TYPE_MESSAGE)
            if type_name not in _SCALARS:
                field.type_name = f".{_PACKAGE}.{type_name}"
    # A pool of our own: another package in the process may have registered XLA's real schema in the default one.
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.{name}"))
        for name in (*_FIELDS, *outlines)
    }


MESSAGES = _message_classes()
"""Message class by name, e.g. ``MESSAGES["HloProto"].FromString(data)``; ``HloProtoOutline``, and so with each, is the one
whose own messages stay the bytes that they are."""

PRIMITIVE_TYPES: dict[int, tuple[str, int]] = {
    1: ("pred", 8), 2: ("s8", 8), 3: ("s16", 16), 4: ("s32", 32), 5: ("s64", 64), 6: ("u8", 8), 7: ("u16", 16),
    8: ("u32", 32), 9: ("u64", 64), 10: ("f16", 16), 11: ("f32", 32), 12: ("f64", 64), 13: ("tuple", 0),
    14: ("opaque", 0), 15: ("c64", 64), 16: ("bf16", 16), 17: ("token", 0), 18: ("c128", 128), 19: ("f8e5m2", 8),
    20: ("f8e4m3fn", 8), 21: ("s4", 8), 22: ("u4", 8), 23: ("f8e4m3b11fnuz", 8), 24: ("f8e5m2fnuz", 8),
    25: ("f8e4m3fnuz", 8), 26: ("s2", 8), 27: ("u2", 8), 28: ("f8e4m3", 8), 29: ("f8e3m4", 8), 30: ("s1", 8),
    31: ("u1", 8), 32: ("f4e2m1fn", 8), 33: ("f8e8m0fnu", 8), 34: ("buffer", 0), 35: ("f6e3m2fn", 8),
    36: ("f6e2m3fn", 8),
}  # fmt: skip
"""PrimitiveType number to its name in HLO text and the bits one element takes in memory.

An element narrower than a byte takes a whole byte unless its layout packs it (``element_size_in_bits``).
"""
