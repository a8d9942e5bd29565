"""The kernels for matrix products of YNNPACK, the library behind XLA's compiler for CPUs, by instruction set.

The library looks at the processor it runs on (cpuinfo), whatever XLA is told to compile for (``xla_cpu_max_isa``). Its
kernels are named by what they take at a time, ``rows x columns x depth``, and by the tiles that these are made of:
``5x64x1_1x16x1``. The names are those of the symbols ``ynn::dot_fp32_*``, ``dot_fp64_*`` and ``dot_bf16_bf16_fp32_*`` in
jaxlib 0.10.2, of them those that its own choice (``ynn::get_dot_kernel``) can fall on: it was asked, for each instruction
set, for 1 to 4096 columns and depths from 1 to 512.
"""

from dataclasses import dataclass
from functools import cache

X86_MACHINES = frozenset({"x86_64", "AMD64", "amd64", "i386", "i686"})
"""What `platform.machine` calls processors of this family."""

_NEEDS: dict[str, frozenset[str]] = {
    "SSE2": frozenset({"sse2"}),
    "AVX": frozenset({"avx"}),
    "FMA": frozenset({"fma"}),
    "AVX2": frozenset({"avx2", "fma"}),
    "AVX-512": frozenset({"avx512f", "avx512bw", "avx512dq", "avx512vl"}),
    "AMX": frozenset({"amx_tile", "amx_bf16"}),
}
"""Instruction set → the extensions that kernels of it need (`ynnpack/base/arch.cc`), as Linux names them."""

TYPICAL: dict[str, frozenset[str]] = {
    "AVX2": frozenset({"sse2", "avx", "avx2", "fma"}),
    "AVX-512": frozenset({"sse2", "avx", "avx2", "fma", "avx512f", "avx512bw", "avx512dq", "avx512vl"}),
}
"""Kinds of processors to reckon with where the extensions are not known."""

_KERNELS: dict[str, dict[str, str]] = {
    "f32": {
        "SSE2": "3x16x1_1x4x1 4x8x1_1x4x1 8x4x1_1x4x1",
        "AVX": "4x16x1_1x8x1 8x8x1_1x8x1",
        "FMA": "6x16x1_1x8x1",
        "AVX2": "6x8x2_1x4x2 8x4x2_1x4x2",
        "AVX-512": "5x16x1_1x16x1 5x32x1_1x16x1 5x64x1_1x16x1 8x8x2_1x8x2 4x16x2_1x8x2 5x32x2_1x8x2 8x4x4_1x4x4 "
        "6x8x4_1x4x4 5x16x4_1x4x4",
    },
    "f64": {
        "AVX": "4x8x1_1x4x1 8x4x1_1x4x1",
        "FMA": "6x8x1_1x4x1",
        "AVX-512": "5x8x1_1x8x1 5x16x1_1x8x1 5x32x1_1x8x1",
    },
    "bf16": {
        "AVX2": "5x16x1_1x8x1 5x16x2_1x8x2 12x8x2_1x8x2",
        "AVX-512": "12x32x1_1x16x1 16x16x1_1x16x1 12x32x2_1x16x2 16x16x2_1x16x2",
        "AMX": "32x32x32_16x16x2",
    },
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernel:
    """What one call of a kernel takes, and the tiles it is made of.

    Attributes:
        rows, columns, depth: of the left side, of the right side, and what is summed over.
        tile_rows, tile_columns, tile_depth: likewise of a tile. The right side is packed in whole tiles.
        reads_unpacked: whether it can also read a right side that is not packed: those of single rows from AVX on.
    """

    rows: int
    columns: int
    depth: int
    tile_rows: int
    tile_columns: int
    tile_depth: int
    reads_unpacked: bool


@cache
def kernels_of(element_type: str, features: frozenset[str]) -> tuple[Kernel, ...]:
    """The kernels for a product of two such matrices on a processor with these extensions; none where none are listed.

    Args:
        element_type: XLA's name, e.g. ``f32``.
        features: the processor's extensions, as Linux names them in ``/proc/cpuinfo``.
    """
    return tuple(
        _kernel(name, element_type, instruction_set)
        for instruction_set, names in _KERNELS.get(element_type, {}).items()
        if _NEEDS[instruction_set] <= features
        for name in names.split()
    )


def instruction_set(features: frozenset[str]) -> str:
    """The kind of a processor by its extensions: which of the `TYPICAL` ones it is, or else ``other``."""
    return next((kind for kind in reversed(TYPICAL) if TYPICAL[kind] <= features), "other")


def _kernel(name: str, element_type: str, instruction_set: str) -> Kernel:
    rows, columns, depth, tile_rows, tile_columns, tile_depth = (
        int(size) for size in name.replace("_", "x").split("x")
    )
    return Kernel(
        rows=rows,
        columns=columns,
        depth=depth,
        tile_rows=tile_rows,
        tile_columns=tile_columns,
        tile_depth=tile_depth,
        reads_unpacked=tile_depth == 1 and element_type != "bf16" and instruction_set != "SSE2",
    )
