"""`jaxmem report`: what it asks for, what it prints, when the answer is no."""

from dataclasses import replace
from pathlib import Path

import pytest

from fake_analysis import FakeAnalysis, FakeTarget
from jaxmem.cli import main
from jaxmem.result import (
    Reports,
    from_json,
)


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
