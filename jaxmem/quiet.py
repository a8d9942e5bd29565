"""Starting JAX without the chatter of compilers that find no device."""

import atexit
import gc
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager


def start_jax() -> None:
    """Import JAX and start its CPU backend, for a process that only traces.

    Plugins of GPUs and TPUs that are installed for their compilers look for devices and complain, in native code, that
    there are none. A platform that the user chose stays chosen.
    """
    if "jax" in sys.modules:
        return
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    with _native_stderr_held_back():
        import jax

        jax.devices()
    # What was imported lives as long as the process: it joins the oldest generation, not looked through once.
    gc.freeze()
    gc.unfreeze()
    # As the process ends all of its memory goes back; the collector would look through it once more.
    atexit.register(gc.freeze)


@contextmanager
def _native_stderr_held_back() -> Iterator[None]:
    """Keep what native code writes to stderr, and show it only if the work fails."""
    try:
        descriptor = sys.stderr.fileno()
        kept = os.dup(descriptor)
    except (AttributeError, OSError, ValueError):  # stderr is no file of the system
        yield
        return
    with tempfile.TemporaryFile() as held_back:
        sys.stderr.flush()
        os.dup2(held_back.fileno(), descriptor)
        failed = True
        try:
            yield
            failed = False
        finally:
            sys.stderr.flush()
            os.dup2(kept, descriptor)
            os.close(kept)
            if failed:
                held_back.seek(0)
                sys.stderr.write(held_back.read().decode(errors="replace"))
