"""`jaxmem diff`: what it takes, what it prints, how it ends."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from jaxmem.cli import main
from jaxmem.result import Diffs, Report, Reports, from_json
from reports_by_hand import KIB, buffer, report_of

GOLDEN = Path(__file__).parents[2] / "golden"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two files: the new one needs 1 KiB more than the old one's 4 KiB."""
    monkeypatch.chdir(tmp_path)
    report_of(buffer("fusion.1", 4 * KIB)).save("old.json")
    report_of(buffer("fusion.9", 5 * KIB)).save("new.json")
    return tmp_path


class FakeAnalysis:
    """Analyses nothing, and remembers what for."""

    def __init__(self, report: Report) -> None:
        self.report = report
        self.targets: list[Any] = []

    def Target(self, **options: Any) -> Any:
        return SimpleNamespace(**options)

    def analyze_target(self, target: Any, *, progress: Any) -> Report:
        self.targets.append(target)
        return self.report


def test_growth_ends_with_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["diff", "old.json", "new.json"]) == 1
    printed = capsys.readouterr()
    assert "Required 4.00 KiB → 5.00 KiB +1.00 KiB +25.0 % · no growth allowed" in printed.out
    assert printed.err == ""


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ("new.json old.json", 0),
        ("old.json old.json", 0),
        ("old.json new.json --tolerance 1KiB", 0),
        ("old.json new.json --tolerance 1023", 1),
        ("old.json new.json --tolerance 25%", 0),
        ("old.json new.json --tolerance 24.9%", 1),
        ("old.json new.json --tolerance much", 2),
        ("old.json new.json -d cpu", 2),
        ("old.json", 2),
        ("old.json gone.json", 3),
        ("old.json vgg61", 2),
    ],
)
def test_exit_codes(arguments: str, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["diff", *arguments.split()]) == code
    assert bool(capsys.readouterr().err) == (code > 1)


def test_json(folder: Path) -> None:
    assert main(["diff", "old.json", "new.json", "-o", "d.json"]) == 1
    text = (folder / "d.json").read_text()
    found = from_json(text, "d.json")
    assert isinstance(found, Diffs)
    assert found.reports[0].difference_bytes == KIB
    assert main(["diff", "old.json", "new.json", "-o", "d.json"]) == 2
    assert main(["report", "d.json"]) == 0
    assert main(["diff", "d.json", "new.json"]) == 3


def test_captures_need_no_analysis_of_programs(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [
        "diff",
        str(GOLDEN / "pools.cpu.jaxmem"),
        str(GOLDEN / "pools.h100-sxm.jaxmem"),
        "-q",
        "--format",
        "json",
    ]
    assert main(arguments) == 0
    (one,) = json.loads(capsys.readouterr().out)["reports"]
    assert one["difference_bytes"] < 0
    assert sum(row["difference_bytes"] for row in one["layers"]) == one["difference_bytes"]


def test_dumps(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    dump = GOLDEN.parent / "data" / "dumps" / "mlp_train.cpu.hlo.pb.gz"
    assert main(["diff", str(dump), str(dump), "-q"]) == 0
    assert "the same" in capsys.readouterr().out
    for name in ("a", "b"):
        (folder / "dumped").mkdir(exist_ok=True)
        (folder / "dumped" / f"module_{name}.cpu_after_optimizations.hlo.pb.gz").write_bytes(dump.read_bytes())
    assert main(["diff", "dumped", str(dump), "-q"]) == 3
    assert "holds several compiled modules" in capsys.readouterr().err


def test_a_program_is_compiled_with_the_options_given() -> None:
    fake = FakeAnalysis(report_of(buffer("fusion.1", 3 * KIB)))
    line = "diff old.json vgg16 --mode train -b 8 -d h100-sxm --remat blocks --no-cache -q"
    assert main(line.split(), analysis=fake) == 0  # pyright: ignore[reportArgumentType]
    (target,) = fake.targets
    assert (target.text, target.mode, target.batch_size, target.device) == ("vgg16", "train", 8, "h100-sxm")
    assert target.settings == (("remat", "blocks"),)


def test_options_of_programs_leave_a_capture_beside_alone() -> None:
    fake = FakeAnalysis(report_of(buffer("fusion.1", 3 * KIB)))
    line = "diff saved.jaxmem step.py:build -b 8 -d cpu -q"
    assert main(line.split(), analysis=fake) == 0  # pyright: ignore[reportArgumentType]
    assert [(target.text, target.batch_size, target.device) for target in fake.targets] == [
        ("saved.jaxmem", None, None),
        ("step.py:build", 8, "cpu"),
    ]


def test_nothing_in_common(capsys: pytest.CaptureFixture[str]) -> None:
    Reports(reports=(report_of(mode="train"), report_of(mode="infer"))).save("two.json")
    report_of(mode="decode", name="other").save("other.json")
    assert main(["diff", "two.json", "other.json"]) == 3
    assert (
        "two.json and other.json have nothing in common to compare. The old has net · train · batch 8 · cpu, "
        "net · infer · batch 8 · cpu; the new has other · decode · batch 8 · cpu." in capsys.readouterr().err
    )
