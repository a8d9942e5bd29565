"""What is told of a worker process that died."""

from pathlib import Path

from jaxmem.compilers.process import last_words


def test_what_absl_logs_as_information_is_left_out(tmp_path: Path) -> None:
    words = tmp_path / "words"
    words.write_text(
        "WARNING: All log messages before absl::InitializeLog() is called are written to STDERR\n"
        "I0000 00:00:1795792988.828600    7311 cudart_stub.cc:31] Could not find cuda drivers on your machine\n"
        "E0000 00:00:1795792988.900000    7311 buffers.cc:7] Out of memory\n"
    )
    assert last_words(words) == "E0000 00:00:1795792988.900000    7311 buffers.cc:7] Out of memory"
    assert last_words(tmp_path / "nothing") == ""


def test_of_a_traceback_the_error_alone(tmp_path: Path) -> None:
    words = tmp_path / "words"
    words.write_text('Traceback (most recent call last):\n  File "x.py", line 1, in <module>\nValueError: too large\n')
    assert last_words(words) == "ValueError: too large"
