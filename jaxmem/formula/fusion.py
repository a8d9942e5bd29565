"""Which values exist, and which are computed where they are read: what compilers fuse.

A value is **virtual** where its readers compute it again from what it is made of, its roots; otherwise it exists.

- Convolutions, matrix products, windows, scatters, sorts and reductions write their result to memory. Convolutions and
  products read their operands from it. Results of the program exist.
- What depends on no argument is written nowhere, and movement (reshape, transpose) makes no new array.
- Everything else (element by element, broadcast, slice, padding, concatenation) is virtual unless that costs more time than
  writing it: see `is_worth_memory`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod

from jaxmem.formula.equal import Equals
from jaxmem.formula.pools import Kind, zeros_of_pools
from jaxmem.layer_table import LayerTable, Operation

CONTRACTIONS = frozenset({"conv_general_dilated", "dot_general", "ragged_dot", "ragged_dot_general"})
"""Operations of a library or a tensor core: results and operands lie in memory."""

REDUCTIONS = frozenset(
    """reduce_sum reduce_max reduce_min reduce_prod reduce_and reduce_or reduce_xor argmax argmin""".split()
)
"""A reduction fuses what it reads, and writes its result."""

WINDOWS = frozenset(
    """reduce_window reduce_window_max reduce_window_sum reduce_window_min cumsum cumprod cummax cummin cumlogsumexp""".split()
)

SCATTERS = frozenset({"select_and_scatter_add", "scatter", "scatter-add", "scatter_add", "scatter_mul"})

WHOLE = frozenset(
    """select_and_gather_add sort top_k fft cholesky triangular_solve lu qr eigh svd while scan cond custom_call
    dynamic_update_slice""".split()
)
"""Operations that no compiler fuses with their readers."""

IN_MEMORY = CONTRACTIONS | REDUCTIONS | WINDOWS | SCATTERS | WHOLE

RECOMPUTE_BYTES = {"erf": 40, "erf_inv": 40, "erfc": 40, "random_bits": 400, "threefry2x32": 400, "pow": 8, "log": 4}
"""How many bytes a GPU could have moved while it computes one element again, where that is more than nothing.

A polynomial of some dozen steps with a branch for erf, a division and an exponential for the power, twenty rounds of four
steps for a random number; `tanh` is one instruction.
"""

LAUNCH_BYTES = 3_000_000
"""What a GPU could have moved in the microsecond that one more kernel takes to start: 3 TB/s on an H100."""


CACHE_BYTES = 50_000_000
CACHE_SPEEDUP = 2.5
"""The second-level cache of an H100, and how much faster XLA takes it to be than memory (gpu_performance_model_base.cc)."""


@dataclass(slots=True)
class Fusion:
    """What exists, while it is being decided.

    Attributes:
        table, equals: the program.
        readers: value → the operations that read it.
        exists: values that have memory.
        roots: virtual value → the existing values and arguments that it is computed from.
        cost: virtual value → the bytes that computing one of its elements again is worth.
        by_priority: it is XLA's fusion for GPUs.
        zeros: shape and number format of what max-pools scatter into; a ReLU of that kind reads its zeros from memory.
        ends: what the library of a CPU writes (`jaxmem.formula.library_fusion`).
    """

    table: LayerTable
    equals: Equals
    readers: dict[int, list[int]] = field(default_factory=dict)
    exists: set[int] = field(default_factory=set)
    roots: dict[int, tuple[int, ...]] = field(default_factory=dict)
    cost: dict[int, float] = field(default_factory=dict)
    by_priority: bool = False
    zeros: frozenset[Kind] = frozenset()
    ends: frozenset[int] = frozenset()
    _operands: dict[tuple[int, ...], tuple[int, ...]] = field(default_factory=dict)

    def operands(self, operation: Operation) -> tuple[int, ...]:
        """The operands of an operation that depend on an argument, each by the first value that holds its numbers."""
        found = self._operands.get(operation.results)
        if found is None:
            constant, firsts = self.equals.constant, operands_of(operation, self.equals)
            found = tuple([first for first in firsts if not constant[first]])
            if operation.results:  # by which the operation is known
                self._operands[operation.results] = found
        return found

    def sources(self, value: int) -> tuple[int, ...]:
        """What a reader of a value reads: the value itself where it exists or is an argument, else its roots."""
        return self.roots.get(value, (value,))

    def read_by(self, operation: Operation) -> tuple[int, ...]:
        """What an operation reads from memory, in the order in which a fusion reads it.

        In XLA's fusion for GPUs, what is fused in gives up its place among the operands, and what it reads is put behind them;
        of two the later one is fused first (`PriorityFusionQueue`, `HloFusionInstruction::FuseInstruction`).
        """
        operands = self.operands(operation)
        if not self.by_priority:
            return tuple(dict.fromkeys(source for operand in operands for source in self.sources(operand)))
        own = [operand for operand in operands if operand not in self.roots]
        behind = [root for operand in reversed(operands) for root in self.roots.get(operand, ())]
        return tuple(dict.fromkeys((*own, *behind)))

    def size_bytes(self, value: int) -> int:
        """Bytes of a value."""
        return self.table.values[value].logical_bytes


def operands_of(operation: Operation, equals: Equals) -> tuple[int, ...]:
    """The operands of an operation, each by the first value that holds its numbers, with what a scatter adds to."""
    firsts = map(equals.of.__getitem__, operation.operands)
    if not equals.scattered_into:
        return tuple(dict.fromkeys(firsts))
    added = [equals.scattered_into[result] for result in operation.results if result in equals.scattered_into]
    return tuple(dict.fromkeys((*firsts, *added)))


def find_readers(table: LayerTable, equals: Equals) -> dict[int, list[int]]:
    """Value → the operations that read it, in order."""
    readers: dict[int, list[int]] = {}
    for index in equals.operations:
        for operand in operands_of(table.operations[index], equals):
            readers.setdefault(operand, []).append(index)
    return readers


def fuse(
    table: LayerTable,
    equals: Equals,
    swallowed: Mapping[int, int],
    *,
    by_priority: bool = False,
    into_contractions: bool = False,
) -> Fusion:
    """Decide for every value whether it exists. Linear in the number of operands.

    Args:
        table, equals: the program.
        swallowed: value → the one that the library that computes it writes in its place.
        by_priority: it is XLA's fusion for GPUs.
        into_contractions: matrix products and convolutions compute what they read as they need it, and windows do not, as on a
            TPU; elsewhere windows do, and what a product or a convolution reads is written before.
    """
    whole = WHOLE | (WINDOWS if into_contractions else CONTRACTIONS)
    fusion = Fusion(table, equals, find_readers(table, equals), by_priority=by_priority)
    if by_priority:
        fusion.zeros = zeros_of_pools(table, equals)
    must = {equals.of[value] for value in table.outputs if value is not None}
    for index in equals.operations:
        operation = table.operations[index]
        if operation.primitive in IN_MEMORY:
            must.update(operation.results)
        if operation.primitive in whole and not operation.hands_on:
            must.update(fusion.operands(operation))
        if operation.primitive == "select_and_scatter_add":
            must.update(
                equals.scattered_into[result] for result in operation.results if result in equals.scattered_into
            )
    must = (must - set(swallowed)) | set(swallowed.values())
    for index in equals.operations:
        operation = table.operations[index]
        read = fusion.read_by(operation)
        own = RECOMPUTE_BYTES.get(operation.primitive, 0.2)
        below = [fusion.cost.get(operand, 0.0) for operand in fusion.operands(operation)]
        # Each element of a concatenation comes from one of its parts.
        cost = own + (max(below, default=0.0) if operation.primitive == "concatenate" else sum(below))
        for result in operation.results:
            if equals.constant[result]:
                fusion.roots[result] = ()
            elif result in must or (result not in swallowed and is_worth_memory(fusion, result, read, cost)):
                fusion.exists.add(result)
            else:
                fusion.roots[result] = read
                fusion.cost[result] = cost
    return fusion


def is_worth_memory(fusion: Fusion, value: int, read: Sequence[int], cost: float) -> bool:
    """Whether writing a value once takes less time than computing it for each of its readers.

    Written, it is computed from its roots once, written, and read by each reader, with one more kernel to start. Not written,
    each reader reads those roots that it does not read anyway, and computes it again. XLA's priority fusion compares these
    two times (xla/service/gpu/transforms/priority_fusion.cc); here a time is the bytes that could have been moved in it.
    """
    readers = fusion.readers.get(value, ())
    if len(readers) <= 1:
        return False
    computed = cost * fusion.table.values[value].elements
    written = fusion.size_bytes(value)
    zeros = written if _reads_zeros(fusion, value) else 0
    once = sum(map(fusion.size_bytes, read)) + zeros + computed + written + LAUNCH_BYTES
    again = 0.0
    for index in readers:
        times = times_asked(fusion, index, value)
        operands = fusion.operands(fusion.table.operations[index])
        anyway = {source for operand in operands if operand != value for source in fusion.sources(operand)}
        again += sum(_read_bytes(fusion.size_bytes(root), times) for root in read if root not in anyway)
        again += _read_bytes(zeros, times) + computed * times
        once += _read_bytes(written, times)
    return again > once


def _read_bytes(size_bytes: int, times: float) -> float:
    """What reading an array costs whose elements are asked for several times: again from the cache, where it fits in."""
    return size_bytes + size_bytes * (times - 1) / (CACHE_SPEEDUP if size_bytes < CACHE_BYTES else 1)


def _reads_zeros(fusion: Fusion, value: int) -> bool:
    """Whether a value is a ReLU whose zeros exist, for a max-pool to scatter into a copy of them."""
    held = fusion.table.values[value]
    made = fusion.table.operations[held.operation] if held.operation is not None else None
    if made is None or made.primitive != "max" or (held.shape, held.dtype) not in fusion.zeros:
        return False
    return len(fusion.operands(made)) == 1


def times_asked(fusion: Fusion, reader: int, value: int) -> float:
    """How many times a reader computes each element of a virtual operand.

    Once, but for windows that overlap, and for what is spread out over a larger array, as the scale of a normalization over
    a map. The backward pass of a pool goes over the windows of the forward pass.
    """
    operation, read = fusion.table.operations[reader], fusion.table.values[value]
    window = prod(operation.size("window_dimensions"))
    if operation.primitive in WINDOWS and window:
        asked = fusion.table.values[operation.results[0]].elements * window
    elif operation.primitive == "select_and_scatter_add":
        asked = fusion.table.values[operation.operands[0]].elements * window
    else:
        result = fusion.table.values[operation.results[0]]
        asked = result.elements if is_spread(read.shape, result.shape, operation) else 0
    return max(asked / max(read.elements, 1), 1)


def is_spread(shape: tuple[int, ...], over: tuple[int, ...], operation: Operation) -> bool:
    """Whether an operation repeats an operand of a shape all over its result."""
    if operation.primitive == "broadcast_in_dim":
        return True
    return len(shape) == len(over) and all(one in (1, other) for one, other in zip(shape, over, strict=True))
