"""Results name sources without the folders of whoever ran the program."""

from dataclasses import replace
from pathlib import Path

import pytest

import jaxmem
from jaxmem.analysis import Target, estimate_target
from jaxmem.capture import load as load_capture
from jaxmem.capture import save as save_capture
from jaxmem.result import Report
from jaxmem.source_lines import short_source


def report_of(path: str | Path) -> Report:
    report = jaxmem.load(path)
    assert isinstance(report, Report)
    return report


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_what_lies_below_the_working_folder_begins_there(folder: Path) -> None:
    assert short_source(f"{folder}/nets/vgg.py:81") == "nets/vgg.py:81"
    assert short_source(f"{folder}.py:81") == f"{folder}.py:81"


@pytest.mark.parametrize("packages", ["lib/python3.11/site-packages", "lib/python3/dist-packages"])
def test_a_package_begins_with_its_name(folder: Path, packages: str) -> None:
    """An environment inside the working folder is no folder of the user's own."""
    for root in ("/usr", f"{folder}/.venv"):
        assert short_source(f"{root}/{packages}/optax/_src/update.py:42") == "optax/_src/update.py:42"
    assert short_source(r"C:\env\Lib\site-packages\optax\update.py:42") == "optax/update.py:42"


@pytest.mark.parametrize("source", ["", "net.py:10", "/elsewhere/net.py:10", "<string>:1"])
def test_nothing_else_changes(source: str) -> None:
    assert short_source(source) == source


def test_a_working_folder_that_is_gone(folder: Path) -> None:
    folder.rmdir()
    assert short_source("/elsewhere/net.py:10") == "/elsewhere/net.py:10"


def test_a_report_of_a_dump_obeys(monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorFlow lay in a folder of its user's when this dump was made."""
    dump = Path(__file__).parents[1] / "data" / "dumps" / "tensorflow"
    report = report_of(dump)
    assert "/tmp/packages/tensorflow/python/framework/ops.py:1221" in report.buffers.source
    monkeypatch.setattr("os.getcwd", lambda: "/tmp/packages")
    report = report_of(dump)
    assert "tensorflow/python/framework/ops.py:1221" in report.buffers.source


def test_so_do_an_estimate_and_a_report_of_a_capture(folder: Path) -> None:
    """A capture keeps the whole path; what is printed of it does not."""
    capture = load_capture(Path(__file__).parents[1] / "data" / "captures" / "looped.cpu.jaxmem")
    program = replace(capture.program, source=f"{folder}/nets/looped.py:20")
    save_capture(replace(capture, program=program), "looped.jaxmem")
    assert report_of("looped.jaxmem").program.source == "nets/looped.py:20"
    assert estimate_target(Target(text="looped.jaxmem")).program.source == "nets/looped.py:20"
    assert load_capture("looped.jaxmem").program.source == f"{folder}/nets/looped.py:20"
