"""The account as data: buffers, segments, damage."""

from dataclasses import dataclass, field
from typing import NamedTuple

from jaxmem.xla.buffers import Allocation
from jaxmem.xla.hlo import Instruction, Module

MAIN_COLORS = {"cpu": frozenset({0}), "cuda": frozenset({0, 1, 2}), "tpu": frozenset({0})}
"""Memory spaces that are the device's main memory. On CUDA the collective (1) and temp (2) spaces are device memory too."""

POINTER_BYTES = {"cpu": 8, "cuda": 8, "tpu": 4}
"""One entry of a table of pointers."""

Leaf = tuple[int, tuple[int, ...]]
"""(instruction id, shape index): where an array is found in the module."""


class Buffer(NamedTuple):
    """One value in main memory, where it lies and how long. There are many: a named tuple is made in a quarter of the time.

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
