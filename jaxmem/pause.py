"""Python's collector of reference cycles, paused while large data is built."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collecting_paused() -> Iterator[None]:
    """No search for cycles inside.

    A program of 100,000 instructions becomes millions of small objects, all of which stay: the collector would look through
    them again and again, a fifth of the time, and find nothing. What nobody refers to goes at once all the same.
    """
    was_enabled = gc.isenabled()
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
    if not gc.get_freeze_count():
        gc.freeze()
        gc.unfreeze()
