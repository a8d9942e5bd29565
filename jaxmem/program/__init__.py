"""Program: what a person hands over, and how a ``module:attribute`` target becomes one.

Importing this room does not import JAX: a program keeps its function and arguments as they are, `tracing` looks inside.
"""

from jaxmem.program.call import Program
from jaxmem.program.resolve import find_attribute, resolve_program
from jaxmem.program.user_code import user_traceback

__all__ = ["Program", "find_attribute", "resolve_program", "user_traceback"]
