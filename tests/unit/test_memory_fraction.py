"""--memory-fraction: what JAX's allocator takes of a card decides the verdict, and nothing else."""

from pathlib import Path

import pytest

import jaxmem
from jaxmem.analysis import Target, analyze_target, compare_targets
from jaxmem.cli import main
from jaxmem.devices import find_device
from jaxmem.errors import UsageError
from jaxmem.result import Report, Reports
from jaxmem.verdict import with_memory_fraction

CAPTURES = Path(__file__).parent.parent / "data" / "captures"
ON_CARD, ON_CPU = str(CAPTURES / "looped.h100-sxm.jaxmem"), str(CAPTURES / "looped.cpu.jaxmem")


def loaded(path: str | Path) -> Report:
    report = jaxmem.load(path)
    assert isinstance(report, Report)
    return report


def test_the_fraction_of_a_card_is_usable() -> None:
    card = find_device("h100-sxm", 0.5)
    assert isinstance(card.memory_bytes, int)
    assert card.usable_bytes == card.memory_bytes // 2
    assert "50%" in card.usable_source
    assert find_device("h100-sxm") == find_device("h100-sxm", None)


@pytest.mark.parametrize("name", ["cpu", "tpu-v5e"])
def test_only_a_card_has_such_an_allocator(name: str) -> None:
    assert find_device(name, 0.5) == find_device(name)


@pytest.mark.parametrize("fraction", [0.0, -1.0, 1.5, float("nan")])
def test_a_fraction_is_above_zero_and_at_most_one(fraction: float) -> None:
    with pytest.raises(UsageError, match="above 0 and at most 1"):
        find_device("h100-sxm", fraction)
    with pytest.raises(UsageError, match="above 0 and at most 1"):
        analyze_target(Target(text=ON_CARD, memory_fraction=fraction))


def test_a_capture_is_judged_by_the_fraction(tmp_path: Path) -> None:
    out = tmp_path / "half.json"
    assert main(["report", ON_CARD, "--memory-fraction", "0.5", "-o", str(out), "-q"]) == 0
    half, whole = loaded(out), loaded(ON_CARD)
    assert half.verdict.usable_bytes == half.device.usable_bytes == 42_471_489_536
    assert half.verdict.headroom_bytes == 42_471_489_536 - half.required_bytes
    assert (half.required_bytes, half.roles, half.ledger) == (whole.required_bytes, whole.roles, whole.ledger)


def test_a_saved_report_says_what_a_fresh_one_does(tmp_path: Path) -> None:
    saved, again = tmp_path / "saved.json", tmp_path / "again.json"
    fresh = tmp_path / "fresh.json"
    tiny = "1e-7"
    assert main(["report", ON_CARD, "-o", str(saved), "-q"]) == 0
    assert main(["report", str(saved), "--memory-fraction", tiny, "--resident", "1KiB", "-o", str(again), "-q"]) == 0
    assert main(["report", ON_CARD, "--memory-fraction", tiny, "--resident", "1KiB", "-o", str(fresh), "-q"]) == 0
    assert again.read_text() == fresh.read_text()
    assert not loaded(again).verdict.fits


def test_of_several_saved_reports_only_those_of_cards_change() -> None:
    reports = Reports(reports=(loaded(ON_CARD), loaded(ON_CPU)))
    on_card, on_cpu = (with_memory_fraction(report, 0.5) for report in reports.reports)
    assert on_card.verdict.usable_bytes != reports.reports[0].verdict.usable_bytes
    assert on_cpu == reports.reports[1]


def test_a_table_is_judged_by_the_fraction() -> None:
    cells = compare_targets([Target(text=ON_CARD, memory_fraction=fraction) for fraction in (None, 1e-7)], jobs=1).cells
    assert [cell.fits for cell in cells] == [True, False]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (["report", "vgg16", "-d", "cpu", "--memory-fraction", "0.5"], "cpu is none"),
        (["fit", "vgg16", "-d", "tpu-v5e", "--memory-fraction", "0.5"], "tpu-v5e is none"),
        (["report", "vgg16", "-d", "h100-sxm", "--memory-fraction", "0"], "above 0 and at most 1"),
        (["report", "vgg16", "-d", "h100-sxm", "--memory-fraction", "nan"], "above 0 and at most 1"),
        (["compare", "vgg16", "-d", "h100-sxm", "--memory-fraction", "most"], "is not a number"),
    ],
)
def test_a_fraction_that_means_nothing_is_refused(
    line: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(line) == 2
    assert said in capsys.readouterr().err


def test_a_report_of_no_card_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    saved = tmp_path / "cpu.json"
    assert main(["report", ON_CPU, "-o", str(saved), "-q"]) == 0
    assert main(["report", str(saved), "--memory-fraction", "0.5"]) == 2
    assert "no report here is of one" in capsys.readouterr().err
    assert main(["report", ON_CPU, "--memory-fraction", "0.5"]) == 2
