"""Reading XLA: from the bytes of a dump to plain data. Reads, never interprets, and never imports JAX."""

from jaxmem.xla.buffers import (
    Allocation,
    Assigned,
    BufferAssignment,
    HeapTrace,
    LogicalBuffer,
    PeakBuffers,
    TraceEvent,
)
from jaxmem.xla.hlo import (
    BufferDonor,
    Computation,
    Frame,
    InputOutputAlias,
    Instruction,
    Module,
    OutputOperandAliasing,
    Shape,
    ShapeIndex,
    StackFrame,
)
from jaxmem.xla.read import find_dump, read_hlo_proto

__all__ = [
    "Allocation",
    "Assigned",
    "BufferAssignment",
    "BufferDonor",
    "Computation",
    "Frame",
    "HeapTrace",
    "InputOutputAlias",
    "Instruction",
    "LogicalBuffer",
    "Module",
    "OutputOperandAliasing",
    "PeakBuffers",
    "Shape",
    "ShapeIndex",
    "StackFrame",
    "TraceEvent",
    "find_dump",
    "read_hlo_proto",
]
