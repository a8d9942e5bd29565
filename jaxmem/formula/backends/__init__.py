"""What each of XLA's backends adds to a program of its own accord: copies, index maps, zeros."""

from collections.abc import Callable, Mapping

from jaxmem.formula.backends.cpu import add_cpu
from jaxmem.formula.backends.cuda import add_cuda
from jaxmem.formula.plan import Plan

ADDITIONS: Mapping[str, Callable[[Plan], None]] = {"cpu": add_cpu, "cuda": add_cuda}
"""Platform → what puts its arrays into a plan."""

__all__ = ["ADDITIONS"]
