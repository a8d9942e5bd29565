"""The formula against the compile where a program has loops: micro-batches added up, layers in a scan.

    python -m benchmarks.loops               # an H100 and the processor; compiles come from jaxmem's cache

Needs a GPU's compiler: ``pip install "jaxmem[cuda]"``. The networks of `benchmarks.accuracy` have no loops.
"""

import sys
from dataclasses import dataclass

from benchmarks.records import RESULTS, Setting, in_words, table, this_setting, today, write
from jaxmem.analysis import Target, analyze_target
from jaxmem.units import format_bytes

FILE = RESULTS / "loops.json"

PROGRAMS: tuple[tuple[str, str, int, dict[str, str]], ...] = (
    ("vgg16", "train", 32, {"accumulate": "4"}),
    ("resnet50", "train", 32, {"accumulate": "4"}),
    ("mobilenet_v2", "train", 32, {"accumulate": "2"}),
    ("gpt2", "train", 8, {"accumulate": "4"}),
    ("llama3_1b", "train", 2, {"scan": "True", "sequence_length": "1024"}),
    ("llama3_1b", "train", 2, {"scan": "True", "sequence_length": "1024", "remat": "blocks"}),
    ("llama3_1b", "train", 2, {"scan": "True", "sequence_length": "1024", "remat": "blocks", "dtype": "mixed"}),
    ("llama3_1b", "infer", 2, {"scan": "True", "sequence_length": "1024"}),
)
"""Network, mode, batch size and settings, as ``jaxmem report`` takes them."""
DEVICES = ("h100-sxm", "cpu")


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


def row_of(name: str, mode: str, batch_size: int, settings: dict[str, str], device: str) -> Row:
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


def page(results: Results) -> str:
    """What people read."""
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
    cells = table(("jaxmem report", "device", "required", "estimate", "unexplained"), rows, left=2)
    return (
        f"# Programs with loops\n\n{in_words(results.setting, (results.date,))}\n\n"
        "`python -m benchmarks.loops` makes this page. *Estimate*: by how much the formula is off, in percent of what the\n"
        "compile requires. Gradients of several micro-batches are added up in a loop; layers in a scan keep what the backward\n"
        f"pass needs in stacks.\n\n{cells}\n"
    )


def main() -> int:
    """Compile all, and write the page."""
    rows: list[Row] = []
    for device in DEVICES:
        for program in PROGRAMS:
            rows.append(row_of(*program, device))
            print(f"{rows[-1].program} on {device}: {rows[-1].error_percent:+.1f} %", file=sys.stderr, flush=True)
    results = Results(setting=this_setting(), date=today(), rows=tuple(rows))
    write(results, FILE, page(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
