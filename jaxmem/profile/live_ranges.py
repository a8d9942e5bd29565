"""From which instruction to which a value is in use, by the dataflow of the module."""

from collections.abc import Iterator

from jaxmem.profile.data import Leaf
from jaxmem.profile.schedule import instruction_order, sequential_computations
from jaxmem.xla.buffers import BufferAssignment
from jaxmem.xla.hlo import Instruction, Module

_HAND_ON = frozenset(
    """get-tuple-element tuple bitcast optimization-barrier add-dependency domain while call conditional async-start
    async-update async-done copy-start copy-done all-gather-start collective-permute-start all-gather-done
    collective-permute-done all-reduce-done""".split()
)
"""Opcodes at which an operand appears again, whole or in part."""


class LiveRanges:
    """Where each value appears, and its first and last use, from the schedule.

    A value appears under several names: a tuple's element, a bitcast, what a loop carries unchanged. It ends where XLA says
    another value begins, that is at a leaf that has a logical buffer of its own.
    """

    def __init__(self, module: Module, assignment: BufferAssignment, schedule: tuple[int, ...]) -> None:
        self._module = module
        self._defined = {(buffer.instruction_id, buffer.shape_index) for buffer in assignment.buffers.values()}
        self._position = {identifier: position for position, identifier in enumerate(schedule)}
        self._received = {parameter.id for parameter in module.parameters}
        # Of each value those who hand it on, and the last moment at which any other reads it.
        self._handing_on: dict[int, list[tuple[Instruction, int]]] = {}
        self._last_read: dict[int, int] = {}
        # Of each root of a computation who runs that, and its last moment.
        self._callers: dict[int, Instruction] = {}
        self._last: dict[int, int] = {}
        self._places: dict[Leaf, list[Leaf]] = {}
        for position, identifier in enumerate(schedule):
            instruction = module.instructions[identifier]
            opcode = instruction.opcode
            self._last[module.computations[instruction.computation_id].root_id] = position
            read = position
            if opcode in _HAND_ON:
                for number, operand in enumerate(instruction.operand_ids):
                    self._handing_on.setdefault(operand, []).append((instruction, number))
                computations = sequential_computations(instruction)
                for computation in computations:
                    self._callers[module.computations[computation].root_id] = instruction
                # What a loop receives it takes over when its body begins.
                first = (self._position[instruction_order(module, computation)[0]] for computation in computations)
                read = min(first, default=position)
            if opcode not in ("get-tuple-element", "tuple"):  # their own readers count, where they hand the value on to
                for operand in instruction.operand_ids:
                    if self._last_read.get(operand, 0) < read:
                        self._last_read[operand] = read

    def is_handed_on(self, identifier: int) -> bool:
        """Whether a value of an instruction may appear elsewhere: most do not."""
        return identifier in self._handing_on or identifier in self._last

    def places(self, leaf: Leaf) -> list[Leaf]:
        """Every leaf at which the value made at ``leaf`` appears, itself first."""
        if not self.is_handed_on(leaf[0]):
            return [leaf]
        found = self._places.get(leaf)
        if found is None:
            found = self._places[leaf] = self._find_places(leaf)
        return found

    def _find_places(self, leaf: Leaf) -> list[Leaf]:
        places, seen = [leaf], {leaf}
        for place in places:
            for other in self._handed_on(place):
                if other not in seen and other not in self._defined:
                    seen.add(other)
                    places.append(other)
        return places

    def _handed_on(self, place: Leaf) -> Iterator[Leaf]:
        identifier, index = place
        module = self._module
        for user, number in self._handing_on.get(identifier, ()):
            match user.opcode:
                case "get-tuple-element" if index[:1] == (user.tuple_index,):
                    yield user.id, index[1:]
                case "tuple":
                    yield user.id, (number, *index)
                case "bitcast" | "optimization-barrier" | "add-dependency" | "domain":
                    if number == 0:
                        yield user.id, index
                case "while":
                    for computation in user.called_computation_ids:
                        yield self._parameter(computation, 0), index
                    yield user.id, index
                case "call":
                    yield self._parameter(user.called_computation_ids[0], number), index
                case "conditional" if number:
                    yield self._parameter(user.called_computation_ids[number - 1], 0), index
                case "async-start":
                    yield user.id, (0, number, *index)
                    for computation in user.called_computation_ids:
                        yield self._parameter(computation, number), index
                case "async-update":
                    yield user.id, index
                case "async-done" if index[:1] == (1,):
                    yield user.id, index[1:]
                case "copy-start":
                    yield user.id, (1, *index)
                case "copy-done" if index == (0,):
                    yield user.id, ()
                case "all-gather-start" | "collective-permute-start":
                    # The operands are the first part of its result: one of them as it is, several in a tuple.
                    yield user.id, (0, number, *index) if len(user.operand_ids) > 1 else (0, *index)
                case "all-gather-done" | "collective-permute-done" if index[:1] == (1,):
                    yield user.id, index[1:]
                case "all-reduce-done":
                    yield user.id, index
        caller = self._callers.get(identifier)
        if caller is not None:
            if caller.opcode == "async-start":
                yield caller.id, (1, *index)
            elif module.instructions[caller.id].shape.is_tuple or not index:
                yield caller.id, index

    def _parameter(self, computation_id: int, number: int) -> int:
        return next(
            identifier
            for identifier in self._module.computations[computation_id].instruction_ids
            if self._module.instructions[identifier].parameter_number == number
        )

    def of(self, leaf: Leaf) -> tuple[int, int]:
        """First and last position at which the value made at ``leaf`` is needed."""
        identifier = leaf[0]
        start = self._position.get(identifier, 0)
        end = max(start, self._last_read.get(identifier, 0))
        if identifier in self._received:
            start = 0  # the caller hands it over, wherever the schedule lists it
        for place, _ in self.places(leaf) if self.is_handed_on(identifier) else ():
            end = max(end, self._position.get(place, 0), self._last.get(place, 0), self._last_read.get(place, 0))
        return start, end
