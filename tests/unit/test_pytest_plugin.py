"""The plugin of pytest, run by pytest: budgets, baselines, and what is printed. Reports stand in for compiles."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import jaxmem.analysis
import jaxmem.pytest_plugin.check
import jaxmem.report.terminal
from jaxmem.errors import InputError
from jaxmem.pytest_plugin.baseline import Key, baseline_of, read, record
from jaxmem.result import Report
from jaxmem.roles import Role
from reports_by_hand import KIB, MIB, buffer, report_of

pytest_plugins = ("pytester",)

# Whatever is imported while a pytest runs within this one is forgotten after it, so all of jaxmem is imported before.

Run = Callable[..., pytest.RunResult]

TEST = """
    def test_step(device_memory):
        device_memory.check("step"{arguments})
"""


def old() -> Report:
    return report_of(
        buffer("add_fusion.1", 8 * MIB, layer="block1/conv1"),
        buffer("copy.1", MIB, role=Role.PARAMETERS, opcode="copy", start=1),
    )


def grown() -> Report:
    return report_of(
        buffer("add_fusion.7", 8 * MIB, layer="block1/conv1"),
        buffer("copy.3", MIB, role=Role.PARAMETERS, opcode="copy", start=1),
        buffer("iota.2", 2 * MIB, role=Role.CONSTANTS, opcode="iota", layer="pool", dtype="s32", start=2),
    )


@pytest.fixture
def reports(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the analysis answers, by what it is asked about; and, under ``asked``, how it was asked."""
    answers: dict[str, Any] = {"step": old(), "asked": []}

    def analyze(fn: str, *args: Any, device: str, **keywords: Any) -> Report:
        answers["asked"].append((fn, args, device, keywords))
        report = answers[fn]
        return replace(report, device=replace(report.device, name=device))

    monkeypatch.setattr("jaxmem.analysis.analyze", analyze)
    return answers


@pytest.fixture
def run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, reports: dict[str, Any]) -> Run:
    """Run pytest on one test file; ``arguments`` are those of the check."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")

    def run_pytest(*options: str, arguments: str = "", source: str = TEST) -> pytest.RunResult:
        if not list(pytester.path.glob("test_*.py")):
            pytester.makepyfile(source.format(arguments=f", {arguments}" if arguments else ""))
        return pytester.runpytest_inprocess(*options, plugins=[jaxmem.pytest_plugin])

    return run_pytest


def printed(result: pytest.RunResult) -> str:
    return result.stdout.str()


# --- budgets ----------------------------------------------------------------------------------------------------------


def test_within_the_limit(run: Run, reports: dict[str, Any]) -> None:
    result = run(arguments='1, 2, device="h100-sxm", limit="9 MiB", donate_argnums=0, name="mine"')
    result.assert_outcomes(passed=1)
    assert reports["asked"] == [("step", (1, 2), "h100-sxm", {"donate_argnums": 0, "name": "mine"})]
    assert "Without a baseline, held against its limit alone; --jaxmem-update writes one:" in printed(result)
    assert "::test_step: net train on h100-sxm, 9.00 MiB" in printed(result)


def test_over_the_limit(run: Run) -> None:
    result = run(arguments=f"limit={5 * MIB}")
    result.assert_outcomes(failed=1)
    for line in (
        "net on cpu needs 4.00 MiB more than its limit of 5.00 MiB.",
        "Required 9.00 MiB (9,437,184 B) = all of it reserved, none hidden",
        "saved activations  8.00 MiB   88.9 %  █████████████████▊",
        "8.00 MiB  saved activations  block1/conv1  f32[2097152]  add_fusion.1  net.py:10",
    ):
        assert line in printed(result)
    assert "Traceback" not in printed(result)
    assert "check.py" not in printed(result)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [('limit="much"', "'much' is not a size"), ('tolerance="-1%"', "'-1%' is no tolerance")],
)
def test_what_is_no_size(run: Run, reports: dict[str, Any], arguments: str, message: str) -> None:
    result = run(arguments=arguments)
    result.assert_outcomes(failed=1)
    assert message in printed(result)
    assert reports["asked"] == []


def test_the_report_is_handed_on(run: Run) -> None:
    source = """
        def test_step(device_memory):
            report = device_memory.check("step", limit="1 GiB")
            assert report.roles["parameters"] == 1 << 20
    """
    run(source=source).assert_outcomes(passed=1)


# --- baselines --------------------------------------------------------------------------------------------------------


def test_a_baseline_is_written_and_held(run: Run, pytester: pytest.Pytester) -> None:
    result = run("--jaxmem-update")
    result.assert_outcomes(passed=1)
    assert "Baselines written to memory_baseline.json:" in printed(result)
    (baseline,) = read(pytester.path / "memory_baseline.json")
    assert baseline.key.test.endswith(".py::test_step")
    assert (baseline.key.program, baseline.key.device, baseline.compiler) == ("net train", "cpu", "jaxlib 0.10.2")
    result = run()
    result.assert_outcomes(passed=1)
    assert "jaxmem" not in printed(result).replace("jaxmem.pytest_plugin", "")


def test_growth_fails_with_the_diff(run: Run, reports: dict[str, Any]) -> None:
    run("--jaxmem-update")
    reports["step"] = grown()
    result = run()
    result.assert_outcomes(failed=1)
    for line in (
        "net train on cpu needs more than its baseline.",
        "Required 9.00 MiB → 11.00 MiB +2.00 MiB +22.2 % · no growth allowed",
        "Most of it in pool (constants) +2.00 MiB · s32[524288] by iota.2 at net.py:10 arrived: +2.00",
        "constants           0 B   2.00 MiB   +2.00 MiB",
        "pool                 0 B   2.00 MiB   +2.00 MiB",
        "If that is meant, make it the new baseline:",
        "pytest --jaxmem-update test_growth_fails_with_the_diff.py::test_step",
    ):
        assert line in printed(result)
    assert "Traceback" not in printed(result)
    run("--jaxmem-update").assert_outcomes(passed=1)
    run().assert_outcomes(passed=1)


@pytest.mark.parametrize(
    ("arguments", "setting", "passes"),
    [
        ('tolerance="2MiB"', "0", True),
        ('tolerance="22%"', "0", False),
        ("tolerance=0", "50%", False),
        ("", "23%", True),
        ("", "1MiB", False),
    ],
)
def test_tolerance(
    run: Run, reports: dict[str, Any], pytester: pytest.Pytester, arguments: str, setting: str, passes: bool
) -> None:
    pytester.makeini(f"[pytest]\njaxmem_tolerance = {setting}\n")
    run("--jaxmem-update", arguments=arguments)
    reports["step"] = grown()
    run().assert_outcomes(passed=passes, failed=not passes)


def test_less_than_the_baseline_passes_and_is_said(run: Run, reports: dict[str, Any]) -> None:
    reports["step"] = grown()
    run("--jaxmem-update")
    reports["step"] = old()
    result = run()
    result.assert_outcomes(passed=1)
    assert "Less than the baseline; --jaxmem-update makes it the new one:" in printed(result)
    assert "::test_step: net train on cpu, 2.00 MiB less" in printed(result)


def test_limit_and_baseline_are_both_held(run: Run, reports: dict[str, Any]) -> None:
    run("--jaxmem-update", arguments='limit="10 MiB"')
    run().assert_outcomes(passed=1)
    reports["step"] = grown()
    result = run()
    result.assert_outcomes(failed=1)
    assert "needs 1.00 MiB more than its limit of 10.00 MiB." in printed(result)
    assert "needs more than its baseline." in printed(result)


def test_a_missing_baseline_says_how_to_make_one(run: Run) -> None:
    result = run()
    result.assert_outcomes(failed=1)
    assert "net train on cpu has no baseline in memory_baseline.json and no limit= to be held against." in printed(
        result
    )
    assert "pytest --jaxmem-update test_a_missing_baseline_says_how_to_make_one.py::test_step" in printed(result)


def test_another_compiler_is_no_silent_pass(run: Run, reports: dict[str, Any], pytester: pytest.Pytester) -> None:
    run("--jaxmem-update")
    reports["step"] = replace(old(), versions=replace(old().versions, jaxlib="0.11.0"))
    result = run()
    result.assert_outcomes(failed=1)
    for line in (
        "net train on cpu has no baseline for jaxlib 0.11.0; memory_baseline.json has one for jaxlib 0.10.2.",
        "Required 9.00 MiB → 9.00 MiB the same",
        "To keep a baseline of this compiler beside it:",
    ):
        assert line in printed(result)
    run("--jaxmem-update")
    run().assert_outcomes(passed=1)
    assert [one.compiler for one in read(pytester.path / "memory_baseline.json")] == ["jaxlib 0.10.2", "jaxlib 0.11.0"]


def test_another_machine_is_named(run: Run, reports: dict[str, Any], pytester: pytest.Pytester) -> None:
    run("--jaxmem-update")
    path = pytester.path / "memory_baseline.json"
    path.write_text(path.read_text().replace('"host": "', '"host": "sparc64 and '))
    reports["step"] = grown()
    assert "The baseline is of another machine (sparc64 and " in printed(run())


def test_baselines_lie_beside_the_test_whatever_the_folder_of_pytest(run: Run, pytester: pytest.Pytester) -> None:
    for folder in ("one", "two"):
        (pytester.mkdir(folder) / f"test_{folder}.py").write_text(
            "import pytest\n\nclass TestNet:\n    @pytest.mark.parametrize('n', [1, 2])\n"
            "    def test_step(self, device_memory, n):\n        device_memory.check('step')\n"
            "        device_memory.check('step')\n"
        )
    pytester.makeini("[pytest]\n")
    pytester.makepyfile("")
    run("--jaxmem-update").assert_outcomes(passed=4)
    for folder in ("one", "two"):
        baselines = read(pytester.path / folder / "memory_baseline.json")
        assert [(one.key.test, one.key.program) for one in baselines] == [
            (f"test_{folder}.py::TestNet::test_step[{n}]", program)
            for n in (1, 2)
            for program in ("net train", "net train #2")
        ]
    (pytester.path / "tox.ini").unlink()
    pytester.chdir()
    run("--rootdir", "one", "one").assert_outcomes(passed=2)


def test_a_damaged_file_is_named_and_left_alone(run: Run, pytester: pytest.Pytester) -> None:
    path = pytester.path / "memory_baseline.json"
    path.write_text("<<<<<<< HEAD\n")
    for options in ((), ("--jaxmem-update",)):
        result = run(*options)
        result.assert_outcomes(failed=1)
        assert "is not a file of baselines as this jaxmem writes it" in printed(result)
    assert path.read_text() == "<<<<<<< HEAD\n"


# --- the file ---------------------------------------------------------------------------------------------------------


def key(number: int) -> Key:
    return Key(test=f"test_a.py::test_{number}", program="net", device="cpu", device_count=1)


def test_the_file_names_no_folder_and_no_size_of_the_machine(tmp_path: Path) -> None:
    row = buffer("fusion.1", KIB, source="/home/somebody/net.py:10")
    report = report_of(row)
    report = replace(report, program=replace(report.program, source="/home/somebody/train.py:3"))
    record(tmp_path / "b.json", baseline_of(report, key(1)))
    text = (tmp_path / "b.json").read_text()
    assert "somebody" not in text
    assert "usable" not in text
    assert read(tmp_path / "b.json")[0].side("b.json").required_bytes == KIB


def test_of_many_buffers_the_largest_are_kept_and_compared(run: Run, reports: dict[str, Any]) -> None:
    """200 equal ones and a large one: none of the 151 that were not kept is told as having come."""
    rows = [buffer(f"fusion.{n}", 4 * KIB, layer=f"layer{n % 9}", start=n) for n in range(200)]
    reports["step"] = report_of(*rows, buffer("copy.1", MIB, opcode="copy", start=300))
    run("--jaxmem-update")
    reports["step"] = report_of(*rows, buffer("copy.1", 2 * MIB, opcode="copy", start=300))
    text = printed(run())
    assert "Buffers below 4.00 KiB were not kept: they are compared by role and layer only." in text
    assert text.count("arrived") == 0
    assert "grew   +1.00 MiB" in text


def test_writers_at_once_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "memory_baseline.json"
    report_of(buffer("fusion.1", KIB)).save(tmp_path / "r.json")
    code = (
        "import sys, jaxmem; from jaxmem.pytest_plugin.baseline import *\n"
        "report, path = jaxmem.load('r.json'), Path('memory_baseline.json')\n"
        "for number in range(12):\n"
        "    name = f'test_a.py::test_{sys.argv[1]}_{number}'\n"
        "    record(path, baseline_of(report, Key(test=name, program='net', device='cpu', device_count=1)))\n"
    )
    writers = [subprocess.Popen([sys.executable, "-c", code, str(number)], cwd=tmp_path) for number in range(3)]
    assert [writer.wait(60) for writer in writers] == [0, 0, 0]
    assert len(read(path)) == 36
    assert sorted(file.name for file in tmp_path.iterdir()) == ["memory_baseline.json", "r.json"]


def test_pytest_xdist(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several processes update one file, and what they have to say reaches the terminal."""
    report_of(buffer("fusion.1", KIB)).save(pytester.path / "r.json")
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    pytester.makeconftest(
        "import jaxmem, jaxmem.analysis\n"
        f"report = jaxmem.load({str(pytester.path / 'r.json')!r})\n"
        "jaxmem.analysis.analyze = lambda fn, **keywords: report\n"
    )
    pytester.makepyfile(
        "import pytest\n@pytest.mark.xdist_group('one')\n@pytest.mark.parametrize('n', range(12))\n"
        "def test_step(device_memory, n):\n    device_memory.check(None)\n"
    )
    options = ("-p", "xdist.plugin", "-p", "jaxmem.pytest_plugin")
    result = pytester.runpytest_subprocess(*options, "-n", "2", "--jaxmem-update")
    result.assert_outcomes(passed=12)
    assert printed(result).count("net train on cpu, 1.00 KiB") == 12
    assert len(read(pytester.path / "memory_baseline.json")) == 12
    # Groups change the ids of tests, and not whose baseline it is.
    pytester.runpytest_subprocess(*options, "-n", "2", "--dist", "loadgroup").assert_outcomes(passed=12)


def test_a_file_of_a_newer_jaxmem(tmp_path: Path) -> None:
    record(tmp_path / "b.json", baseline_of(report_of(buffer("fusion.1", KIB)), key(1)))
    values = json.loads((tmp_path / "b.json").read_text())
    (tmp_path / "b.json").write_text(json.dumps(values | {"schema": "jaxmem.baseline/2"}))
    with pytest.raises(InputError, match=r"expected one of 'jaxmem.baseline/1'"):
        read(tmp_path / "b.json")
    values["baselines"][0]["required_bytes"] += 1
    (tmp_path / "b.json").write_text(json.dumps(values))
    with pytest.raises(InputError, match="the account of net adds up"):
        read(tmp_path / "b.json")


def test_importing_the_plugin_imports_nothing_heavy() -> None:
    code = "import sys, jaxmem.pytest_plugin; print(*sorted(sys.modules))"
    loaded = set(
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    )
    assert "jaxmem.pytest_plugin" in loaded
    assert sorted(loaded & {"jax", "jaxlib", "flax", "numpy", "rich", "google.protobuf"}) == []
    assert sorted(name for name in loaded if name.startswith("jaxmem.") and "pytest_plugin" not in name) == []
