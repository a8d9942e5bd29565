"""What each of XLA's backends adds to a program of its own accord: copies, index maps, zeros, tiles."""

from collections.abc import Callable, Mapping

from jaxmem.formula.backends.cpu import add_cpu
from jaxmem.formula.backends.cuda import add_cuda
from jaxmem.formula.backends.tpu import add_tpu
from jaxmem.formula.plan import Plan

ADDITIONS: Mapping[str, Callable[[Plan], None]] = {"cpu": add_cpu, "cuda": add_cuda, "tpu": add_tpu}
"""Platform → what puts its arrays into a plan."""

__all__ = ["ADDITIONS"]
