"""Programs larger than anything that compiles here: a small compiled step, repeated, each time on the state of the time before.

What comes out is what XLA would write of a loop over training steps that was unrolled and not optimized across its turns: one
entry computation, every fusion of every turn a computation of its own, one heap trace, and the state in the slots of the
arguments all the time. Temporaries of every turn lie where those of the first do.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from jaxmem.capture import Capture
from jaxmem.layer_table import LayerTable
from jaxmem.xla.schema import MESSAGES

_LITERAL = 8
_U8S = 3
"""Numbers of ``HloInstructionProto.literal`` and ``LiteralProto.u8s``."""

_LOCAL = 1 << 32
"""XLA's ids of instructions are (computation id) · 2³² + (number in the computation)."""


def repeated(capture: Capture, times: int, *, literal_bytes: int = 0, name_bytes: int = 0) -> Capture:
    """The capture of a program that does ``times`` times what this one does; its results replace its arguments each time.

    ``literal_bytes`` are added to every constant, as its value: what makes real dumps large. ``name_bytes`` are added to the
    name of every operation, which becomes one that no other has.
    """
    proto = MESSAGES["HloProto"].FromString(capture.hlo_proto)
    literal = _field(_LITERAL, _field(_U8S, bytes(literal_bytes)))
    repeated_module = _Repeated(proto, _replaced(capture), times, literal, name_bytes)
    table = capture.layer_table
    return replace(
        capture,
        hlo_proto=repeated_module.proto().SerializeToString(),
        layer_table=None if table is None else _repeated_table(table, capture, times),
    )


def _field(number: int, payload: bytes) -> bytes:
    """A length-delimited field as it is on the wire; nothing where it is empty."""
    return _varint(number << 3 | 2) + _varint(len(payload)) + payload if payload else b""


def _varint(number: int) -> bytes:
    low, rest = number & 127, number >> 7
    return bytes([low | 128]) + _varint(rest) if rest else bytes([low])


def _replaced(capture: Capture) -> dict[int, int]:
    """Number of a parameter → place of the result that replaces it."""
    found = {}
    for place, output in enumerate(capture.outputs):
        if output.argument_index is not None:
            number = capture.arguments[output.argument_index].parameter_number
            if number is not None:
                found[number] = place
    return found


class _Repeated:
    """The module and its assignment, turn by turn."""

    def __init__(self, proto: Any, replaced: Mapping[int, int], times: int, literal: bytes, name_bytes: int) -> None:
        self.old, self.times, self.literal, self.name_bytes = proto, times, literal, name_bytes
        self.module = proto.hlo_module
        self.entry_id: int = self.module.entry_computation_id
        self.computations = [MESSAGES["Computation"].FromString(each) for each in self.module.computations]
        self.instructions = {computation.id: list(computation.instructions) for computation in self.computations}
        entry = self.instructions[self.entry_id]
        by_id = {instruction.id: instruction for instruction in entry}
        self.root = by_id[next(c.root_id for c in self.computations if c.id == self.entry_id)]
        self.parameters = {each.id: each.parameter_number for each in entry if each.opcode == b"parameter"}
        self.result_of = {number: self.root.operand_ids[place] for number, place in replaced.items()}
        self.computation_step = max(computation.id for computation in self.computations) + 1
        self.instruction_step = max(instruction.id % _LOCAL for instruction in entry) + 1
        self.buffer_step = max(buffer.id for buffer in proto.buffer_assignment.logical_buffers) + 1

    def computation_id(self, old: int, turn: int) -> int:
        return old if old == self.entry_id else old + turn * self.computation_step

    def instruction_id(self, old: int, turn: int) -> int:
        """Where an instruction is in a turn. What a later turn receives is a result of the turn before, or the argument."""
        while turn and old in self.parameters:
            number = self.parameters[old]
            if number not in self.result_of:
                turn = 0
            else:
                old, turn = self.result_of[number], turn - 1
        computation, local = divmod(old, _LOCAL)
        if computation == self.entry_id:
            return computation * _LOCAL + turn * self.instruction_step + local
        return self.computation_id(computation, turn) * _LOCAL + local

    def is_left_out(self, old: int, turn: int) -> bool:
        """Arguments are there once, in the first turn; the program's result in the last."""
        return (turn > 0 and old in self.parameters) or (old == self.root.id and turn < self.times - 1)

    def proto(self) -> Any:
        new = MESSAGES["HloProto"]()
        new.CopyFrom(self.old)
        module, assignment = new.hlo_module, new.buffer_assignment
        for field in ("computations", "schedule"):
            module.ClearField(field)
        for field in ("logical_buffers", "buffer_aliases", "peak_buffers"):
            assignment.ClearField(field)
        entry = MESSAGES["Computation"]()
        for turn in range(self.times):
            self._add_computations(module, entry, turn)
            self._add_buffers(assignment, turn)
        old = next(computation for computation in self.computations if computation.id == self.entry_id)
        whole = MESSAGES["Computation"]()
        whole.CopyFrom(old)
        whole.ClearField("instructions")
        whole.instructions.extend(entry.instructions)
        whole.root_id = self.instruction_id(self.root.id, self.times - 1)
        module.computations.append(whole.SerializeToString())
        self._add_schedule(module)
        self._add_places(assignment)
        return new

    def _add_computations(self, module: Any, entry: Any, turn: int) -> None:
        for computation in self.computations:
            own = [
                self._instruction(instruction, turn)
                for instruction in self.instructions[computation.id]
                if not self.is_left_out(instruction.id, turn)
            ]
            if computation.id == self.entry_id:
                entry.instructions.extend(own)
                continue
            made = MESSAGES["Computation"]()
            made.CopyFrom(computation)
            made.ClearField("instructions")
            made.instructions.extend(own)
            made.id = self.computation_id(computation.id, turn)
            made.name = _name(computation.name, turn)
            made.root_id = self.instruction_id(computation.root_id, turn)
            module.computations.append(made.SerializeToString())

    def _instruction(self, old: Any, turn: int) -> Any:
        made = MESSAGES["Instruction"]()
        made.CopyFrom(old)
        made.id = self.instruction_id(old.id, turn)
        made.name = _name(old.name, turn)
        made.operand_ids[:] = [self.instruction_id(each, turn) for each in old.operand_ids]
        made.control_predecessor_ids[:] = [
            self.instruction_id(each, turn) for each in old.control_predecessor_ids if not self.is_left_out(each, turn)
        ]
        made.called_computation_ids[:] = [self.computation_id(each, turn) for each in old.called_computation_ids]
        if old.opcode == b"constant":
            made.MergeFromString(self.literal)
        if self.name_bytes:
            metadata = MESSAGES["Metadata"].FromString(old.metadata)
            metadata.op_name += b"/" + made.name.ljust(self.name_bytes, b"_")
            made.metadata = metadata.SerializeToString()
        return made

    def _add_schedule(self, module: Any) -> None:
        for sequence in self.old.hlo_module.schedule.sequences:
            is_entry = sequence.key == self.entry_id
            entry = module.schedule.sequences.add(key=sequence.key) if is_entry else None
            for turn in range(self.times):
                made = entry or module.schedule.sequences.add(key=self.computation_id(sequence.key, turn))
                made.value.instruction_ids.extend(
                    self.instruction_id(each, turn)
                    for each in sequence.value.instruction_ids
                    if not self.is_left_out(each, turn)
                )

    def _add_buffers(self, assignment: Any, turn: int) -> None:
        old = self.old.buffer_assignment
        for buffer in old.logical_buffers:
            if self.is_left_out(buffer.defined_at.instruction_id, turn):
                continue
            made = assignment.logical_buffers.add()
            made.CopyFrom(buffer)
            made.id = buffer.id + turn * self.buffer_step
            made.defined_at.instruction_id = self.instruction_id(buffer.defined_at.instruction_id, turn)
        kept = {each.id for each in old.logical_buffers if not self.is_left_out(each.defined_at.instruction_id, turn)}
        for alias in old.buffer_aliases:
            where = alias.location.instruction_id
            if alias.source_buffer_id in kept and not self.is_left_out(where, turn):
                made = assignment.buffer_aliases.add()
                made.CopyFrom(alias)
                made.source_buffer_id = alias.source_buffer_id + turn * self.buffer_step
                made.location.instruction_id = self.instruction_id(where, turn)

    def _add_places(self, assignment: Any) -> None:
        """Allocations hold the buffers of every turn in the same places; traces go on from turn to turn."""
        old = self.old.buffer_assignment
        defined = {buffer.id: buffer.defined_at.instruction_id for buffer in old.logical_buffers}
        for allocation, before in zip(assignment.buffer_allocations, old.buffer_allocations, strict=True):
            allocation.ClearField("assigned")
            for turn in range(self.times):
                for entry in before.assigned:
                    if not self.is_left_out(defined[entry.logical_buffer_id], turn):
                        made = allocation.assigned.add()
                        made.CopyFrom(entry)
                        made.logical_buffer_id = entry.logical_buffer_id + turn * self.buffer_step
        for trace, before in zip(assignment.heap_simulator_traces, old.heap_simulator_traces, strict=True):
            trace.ClearField("events")
            for turn in range(self.times):
                for event in before.events:
                    if self.is_left_out(defined[event.buffer_id], turn):
                        continue
                    made = trace.events.add()
                    made.CopyFrom(event)
                    made.buffer_id = event.buffer_id + turn * self.buffer_step
                    if event.kind == 2:
                        made.share_with_canonical_id = event.share_with_canonical_id + turn * self.buffer_step
                    made.instruction_name = _name(event.instruction_name, turn)


def _name(old: bytes, turn: int) -> bytes:
    return old if not turn else b"%s.turn_%d" % (old, turn)


def _repeated_table(table: LayerTable, capture: Capture, times: int) -> LayerTable:
    """The trace of all turns, one after the other."""
    values, operations = list(table.values), list(table.operations)
    outputs = list(table.outputs)
    replaced = {
        output.argument_index: place
        for place, output in enumerate(capture.outputs)
        if output.argument_index is not None
    }
    for _ in range(1, times):
        moved: dict[int, int] = {}
        for index, argument in enumerate(table.arguments):
            now = outputs[replaced[index]] if index in replaced else None
            moved[argument] = argument if now is None else now
        first_operation = len(operations)
        for index, value in enumerate(table.values):
            if index in moved:
                continue
            moved[index] = len(values)
            values.append(
                replace(
                    value,
                    operation=None if value.operation is None else value.operation + first_operation,
                    continues=None if value.continues is None else moved.get(value.continues, value.continues),
                )
            )
        operations += [
            replace(
                operation,
                operands=tuple(moved[operand] for operand in operation.operands),
                results=tuple(moved[result] for result in operation.results),
            )
            for operation in table.operations
        ]
        outputs = [None if output is None else moved[output] for output in table.outputs]
    return LayerTable(
        values=tuple(values), operations=tuple(operations), arguments=table.arguments, outputs=tuple(outputs)
    )
