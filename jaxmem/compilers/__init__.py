"""Lowering and device in, capture out. Every compile happens in a worker process; the user's own JAX is not touched."""

from jaxmem.compilers.process import Progress
from jaxmem.compilers.run import compile_lowering

__all__ = ["Progress", "compile_lowering"]
