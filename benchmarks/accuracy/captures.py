"""The capture of a question: kept in a folder, in the cache, or compiled."""

from pathlib import Path

from benchmarks.accuracy.programs import SETTINGS, Question
from jaxmem.analysis import Target, capture_target
from jaxmem.capture import Capture, load, save


def capture_of(question: Question, captures: Path | None) -> Capture:
    """From the folder of captures where it is there, else from the cache or the compiler."""
    path = captures / file_name(question) if captures is not None else None
    if path is not None and path.exists():
        return load(path)
    capture = capture_target(target_of(question))
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        save(capture, path)
    return capture


def target_of(question: Question) -> Target:
    """What jaxmem is asked for."""
    return Target(
        text=question.network,
        mode=question.mode,
        batch_size=question.batch_size,
        device=question.device,
        settings=SETTINGS.get(question.network, ()),
    )


def file_name(question: Question) -> str:
    """What the capture of a question is called."""
    return f"{question.network}.{question.mode}.{question.batch_size}.{question.device}.jaxmem"
