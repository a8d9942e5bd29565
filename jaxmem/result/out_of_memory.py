"""An out-of-memory failure, explained."""

from dataclasses import dataclass
from typing import Literal

from jaxmem.result.shown import Shown
from jaxmem.roles import Phase, Role
from jaxmem.unknown import Unknown

OUT_OF_MEMORY_SCHEMA = "jaxmem.oom/1"

Failure = Literal["GPU run", "TPU compile", "TPU run", "CPU run", "host memory", "compile"]
"""What failed: a program at work on a device, the compile of one, or the memory of the machine around it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedSize:
    """A part of the memory, by the name that the message gives it."""

    name: str
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LargeBuffer:
    """A buffer that was there when the memory ran out.

    Attributes:
        bytes: what it occupies; ``padding_bytes`` of it hold nothing.
        role: what it is for; unknown where only the program could tell.
        layer, phase: from the names that JAX gave its operation.
        operation: JAX's name of it, empty where there is none.
        source: ``file:line`` of the user's code, empty where the compiler kept none.
        shape: as XLA writes it.
    """

    bytes: int
    padding_bytes: int = 0
    role: Role | Unknown
    layer: str = ""
    phase: Phase = Phase.UNKNOWN
    operation: str = ""
    source: str = ""
    shape: str = ""


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class OutOfMemory(Shown):
    """What failed, how much was asked for, how much there is, what held it, and what to try.

    Attributes:
        failure: what failed.
        program: XLA's name of the program, or the function's; unknown where nothing names it.
        evidence: the line, or the file, that this was read from.
        requested_bytes: the allocation that failed.
        required_bytes: what the program needs in all.
        available_bytes: what there is for programs.
        free_bytes: what of it was free.
        sizes_are_rounded: the message rounds some of its sizes to two digits, and so they are here.
        parts: how the message, or the compiler, divides the memory.
        buffers: the largest, largest first.
        advice: what to try, one sentence each.
        notes: what a reader must know besides.
    """

    schema: Literal["jaxmem.oom/1"] = OUT_OF_MEMORY_SCHEMA
    failure: Failure
    program: str | Unknown
    evidence: str
    requested_bytes: int | Unknown
    required_bytes: int | Unknown
    available_bytes: int | Unknown
    free_bytes: int | Unknown
    sizes_are_rounded: bool
    parts: tuple[NamedSize, ...] = ()
    buffers: tuple[LargeBuffer, ...] = ()
    advice: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
