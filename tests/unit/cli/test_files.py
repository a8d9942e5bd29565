"""Answers in files: the form follows the name, and a saved answer is shown again without an analysis."""

from pathlib import Path

import pytest

from fake_analysis import FakeAnalysis
from jaxmem.cli import main
from jaxmem.result import (
    Reports,
    from_json,
)


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


def test_force_replaces(fake: FakeAnalysis, empty_folder: Path) -> None:
    (empty_folder / "r.json").write_text("old")
    assert main(["report", "vgg16", "-o", "r.json", "--force"], analysis=fake) == 0
    assert isinstance(from_json((empty_folder / "r.json").read_text(), "r.json"), Reports)
