"""`jaxmem capture`: where the evidence goes."""

import pytest

from fake_analysis import FakeAnalysis
from jaxmem.cli import main


def test_captures_are_named_after_the_program(
    fake: FakeAnalysis, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    saved: list[tuple[str, bool]] = []
    monkeypatch.setattr("jaxmem.capture.save", lambda capture, path, *, force: saved.append((str(path), force)))
    assert main(["capture", "vgg16"], analysis=fake) == 0
    assert capsys.readouterr().out.split() == ["vgg16-train-b32-cpu.jaxmem", "vgg16-infer-b1-cpu.jaxmem"]
    assert main(["capture", "pkg.train:step", "-o", "x.jaxmem", "--force"], analysis=fake) == 0
    assert saved[2:] == [("x.jaxmem", True)]
