"""Estimates laid beside the compile, program by program: what several pages are made of."""

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.records import Setting, in_words, table, this_setting, today, write
from jaxmem.analysis import Target, analyze_target
from jaxmem.units import format_bytes

Program = tuple[str, str, int, Mapping[str, str]]
"""Network, mode, batch size and settings, as ``jaxmem report`` takes them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One program on one device; bytes."""

    program: str
    device: str
    required_bytes: int
    estimate_bytes: int
    unexplained_bytes: int

    @property
    def error_percent(self) -> float:
        """Of the estimate, of what the compile requires."""
        return 100 * (self.estimate_bytes - self.required_bytes) / self.required_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """What the page is made of."""

    setting: Setting
    date: str
    rows: tuple[Row, ...]


def row_of(name: str, mode: str, batch_size: int, settings: Mapping[str, str], device: str) -> Row:
    """Compile one program, or take it from the cache, and lay the estimate beside it."""
    target = Target(text=name, mode=mode, batch_size=batch_size, device=device, settings=tuple(settings.items()))
    report = analyze_target(target)
    required, unexplained = report.required_bytes, report.unexplained_bytes
    estimate = next(each.bytes for each in report.estimates if each.name == "jaxmem")
    assert isinstance(required, int)
    assert isinstance(unexplained, int)
    assert isinstance(estimate, int)
    said = " ".join(f"--set {key}={value}" for key, value in settings.items())
    return Row(
        program=f"{name} --mode {mode} -b {batch_size} {said}",
        device=device,
        required_bytes=required,
        estimate_bytes=estimate,
        unexplained_bytes=unexplained,
    )


def page(results: Results, words: str) -> str:
    """What people read: ``words`` say what the programs are, and which command made the page."""
    rows = [
        (
            f"`{row.program}`",
            row.device,
            format_bytes(row.required_bytes),
            f"{row.error_percent:+.1f} %",
            format_bytes(row.unexplained_bytes),
        )
        for row in results.rows
    ]
    title, rest = words.split("\n", 1)
    cells = table(("jaxmem report", "device", "required", "estimate", "unexplained"), rows, left=2)
    return f"# {title}\n\n{in_words(results.setting, (results.date,))}\n\n{rest}\n\n{cells}\n"


def run(programs: Iterable[Program], devices: Iterable[str], file: Path, words: str) -> int:
    """Compile all, or take them from jaxmem's cache, and write the page."""
    programs, rows = tuple(programs), list[Row]()
    for device in devices:
        for program in programs:
            rows.append(row_of(*program, device))
            print(f"{rows[-1].program} on {device}: {rows[-1].error_percent:+.1f} %", file=sys.stderr, flush=True)
    results = Results(setting=this_setting(), date=today(), rows=tuple(rows))
    write(results, file, page(results, words))
    return 0
