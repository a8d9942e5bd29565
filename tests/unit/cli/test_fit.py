"""`jaxmem fit`: what it asks, and how it ends."""

import pytest

from fake_analysis import FakeAnalysis
from jaxmem.cli import main


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
