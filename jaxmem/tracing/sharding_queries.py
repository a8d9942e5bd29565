"""Asking a traced array for its sharding, without a search through the whole trace.

A traced array has none, and JAX says so in an error that names the operations it came from: it looks through all that was
traced before. Flax asks each time a variable is set in part, as every dropout and every optimizer does with its counter, and
goes on without an answer. In a network of n dropouts that is n searches of a trace that grows with n.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_LOCK = threading.Lock()
_inside = 0


def _no_sharding(_: Any) -> Any:
    raise AttributeError("The 'sharding' attribute is not available on a traced array.")


@contextmanager
def answered_at_once() -> Iterator[None]:
    """Within, a traced array says that it has no sharding without saying where it came from. Nothing else changes."""
    global _inside
    # JAX has no setting for this, and its class of traced arrays is not public; without it, tracing is slower, that is all.
    try:
        from jax._src.interpreters.partial_eval import DynamicJaxprTracer as Traced
    except ImportError:
        yield
        return
    if "sharding" in vars(Traced) and not _inside:
        yield  # a version of JAX that answers by itself
        return
    with _LOCK:
        _inside += 1
        setattr(Traced, "sharding", property(_no_sharding))  # noqa: B010
    try:
        yield
    finally:
        with _LOCK:
            _inside -= 1
            if not _inside:
                delattr(Traced, "sharding")
