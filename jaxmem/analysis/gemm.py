"""Which backend multiplies matrices on an NVIDIA GPU: the one asked for, or both, as a range.

On the card XLA times its own Triton kernels against the library cuBLAS, for each product, and keeps the faster; their
workspaces differ. Without the card it takes Triton's wherever it can.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Literal

from jaxmem.assemble import read_report
from jaxmem.capture import Capture
from jaxmem.errors import UsageError
from jaxmem.result import GemmVariant, Report, gemm_range
from jaxmem.unknown import Unknown

Gemm = Literal["triton", "cublas", "both"]
OPTION = "xla_gpu_enable_triton_gemm"
_VALUES = {"triton": "True", "cublas": "False"}
_NO_TILES = Unknown("XLA finds no tiles for a matrix product of this program without the card")


def gemm_options(gemm: str | None, platform: str, options: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
    """What a backend adds to the compiler options: nothing where there is no choice, or both are wanted.

    Raises:
        UsageError: no such backend, not a GPU, or the options choose one already.
    """
    if gemm is None:
        return ()
    if gemm not in (*_VALUES, "both"):
        raise UsageError(f"Matrix products are of triton, cublas or both, found {gemm!r}.")
    if platform != "cuda":
        raise UsageError(f"Triton and cuBLAS multiply matrices on NVIDIA GPUs; the device is one of {platform}.")
    if OPTION in dict(options):
        raise UsageError(f"The backend of matrix products is chosen twice, with {gemm} and with {OPTION}. Say it once.")
    return ((OPTION, _VALUES[gemm]),) if gemm in _VALUES else ()


def with_gemm_range(report: Report, capture: Capture, capture_cublas: Callable[[], Capture]) -> Report:
    """The report of the default variant, with what the other one needs.

    Args:
        capture: of the default: Triton's products, unless XLA could not and took cuBLAS's.
        capture_cublas: compiles the other variant.
    """
    if dict(capture.compiler_options).get(OPTION) == "False":
        sizes = (_NO_TILES, report.required_bytes)
    else:
        sizes = (report.required_bytes, read_report(capture_cublas()).required_bytes)
    triton, cublas = sizes
    variants = (
        GemmVariant(backend="triton", required_bytes=triton),
        GemmVariant(backend="cublas", required_bytes=cublas),
    )
    return replace(report, gemm_range=gemm_range(variants))
