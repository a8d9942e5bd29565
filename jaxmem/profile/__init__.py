"""Who occupies which bytes when: XLA's buffer assignment and schedule, read as one account of main memory.

The account is the set of allocations that the runtime must make in one physical memory. At the peak each of its bytes belongs
to exactly one segment, held by a buffer or idle; the sums are checked here, where they are made.
"""

from jaxmem.profile.data import MAIN_COLORS, Buffer, Damage, Leaf, MemoryProfile, Segment
from jaxmem.profile.memory import profile_memory
from jaxmem.profile.schedule import flatten_schedule, instruction_order

__all__ = [
    "MAIN_COLORS",
    "Buffer",
    "Damage",
    "Leaf",
    "MemoryProfile",
    "Segment",
    "flatten_schedule",
    "instruction_order",
    "profile_memory",
]
