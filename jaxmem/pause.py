"""Python's collector of reference cycles, paused while large data is built."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

MOST_UNSEEN = 500_000
"""So many objects may have been built and counted as old since the collector looked through all: some 150 MiB, if they are
garbage by now. A process that reads one program after another would else keep what each leaves."""

_unseen = 0


@contextmanager
def collecting_paused() -> Iterator[None]:
    """No search for cycles inside.

    A program of 100,000 instructions becomes millions of small objects, all of which stay: the collector would look through
    them again and again, a fifth of the time, and find nothing. What nobody refers to goes at once all the same.
    """
    was_enabled = gc.isenabled()
    if was_enabled and _unseen > MOST_UNSEEN:
        _look_through_all()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            _count_as_old()
            gc.enable()


def _count_as_old() -> None:
    """All objects join the oldest generation without being looked at: the collector would else begin with them all.

    Nothing moves where somebody keeps frozen objects, which this would thaw.
    """
    global _unseen
    if not gc.get_freeze_count():
        _unseen += gc.get_count()[0]  # all that was built while it was off, less what is gone
        gc.freeze()
        gc.unfreeze()


def _look_through_all() -> None:
    """By itself the collector comes to the oldest generation when enough has passed through the younger ones, which this does
    not."""
    global _unseen
    gc.collect()
    _unseen = 0
