"""Which reports of two files belong together."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

from jaxmem.result import Report

_KEYS: tuple[Callable[[Report], Hashable], ...] = (
    lambda one: (one.program.name, one.program.mode, one.device.name, one.device.device_count, one.program.batch_size),
    # Something was varied from one file to the other; the rest tells the reports apart.
    lambda one: (one.program.name, one.program.mode, one.device.name),
    lambda one: (one.program.name, one.program.mode),
    lambda one: (one.program.mode, one.device.name, one.device.device_count, one.program.batch_size),
    lambda one: (one.program.mode, one.device.name),
)
"""What two reports have in common, most first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairing:
    """Pairs of an old and a new report, and what has no partner."""

    pairs: tuple[tuple[Report, Report], ...]
    only_old: tuple[Report, ...]
    only_new: tuple[Report, ...]


def pair_up(old: Sequence[Report], new: Sequence[Report]) -> Pairing:
    """Find pairs: by program, mode, device and batch size; then by fewer of these, where there is no doubt.

    Where there is one report on each side, a person compares these two, whatever they are.
    """
    if len(old) == len(new) == 1:
        return Pairing(pairs=((old[0], new[0]),), only_old=(), only_new=())
    partner: dict[int, int] = {}
    for key in _KEYS:
        taken = set(partner.values())
        old_groups = _grouped(key, {place: one for place, one in enumerate(old) if place not in partner})
        new_groups = _grouped(key, {place: one for place, one in enumerate(new) if place not in taken})
        for group, places in old_groups.items():
            partners = new_groups.get(group, [])
            # Several that are alike in everything named stand in the order of the request on both sides.
            if len(places) == len(partners) and (key is _KEYS[0] or len(places) == 1):
                partner.update(zip(places, partners, strict=True))
    taken = set(partner.values())
    return Pairing(
        pairs=tuple((old[place], new[partner[place]]) for place in range(len(old)) if place in partner),
        only_old=tuple(one for place, one in enumerate(old) if place not in partner),
        only_new=tuple(one for place, one in enumerate(new) if place not in taken),
    )


def _grouped(key: Callable[[Report], Hashable], reports: dict[int, Report]) -> dict[Hashable, list[int]]:
    groups: dict[Hashable, list[int]] = {}
    for place, report in reports.items():
        groups.setdefault(key(report), []).append(place)
    return groups


def label(report: Report) -> str:
    """``vgg16 · train · batch 32 · cpu``."""
    program, device = report.program, report.device
    batch = None if program.batch_size is None else f"batch {program.batch_size}"
    place = device.name if device.device_count == 1 else f"{device.name} × {device.device_count}"
    return " · ".join(word for word in (program.name, program.mode, batch, place) if word)
