"""The collector of cycles: paused, then told that what was built stays."""

import gc
from collections.abc import Iterator
from weakref import finalize

import pytest

from jaxmem import pause
from jaxmem.pause import collecting_paused


@pytest.fixture(autouse=True)
def nothing_frozen() -> Iterator[None]:
    gc.unfreeze()
    yield
    gc.unfreeze()


def test_paused_inside_and_on_again_outside():
    with collecting_paused():
        assert not gc.isenabled()
        with collecting_paused():
            pass
        assert not gc.isenabled()  # the outer one goes on
    assert gc.isenabled()


def test_what_was_built_is_of_the_oldest_generation():
    with collecting_paused():
        built = [[number] for number in range(100)]
    oldest = {id(each) for each in gc.get_objects(generation=2)}
    assert all(id(each) in oldest for each in built)


def test_what_somebody_froze_stays_frozen():
    gc.freeze()
    frozen = gc.get_freeze_count()
    with collecting_paused():
        pass
    assert gc.get_freeze_count() == frozen > 0


def test_garbage_of_earlier_pauses_is_found(monkeypatch: pytest.MonkeyPatch):
    """A process that read thousands of damaged captures, one after another, grew by a quarter of a MiB with each."""
    monkeypatch.setattr(pause, "MOST_UNSEEN", 1000)
    monkeypatch.setattr(pause, "_unseen", 0)
    gone: list[int] = []
    for number in range(20):
        with collecting_paused():
            circle: list[object] = [[place] for place in range(200)]
            circle.append(circle)
            kept = Kept()
            circle.append(kept)
            finalize(kept, gone.append, number)
        del circle, kept
    assert len(gone) >= 10


class Kept:
    """Something that tells when it goes."""
