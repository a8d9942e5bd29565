"""The differences between two sides: by role and layer, where the sums close, and buffer by buffer."""

from collections.abc import Iterable

from jaxmem.difference.matching import Match, match_buffers
from jaxmem.difference.side import Account, Side
from jaxmem.difference.tolerance import NO_GROWTH, Tolerance
from jaxmem.result import BufferChange, Diff, LayerChange, RoleChange
from jaxmem.result.diff import Change
from jaxmem.roles import Role
from jaxmem.units import format_bytes


def changes(old: Side, new: Side, *, tolerance: Tolerance = NO_GROWTH) -> Diff:
    """What changed from one side to the other.

    Args:
        tolerance: by how much the new side may need more.

    Raises:
        InvariantError: the differences by role or by layer do not add up to that of what is required.
    """
    difference_bytes = new.required_bytes - old.required_bytes
    allowed_bytes = tolerance.allowed_bytes(old.required_bytes)
    everything = set(old.account) | set(new.account)
    matches = list(match_buffers(old, new))
    changed = [
        change for match in matches if (change := _buffer_change(match, old, new)) is not None
    ]  # as many as there are buffers, at most
    return Diff(
        old=old.facts,
        new=new.facts,
        difference_bytes=difference_bytes,
        allowed_bytes=allowed_bytes,
        exceeded=difference_bytes > allowed_bytes,
        roles=_role_changes(everything, old.account, new.account),
        layers=_layer_changes(everything, old.account, new.account),
        buffers=tuple(sorted(changed, key=lambda one: (-abs(one.difference_bytes), one.row.layer, one.row.start))),
        unchanged_buffers=sum(_is_unchanged(match) for match in matches),
        notes=_notes(old, new),
    )


def _role_changes(keys: Iterable[tuple[Role, str]], old: Account, new: Account) -> tuple[RoleChange, ...]:
    sums: dict[Role, list[int]] = {}
    for key in keys:
        pair = sums.setdefault(key[0], [0, 0])
        pair[0] += old.get(key, 0)
        pair[1] += new.get(key, 0)
    order = {role: place for place, role in enumerate(Role)}
    rows = [
        RoleChange(role=role, old_bytes=before, new_bytes=after, difference_bytes=after - before)
        for role, (before, after) in sums.items()
        if before or after
    ]
    return tuple(sorted(rows, key=lambda row: (-abs(row.difference_bytes), -row.new_bytes, order[row.role])))


def _layer_changes(keys: Iterable[tuple[Role, str]], old: Account, new: Account) -> tuple[LayerChange, ...]:
    by_layer: dict[str, list[tuple[Role, str]]] = {}
    for key in keys:
        by_layer.setdefault(key[1], []).append(key)
    rows = []
    for layer, own in by_layer.items():
        before, after = (sum(account.get(key, 0) for key in own) for account in (old, new))
        roles = tuple(row for row in _role_changes(own, old, new) if row.difference_bytes)
        if before or after:
            rows.append(
                LayerChange(
                    layer=layer, old_bytes=before, new_bytes=after, difference_bytes=after - before, roles=roles
                )
            )
    return tuple(sorted(rows, key=lambda row: (-abs(row.difference_bytes), -row.new_bytes, row.layer)))


def _buffer_change(match: Match, old: Side, new: Side) -> BufferChange | None:
    """The row of a pair; None where it takes the same at both peaks, or where one side would not have kept it."""
    first, second = match
    before = first.row.bytes if first is not None and first.at_peak else 0
    after = second.row.bytes if second is not None and second.at_peak else 0
    if before == after:
        return None
    if (first is None and after < old.kept_from_bytes) or (second is None and before < new.kept_from_bytes):
        return None
    change: Change
    if before and after:
        change = "grew" if after > before else "shrank"
    elif before:
        change = "gone" if second is None and new.kept_from_bytes == 0 else "left"
    else:
        change = "new" if first is None and old.kept_from_bytes == 0 else "arrived"
    return BufferChange(
        change=change,
        old_bytes=before,
        new_bytes=after,
        difference_bytes=after - before,
        old=None if first is None else first.row,
        new=None if second is None else second.row,
    )


def _is_unchanged(match: Match) -> bool:
    first, second = match
    return (
        first is not None
        and second is not None
        and first.at_peak
        and second.at_peak
        and first.row.bytes == second.row.bytes
    )


def _notes(old: Side, new: Side) -> tuple[str, ...]:
    notes = []
    if old.required_is_lower_bound != new.required_is_lower_bound:
        known, unknown = (new, old) if old.required_is_lower_bound else (old, new)
        notes.append(
            f"What is hidden from the compiler is known for {known.device.name} only, and not for {unknown.device.name}: "
            "the difference contains it on one side."
        )
    kept = max(old.kept_from_bytes, new.kept_from_bytes)
    if kept > 1:
        notes.append(f"Buffers below {format_bytes(kept)} were not kept: they are compared by role and layer only.")
    return tuple(notes)
