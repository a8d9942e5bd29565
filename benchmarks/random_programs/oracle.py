"""The peak and the account once more, from the dump's own messages, by definition and without any of jaxmem's arithmetic.

Slow on purpose: after every event the live set is made anew from the beginning, and memory is painted byte by byte.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

from jaxmem.xla.schema import MESSAGES

ALLOC, FREE, SHARE = 0, 1, 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """What the dump says of some memory spaces.

    Attributes:
        reserved_bytes: of all allocations that are not thread-local.
        static_bytes: live all the time, each allocation with its largest buffer.
        curves: of each trace the bytes live after every event.
        live_at_peak: of each trace the buffers whose memory is taken where its curve is highest first.
    """

    reserved_bytes: int
    static_bytes: int
    curves: tuple[tuple[int, ...], ...]
    live_at_peak: tuple[frozenset[int], ...]

    @property
    def live_peak_bytes(self) -> int:
        """The highest of all curves on top of what is always there."""
        return self.static_bytes + max((max(curve) for curve in self.curves if curve), default=0)


def count(hlo_proto: bytes, colors: Collection[int]) -> Counted:
    """Count memory spaces that are one physical memory."""
    assignment = MESSAGES["HloProto"].FromString(hlo_proto).buffer_assignment
    size = {buffer.id: buffer.size for buffer in assignment.logical_buffers}
    color = {buffer.id: buffer.color for buffer in assignment.logical_buffers}
    reserved = static = 0
    for allocation in assignment.buffer_allocations:
        if allocation.is_thread_local or allocation.color not in colors:
            continue
        reserved += allocation.size
        if allocation.is_entry_computation_parameter or allocation.is_constant or allocation.maybe_live_out:
            static += max([size[entry.logical_buffer_id] for entry in allocation.assigned] or [0])
    curves, live = [], []
    for trace in assignment.heap_simulator_traces:
        events = [(event.kind, event.buffer_id, event.share_with_canonical_id) for event in trace.events]
        if not events or color[events[0][1]] not in colors:
            continue
        owners = [_owners(events[: end + 1]) for end in range(len(events))]
        curve = tuple(sum(size[owner] for owner in set(each.values())) for each in owners)
        curves.append(curve)
        live.append(frozenset(owners[curve.index(max(curve))].values()) if max(curve) else frozenset())
    return Counted(reserved_bytes=reserved, static_bytes=static, curves=tuple(curves), live_at_peak=tuple(live))


def _owners(events: Iterable[tuple[int, int, int]]) -> dict[int, int]:
    """Live buffer → the buffer whose memory it is in."""
    owner: dict[int, int] = {}
    for kind, buffer, other in events:
        if kind == FREE:
            del owner[buffer]
        else:
            owner[buffer] = buffer if kind == ALLOC else owner.get(other, other)
    return owner


def paint(allocations: Iterable[Any], live: Iterable[Any]) -> dict[int, int]:
    """Buffer id → bytes that it holds, with None's share under -1: each byte is the latest buffer's that lies over it.

    ``allocations`` have index and size; ``live`` buffers have id, allocation, offset, size_bytes and start.
    """
    painted: dict[int, list[int]] = {allocation.index: [-1] * allocation.size for allocation in allocations}
    for buffer in sorted(live, key=lambda each: (each.start, each.id)):
        for place in range(buffer.offset, buffer.offset + buffer.size_bytes):
            painted[buffer.allocation][place] = buffer.id
    held: dict[int, int] = {}
    for column in painted.values():
        for holder in column:
            held[holder] = held.get(holder, 0) + 1
    return held
