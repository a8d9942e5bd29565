"""XLA's buffer assignment as data: logical buffers, the allocations they live in, and the heap simulator's traces.

What there are many of is a named tuple: it is made in a quarter of the time of a frozen dataclass.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from jaxmem.xla.hlo import ShapeIndex


class LogicalBuffer(NamedTuple):
    """One value that needs memory.

    Attributes:
        size: bytes, with the padding of its layout.
        instruction_id, shape_index: where the value is defined.
        color: memory space (0 is the device's main memory).
    """

    id: int
    size: int
    instruction_id: int
    shape_index: ShapeIndex = ()
    color: int = 0


class Assigned(NamedTuple):
    """A logical buffer's place in an allocation, in bytes."""

    buffer_id: int
    offset: int
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Allocation:
    """One piece of memory that XLA asks for.

    Attributes:
        index: XLA's number of it.
        size: bytes.
        parameter_number, parameter_shape_index: meaningful only if ``is_entry_computation_parameter``.
        maybe_live_out: may hold an output when the program ends.
        is_tuple: a table of pointers.
        assigned: the buffers that live in it, possibly at different times in the same place.
    """

    index: int
    size: int
    color: int = 0
    is_thread_local: bool = False
    is_entry_computation_parameter: bool = False
    parameter_number: int = 0
    parameter_shape_index: ShapeIndex = ()
    maybe_live_out: bool = False
    is_tuple: bool = False
    is_constant: bool = False
    is_parameter_aliased_with_output: bool = False
    assigned: tuple[Assigned, ...] = field(default=(), repr=False)

    @property
    def is_temporary(self) -> bool:
        """Whether XLA's memory statistics count it as temp (`BufferAllocation::IsPreallocatedTempBuffer`)."""
        return not (
            self.is_entry_computation_parameter or self.maybe_live_out or self.is_thread_local or self.is_constant
        )


class TraceEvent(NamedTuple):
    """One step of the heap simulator.

    Attributes:
        kind: ``alloc``, ``free`` or ``share_with``.
        buffer_id: the logical buffer that begins or ends.
        share_with_id: the buffer whose memory a ``share_with`` takes over; None for the other kinds.
    """

    kind: str
    buffer_id: int
    computation_name: str = ""
    instruction_name: str = ""
    share_with_id: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HeapTrace:
    """One run of the heap simulator.

    ``buffer_allocation_index`` is stale: XLA stamps it before it renumbers the allocations (`AddHeapTrace` and
    `CombineTempAllocations` in xla/service/buffer_assignment.cc). Match a trace to its allocation by buffer ids.
    """

    events: tuple[TraceEvent, ...] = field(repr=False)
    whole_module_simulation: bool = False
    buffer_allocation_index: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class PeakBuffers:
    """XLA's own list of buffers live at an allocation's peak. A hint: it leaves out what shares memory."""

    allocation_index: int
    buffer_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class BufferAssignment:
    """The whole assignment.

    Attributes:
        buffers: by id.
        aliases: buffer id to the other positions (instruction id, shape index) where its value appears.
        allocations: in XLA's order.
        traces: the heap simulator's; empty where the compiler dropped them.
        peak_buffers: XLA's hint.
    """

    buffers: Mapping[int, LogicalBuffer] = field(repr=False)
    aliases: Mapping[int, tuple[tuple[int, ShapeIndex], ...]] = field(repr=False)
    allocations: tuple[Allocation, ...] = field(repr=False)
    traces: tuple[HeapTrace, ...] = field(repr=False)
    peak_buffers: tuple[PeakBuffers, ...] = field(default=(), repr=False)
