"""HloModuleProto to `Module`, checked: every id points somewhere, operands come before users, nothing calls itself."""

from collections.abc import Iterable, Mapping
from hashlib import blake2b
from itertools import chain
from typing import Any

from google.protobuf.message import DecodeError

from jaxmem.errors import InputError
from jaxmem.xla.decode_attributes import decode_attributes, text
from jaxmem.xla.density import too_dense
from jaxmem.xla.hlo import (
    Attributes,
    BufferDonor,
    Computation,
    Frame,
    InputOutputAlias,
    Instruction,
    Metadata,
    Module,
    Shape,
    StackFrame,
)
from jaxmem.xla.schema import MESSAGES, PRIMITIVE_TYPES
from jaxmem.xla.verify import verify_module

_parse_identity = MESSAGES["InstructionIdentity"].FromString

_ALIAS_KINDS = {0: "undefined", 1: "may", 2: "must"}

_SMALL_BYTES = 1 << 13
"""Of a computation whose instructions are parsed at once."""

_MOST_TILES = 64
"""Of a layout; compilers write one or two."""

_LONGEST_SHARED = 1 << 10
"""Bytes of metadata that are kept to find them again: longer ones, each with a name of its own, would be held twice."""

_ITS_OWN_AT_TIMES = ("called_computation_ids", "backend_config")
"""Of an instruction: what few have, and says nothing of what it computes from its operands."""

_RARELY_THERE = (
    "control_predecessor_ids", "sharding", "backend_config_payload", "frontend_attributes", "statistics_viz",
    "original_value",
)  # fmt: skip
"""Likewise: the few that have one are told apart, where most are the same as others before them."""


def broken(origin: str, what: str) -> InputError:
    """The error for a dump that does not fit together."""
    return InputError(
        f"{origin} is not a usable XLA dump: {what}.\n"
        "Compile again with an empty dump folder (xla_dump_to, xla_dump_hlo_as_proto) and pass the "
        "*after_optimizations.hlo.pb file it leaves."
    )


def decode_module(proto: Any, *, origin: str) -> Module:
    """Read a parsed `HloModule` message.

    Raises:
        InputError: it does not fit together.
    """
    reader = _ModuleReader(origin)
    return reader.module(proto)


class _ModuleReader:
    def __init__(self, origin: str) -> None:
        self.origin = origin
        self.instructions: dict[int, Instruction] = {}
        self.computations: dict[int, Computation] = {}
        # Most instructions share a few shapes and scopes, and compute what others compute: each is decoded once. Different ones
        # have different numbers, and those of a shape and of what is computed make a fingerprint.
        self.shapes: dict[bytes, tuple[Shape, int]] = {}
        self.shape_numbers: dict[Any, int] = {}
        self.metadata: dict[bytes | int, Metadata] = {}
        self.computed: dict[bytes, tuple[str, Shape, Attributes, int, tuple[int, ...]]] = {}
        self.attributes: dict[bytes, tuple[Attributes, int]] = {}
        self.fingerprints: dict[tuple[int, int | bytes], int] = {}

    def module(self, proto: Any) -> Module:
        name = text(proto.name)
        for serialized in proto.computations:
            self.read_computation(serialized)
        if proto.entry_computation_id not in self.computations:
            found = f"{len(self.computations)} computations" if self.computations else "no computations"
            raise self.broken(f"module {name!r} has {found}, and none is the entry {proto.entry_computation_id}")
        verify_module(self.computations, self.instructions, proto.entry_computation_id, self.broken)
        self.check_entry_parameters(proto.entry_computation_id)
        frames = self.stack_frames(proto.stack_frame_index)
        for metadata in self.metadata.values():
            if not 0 <= metadata.stack_frame_id <= len(frames):
                name = next(each.name for each in self.instructions.values() if each.metadata is metadata)
                raise self.broken(f"instruction {name} names stack frame {metadata.stack_frame_id} of {len(frames)}")
        self.check_donated(
            chain(proto.input_output_alias.entries, proto.buffer_donor.entries), proto.entry_computation_id
        )
        return Module(
            name=name,
            entry_computation_id=proto.entry_computation_id,
            computations=self.computations,
            instructions=self.instructions,
            schedule=self.schedule(proto.schedule),
            input_output_alias=tuple(
                InputOutputAlias(
                    output_shape_index=tuple(entry.output_shape_index),
                    parameter_number=entry.parameter_number,
                    parameter_shape_index=tuple(entry.parameter_shape_index),
                    kind=_ALIAS_KINDS.get(entry.kind, "undefined"),
                )
                for entry in proto.input_output_alias.entries
            ),
            buffer_donors=tuple(
                BufferDonor(
                    parameter_number=entry.parameter_number,
                    parameter_shape_index=tuple(entry.parameter_shape_index),
                )
                for entry in proto.buffer_donor.entries
            ),
            stack_frames=frames,
        )

    def check_donated(self, entries: Iterable[Any], entry_id: int) -> None:
        """What a result is written over, or may be, is an array of a parameter."""
        parameters = (self.instructions[number] for number in self.computations[entry_id].instruction_ids)
        arrays = {
            (parameter.parameter_number, place)
            for parameter in parameters
            if parameter.opcode == "parameter"
            for place, _ in parameter.shape.leaves
        }
        for entry in entries:
            if (entry.parameter_number, tuple(entry.parameter_shape_index)) not in arrays:
                raise self.broken(
                    f"element {tuple(entry.parameter_shape_index)} of parameter {entry.parameter_number} is donated, and "
                    "the entry computation has no such array"
                )

    def broken(self, what: str) -> InputError:
        return broken(self.origin, what)

    def parse(self, message_name: str, serialized: bytes) -> Any:
        try:
            if message_name == "Instruction" and too_dense(message_name, serialized):
                raise self.broken(f"an instruction of {len(serialized)} bytes has messages that say nothing")
            return MESSAGES[message_name].FromString(serialized)
        except DecodeError as error:
            raise self.undecodable(message_name, serialized, error) from error

    def undecodable(self, message_name: str, serialized: bytes, error: DecodeError) -> InputError:
        return self.broken(f"a {message_name} of {len(serialized)} bytes cannot be decoded ({error})")

    def read_computation(self, serialized: bytes) -> None:
        # In a large one they are parsed one by one: as messages, empty ones of two bytes would take 300 each, all at once.
        is_small = len(serialized) <= _SMALL_BYTES
        proto = self.parse("SmallComputation" if is_small else "ComputationOutline", serialized)
        computation_id = proto.id
        if computation_id in self.computations:
            raise self.broken(f"two computations have the id {computation_id}")
        name = text(proto.name)
        own: dict[int, Instruction] = {}
        for entry in proto.instructions if is_small else map(self.parse_identity, proto.instructions):
            self.read_instruction(entry, computation_id, name, own)
        for instruction in [one for one in own.values() if one.control_predecessor_ids]:
            for predecessor in instruction.control_predecessor_ids:
                if predecessor not in own:
                    raise self.broken(
                        f"instruction {instruction.name} in {name} must run after {predecessor}, "
                        "which is not in that computation"
                    )
        if proto.root_id not in own:
            raise self.broken(f"computation {name} has the root {proto.root_id}, which is not one of its instructions")
        for identifier in self.instructions.keys() & own.keys():
            raise self.broken(f"two instructions have the id {identifier} ({own[identifier].name} in {name})")
        self.instructions.update(own)
        self.computations[computation_id] = Computation(
            computation_id, name, tuple(own), proto.root_id, proto.is_fusion_computation, text(proto.execution_thread)
        )

    def parse_identity(self, serialized: bytes) -> Any:
        try:
            return _parse_identity(serialized)
        except DecodeError as error:
            raise self.undecodable("Instruction", serialized, error) from error

    def read_instruction(self, proto: Any, computation_id: int, computation: str, own: dict[int, Instruction]) -> None:
        """Read the next instruction of a computation, whose earlier ones are ``own``.

        What its proto says besides what is its own is what it computes: few compute something new.
        """
        identifier, name, given = proto.id, proto.name.decode("utf-8", "replace"), proto.operand_ids
        operand_ids = tuple(given[:]) if given else ()
        metadata = self.metadata.get(proto.metadata) or self.read_metadata(proto.metadata)
        clear, called_ids, configuration = proto.ClearField, (), b""
        # Its own, saying nothing of what it computes from its operands.
        clear("name")
        clear("id")
        clear("operand_ids")
        clear("metadata")
        rest = proto.SerializeToString()
        computed = self.computed.get(rest)
        if computed is None:
            called_ids, configuration = tuple(proto.called_computation_ids), proto.backend_config
            for field in _ITS_OWN_AT_TIMES:
                clear(field)
            rest = proto.SerializeToString()
            computed = self.computed.get(rest) or self.read_computed(rest, name)
        opcode, shape, attributes, fingerprint, predecessor_ids = computed
        if opcode == "custom-call":  # what it computes is written in its configuration alone
            fingerprint = self.fingerprint(fingerprint, configuration)
        # As its own constructor does, in half the time.
        instruction = tuple.__new__(
            Instruction,
            (
                identifier,
                name,
                opcode,
                shape,
                computation_id,
                operand_ids,
                predecessor_ids,
                called_ids,
                metadata.op_name,
                metadata,
                attributes,
                configuration,
                fingerprint,
            ),
        )
        if identifier in own:
            raise self.broken(f"two instructions have the id {identifier} ({name} in {computation})")
        for operand in operand_ids:
            if operand not in own:
                raise self.broken(
                    f"instruction {name} in {computation} uses operand {operand}, which is no earlier "
                    "instruction of that computation"
                )
        if opcode == "get-tuple-element":
            self.check_tuple_access(instruction, own)
        own[identifier] = instruction

    def read_shape(self, serialized: bytes) -> tuple[Shape, int]:
        """A shape, and the number of all shapes that are the same but for their layout."""
        found = self.shapes[serialized] = self.decode_shape(self.parse("Shape", serialized))
        return found

    def read_element(self, proto: Any) -> tuple[Shape, int]:
        """Likewise of an element of a tuple. A tuple of many has few different ones."""
        if proto.tuple_shapes:
            return self.decode_shape(proto)
        serialized = proto.SerializeToString()
        return self.shapes.get(serialized) or self.read_shape(serialized)

    def read_metadata(self, serialized: bytes) -> Metadata:
        proto = self.parse("Metadata", serialized)
        key = serialized if len(serialized) <= _LONGEST_SHARED else len(self.metadata)
        metadata = self.metadata[key] = Metadata(
            op_name=text(proto.op_name),
            stack_frame_id=proto.stack_frame_id,
            source_file=text(proto.source_file),
            source_line=proto.source_line,
        )
        return metadata

    def read_computed(self, serialized: bytes, name: str) -> tuple[str, Shape, Attributes, int, tuple[int, ...]]:
        """Opcode, shape, attributes, a number that none has who computes something else, and what must run before."""
        proto = self.parse("Instruction", serialized)
        shape, shape_number = self.shapes.get(proto.shape) or self.read_shape(proto.shape)
        opcode = text(proto.opcode)
        if not opcode:
            raise self.broken(f"an instruction ({name or 'without a name'}) has no opcode")
        parts = len(proto.slice_dimensions) + len(proto.window.dimensions) + len(proto.output_operand_aliasing)
        if parts > 16 + len(serialized) // 8:  # what is kept of each takes a hundred bytes
            raise self.broken(f"instruction {name} has {parts} dimensions and aliases that say nothing")
        predecessor_ids = tuple(proto.control_predecessor_ids)
        for field in ("shape", *_RARELY_THERE):
            if opcode != "custom-call" or field != "backend_config_payload":
                proto.ClearField(field)
        # What is left is written with its known fields in order and its unknown ones as they came, which XLA writes in order.
        attributes, number = self.read_attributes(proto, opcode)
        found = opcode, shape, attributes, self.fingerprint(number, shape_number), predecessor_ids
        self.computed[serialized] = found
        return found

    def read_attributes(self, proto: Any, opcode: str) -> tuple[Attributes, int]:
        """Attributes, and the number of all that say the same."""
        serialized = proto.SerializeToString()
        key = serialized if len(serialized) <= _LONGEST_SHARED else blake2b(serialized).digest()
        found = self.attributes.get(key)
        if found is None:
            found = self.attributes[key] = decode_attributes(proto, opcode), len(self.attributes)
        return found

    def fingerprint(self, number: int, other: int | bytes) -> int:
        """A number for the two together."""
        return self.fingerprints.setdefault((number, other), len(self.fingerprints))

    def decode_shape(self, proto: Any) -> tuple[Shape, int]:
        if proto.element_type not in PRIMITIVE_TYPES:
            raise self.broken(
                f"a shape has the element type {proto.element_type}, none of the {len(PRIMITIVE_TYPES)} known ones"
            )
        dimensions = tuple(proto.dimensions)
        if any(size < 0 for size in dimensions):
            raise self.broken(f"a shape has the dimensions {dimensions}: an unbounded or negative size")
        element_type, layout = PRIMITIVE_TYPES[proto.element_type][0], proto.layout
        if proto.tuple_shapes and element_type != "tuple":
            raise self.broken(f"a shape of {element_type} has {len(proto.tuple_shapes)} elements of a tuple")
        if len(layout.tiles) > _MOST_TILES:
            raise self.broken(f"a layout has {len(layout.tiles)} tiles in one another, and {_MOST_TILES} are read")
        elements = [self.read_element(element) for element in proto.tuple_shapes]
        what = element_type, dimensions, tuple(number for _, number in elements)
        shape = Shape(
            element_type=element_type,
            dimensions=dimensions,
            tuple_shapes=tuple(element for element, _ in elements),
            minor_to_major=tuple(layout.minor_to_major),
            tiles=tuple(tuple(tile.dimensions) for tile in layout.tiles),
            memory_space=layout.memory_space,
            element_size_in_bits=layout.element_size_in_bits,
        )
        return shape, self.shape_numbers.setdefault(what, len(self.shape_numbers))

    def check_tuple_access(self, instruction: Instruction, own: Mapping[int, Instruction]) -> None:
        if len(instruction.operand_ids) != 1:
            raise self.broken(f"{instruction.name} takes a tuple element of {len(instruction.operand_ids)} operands")
        elements = own[instruction.operand_ids[0]].shape.tuple_shapes
        index = instruction.tuple_index or 0
        if not 0 <= index < len(elements):
            raise self.broken(f"{instruction.name} takes element {index} of a tuple of {len(elements)}")

    def check_entry_parameters(self, entry_id: int) -> None:
        entry = (self.instructions[i].parameter_number for i in self.computations[entry_id].instruction_ids)
        numbers = sorted(number for number in entry if number is not None)
        if numbers != list(range(len(numbers))):
            raise self.broken(f"the entry computation's parameters are numbered {_few(numbers)}")

    def schedule(self, proto: Any) -> Mapping[int, tuple[int, ...]]:
        schedule: dict[int, tuple[int, ...]] = {}
        for entry in proto.sequences:
            computation = self.computations.get(entry.key)
            if computation is None:
                raise self.broken(f"the schedule orders computation {entry.key}, which is not there")
            order = tuple(entry.value.instruction_ids)
            if len(order) != len(computation.instruction_ids) or set(order) != set(computation.instruction_ids):
                raise self.broken(f"the schedule of {computation.name} is not an order of its instructions")
            done: set[int] = set()
            for instruction_id in order:
                if not done.issuperset(self.instructions[instruction_id].operand_ids):
                    name = self.instructions[instruction_id].name
                    raise self.broken(f"the schedule of {computation.name} runs {name} before what it reads")
                done.add(instruction_id)
            schedule[computation.id] = order
        return schedule

    def stack_frames(self, proto: Any) -> tuple[StackFrame, ...]:
        files, functions = tuple(map(text, proto.file_names)), tuple(map(text, proto.function_names))

        def at(values: tuple[Any, ...] | Any, position: int, what: str) -> Any:
            if not 1 <= position <= len(values):
                raise self.broken(f"the stack frames name {what} {position} of {len(values)}")
            return values[position - 1]

        frames = []
        for entry in proto.stack_frames:
            location = at(proto.file_locations, entry.file_location_id, "location")
            frame = Frame(
                file=at(files, location.file_name_id, "file"),
                function=at(functions, location.function_name_id, "function"),
                line=location.line,
                column=location.column,
            )
            if not 0 <= entry.parent_frame_id <= len(proto.stack_frames):
                raise self.broken(f"the stack frames name frame {entry.parent_frame_id} of {len(proto.stack_frames)}")
            frames.append(StackFrame(frame=frame, parent_id=entry.parent_frame_id))
        self.check_frames_end(frames)
        return tuple(frames)

    def check_frames_end(self, frames: list[StackFrame]) -> None:
        ends = {0}
        for start in range(1, len(frames) + 1):
            path: dict[int, None] = {}
            frame_id = start
            while frame_id not in ends:
                if frame_id in path:
                    raise self.broken(f"stack frame {start} is called, in the end, by itself")
                path[frame_id] = None
                frame_id = frames[frame_id - 1].parent_id
            ends.update(path)


def _few(values: Iterable[int]) -> str:
    listed = list(values)
    return ", ".join(map(str, listed[:8])) + (", ..." if len(listed) > 8 else "")
