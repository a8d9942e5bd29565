"""How a command ends that failed on the way: exit codes, closed pipes, full disks."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fake_analysis import FakeAnalysis
from jaxmem.cli import main
from jaxmem.errors import EnvironmentFailure, InputError, InvariantError, UsageError


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
