"""Lowering: a program as StableHLO, with everything about its arguments that the compiler does not know.

Data only, without JAX: `tracing` makes it in the user's process, a compiling worker receives it, the cache keys it and a
capture carries its tables.
"""

from dataclasses import dataclass, field
from math import prod

from jaxmem.roles import Role

AUTOTUNE_RESULTS_OPTION = "xla_gpu_load_autotune_results_from"
"""The compiler option that names a file of what XLA measured on a card (``xla/debug_options_flags.cc``). XLA takes it for
text where its name ends in .txt or .textproto, else for binary."""


class _Array:
    """What its shape and the width of its elements make of an array."""

    __slots__ = ()
    shape: tuple[int, ...]
    itemsize_bits: int

    @property
    def elements(self) -> int:
        """Number of elements, 1 for a scalar."""
        return prod(self.shape)

    @property
    def logical_bytes(self) -> int:
        """Bytes without padding."""
        return (self.elements * self.itemsize_bits + 7) // 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Argument(_Array):
    """One flat argument of the program.

    Attributes:
        path: the pytree path as Python writes it, e.g. ``model.conv1_1.kernel`` or ``state[0].mu['dense']['bias']``.
        shape, dtype: of the array as XLA receives it (a typed PRNG key arrives as ``uint32[2]``); dtype by JAX's name. On
            several devices, the shape of the part that each of them holds.
        role: what it is for; ``role_rule`` says what decided it.
        layer: the layer path the argument belongs to (``conv1_1``), empty where it belongs to none.
        parameter_path: for a parameter, and for optimizer state made for one parameter, that parameter's path inside the
            parameter tree (``conv1_1/kernel``); empty otherwise.
        donated: the caller gives the buffer up.
        parameter_number: the number of the entry parameter that receives it; None where the program does not use the
            argument and the compiler never sees it.
    """

    path: str
    shape: tuple[int, ...]
    dtype: str
    itemsize_bits: int
    role: Role
    role_rule: str
    layer: str = ""
    parameter_path: str = ""
    donated: bool = False
    parameter_number: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Output(_Array):
    """One flat result of the program.

    Attributes:
        path: the pytree path of the result.
        shape, dtype: as in `Argument`, of the part that one device holds.
        role: that of the argument it replaces (the new parameters are `parameters`), else `outputs`.
        argument_index: index of the argument with the same role and parameter path, which it replaces; None for none.
    """

    path: str
    shape: tuple[int, ...]
    dtype: str
    itemsize_bits: int
    role: Role
    layer: str = ""
    parameter_path: str = ""
    argument_index: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgramFacts:
    """What a person calls the program. ``None`` where the program does not say.

    ``batch_size`` and ``parameter_count`` are of the whole program, on however many devices it runs.
    """

    name: str
    mode: str | None = None
    batch_size: int | None = None
    optimizer: str | None = None
    dtype: str | None = None
    parameter_count: int | None = None
    donated: bool = False
    source: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Lowering:
    """A program, ready to be compiled anywhere.

    Attributes:
        program: its name and what else people call it by.
        stablehlo: the MLIR module as bytecode, with its source locations.
        arguments, outputs: flat, in the order of the Python pytrees. Arguments that the program drops are listed too.
        compiler_options: handed to XLA as they are, sorted by name.
        configuration: JAX settings that change what is compiled, sorted by name.
        device_count: devices the program is partitioned over.
        platforms: platforms it was lowered for.
    """

    program: ProgramFacts
    stablehlo: bytes = field(repr=False)
    arguments: tuple[Argument, ...] = field(repr=False)
    outputs: tuple[Output, ...] = field(repr=False)
    compiler_options: tuple[tuple[str, str], ...] = ()
    configuration: tuple[tuple[str, str], ...] = ()
    device_count: int = 1
    platforms: tuple[str, ...] = ("cpu",)
