"""What the names of the files in a dump tell: which hold a compiled module, and whose compiler wrote it.

XLA names them after the module and the compiler:

    module_0003.jit_step.cpu_after_optimizations.hlo.pb                          JAX on CPU
    module_0001.SyncTensorsGraph.123.sm_8.0_gpu_after_optimizations.hlo.pb       PyTorch/XLA on a GPU
    module_0036.a_inference_train_step_64.5.cpu_after_optimizations.hlo.pb       TensorFlow on CPU
    module_0002.jit_step.cl_854318611.after_optimizations.hlo.pb                 libtpu
"""

import re
from pathlib import Path

_SUFFIXES = (".hlo.pb", ".hlo.pb.gz")
_COMPILED = ("*after_optimizations.hlo.pb", "*after_optimizations.hlo.pb.gz")
_RAN_OUT = ".oom_intermediate_module.hlo.pb"
_PLATFORMS = (
    ("cpu", re.compile(r"[._]cpu_after_optimizations\.")),
    ("cuda", re.compile(r"[._]gpu_after_optimizations\.")),
    ("tpu", re.compile(r"\.cl_\d+\.after_optimizations\.")),
)


def is_dump(text: str) -> bool:
    """Whether a word on the command line names a dump: a file by its name, or a folder that is there."""
    return text.lower().endswith(_SUFFIXES) or Path(text).is_dir()


def compiled_files(folder: Path) -> tuple[Path, ...]:
    """The files of a folder that have the name of a compiled module, in order."""
    return tuple(sorted(file for pattern in _COMPILED for file in folder.glob(pattern)))


def platform_named(file: Path) -> str | None:
    """Whose compiler wrote a file, by its name."""
    return next((platform for platform, pattern in _PLATFORMS if pattern.search(file.name)), None)


def ran_out(file: Path) -> bool:
    """XLA leaves ``STEM.oom_intermediate_module.hlo.pb`` beside a module whose compile ran out of memory."""
    stems = (marker.name.removesuffix(_RAN_OUT) for marker in file.parent.glob(f"*{_RAN_OUT}"))
    return any(file.name.startswith(f"{stem}.") for stem in stems)
