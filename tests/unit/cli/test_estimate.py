"""`jaxmem estimate`: the formula alone, held against a limit."""

import json

import pytest

from fake_analysis import FakeAnalysis
from jaxmem.cli import main


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
