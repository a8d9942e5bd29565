"""Finding opaque library fusions, and what they need together.

On CPU, XLA hands convolutions, matrix products and reductions to YNNPACK (`xla/backends/cpu/ynn_emitter.cc`). Such a
fusion is one instruction to the buffer assignment, whatever stands inside, and the library takes its memory from
malloc, where XLA's own numbers do not see it. How much depends on the processor, which a capture records. What no library
takes, XLA's runtime hands to Eigen, which allocates likewise (`jaxmem.hidden.runtime`). What does not wait for one another
runs at the same time on a pool of several threads (XLA's ThunkExecutor).
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import lru_cache

from jaxmem.capture.data import Host
from jaxmem.devices.library_kernels import TYPICAL, X86_MACHINES
from jaxmem.hidden.kernels import UnknownKernel
from jaxmem.hidden.library import WHOLE, FusedBody
from jaxmem.hidden.runtime import runtime_bytes
from jaxmem.units import format_bytes
from jaxmem.unknown import Unknown
from jaxmem.xla.hlo import Computation, Instruction, Module

OPAQUE_FUSION_KINDS = frozenset({"__ynn_fusion", "__xnn_fusion", "__onednn_fusion"})
"""The fusion kinds of XLA's CPU backend whose body a library runs (``fusion_config.kind`` of the backend config)."""


RUNTIME = "runtime"
"""The kind of a convolution or product that XLA's own runtime runs, with matrices that it allocates itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OpaqueFusion:
    """A fusion whose body a library runs, or a convolution or product of XLA's runtime.

    Attributes:
        instruction_id, name: the fusion instruction.
        kind: the library's mark, e.g. ``__ynn_fusion``.
        computation: name of the computation it stands in.
        position: its place in that computation's schedule.
        operations: opcodes of the fused operations that take memory of their own, in order.
        op_names: name stacks inside, each once, in order: they say which layers it covers.
        inside_bytes: the most that the library holds at once while it runs; unknown where its kernels are.
    """

    instruction_id: int
    name: str
    kind: str
    computation: str
    position: int
    operations: tuple[str, ...]
    op_names: tuple[str, ...] = field(repr=False)
    inside_bytes: int | Unknown


@dataclass(frozen=True, slots=True, kw_only=True)
class Hidden:
    """What the opaque fusions of a module need.

    Attributes:
        bytes: the largest need of fusions that can run at the same time, anywhere in the schedule; None where it is not
            known.
        reason: where the number comes from, in a sentence, or why it is not known and the range where there is one.
        fusions: all opaque fusions, in the order of the schedule.
        concurrent: names of those that make the largest need together.
        threads: size of the thread pool that the number holds for.
    """

    bytes: int | None
    reason: str
    fusions: tuple[OpaqueFusion, ...] = ()
    concurrent: tuple[str, ...] = ()
    threads: int = 1


def opaque_fusions(module: Module, *, threads: int, features: frozenset[str]) -> tuple[OpaqueFusion, ...]:
    """Every opaque fusion of the module, computation by computation, in the order of the schedule.

    Args:
        module: the optimized module.
        threads: size of the thread pool.
        features: extensions of the processor it runs on, as Linux names them.
    """
    found = []
    held: dict[tuple[int, ...], int | Unknown] = {}  # inside bodies that are equal but for names and numbers
    for computation in module.computations.values():
        if computation.is_fusion:
            continue
        for position, instruction_id in enumerate(module.schedule.get(computation.id, computation.instruction_ids)):
            instruction = module.instructions[instruction_id]
            kind = _opaque_kind(instruction)
            if not kind and (matrix_bytes := runtime_bytes(module, instruction)):
                found.append(
                    OpaqueFusion(
                        instruction_id=instruction_id,
                        name=instruction.name,
                        kind=RUNTIME,
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
                what = _what_it_computes(body, inside)
                if what not in held:
                    held[what] = _inside(module, body, threads, features)
                found.append(
                    OpaqueFusion(
                        instruction_id=instruction_id,
                        name=instruction.name,
                        kind=kind,
                        computation=computation.name,
                        position=position,
                        operations=tuple(each.opcode for each in inside if each.opcode in WHOLE),
                        op_names=tuple(dict.fromkeys(each.op_name for each in inside if each.op_name)),
                        inside_bytes=held[what],
                    )
                )
    return tuple(found)


def hidden_need(module: Module, host: Host) -> Hidden:
    """The largest concurrent need of the module's opaque fusions.

    Fusions of one computation that do not wait for one another count together, as many as the pool has threads. Where the
    extensions of an x86 processor are not known, it is known only if it is the same with all that they may be.

    Args:
        module: the optimized module.
        host: the machine it was compiled for.
    """
    if host.cpu_features or host.machine not in X86_MACHINES:
        return _need(module, host.threads, frozenset(host.cpu_features))
    needs = {kind: _need(module, host.threads, features) for kind, features in TYPICAL.items()}
    sizes = sorted((need.bytes, kind) for kind, need in needs.items() if need.bytes is not None)
    need = next(iter(needs.values()))
    if len(sizes) < len(needs) or sizes[0][0] == sizes[-1][0]:
        return need
    (least, one), (most, other) = sizes[0], sizes[-1]
    unknown = Unknown(
        "the library's kernels follow the processor's instruction set, which the system that compiled the program does "
        f"not tell: from {format_bytes(least)} ({one}) to {format_bytes(most)} ({other})"
    )
    return Hidden(
        bytes=None,
        reason=unknown.reason,
        fusions=tuple(replace(fusion, inside_bytes=unknown) for fusion in need.fusions),
        threads=host.threads,
    )


def _need(module: Module, workers: int, features: frozenset[str]) -> Hidden:
    fusions = opaque_fusions(module, threads=workers, features=features)
    if not fusions:
        return Hidden(bytes=0, reason="no opaque fusions", threads=workers)
    unknown = next((each.inside_bytes for each in fusions if isinstance(each.inside_bytes, Unknown)), None)
    if unknown is not None:
        return Hidden(bytes=None, reason=unknown.reason, fusions=fusions, threads=workers)
    together: tuple[OpaqueFusion, ...] = ()
    for name in dict.fromkeys(fusion.computation for fusion in fusions):
        chosen = _largest_together(module, [each for each in fusions if each.computation == name], workers)
        together = max(together, chosen, key=_sum_inside)
    return Hidden(
        bytes=_sum_inside(together),
        reason=(
            f"derived from what stands inside the opaque library fusions, for a pool of {workers} threads and the "
            "processor's instruction set: results kept between fused operations, packed kernels, and each task's own copy "
            "of its input; and from what XLA's runtime gathers for other convolutions and products"
        ),
        fusions=fusions,
        concurrent=tuple(fusion.name for fusion in together),
        threads=workers,
    )


def _what_it_computes(body: Computation, inside: list[Instruction]) -> tuple[int, ...]:
    """The same for two bodies that compute the same, operation by operation; how they lie in memory says nothing of it."""
    first = body.instruction_ids[0]
    found = [body.root_id - first]
    for each in inside:
        found += [each.id - first, each.fingerprint, len(each.operand_ids), *[i - first for i in each.operand_ids]]
    return tuple(found)


def _inside(module: Module, body: Computation, workers: int, features: frozenset[str]) -> int | Unknown:
    try:
        return FusedBody(module, body, workers=workers, features=features).most_bytes()
    except UnknownKernel as error:
        return Unknown(
            f"an opaque fusion multiplies {error}, and which kernels its library has for that on the processor it was "
            "compiled for is not known; they are known for float32, float64 and bfloat16 on x86"
        )


def _sum_inside(fusions: Iterable[OpaqueFusion]) -> int:
    return sum(_known(fusion) for fusion in fusions)


def _known(fusion: OpaqueFusion) -> int:
    return fusion.inside_bytes if isinstance(fusion.inside_bytes, int) else 0


def _opaque_kind(instruction: Instruction) -> str:
    if instruction.opcode != "fusion" or not instruction.called_computation_ids:
        return ""
    return _kind(instruction.backend_config) if b"fusion_config" in instruction.backend_config else ""


@lru_cache(maxsize=1 << 10)
def _kind(backend_config: bytes) -> str:
    """The kind of an opaque fusion; empty for any other. Many fusions have the same configuration."""
    try:
        kind = json.loads(backend_config)["fusion_config"]["kind"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return ""
    return kind if isinstance(kind, str) and kind in OPAQUE_FUSION_KINDS else ""


def _largest_together(module: Module, fusions: list[OpaqueFusion], workers: int) -> tuple[OpaqueFusion, ...]:
    """Fusions of one computation, none of which waits for another, by size."""
    by_size = sorted((each for each in fusions if _known(each)), key=lambda each: (-_known(each), each.position))
    bit = {fusion.instruction_id: 1 << number for number, fusion in enumerate(by_size)}
    order = module.computations[module.instructions[fusions[0].instruction_id].computation_id].instruction_ids
    # Sets of fusions as bits, the largest fusion the lowest: which ones each instruction waits for, and which wait for it.
    awaits, awaited_by = dict(bit), dict(bit)
    waits_for = [(each, _waits_for(module.instructions[each])) for each in order]
    for instruction_id, waiting_for in waits_for:
        bits = awaits.get(instruction_id, 0)
        for before in waiting_for:
            bits |= awaits.get(before, 0)
        awaits[instruction_id] = bits
    for instruction_id, waiting_for in reversed(waits_for):
        bits = awaited_by.get(instruction_id, 0)
        for before in waiting_for:
            awaited_by[before] = awaited_by.get(before, 0) | bits
    # The best set is a weighted antichain, hard to find exactly: to each largest member in turn, add what fits by size.
    best: tuple[OpaqueFusion, ...] = ()
    for position, start in enumerate(by_size):
        if _known(start) * workers <= _sum_inside(best):
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
