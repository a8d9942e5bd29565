"""When in the program: the moment of the peak, and what is said of the charts in words."""

from dataclasses import dataclass

from jaxmem.result import Report
from jaxmem.roles import Phase
from jaxmem.units import format_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Peak:
    """The moment at which the most is live: its position, those of the whole program, and what is live by index."""

    position: int
    length: int
    buffers: tuple[int, ...]


def peak_of(report: Report) -> Peak:
    """The peak as the report tells it; in a report without schedule, where the live ranges make it."""
    if (schedule := report.schedule) is not None:
        return Peak(position=schedule.peak_position, length=max(schedule.length, 1), buffers=schedule.live_at_peak)
    table = report.buffers
    length = max(table.end, default=0) + 1
    change = [0] * (length + 1)
    for size, start, end in zip(table.bytes, table.start, table.end, strict=True):
        change[start] += size
        change[end + 1] -= size
    live, most, position = 0, -1, 0
    for place, step in enumerate(change[:-1]):
        live += step
        if live > most:
            most, position = live, place
    return Peak(
        position=position,
        length=length,
        buffers=tuple(
            index
            for index, (start, end) in enumerate(zip(table.start, table.end, strict=True))
            if start <= position <= end
        ),
    )


def peak_in_words(report: Report) -> str:
    """A sentence that says what the memory map shows, for whoever does not see it."""
    if not report.buffers:
        return "This report has no buffers to draw."
    peak, table = peak_of(report), report.buffers
    sizes = sorted(peak.buffers, key=lambda index: -table.bytes[index])
    held = sum(table.bytes[index] for index in sizes)
    said = (
        f"The program has {peak.length:,} positions and {len(table):,} buffers. At its peak, position {peak.position:,}, "
        f"{len(sizes):,} of them hold {format_bytes(held)}."
    )
    if sizes:
        first = sizes[0]
        phase = "" if table.phase[first] is Phase.UNKNOWN else f", made in the {table.phase[first].value} pass"
        whose = f" of {table.layer[first]}" if table.layer[first] else ""
        role = table.role[first].value.replace("_", " ")
        said += f" The largest is {format_bytes(table.bytes[first])} of {role}{whose}{phase}."
    return said
