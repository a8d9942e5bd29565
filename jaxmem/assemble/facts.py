"""What surrounds the numbers of a report: versions, the compiler's own words, other memories, notes."""

from jaxmem.assemble.estimate import NO_TABLE
from jaxmem.capture import Capture
from jaxmem.lowering import AUTOTUNE_RESULTS_OPTION
from jaxmem.profile import MAIN_COLORS
from jaxmem.result import (
    Hidden,
    OtherMemory,
    Versions,
    XlaNumbers,
)
from jaxmem.unknown import Unknown
from jaxmem.xla import BufferAssignment
from jaxmem.xla.replay import live_peak_bytes

_MEMORIES = {
    ("tpu", 1): "VMEM (on-chip)",
    ("tpu", 2): "SMEM (on-chip)",
    ("tpu", 3): "CMEM (on-chip)",
    ("tpu", 5): "host memory",
    ("cuda", 5): "host memory",
}
"""What people call a memory space (`xla/layout.h` and, on TPU, what its dumps show)."""


def versions(capture: Capture) -> Versions:
    """What made the capture."""
    known = dict(capture.versions)
    missing = Unknown("the capture does not say")
    return Versions(
        jaxmem=known.get("jaxmem", ""),
        jax=known.get("jax", missing),
        jaxlib=known.get("jaxlib", missing),
        **({"libtpu": known.get("libtpu", missing)} if capture.device.platform == "tpu" else {}),
        compiler_options=capture.compiler_options,
    )


def xla_numbers(capture: Capture) -> XlaNumbers:
    """The compiler's own words, untouched."""
    statistics = capture.statistics
    return XlaNumbers(
        argument_bytes=statistics.argument_bytes,
        output_bytes=statistics.output_bytes,
        alias_bytes=statistics.alias_bytes,
        temp_bytes=statistics.temp_bytes,
        generated_code_bytes=statistics.generated_code_bytes,
        reported_peak_bytes=statistics.reported_peak_bytes,
    )


def other_memories(assignment: BufferAssignment, platform: str) -> tuple[OtherMemory, ...]:
    sizes: dict[int, int] = {}
    for allocation in assignment.allocations:
        if allocation.color not in MAIN_COLORS[platform] and not allocation.is_thread_local:
            sizes[allocation.color] = sizes.get(allocation.color, 0) + allocation.size
    return tuple(
        OtherMemory(
            name=_MEMORIES.get((platform, color), f"memory space {color}"),
            color=color,
            reserved_bytes=sizes[color],
            live_peak_bytes=live_peak_bytes(assignment, frozenset({color})),
        )
        for color in sorted(sizes)
    )


def notes(capture: Capture, hidden: Hidden) -> tuple[str, ...]:
    notes = []
    if capture.failure is not None:
        notes.append(f"The compiler refused the program: {capture.failure}")
    if dict(capture.compiler_options).get("xla_gpu_enable_triton_gemm") == "False":
        notes.append("Compiled without Triton matrix products (xla_gpu_enable_triton_gemm).")
    if AUTOTUNE_RESULTS_OPTION in dict(capture.compiler_options):
        notes.append("With recorded autotune results; XLA's default for operations that they do not name.")
    if capture.device.derived:
        notes.append(f"{capture.device.name}: {capture.device.target_source}")
    if capture.device.platform == "cpu":
        notes.append(
            "On CPU, JAX's own peak (peak_memory_in_bytes) leaves the temporaries out; compare live_peak_bytes instead."
        )
    if hidden.fusions:
        notes.append(
            "Opaque fusions run inside a library that allocates memory XLA does not see, as does XLA's runtime for other "
            "convolutions and products; it is counted as hidden. The compiler option "
            "xla_cpu_experimental_ynn_fusion_type= (empty) opens the library's fusions."
        )
    if capture.layer_table is None:
        notes.append(f"There is no formula: {NO_TABLE.reason}.")
    return tuple(notes)
