"""BufferAssignmentProto to `BufferAssignment`, checked against the module it belongs to."""

from typing import Any

from jaxmem.errors import InputError
from jaxmem.xla.buffers import (
    Allocation,
    Assigned,
    BufferAssignment,
    HeapTrace,
    LogicalBuffer,
    PeakBuffers,
    TraceEvent,
)
from jaxmem.xla.decode_module import broken, text
from jaxmem.xla.hlo import Module, ShapeIndex

_EVENT_KINDS = {0: "alloc", 1: "free", 2: "share_with"}


def decode_buffers(proto: Any, module: Module, *, origin: str) -> BufferAssignment:
    """Read a parsed `BufferAssignment` message.

    Raises:
        InputError: it does not fit together, or not to the module.
    """
    return _BufferReader(module, origin).assignment(proto)


class _BufferReader:
    def __init__(self, module: Module, origin: str) -> None:
        self.module = module
        self.origin = origin
        self.buffers: dict[int, LogicalBuffer] = {}
        self.parameter_count = len(module.parameters)
        self.by_name: dict[str, int] = {}

    def assignment(self, proto: Any) -> BufferAssignment:
        self.read_buffers(proto.logical_buffers)
        aliases = self.aliases(proto.buffer_aliases)
        allocations = self.allocations(proto.buffer_allocations)
        return BufferAssignment(
            buffers=self.buffers,
            aliases=aliases,
            allocations=allocations,
            traces=tuple(self.trace(trace) for trace in proto.heap_simulator_traces),
            peak_buffers=tuple(
                PeakBuffers(allocation_index=entry.index, buffer_ids=tuple(entry.logical_buffer_ids))
                for entry in proto.peak_buffers
            ),
        )

    def broken(self, what: str) -> InputError:
        return broken(self.origin, what)

    def position(self, location: Any, what: str, buffer_id: int) -> tuple[int, ShapeIndex]:
        """Where a location is; ``what`` of which buffer it is, the messages say."""
        instruction_id: int = location.instruction_id
        if not instruction_id and location.instruction_name:
            # Older compilers name the instruction and give no id.
            if not self.by_name:
                self.by_name = {instruction.name: i for i, instruction in self.module.instructions.items()}
            instruction_id = self.by_name.get(text(location.instruction_name), instruction_id)
        instruction = self.module.instructions.get(instruction_id)
        if instruction is None:
            raise self.broken(f"{what} {buffer_id} is at instruction {instruction_id}, which is not in the module")
        index = tuple(location.shape_index)
        if index:
            try:
                instruction.shape.subshape(index)
            except InputError as error:
                raise self.broken(
                    f"{what} {buffer_id} is at element {index} of {instruction.name}, "
                    f"whose shape {instruction.shape.text()} has none"
                ) from error
        return instruction_id, index

    def read_buffers(self, protos: Any) -> None:
        buffers, instructions = self.buffers, self.module.instructions
        for proto in protos:
            identifier, size, location, shape_index = proto.id, proto.size, proto.defined_at, ()
            if identifier in buffers:
                raise self.broken(f"two logical buffers have the id {identifier}")
            if size < 0:
                raise self.broken(f"logical buffer {identifier} has the size {size}")
            instruction_id = location.instruction_id
            if not instruction_id or instruction_id not in instructions or location.shape_index:  # few are
                instruction_id, shape_index = self.position(location, "logical buffer", identifier)
            buffers[identifier] = LogicalBuffer(identifier, size, instruction_id, shape_index, proto.color)

    def known(self, buffer_id: int, where: str) -> int:
        if buffer_id not in self.buffers:
            raise self.broken(f"{where} names logical buffer {buffer_id}, which is not there")
        return buffer_id

    def aliases(self, protos: Any) -> dict[int, tuple[tuple[int, ShapeIndex], ...]]:
        aliases: dict[int, list[tuple[int, ShapeIndex]]] = {}
        for proto in protos:
            buffer = self.buffers[self.known(proto.source_buffer_id, "an alias")]
            position = self.position(proto.location, "an alias of buffer", buffer.id)
            if position != (buffer.instruction_id, buffer.shape_index):
                aliases.setdefault(buffer.id, []).append(position)
        return {buffer_id: tuple(positions) for buffer_id, positions in aliases.items()}

    def allocations(self, protos: Any) -> tuple[Allocation, ...]:
        read: dict[int, Allocation] = {}
        owner: dict[int, int] = {}
        for proto in protos:
            allocation = self.allocation(proto)
            if allocation.index in read:
                raise self.broken(f"two allocations have the index {allocation.index}")
            read[allocation.index] = allocation
            for entry in allocation.assigned:
                if entry.buffer_id in owner:
                    raise self.broken(
                        f"buffer {entry.buffer_id} is assigned twice, in allocation {owner[entry.buffer_id]} and "
                        f"in allocation {allocation.index}"
                    )
                owner[entry.buffer_id] = allocation.index
        return tuple(read.values())

    def allocation(self, proto: Any) -> Allocation:
        name = f"allocation {proto.index}"
        if proto.size < 0:
            raise self.broken(f"{name} has the size {proto.size}")
        if proto.is_entry_computation_parameter and not 0 <= proto.parameter_number < self.parameter_count:
            raise self.broken(f"{name} is parameter {proto.parameter_number} of a program with {self.parameter_count}")
        assigned, whole, buffers = [], proto.size, self.buffers
        for entry in proto.assigned:
            buffer_id, offset, size = entry.logical_buffer_id, entry.offset, entry.size
            if buffer_id not in buffers:
                self.known(buffer_id, name)
            if offset < 0 or size < 0 or offset + size > whole:
                raise self.broken(
                    f"buffer {buffer_id} takes bytes {offset} to {offset + size} of {name}, which has {whole}"
                )
            assigned.append(Assigned(buffer_id, offset, size))
        return Allocation(
            index=proto.index,
            size=proto.size,
            color=proto.color,
            is_thread_local=proto.is_thread_local,
            is_entry_computation_parameter=proto.is_entry_computation_parameter,
            parameter_number=proto.parameter_number,
            parameter_shape_index=tuple(proto.parameter_shape_index),
            maybe_live_out=proto.maybe_live_out,
            is_tuple=proto.is_tuple,
            is_constant=proto.is_constant,
            is_parameter_aliased_with_output=proto.is_parameter_aliased_with_output,
            assigned=tuple(assigned),
        )

    def trace(self, proto: Any) -> HeapTrace:
        return HeapTrace(
            events=tuple(map(self.event, proto.events)),
            whole_module_simulation=proto.whole_module_simulation,
            buffer_allocation_index=proto.buffer_allocation_index,
        )

    def event(self, proto: Any) -> TraceEvent:
        kind = _EVENT_KINDS.get(proto.kind)
        if kind is None:
            raise self.broken(f"a heap trace has an event of the unknown kind {proto.kind}")
        shared = self.known(proto.share_with_canonical_id, "a heap trace") if kind == "share_with" else None
        buffer_id = self.known(proto.buffer_id, "a heap trace")
        return TraceEvent(kind, buffer_id, text(proto.computation_name), text(proto.instruction_name), shared)
