"""The command line with a stand-in for the analysis: what it asks for, what it prints, how it ends."""

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from jaxmem.cli import COMMANDS, main
from jaxmem.errors import EnvironmentFailure, InputError, InvariantError, UsageError
from jaxmem.lowering import ProgramFacts
from jaxmem.result import (
    Boundary,
    Comparison,
    ComparisonCell,
    DeviceFacts,
    EstimateReport,
    EstimateRow,
    Fit,
    Hidden,
    LedgerRow,
    Probe,
    Report,
    Reports,
    Verdict,
    Versions,
    XlaNumbers,
    from_json,
)
from jaxmem.roles import Role
from jaxmem.unknown import Unknown

REQUIRED = 3 * 2**30


@dataclass(frozen=True, slots=True, kw_only=True)
class FakeTarget:
    text: str
    mode: str | None
    batch_size: int | None
    device: str | None
    settings: tuple[tuple[str, str], ...]
    compiler_options: tuple[tuple[str, str], ...]
    use_cache: bool
    mesh: tuple[tuple[str, int], ...] = ()
    sharding: str | None = None
    gemm: str | None = None
    measure: bool = False
    memory_fraction: float | None = None


def a_report(target: FakeTarget, *, fits: bool = True) -> Report:
    usable = REQUIRED + 100 if fits else REQUIRED - 100
    return Report(
        program=ProgramFacts(name=target.text, mode=target.mode, batch_size=target.batch_size),
        device=DeviceFacts(name=target.device or "cpu", platform="cpu", memory_bytes=usable, usable_bytes=usable),
        versions=Versions(jaxmem="0", jax="0", jaxlib="0"),
        xla=XlaNumbers(
            argument_bytes=0,
            output_bytes=0,
            alias_bytes=0,
            temp_bytes=REQUIRED,
            generated_code_bytes=0,
            reported_peak_bytes=0,
        ),
        live_peak_bytes=REQUIRED,
        reserved_bytes=REQUIRED,
        hidden=Hidden(bytes=0, reason="no opaque fusions"),
        required_bytes=REQUIRED,
        required_is_lower_bound=False,
        roles={Role.TRANSIENT: REQUIRED},
        ledger=(LedgerRow(term="all", symbol="", formula_bytes=REQUIRED, compiled_bytes=REQUIRED),),
        unexplained_bytes=0,
        verdict=Verdict(
            fits=fits, judged_bytes=REQUIRED, usable_bytes=usable, headroom_bytes=usable - REQUIRED, rule="a rule"
        ),
    )


def a_cell(target: FakeTarget, failure: BaseException | None) -> ComparisonCell:
    size = REQUIRED if failure is None else Unknown("it failed")
    return ComparisonCell(
        program=target.text,
        mode=target.mode,
        batch_size=target.batch_size,
        device=target.device or "cpu",
        required_bytes=size,
        fits=size if isinstance(size, Unknown) else True,
        usable_bytes=size,
        headroom_bytes=size,
        formula_bytes=size,
        formula_error_percent=size,
        failure=None if failure is None else str(failure),
    )


def a_fit(target: FakeTarget, *, fits: bool) -> Fit:
    report = a_report(target)
    probe = Probe(batch_size=1, required_bytes=REQUIRED, judged_bytes=REQUIRED, fits=fits)
    return Fit(
        program=report.program,
        device=report.device,
        budget_bytes=REQUIRED,
        limit_bytes=None,
        resident_bytes=0,
        margin_bytes=0,
        rule="a rule",
        asked_batch=None,
        fits=fits,
        boundary=Boundary(
            largest_batch=1 if fits else None,
            next_batch=None if fits else 1,
            multiple_of=1,
            searched_to=1,
            compiles=1,
            monotone=True,
            proof=(probe,),
            answer="An answer.",
        ),
        advised_batch=None,
        advice=(),
        donation=(),
    )


@dataclass
class FakeAnalysis:
    """Remembers what it was asked, and answers or fails as told."""

    Target: Any = FakeTarget
    fits: bool = True
    failure: BaseException | None = None
    targets: list[FakeTarget] = field(default_factory=list)
    compare_options: dict[str, Any] = field(default_factory=dict)
    questions: list[dict[str, Any]] = field(default_factory=list)
    dumps: list[tuple[str, str | None, Path | None]] = field(default_factory=list)

    def _work(self, target: FakeTarget, progress: Callable[[str, float], None]) -> None:
        self.targets.append(target)
        progress("compiling", 0.0)
        progress("compiling", 1.0)
        progress("reading", 2.0)
        if self.failure is not None:
            raise self.failure

    def analyze_target(self, target: FakeTarget, *, progress: Callable[[str, float], None]) -> Report:
        self._work(target, progress)
        return a_report(target, fits=self.fits)

    def estimate_target(self, target: FakeTarget, *, progress: Callable[[str, float], None]) -> EstimateReport:
        self._work(target, progress)
        report = a_report(target)
        row = EstimateRow(term="all", symbol="w", formula="3 GiB", bytes=REQUIRED)
        return EstimateReport(program=report.program, device=report.device, rows=(row,), total_bytes=REQUIRED)

    def analyze_dump(
        self, path: str, *, device: str | None, roles: Path | None, memory_fraction: float | None = None
    ) -> Report:
        self.dumps.append((path, device, roles))
        if self.failure is not None:
            raise self.failure
        target = FakeTarget(
            text=path,
            mode=None,
            batch_size=None,
            device=device or "cpu",
            settings=(),
            compiler_options=(),
            use_cache=True,
        )
        return a_report(target, fits=self.fits)

    def capture_target(self, target: FakeTarget, *, progress: Callable[[str, float], None]) -> Any:
        self._work(target, progress)
        return target

    def Question(self, **options: Any) -> dict[str, Any]:
        return options

    def fit_target(
        self, target: FakeTarget, question: dict[str, Any], *, progress: Callable[[str, float], None]
    ) -> Fit:
        self._work(target, progress)
        self.questions.append(question)
        return a_fit(target, fits=self.fits)

    def compare_targets(self, targets: Sequence[FakeTarget], *, on_cell: Any, **options: Any) -> Comparison:
        self.targets += targets
        self.compare_options = options
        cells = tuple(a_cell(target, self.failure) for target in targets)
        for number, cell in enumerate(cells, start=1):
            on_cell(cell, number, len(cells))
        return Comparison(cells=cells)


@pytest.fixture
def fake() -> FakeAnalysis:
    return FakeAnalysis()


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


# --- fit --------------------------------------------------------------------------------------------------------------


def test_fit_asks_about_training_and_leaves_the_batch_open(fake: FakeAnalysis) -> None:
    assert main(["fit", "vgg16", "-d", "cpu,h100-sxm"], analysis=fake) == 0
    assert [(target.mode, target.batch_size, target.device) for target in fake.targets] == [
        ("train", None, "cpu"),
        ("train", None, "h100-sxm"),
    ]
    assert fake.questions[0] == {
        "multiple_of": 1,
        "max_batch": None,
        "limit_bytes": None,
        "resident_bytes": 0,
        "margin_bytes": 0,
        "advice": True,
    }


def test_every_option_of_fit_arrives(fake: FakeAnalysis) -> None:
    line = "fit vgg16 --mode infer -b 64 --multiple-of 8 --max-batch 512 --limit 2GiB --resident 1KiB --margin 1 --no-advice -q"
    assert main(line.split(), analysis=fake) == 0
    assert [(target.mode, target.batch_size) for target in fake.targets] == [("infer", 64)]
    assert fake.questions == [
        {
            "multiple_of": 8,
            "max_batch": 512,
            "limit_bytes": 2 << 30,
            "resident_bytes": 1024,
            "margin_bytes": 1,
            "advice": False,
        }
    ]


def test_fit_ends_with_one_where_it_does_not(fake: FakeAnalysis, capsys: pytest.CaptureFixture[str]) -> None:
    fake.fits = False
    assert main(["fit", "vgg16", "-q"], analysis=fake) == 1
    assert "Largest batch: none" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["net.jaxmem", "net.json"])
def test_fit_refuses_what_is_compiled_already(
    name: str, fake: FakeAnalysis, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fit", name], analysis=fake) == 2
    assert "no other can be tried" in capsys.readouterr().err


# --- what is asked for -----------------------------------------------------------------------------------------------


def test_the_defaults_of_a_zoo_model(fake: FakeAnalysis) -> None:
    assert main(["report", "vgg16"], analysis=fake) == 0
    plain = FakeTarget(
        text="vgg16", mode="train", batch_size=32, device="cpu", settings=(), compiler_options=(), use_cache=True
    )
    assert fake.targets == [plain, replace(plain, mode="infer", batch_size=1)]


def test_every_option_arrives(fake: FakeAnalysis) -> None:
    line = (
        "report vgg16 --mode train -b 8 -d cpu --optimizer sgd --dtype mixed --image-size 64 --no-donate "
        "--remat blocks --set classes=10 --compiler-option xla_b=2 --compiler-option xla_a=x=y --no-cache -q"
    )
    assert main(line.split(), analysis=fake) == 0
    assert fake.targets == [
        FakeTarget(
            text="vgg16",
            mode="train",
            batch_size=8,
            device="cpu",
            settings=(
                ("classes", "10"),
                ("donate", "False"),
                ("dtype", "mixed"),
                ("image_size", "64"),
                ("optimizer", "sgd"),
                ("remat", "blocks"),
            ),
            compiler_options=(("xla_a", "x=y"), ("xla_b", "2")),
            use_cache=False,
        )
    ]


def test_measuring_is_asked_for(fake: FakeAnalysis) -> None:
    assert main(["report", "vgg16", "--mode", "infer", "--measure"], analysis=fake) == 0
    assert [target.measure for target in fake.targets] == [True]


def test_matrix_products_and_what_was_recorded(fake: FakeAnalysis, empty_folder: Path) -> None:
    line = "report vgg16 --mode infer -d h100-sxm --gemm both --autotune-results recorded.txt --compiler-option xla_z=1"
    assert main(line.split(), analysis=fake) == 0
    (target,) = fake.targets
    assert target.gemm == "both"
    assert target.compiler_options == (
        ("xla_gpu_load_autotune_results_from", str(empty_folder / "recorded.txt")),
        ("xla_z", "1"),
    )
    twice = f"{line} --compiler-option xla_gpu_load_autotune_results_from=other.txt"
    assert main(twice.split(), analysis=fake) == 2
    for option in ("--gemm both", "--autotune-results recorded.txt"):
        assert main(f"report saved.json {option}".split(), analysis=fake) == 2
    assert main("capture vgg16 --mode infer -o x.jaxmem --gemm both".split(), analysis=fake) == 2
    assert len(fake.targets) == 1


def test_several_devices(fake: FakeAnalysis) -> None:
    assert main(["report", "vgg16", "--devices", "8", "--sharding", "fsdp", "-d", "h100-sxm"], analysis=fake) == 0
    # The usual batch of inference is 1; each of 8 devices has one.
    assert [(t.mode, t.batch_size, t.mesh, t.sharding) for t in fake.targets] == [
        ("train", 32, (("data", 8),), "fsdp"),
        ("infer", 8, (("data", 8),), "fsdp"),
    ]


def test_a_mesh_says_how_many_devices(fake: FakeAnalysis) -> None:
    assert main(["report", "vgg16", "--mesh", "data=4", "--mode", "train"], analysis=fake) == 0
    assert main(["report", "step.py:build", "--mesh", "data=4,model=2", "--devices", "8"], analysis=fake) == 0
    zoo, own = fake.targets
    assert (zoo.mesh, zoo.sharding) == ((("data", 4),), "data")
    assert (own.mesh, own.sharding) == ((("data", 4), ("model", 2)), None)


def test_one_device_is_no_mesh(fake: FakeAnalysis) -> None:
    assert main(["report", "vgg16", "--devices", "1", "--mode", "train"], analysis=fake) == 0
    assert [(t.mesh, t.sharding) for t in fake.targets] == [((), None)]


def test_a_program_of_the_users_own(fake: FakeAnalysis) -> None:
    assert main(["report", "train.py:step", "--set", "batch_size=4", "--set", "mode=x"], analysis=fake) == 0
    (target,) = fake.targets
    assert (target.text, target.mode, target.batch_size) == ("train.py:step", None, 4)
    assert target.settings == (("mode", "x"),)


def test_a_capture_is_taken_as_it_is(fake: FakeAnalysis) -> None:
    assert main(["report", "a.jaxmem"], analysis=fake) == 0
    (target,) = fake.targets
    assert (target.mode, target.batch_size, target.device) == (None, None, None)


# --- what is printed -------------------------------------------------------------------------------------------------


def test_stdout_has_the_report_and_stderr_the_rest(fake: FakeAnalysis, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "vgg16", "--mode", "infer"], analysis=fake) == 0
    out, err = capsys.readouterr()
    assert out.startswith("vgg16 · inference · batch 1 on cpu\n")
    assert err.splitlines() == [
        "jaxmem: vgg16 · infer · batch 1 · cpu: compiling",
        "jaxmem: vgg16 · infer · batch 1 · cpu: reading",
    ]


def test_quiet(fake: FakeAnalysis, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "vgg16", "-q"], analysis=fake) == 0
    assert capsys.readouterr().err == ""


def test_json(fake: FakeAnalysis, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "vgg16", "--format", "json"], analysis=fake) == 0
    results = from_json(capsys.readouterr().out, "stdout")
    assert isinstance(results, Reports)
    assert [report.program.mode for report in results.reports] == ["train", "infer"]


def test_estimate(fake: FakeAnalysis, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["estimate", "vgg16", "--mode", "train"], analysis=fake) == 0
    assert "nothing was compiled" in capsys.readouterr().out
    assert main(["estimate", "vgg16", "--format", "json"], analysis=fake) == 0
    assert json.loads(capsys.readouterr().out)["schema"] == "jaxmem.estimate/1"


@pytest.mark.parametrize(("limit", "code", "said"), [("3GiB", 0, "below the limit"), ("3071MiB", 1, "1.00 MiB over")])
def test_an_estimate_is_held_against_a_limit(
    fake: FakeAnalysis, limit: str, code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["estimate", "vgg16", "--mode", "train", "--limit", limit], analysis=fake) == code
    assert said in " ".join(capsys.readouterr().out.split())


def test_a_file_called_json_gets_json_and_is_read_again(fake: FakeAnalysis, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "vgg16", "-o", "r.json"], analysis=fake) == 0
    assert capsys.readouterr().out == ""
    fake.failure = AssertionError("a saved report needs no analysis")
    assert main(["report", "r.json"], analysis=fake) == 0
    assert capsys.readouterr().out.count("Required") == 2
    assert main(["report", "r.json", "--limit", "1G"], analysis=fake) == 1


@pytest.mark.parametrize("command", ["report", "estimate", "compare"])
def test_a_file_called_md_gets_markdown(
    command: str, fake: FakeAnalysis, empty_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, "vgg16", "-q", "-o", "r.md"], analysis=fake) == 0
    assert main([command, "vgg16", "-q", "--format", "markdown"], analysis=fake) == 0
    text = capsys.readouterr().out
    assert "| --- |" in text
    assert (empty_folder / "r.md").read_text(encoding="utf-8") == text
    # The same from the saved answer alone.
    assert main([command, "vgg16", "-q", "-o", "r.json"], analysis=fake) == 0
    fake.failure = AssertionError("a saved answer needs no analysis")
    assert main(["report", "r.json", "--format", "markdown"], analysis=fake) == 0
    assert capsys.readouterr().out == text


@pytest.mark.parametrize("command", ["report", "estimate", "compare"])
def test_a_file_called_html_gets_a_page(command: str, fake: FakeAnalysis, empty_folder: Path) -> None:
    assert main([command, "vgg16", "-q", "-o", "r.html"], analysis=fake) == 0
    text = (empty_folder / "r.html").read_text(encoding="utf-8")
    assert text.startswith("<!DOCTYPE html>")
    # The same from the saved answer alone.
    assert main([command, "vgg16", "-q", "-o", "r.json"], analysis=fake) == 0
    fake.failure = AssertionError("a saved answer needs no analysis")
    assert main(["report", "r.json", "-q", "--format", "html", "-o", "again.html"], analysis=fake) == 0
    assert (empty_folder / "again.html").read_text(encoding="utf-8") == text


def test_a_text_file_has_no_colour(fake: FakeAnalysis, empty_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert main(["report", "vgg16", "-o", "r.txt"], analysis=fake) == 0
    assert "\x1b" not in (empty_folder / "r.txt").read_text()


def test_captures_are_named_after_the_program(
    fake: FakeAnalysis, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    saved: list[tuple[str, bool]] = []
    monkeypatch.setattr("jaxmem.capture.save", lambda capture, path, *, force: saved.append((str(path), force)))
    assert main(["capture", "vgg16"], analysis=fake) == 0
    assert capsys.readouterr().out.split() == ["vgg16-train-b32-cpu.jaxmem", "vgg16-infer-b1-cpu.jaxmem"]
    assert main(["capture", "pkg.train:step", "-o", "x.jaxmem", "--force"], analysis=fake) == 0
    assert saved[2:] == [("x.jaxmem", True)]


def test_models(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models"]) == 0
    assert "138,357,544" in capsys.readouterr().out
    assert main(["models", "--format", "json"]) == 0
    models = json.loads(capsys.readouterr().out)["models"]
    assert {"vgg16", "vgg11_bn"} <= {model["name"] for model in models}


def test_every_command_has_help(capsys: pytest.CaptureFixture[str]) -> None:
    for name, module in COMMANDS:
        assert main([name, "--help"]) == 0
        out = capsys.readouterr().out
        assert module.__doc__ is not None
        assert module.__doc__.splitlines()[0] in out


def test_no_command_shows_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "report" in err


def test_compare_is_programs_batches_modes_and_devices(fake: FakeAnalysis, capsys: pytest.CaptureFixture[str]) -> None:
    line = "compare vgg16 pkg.train:step -b 8,16 -d cpu,h100-sxm --jobs 3 --timeout 90"
    assert main(line.split(), analysis=fake) == 0
    out, err = capsys.readouterr()
    assert [(target.text, target.batch_size, target.mode, target.device) for target in fake.targets] == [
        (program, batch_size, mode, device)
        for program, modes in (("vgg16", ("train", "infer")), ("pkg.train:step", (None,)))
        for batch_size in (8, 16)
        for mode in modes
        for device in ("cpu", "h100-sxm")
    ]
    assert fake.compare_options == {"jobs": 3, "timeout": 90.0, "resident_bytes": 0, "boundary": False}
    assert err.splitlines()[0] == "jaxmem: 1 of 12: vgg16 · train · batch 8 · cpu: 3.00 GiB, fits"
    assert "12 cells" in out


def test_a_comparison_of_failures_is_done(fake: FakeAnalysis, capsys: pytest.CaptureFixture[str]) -> None:
    fake.failure = EnvironmentFailure("the compiler was killed")
    assert main("compare vgg16 --mode train -q -o table.json".split(), analysis=fake) == 0
    assert capsys.readouterr() == ("", "")
    assert main(["report", "table.json"], analysis=fake) == 0
    assert "the compiler was killed" in capsys.readouterr().out


# --- the answer is no ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("limit", "code"), [("3GiB", 0), ("3221225471", 1), ("2.9G", 1), ("4096 MiB", 0)])
def test_limit(fake: FakeAnalysis, limit: str, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "vgg16", "--mode", "infer", "--limit", limit], analysis=fake) == code
    assert ("over the limit" if code else "within the limit") in capsys.readouterr().out


def test_a_dump_is_reported_for_each_device(fake: FakeAnalysis) -> None:
    assert main(["report", "m.hlo.pb", "--roles", "r.toml", "-d", "cpu,h100-sxm"], analysis=fake) == 0
    assert fake.dumps == [("m.hlo.pb", "cpu", Path("r.toml")), ("m.hlo.pb", "h100-sxm", Path("r.toml"))]
    assert main(["report", "m.hlo.pb.gz", "--limit", "1G"], analysis=fake) == 1
    fake.fits = False
    assert main(["report", "m.hlo.pb"], analysis=fake) == 0
    assert main(["report", "m.hlo.pb", "-d", "cpu"], analysis=fake) == 1


def test_a_folder_called_like_a_model_does_not_hide_it(fake: FakeAnalysis, empty_folder: Path) -> None:
    (empty_folder / "vgg16").mkdir()
    (empty_folder / "dumped").mkdir()
    assert main(["report", "vgg16", "-q"], analysis=fake) == 0
    assert [target.text for target in fake.targets] == ["vgg16", "vgg16"]
    assert main(["report", "dumped", "-q"], analysis=fake) == 0
    assert fake.dumps == [("dumped", None, None)]


@pytest.mark.parametrize(
    ("resident", "code", "said"), [("100", 0, "Fits"), ("101", 1, "Does not fit"), ("1GiB", 1, "GiB")]
)
def test_what_else_lives_on_the_device(
    fake: FakeAnalysis, resident: str, code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["report", "vgg16", "--mode", "infer", "-d", "cpu", "--resident", resident]
    assert main([*line, "--format", "json"], analysis=fake) == code
    results = from_json(capsys.readouterr().out, "stdout")
    assert isinstance(results, Reports)
    verdict = results.reports[0].verdict
    assert verdict.headroom_bytes == 100 - verdict.resident_bytes
    assert main(line, analysis=fake) == code
    assert said in capsys.readouterr().out


def test_does_not_fit_is_an_answer_only_for_a_named_device(fake: FakeAnalysis) -> None:
    fake.fits = False
    assert main(["report", "vgg16"], analysis=fake) == 0
    assert main(["report", "vgg16", "-d", "cpu"], analysis=fake) == 1


# --- bad input -------------------------------------------------------------------------------------------------------

BAD = [
    ("reprot vgg16", 2, "There is no command 'reprot'. Did you mean report?"),
    ("xyz", 2, "Commands: report, estimate, fit, compare, diff, oom, capture, models, devices, schema."),
    ("report", 2, "required: PROGRAM"),
    ("report vgg61", 2, "There is no model called 'vgg61'. The nearest: "),
    ("report zzz", 2, "A program of your own is written package.module:attribute"),
    ("report train.py", 2, "train.py names a file but nothing in it. Write train.py:attribute"),
    ("estimate module_0.hlo.pb", 2, "module_0.hlo.pb is an XLA dump: the compiled module without its program."),
    ("fit module_0.hlo.pb.gz", 2, "Only report and diff read it"),
    ("report module_0.hlo.pb --mode train", 2, "is an XLA dump: --mode cannot change it."),
    ("report vgg16 --roles roles.toml", 2, "--roles is for XLA dumps. vgg16 is a model of the zoo"),
    ("report there.json --roles roles.toml", 2, "there.json is a saved report, which knows its arguments."),
    ("report vgg16 --devices 0", 2, "--devices: 0 is below 1"),
    ("report vgg16 --mesh 8", 2, "'8' is not of the form KEY=VALUE"),
    ("report vgg16 --mesh data=2,data=4", 2, "has an axis twice"),
    ("report vgg16 --devices 8 --mesh data=4", 2, "--mesh data=4 has 4 devices, and --devices says 8."),
    ("report vgg16 --mesh data=4,model=2", 2, "a zoo model is spread over one axis, data. Say --mesh data=8."),
    ("report vgg16 -b 12 --devices 8", 2, "The batch of 12 does not divide by 8 devices."),
    ("report vgg16 --sharding fsdp", 2, "--sharding fsdp needs several devices."),
    ("report vgg16 --sharding rows --devices 8", 2, "invalid choice: 'rows'"),
    ("report train.py:step --sharding fsdp --devices 8", 2, "--sharding divides a zoo model."),
    ("report saved.jaxmem --devices 8", 2, "is a saved capture: --devices cannot change it."),
    ("report vgg16 -b 0", 2, "-b/--batch-size: 0 is below 1"),
    ("report vgg16 -b -3", 2, "-b/--batch-size"),
    ("report vgg16 -b many", 2, "'many' is not a whole number"),
    ("report vgg16 -b 1.5", 2, "'1.5' is not a whole number"),
    ("report vgg16 --set batch_size=0", 2, "--set batch_size: 0 is below 1"),
    ("report vgg16 -b 3 --set batch_size=4", 2, "The batch size is given twice"),
    ("report vgg16 --mode test", 2, "--mode: invalid choice: 'test'"),
    ("report vgg16 --set mode=train", 2, "Write --mode train"),
    ("report a:b --mode train", 2, "--set mode=train"),
    ("report vgg16 -d gpu", 2, "There is no device 'gpu'."),
    ("report vgg16 -d cpu,", 2, "names nothing between two commas"),
    ("report vgg16 -d cpu,tpu-v99", 2, "There is no device 'tpu-v99'"),
    ("report vgg16 --limit much", 2, "--limit: 'much' is not a size. Write a number and a unit"),
    ("report vgg16 --optimizer adm", 2, "There is no optimizer called 'adm'. The nearest: adam"),
    ("report vgg16 --dtype f32", 2, "There is no dtype called 'f32'."),
    ("report vgg16 --image-size 0", 2, "--image-size: 0 is below 1"),
    ("report vgg16 --set classes", 2, "'classes' is not of the form KEY=VALUE"),
    ("report vgg16 --set a=1 --set a=2", 2, "sets a more than once"),
    ("report vgg16 --set optimizer=sgd --optimizer sgd", 2, "sets optimizer more than once"),
    ("report vgg16 --compiler-option x", 2, "'x' is not of the form KEY=VALUE"),
    ("report vgg16 --compiler-option a=1 --compiler-option a=2", 2, "--compiler-option sets a more than once"),
    ("report vgg16 --colour red", 2, "nrecognized arguments: --colour red"),
    ("report vgg16 --verb", 2, "nrecognized arguments: --verb"),
    ("report vgg16 --format yaml", 2, "invalid choice: 'yaml'"),
    ("report vgg16 -o there.txt", 2, "there.txt exists and is left as it is. Give another name, or --force"),
    ("report vgg16 -o no/such/r.txt", 2, "The folder of no/such/r.txt does not exist"),
    ("report vgg16 -o .", 2, "is a folder"),
    ("report a.jaxmem -b 3 --dtype mixed", 2, "a.jaxmem is a saved capture: -b, --dtype cannot change it"),
    ("report r.json -d cpu", 2, "r.json is a saved report: -d cannot change it"),
    ("compare", 2, "required: PROGRAM"),
    ("compare vgg16 vgg61", 2, "There is no model called 'vgg61'."),
    ("compare vgg16 -b 8,none", 2, "'none' is not a whole number"),
    ("compare vgg16 --timeout 0", 2, "0 is no time to wait"),
    ("compare vgg16 --timeout soon", 2, "'soon' is not a number"),
    ("compare vgg16 --jobs 0", 2, "--jobs: 0 is below 1"),
    ("compare vgg16 r.json", 2, "r.json is a saved report, and a table is made of programs and captures."),
    ("compare vgg16 --gemm both", 2, "invalid choice: 'both'"),
    ("compare a.jaxmem -b 8", 2, "a.jaxmem is a saved capture: -b cannot change it"),
    ("report missing.json", 3, "missing.json cannot be read: No such file"),
    ("report there.json", 3, "there.json is not complete JSON"),
    ("estimate there.json", 2, "Print it with: jaxmem report there.json"),
    ("capture a.jaxmem", 2, "a.jaxmem is a saved capture already"),
    ("capture vgg16 -o x.jaxmem", 2, "-o names one file, but there are 2 captures"),
    ("capture vgg16 --mode infer -o there.txt", 2, "there.txt exists"),
]


@pytest.mark.parametrize(("line", "code", "message"), BAD, ids=[line for line, _, _ in BAD])
def test_bad_input(
    line: str, code: int, message: str, fake: FakeAnalysis, empty_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (empty_folder / "there.txt").write_text("precious")
    (empty_folder / "there.json").write_text('{"schema": "jaxmem.rep')
    before = sorted(empty_folder.iterdir())
    assert main(line.split(), analysis=fake) == code
    out, err = capsys.readouterr()
    assert message in err
    assert err.startswith("jaxmem: ")
    assert "Traceback" not in err
    assert out == ""
    assert fake.targets == []
    assert sorted(empty_folder.iterdir()) == before
    assert (empty_folder / "there.txt").read_text() == "precious"


@pytest.mark.parametrize(
    ("failure", "code", "message"),
    [
        (UsageError("wrong option"), 2, "wrong option"),
        (InputError("no such attribute"), 3, "no such attribute"),
        (InvariantError("the sum is off by 4 B"), 4, "jaxmem capture PROGRAM"),
        (EnvironmentFailure("the compiler was killed"), 5, "the compiler was killed"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (OSError(errno.ENOSPC, "No space left on device"), 5, "No space left on device. Free some space"),
        (MemoryError(), 5, "out of memory"),
        (BrokenPipeError(), 0, None),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_failures_become_exit_codes(
    failure: BaseException,
    code: int,
    message: str | None,
    fake: FakeAnalysis,
    empty_folder: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    fake.failure = failure
    assert main(["report", "vgg16", "-q", "-o", "r.json"], analysis=fake) == code
    out, err = capsys.readouterr()
    assert (out, list(empty_folder.iterdir())) == ("", [])
    assert err == "" if message is None else message in err
    assert "Traceback" not in err


def test_an_unexpected_error_shows_its_traceback(fake: FakeAnalysis, capsys: pytest.CaptureFixture[str]) -> None:
    fake.failure = ZeroDivisionError("oh")
    assert main(["report", "vgg16"], analysis=fake) == 4
    err = capsys.readouterr().err
    assert "Traceback" in err
    assert "please report the lines above" in err


def test_force_replaces(fake: FakeAnalysis, empty_folder: Path) -> None:
    (empty_folder / "r.json").write_text("old")
    assert main(["report", "vgg16", "-o", "r.json", "--force"], analysis=fake) == 0
    assert isinstance(from_json((empty_folder / "r.json").read_text(), "r.json"), Reports)


# --- as a process ----------------------------------------------------------------------------------------------------


def test_a_closed_pipe_is_quiet() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as closed:
        done = subprocess.run(
            [sys.executable, "-m", "jaxmem", "models"], stdout=closed, stderr=subprocess.PIPE, text=True, check=False
        )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize("arguments", [["models"], ["models", "--format", "json"]])
def test_a_full_disk_on_stdout(arguments: list[str]) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "jaxmem", *arguments], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == 5
    assert (
        done.stderr
        == "jaxmem: the system refused: No space left on device. Free some space, or write somewhere else.\n"
    )
