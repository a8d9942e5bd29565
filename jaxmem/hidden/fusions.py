"""Finding opaque library fusions, and what they need together.

On CPU, XLA hands convolutions, matrix products and reductions to YNNPACK (`xla/backends/cpu/ynn_emitter.cc`). Such a
fusion is one instruction to the buffer assignment, whatever stands inside, and the library takes its memory from
malloc, where XLA's own numbers do not see it. Fusions that do not wait for one another run at the same time on a pool
of several threads (XLA's ThunkExecutor).
"""

import json
import os
from dataclasses import dataclass, field

from jaxmem.hidden.library import WHOLE, FusedBody
from jaxmem.xla.hlo import Instruction, Module

OPAQUE_FUSION_KINDS = frozenset({"__ynn_fusion", "__xnn_fusion", "__onednn_fusion"})
"""The fusion kinds of XLA's CPU backend whose body a library runs (``fusion_config.kind`` of the backend config)."""


TRANSPOSED_CONVOLUTION = "transposed convolution"
"""The kind of a convolution that XLA's own runtime runs as a matrix product, with a matrix it allocates itself."""

_LARGEST_MATRIX_BYTES = 8 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class OpaqueFusion:
    """A fusion whose body a library runs, or a transposed convolution of XLA's runtime.

    Attributes:
        instruction_id, name: the fusion instruction.
        kind: the library's mark, e.g. ``__ynn_fusion``.
        computation: name of the computation it stands in.
        position: its place in that computation's schedule.
        operations: opcodes of the fused operations that take memory of their own, in order.
        op_names: name stacks inside, each once, in order: they say which layers it covers.
        inside_bytes: the most that the library holds at once while it runs.
    """

    instruction_id: int
    name: str
    kind: str
    computation: str
    position: int
    operations: tuple[str, ...]
    op_names: tuple[str, ...] = field(repr=False)
    inside_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Hidden:
    """What the opaque fusions of a module need.

    Attributes:
        bytes: the largest need of fusions that can run at the same time, anywhere in the schedule.
        reason: where the number comes from, in a sentence.
        fusions: all opaque fusions, in the order of the schedule.
        concurrent: names of those that make the largest need together.
        threads: size of the thread pool that the number holds for.
    """

    bytes: int
    reason: str
    fusions: tuple[OpaqueFusion, ...] = ()
    concurrent: tuple[str, ...] = ()
    threads: int = 1


def pool_threads() -> int:
    """Threads of the pool that XLA's CPU backend makes here: what NPROC says, else the CPUs this process may use."""
    for name in ("PJRT_NPROC", "NPROC"):
        if os.environ.get(name, "").isdecimal() and int(os.environ[name]) > 0:
            return int(os.environ[name])
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def opaque_fusions(module: Module, *, threads: int | None = None) -> tuple[OpaqueFusion, ...]:
    """Every opaque fusion of the module, computation by computation, in the order of the schedule.

    Args:
        module: the optimized module.
        threads: size of the thread pool; that of this machine if not given.
    """
    workers = pool_threads() if threads is None else threads
    found = []
    for computation in module.computations.values():
        if computation.is_fusion:
            continue
        for position, instruction_id in enumerate(module.schedule.get(computation.id, computation.instruction_ids)):
            instruction = module.instructions[instruction_id]
            kind = _opaque_kind(instruction)
            if not kind and (matrix_bytes := transposed_convolution_bytes(module, instruction)):
                found.append(
                    OpaqueFusion(
                        instruction_id=instruction_id,
                        name=instruction.name,
                        kind=TRANSPOSED_CONVOLUTION,
                        computation=computation.name,
                        position=position,
                        operations=(instruction.opcode,),
                        op_names=(instruction.op_name,) if instruction.op_name else (),
                        inside_bytes=matrix_bytes,
                    )
                )
            if kind:
                body = module.computations[instruction.called_computation_ids[0]]
                inside = [module.instructions[i] for i in body.instruction_ids]
                found.append(
                    OpaqueFusion(
                        instruction_id=instruction_id,
                        name=instruction.name,
                        kind=kind,
                        computation=computation.name,
                        position=position,
                        operations=tuple(each.opcode for each in inside if each.opcode in WHOLE),
                        op_names=tuple(dict.fromkeys(each.op_name for each in inside if each.op_name)),
                        inside_bytes=FusedBody(module, body, workers).most_bytes(),
                    )
                )
    return tuple(found)


def hidden_need(module: Module, *, threads: int | None = None) -> Hidden:
    """The largest concurrent need of the module's opaque fusions.

    Fusions of one computation that do not wait for one another count together, as many as the pool has threads.

    Args:
        module: the optimized module.
        threads: size of the thread pool; that of this machine if not given.
    """
    workers = pool_threads() if threads is None else threads
    fusions = opaque_fusions(module, threads=workers)
    if not fusions:
        return Hidden(bytes=0, reason="no opaque fusions", threads=workers)
    together: tuple[OpaqueFusion, ...] = ()
    for name in dict.fromkeys(fusion.computation for fusion in fusions):
        chosen = _largest_together(module, [each for each in fusions if each.computation == name], workers)
        together = max(together, chosen, key=_sum_inside)
    total = _sum_inside(together)
    return Hidden(
        bytes=total,
        reason=(
            f"derived from what stands inside the opaque library fusions, for a pool of {workers} threads: "
            "results kept between fused operations, packed kernels, and each task's own copy of its input"
        ),
        fusions=fusions,
        concurrent=tuple(fusion.name for fusion in together),
        threads=workers,
    )


def transposed_convolution_bytes(module: Module, instruction: Instruction) -> int:
    """The matrix that XLA's CPU runtime allocates for a transposed convolution, as backward passes of strided ones are.

    `EigenTransposedConv2D` (`xla/backends/cpu/runtime/convolution_internal.h`) multiplies the input, one row for each of
    its pixels, with the kernel, one column for each kernel pixel and output feature, and only then adds up what falls on
    the same output pixel. The product has batch × input pixels × kernel pixels × output features elements. It takes
    two-dimensional convolutions whose input is dilated, with one feature group, no stride and no dilated kernel, up to a
    matrix of 8 GiB; 0 for everything else.
    """
    dimensions = instruction.attributes.convolution
    if instruction.opcode != "convolution" or dimensions is None or len(instruction.attributes.window) != 2:
        return 0
    plain = all(each.stride == 1 and each.window_dilation == 1 for each in instruction.attributes.window)
    if not plain or all(each.base_dilation == 1 for each in instruction.attributes.window):
        return 0
    lhs, rhs = (module.instructions[operand].shape for operand in instruction.operand_ids[:2])
    if lhs.dimensions[dimensions.input_feature] != rhs.dimensions[dimensions.kernel_input_feature]:
        return 0  # several feature groups
    elements = lhs.dimensions[dimensions.input_batch] * rhs.dimensions[dimensions.kernel_output_feature]
    for axis, window in zip(dimensions.input_spatial, instruction.attributes.window, strict=True):
        elements *= lhs.dimensions[axis] * window.size
    matrix_bytes = elements * (lhs.logical_bytes // lhs.elements if lhs.elements else 0)
    return matrix_bytes if matrix_bytes <= _LARGEST_MATRIX_BYTES else 0


def _sum_inside(fusions: tuple[OpaqueFusion, ...]) -> int:
    return sum(fusion.inside_bytes for fusion in fusions)


def _opaque_kind(instruction: Instruction) -> str:
    if instruction.opcode != "fusion" or not instruction.called_computation_ids:
        return ""
    try:
        kind = json.loads(instruction.backend_config or b"{}")["fusion_config"]["kind"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return ""
    return kind if isinstance(kind, str) and kind in OPAQUE_FUSION_KINDS else ""


def _largest_together(module: Module, fusions: list[OpaqueFusion], workers: int) -> tuple[OpaqueFusion, ...]:
    """Fusions of one computation, none of which waits for another, by size."""
    by_size = sorted(
        (each for each in fusions if each.inside_bytes), key=lambda each: (-each.inside_bytes, each.position)
    )
    bit = {fusion.instruction_id: 1 << number for number, fusion in enumerate(by_size)}
    order = module.computations[module.instructions[fusions[0].instruction_id].computation_id].instruction_ids
    # Sets of fusions as bits, the largest fusion the lowest: which ones each instruction waits for, and which wait for it.
    awaits, awaited_by = dict(bit), dict(bit)
    for instruction_id in order:
        for before in _waits_for(module.instructions[instruction_id]):
            awaits[instruction_id] = awaits.get(instruction_id, 0) | awaits.get(before, 0)
    for instruction_id in reversed(order):
        for before in _waits_for(module.instructions[instruction_id]):
            awaited_by[before] = awaited_by.get(before, 0) | awaited_by.get(instruction_id, 0)
    # The best set is a weighted antichain, hard to find exactly: to each largest member in turn, add what fits by size.
    best: tuple[OpaqueFusion, ...] = ()
    for position, start in enumerate(by_size):
        if start.inside_bytes * workers <= _sum_inside(best):
            break  # no set of fusions of this size or smaller is larger
        chosen: list[OpaqueFusion] = []
        free = (1 << len(by_size)) - (1 << position)
        while free and len(chosen) < workers:
            fusion = by_size[(free & -free).bit_length() - 1]
            chosen.append(fusion)
            free &= ~(awaits[fusion.instruction_id] | awaited_by[fusion.instruction_id])
        best = max(best, tuple(chosen), key=_sum_inside)
    return best


def _waits_for(instruction: Instruction) -> tuple[int, ...]:
    return instruction.operand_ids + instruction.control_predecessor_ids
