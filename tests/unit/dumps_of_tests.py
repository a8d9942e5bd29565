"""The dumps that tests read.

Those of TensorFlow and PyTorch/XLA are real, see tests/data/README.md; those of JAX are the modules of golden captures.
"""

from pathlib import Path

from jaxmem import analyze_dump
from jaxmem.capture import Capture
from jaxmem.capture import load as load_capture
from jaxmem.result import BufferRow, Report

TESTS = Path(__file__).parents[1]
DUMPS = TESTS / "data" / "dumps"
TENSORFLOW = next((DUMPS / "tensorflow").glob("*cpu_after*"))
TORCH = next((DUMPS / "torch_xla").glob("*"))
NAMES = {
    "cpu": "module_0003.jit_step.cpu_after_optimizations.hlo.pb",
    "h100-sxm": "module_0003.jit_step.sm_9.0_gpu_after_optimizations.hlo.pb",
    "tpu-v5e": "module_0003.jit_step.cl_854318611.after_optimizations.hlo.pb",
}
PLATFORMS = {"cpu": "cpu", "h100-sxm": "cuda", "tpu-v5e": "tpu"}
GOLDEN = [(program, device) for program in ("checkpoints", "pools", "scanned_layers", "thin_maps") for device in NAMES]


def golden(program: str, device: str) -> Capture:
    return load_capture(TESTS / "golden" / f"{program}.{device}.jaxmem")


def report_of(path: Path, **options: str | Path) -> Report:
    report = analyze_dump(path, **options)  # type: ignore[arg-type]
    assert isinstance(report, Report)
    return report


def rows(report: Report) -> dict[str, BufferRow]:
    return {row.instruction: row for row in report.buffers.rows()}
