"""Who occupies which bytes when: XLA's buffer assignment and schedule, read as one account of main memory.

The account is the set of allocations that the runtime must make in one physical memory. At the peak each of its bytes belongs
to exactly one segment, held by a buffer or idle; the sums are checked here, where they are made.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise

from jaxmem.errors import InvariantError
from jaxmem.xla.buffers import Allocation, BufferAssignment
from jaxmem.xla.hlo import Instruction, Module
from jaxmem.xla.replay import live_peak_bytes, replay_trace

MAIN_COLORS = {"cpu": frozenset({0}), "cuda": frozenset({0, 1, 2}), "tpu": frozenset({0})}
"""Memory spaces that are the device's main memory. On CUDA the collective (1) and temp (2) spaces are device memory too."""

POINTER_BYTES = {"cpu": 8, "cuda": 8, "tpu": 4}
"""One entry of a table of pointers."""

_CONTROL_FLOW = ("while", "conditional", "call", "async-start")

Leaf = tuple[int, tuple[int, ...]]
"""(instruction id, shape index): where an array is found in the module."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Buffer:
    """One value in main memory, where it lies and how long.

    Attributes:
        id: XLA's number of the logical buffer.
        leaf: where the value is made.
        size_bytes: what it occupies; ``logical_bytes`` its elements or pointers alone.
        start, end: first and last position in the schedule at which its bytes are taken, both included.
        allocation, offset: where it lies.
        color: XLA's number of the memory space.
    """

    id: int
    leaf: Leaf
    size_bytes: int
    logical_bytes: int
    start: int
    end: int
    allocation: int
    offset: int
    color: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """A run of bytes of one allocation at the peak: held by a buffer, or idle where ``buffer_id`` is None."""

    allocation: int
    offset: int
    size_bytes: int
    buffer_id: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Damage:
    """What no compiler leaves behind: a value without memory, or a buffer of another size than its value.

    ``size_bytes`` is by how much the assignment is wrong, always positive.
    """

    leaf: Leaf
    size_bytes: int
    what: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryProfile:
    """The account of main memory.

    Attributes:
        schedule: instruction ids in the order they run, bodies of loops and branches once, before their instruction.
        allocations: those of the account; thread-local ones are on stacks and not in it.
        buffers: every value in the account.
        elsewhere: values in other memories (on-chip, host), which are no part of the account.
        peak_position: position in the schedule at which the most is live.
        live_at_peak: ids of the buffers that hold bytes at the peak.
        segments: every byte of every allocation at the peak.
        live_peak_bytes: the heap trace replayed: without gaps between buffers.
        reserved_bytes: what the runtime allocates.
        damage: where the assignment contradicts the module; empty for every assignment as a compiler wrote it.
    """

    module: Module = field(repr=False)
    schedule: tuple[int, ...] = field(repr=False)
    allocations: tuple[Allocation, ...] = field(repr=False)
    buffers: tuple[Buffer, ...] = field(repr=False)
    elsewhere: tuple[Buffer, ...] = field(repr=False)
    peak_position: int
    live_at_peak: frozenset[int] = field(repr=False)
    segments: tuple[Segment, ...] = field(repr=False)
    live_peak_bytes: int
    reserved_bytes: int
    damage: tuple[Damage, ...] = field(repr=False)

    def instruction(self, buffer: Buffer) -> Instruction:
        """The instruction that makes a buffer's value."""
        return self.module.instructions[buffer.leaf[0]]

    def timeline(self) -> tuple[int, ...]:
        """Bytes taken by live buffers at every position of the schedule."""
        change = [0] * (len(self.schedule) + 1)
        for buffer in self.buffers:
            change[buffer.start] += buffer.size_bytes
            change[buffer.end + 1] -= buffer.size_bytes
        live, timeline = 0, []
        for step in change[:-1]:
            live += step
            timeline.append(live)
        return tuple(timeline)


def profile_memory(module: Module, assignment: BufferAssignment, *, platform: str) -> MemoryProfile:
    """Read the account of main memory out of a buffer assignment.

    Args:
        module: the compiled and scheduled module.
        assignment: its buffer assignment, with heap traces.
        platform: ``cpu``, ``cuda`` or ``tpu``; decides which memory spaces are main memory.

    Raises:
        InvariantError: segments do not add up to the allocations.
    """
    colors = MAIN_COLORS[platform]
    schedule = flatten_schedule(module)
    allocations = tuple(
        allocation
        for allocation in assignment.allocations
        if allocation.color in colors and not allocation.is_thread_local
    )
    pointers = POINTER_BYTES[platform]
    ranges = _LiveRanges(module, assignment, schedule)
    buffers = {buffer.id: buffer for buffer in _place(module, assignment, allocations, ranges, schedule, pointers)}
    others = [
        allocation
        for allocation in assignment.allocations
        if allocation.color not in colors and not allocation.is_thread_local
    ]
    traced, peak_position = _traced_at_peak(module, assignment, buffers, schedule)
    live = frozenset(
        traced[0] | {b.id for b in buffers.values() if b.id not in traced[1] and b.start <= peak_position <= b.end}
    )
    by_allocation: dict[int, list[Buffer]] = {}
    for identifier in live:
        by_allocation.setdefault(buffers[identifier].allocation, []).append(buffers[identifier])
    segments = tuple(
        segment
        for allocation in allocations
        for segment in _segments(allocation, by_allocation.get(allocation.index, []))
    )
    reserved = sum(allocation.size for allocation in allocations)
    if sum(segment.size_bytes for segment in segments) != reserved:
        raise InvariantError("the segments at the peak do not add up to the allocations.")
    return MemoryProfile(
        module=module,
        schedule=schedule,
        allocations=allocations,
        buffers=tuple(buffers.values()),
        elsewhere=tuple(_place(module, assignment, others, ranges, schedule, pointers)),
        peak_position=peak_position,
        live_at_peak=frozenset(segment.buffer_id for segment in segments if segment.buffer_id is not None),
        segments=segments,
        live_peak_bytes=live_peak_bytes(assignment, colors),
        reserved_bytes=reserved,
        damage=(
            *_without_memory(module, assignment, schedule, ranges),
            *_of_wrong_size(module, assignment, pointers, platform),
        ),
    )


def _place(
    module: Module,
    assignment: BufferAssignment,
    allocations: Iterable[Allocation],
    ranges: "_LiveRanges",
    schedule: tuple[int, ...],
    pointer_bytes: int,
) -> Iterator[Buffer]:
    """The values assigned to some allocations, with their live ranges."""
    for allocation in allocations:
        held_by_caller = (
            allocation.is_entry_computation_parameter and not allocation.is_parameter_aliased_with_output
        ) or allocation.is_constant
        for assigned in allocation.assigned:
            logical = assignment.buffers[assigned.buffer_id]
            leaf = (logical.instruction_id, logical.shape_index)
            start, end = (0, max(len(schedule) - 1, 0)) if held_by_caller else ranges.of(leaf)
            shape = module.instructions[logical.instruction_id].shape.subshape(logical.shape_index)
            yield Buffer(
                id=assigned.buffer_id,
                leaf=leaf,
                size_bytes=assigned.size,
                logical_bytes=len(shape.tuple_shapes) * pointer_bytes if shape.is_tuple else shape.logical_bytes,
                start=start,
                end=end,
                allocation=allocation.index,
                offset=assigned.offset,
                color=allocation.color,
            )


def flatten_schedule(module: Module) -> tuple[int, ...]:
    """Instruction ids in the order in which they run; the body of a loop or branch stands once, before its instruction."""
    flat: list[int] = []
    stack: list[Iterator[int]] = [iter(instruction_order(module, module.entry_computation_id))]
    waiting: list[int] = []
    while stack:
        identifier = next(stack[-1], None)
        if identifier is None:
            stack.pop()
            if waiting:
                flat.append(waiting.pop())
            continue
        inner = [
            inner_id
            for computation in _sequential_computations(module.instructions[identifier])
            for inner_id in instruction_order(module, computation)
        ]
        if inner:
            waiting.append(identifier)
            stack.append(iter(inner))
        else:
            flat.append(identifier)
    return tuple(flat)


def instruction_order(module: Module, computation_id: int) -> tuple[int, ...]:
    """The schedule of a computation, or the order of the module where there is none (inside fusions)."""
    return module.schedule.get(computation_id) or module.computations[computation_id].instruction_ids


def _sequential_computations(instruction: Instruction) -> tuple[int, ...]:
    return instruction.called_computation_ids if instruction.opcode in _CONTROL_FLOW else ()


class _LiveRanges:
    """Where each value appears, and its first and last use, from the schedule.

    A value appears under several names: a tuple's element, a bitcast, what a loop carries unchanged. It ends where XLA says
    another value begins, that is at a leaf that has a logical buffer of its own.
    """

    def __init__(self, module: Module, assignment: BufferAssignment, schedule: tuple[int, ...]) -> None:
        self._module = module
        self._defined = {(buffer.instruction_id, buffer.shape_index) for buffer in assignment.buffers.values()}
        self._position = {identifier: position for position, identifier in enumerate(schedule)}
        self._received = {parameter.id for parameter in module.parameters}
        self._users: dict[int, list[tuple[Instruction, int]]] = {}
        self._last: dict[int, int] = {}
        self._first_inside: dict[int, int] = {}
        self._callers: dict[int, Instruction] = {}
        for identifier in schedule:
            instruction = module.instructions[identifier]
            for number, operand in enumerate(instruction.operand_ids):
                self._users.setdefault(operand, []).append((instruction, number))
            position = self._position[identifier]
            self._last[instruction.computation_id] = max(self._last.get(instruction.computation_id, 0), position)
            computations = _sequential_computations(instruction)
            for computation in computations:
                self._callers[computation] = instruction
            if computations:
                self._first_inside[identifier] = min(
                    self._position[instruction_order(module, computation)[0]] for computation in computations
                )

    def places(self, leaf: Leaf) -> list[Leaf]:
        """Every leaf at which the value made at ``leaf`` appears, itself first."""
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
        for user, number in self._users.get(identifier, ()):
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
        instruction = module.instructions[identifier]
        caller = self._callers.get(instruction.computation_id)
        if caller is not None and module.computations[instruction.computation_id].root_id == identifier:
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
        start = end = self._position.get(leaf[0], 0)
        if leaf[0] in self._received:
            start = 0  # the caller hands it over, wherever the schedule lists it
        for identifier, _ in self.places(leaf):
            end = max(end, self._position.get(identifier, 0))
            instruction = self._module.instructions[identifier]
            if self._module.computations[instruction.computation_id].root_id == identifier:
                end = max(end, self._last.get(instruction.computation_id, end))
            for user, _number in self._users.get(identifier, ()):
                if user.opcode in ("get-tuple-element", "tuple"):
                    continue  # its own readers count, at the place it hands the value on to
                # What a loop receives it takes over when its body begins.
                end = max(end, self._first_inside.get(user.id, self._position[user.id]))
        return start, end


def _traced_at_peak(
    module: Module, assignment: BufferAssignment, buffers: Mapping[int, Buffer], schedule: tuple[int, ...]
) -> tuple[tuple[frozenset[int], frozenset[int]], int]:
    """((live at the peak, all) of the buffers that the largest heap trace of main memory speaks of, position of the peak)."""
    by_name = {instruction.name: instruction.id for instruction in module.instructions.values()}
    position = {identifier: place for place, identifier in enumerate(schedule)}
    best = None
    for trace in assignment.traces:
        mentioned = frozenset(event.buffer_id for event in trace.events)
        if mentioned and mentioned <= buffers.keys():
            replay = replay_trace(trace, assignment.buffers)
            if best is None or replay.peak_bytes > best[0].peak_bytes:
                best = (replay, trace, mentioned)
    if best is None or best[0].peak_event is None:
        return (frozenset(), frozenset()), max(len(schedule) - 1, 0)
    replay, trace, mentioned = best
    assert replay.peak_event is not None
    event = trace.events[replay.peak_event]
    peak = position.get(by_name.get(event.instruction_name, -1), buffers[event.buffer_id].start)
    return (frozenset(occupant for _, occupant in replay.live_at_peak), mentioned), peak


def _segments(allocation: Allocation, live: list[Buffer]) -> Iterator[Segment]:
    """Cut an allocation at the peak into runs of one holder each.

    Where two live buffers share bytes, one was written over the other in place: the later one holds them.
    """
    borders = sorted(
        {0, allocation.size}
        | {min(buffer.offset, allocation.size) for buffer in live}
        | {min(buffer.offset + buffer.size_bytes, allocation.size) for buffer in live}
    )
    starting = sorted(live, key=lambda buffer: buffer.offset)
    open_buffers: list[Buffer] = []
    taken = 0
    previous: Segment | None = None
    for low, high in pairwise(borders):
        open_buffers = [buffer for buffer in open_buffers if buffer.offset + buffer.size_bytes > low]
        while taken < len(starting) and starting[taken].offset <= low:
            if starting[taken].offset + starting[taken].size_bytes > low:
                open_buffers.append(starting[taken])
            taken += 1
        holder = max(open_buffers, key=lambda buffer: (buffer.start, buffer.id), default=None)
        segment = Segment(
            allocation=allocation.index,
            offset=low,
            size_bytes=high - low,
            buffer_id=holder.id if holder is not None else None,
        )
        if previous is not None and previous.buffer_id == segment.buffer_id:
            segment = Segment(
                allocation=allocation.index,
                offset=previous.offset,
                size_bytes=previous.size_bytes + segment.size_bytes,
                buffer_id=segment.buffer_id,
            )
        elif previous is not None:
            yield previous
        previous = segment
    if previous is not None:
        yield previous


def _without_memory(
    module: Module, assignment: BufferAssignment, schedule: tuple[int, ...], ranges: _LiveRanges
) -> Iterator[Damage]:
    """Values that scheduled instructions make, and tables of pointers, that are in no allocation."""
    covered: set[Leaf] = set()
    placed = {assigned.buffer_id for allocation in assignment.allocations for assigned in allocation.assigned}
    for identifier in placed:
        logical = assignment.buffers[identifier]
        covered.update(ranges.places((logical.instruction_id, logical.shape_index)))
    found = {
        (identifier, index): shape.logical_bytes
        for identifier in schedule
        for index, shape in module.instructions[identifier].shape.leaves()
        if shape.logical_bytes and (identifier, index) not in covered
    }
    for logical in assignment.buffers.values():
        if logical.id not in placed and logical.size:
            found[logical.instruction_id, logical.shape_index] = logical.size
    for leaf, size_bytes in found.items():
        yield Damage(leaf=leaf, size_bytes=size_bytes, what="no memory")


def _of_wrong_size(module: Module, assignment: BufferAssignment, pointer_bytes: int, platform: str) -> Iterator[Damage]:
    """Buffers whose size is not that of their value: its elements, or what a tiled layout makes of them."""
    for allocation in assignment.allocations:
        for assigned in allocation.assigned:
            logical = assignment.buffers[assigned.buffer_id]
            shape = module.instructions[logical.instruction_id].shape.subshape(logical.shape_index)
            content = len(shape.tuple_shapes) * pointer_bytes if shape.is_tuple else shape.logical_bytes
            # Layouts without tiles add nothing, but for whole granules on a TPU, and opaque values have a size of their own.
            exact = content and not shape.tiles and not shape.is_tuple and platform != "tpu"
            wrong = max(abs(assigned.size - logical.size), content - assigned.size)
            if exact:
                wrong = max(wrong, assigned.size - content)
            if wrong > 0:
                leaf = (logical.instruction_id, logical.shape_index)
                yield Damage(leaf=leaf, size_bytes=wrong, what="another size than its value")
