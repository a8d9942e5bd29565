"""Why the memory ran out: a message, or the dump that a failed compile left, read and explained."""

from jaxmem.oom.advice import advise
from jaxmem.oom.dump import explain_dump
from jaxmem.oom.messages import LOOKED_FOR, explain_message, recognizes

__all__ = ["LOOKED_FOR", "advise", "explain_dump", "explain_message", "recognizes"]
