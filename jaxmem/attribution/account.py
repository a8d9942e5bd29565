"""The account by role and layer: what the segments at the peak hold, each byte under exactly one role."""

from collections.abc import Mapping
from dataclasses import dataclass

from jaxmem.attribution.rules import Attribution
from jaxmem.errors import InvariantError
from jaxmem.profile import MemoryProfile, Segment
from jaxmem.roles import Role

Key = tuple[Role, str]
"""(role, layer)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """Where every byte goes at the peak.

    Attributes:
        bytes: (role, layer) → bytes; sums to what the runtime reserves.
        held: buffer id → bytes of content it holds at the peak.
        padding: buffer id → bytes of padding it holds at the peak.
        idle: segments that nothing holds: memory that waits for a result (`outputs`), or `fragmentation`.
    """

    bytes: Mapping[Key, int]
    held: Mapping[int, int]
    padding: Mapping[int, int]
    idle: tuple[tuple[Segment, Role], ...]


def take_account(profile: MemoryProfile, attributions: Mapping[int, Attribution]) -> Account:
    """Give every byte of the account to a role and a layer.

    Padding is the tail of a buffer: what its segments hold beyond the elements themselves. Idle memory of a result is
    waiting for it; idle memory of an argument or among temporaries is fragmentation.

    Raises:
        InvariantError: the roles do not add up to what is reserved.
    """
    allocations = {allocation.index: allocation for allocation in profile.allocations}
    buffers = {buffer.id: buffer for buffer in profile.buffers}
    result_layer = {
        buffer.allocation: attributions[buffer.id].layer
        for buffer in profile.buffers
        if attributions[buffer.id].role is Role.OUTPUTS
    }
    total: dict[Key, int] = {}
    held: dict[int, int] = {}
    padding: dict[int, int] = {}
    idle: list[tuple[Segment, Role]] = []

    def add(role: Role, layer: str, size_bytes: int) -> None:
        total[role, layer] = total.get((role, layer), 0) + size_bytes

    for segment in profile.segments:
        if segment.buffer_id is None:
            allocation = allocations[segment.allocation]
            waits = allocation.maybe_live_out and not allocation.is_entry_computation_parameter
            role = Role.OUTPUTS if waits else Role.FRAGMENTATION
            add(role, result_layer.get(segment.allocation, "") if waits else "", segment.size_bytes)
            idle.append((segment, role))
            continue
        buffer, attribution = buffers[segment.buffer_id], attributions[segment.buffer_id]
        content = buffer.logical_bytes or buffer.size_bytes
        already = held.get(buffer.id, 0)
        own = min(segment.size_bytes, max(content - already, 0))
        add(attribution.role, attribution.layer, own)
        held[buffer.id] = already + own
        if segment.size_bytes > own:
            add(Role.PADDING, attribution.layer, segment.size_bytes - own)
            padding[buffer.id] = padding.get(buffer.id, 0) + segment.size_bytes - own
    if sum(total.values()) != profile.reserved_bytes:
        raise InvariantError(
            f"the roles add up to {sum(total.values())} B, but {profile.reserved_bytes} B are reserved."
        )
    return Account(bytes=total, held=held, padding=padding, idle=tuple(idle))
