"""Which values exist on a CPU: what XLA's compiler for CPUs fuses, edge by edge.

Two passes decide, one behind the other.

- `LibraryRewriter` hands convolutions, matrix products and reductions of floating-point numbers to YNNPACK, with what stands
  around them (`jaxmem.formula.library_fusion`). What the library reads from outside lies in memory, and so does its result.
- `CpuInstructionFusion` (xla/service/cpu/cpu_instruction_fusion.cc) fuses the rest into its readers, each reader by itself: one
  computes a value again while another, the library, reads it from memory. So both the value and what it is computed from
  exist. The subtraction of the mean in batch norm is such a value: the backward pass sums over it, and computes it again from
  the map besides.

The second pass does not compute again

- what is expensive (`InstructionFusion::IsExpensive`: exponentials, roots, quotients) and has several readers;
- what is rounded to bfloat16, which takes a processor several steps, and has several readers;
- what is made of several arrays of its size, unless all its readers can take it (`ComputeGloballyUnfusible`): the sum of two
  maps, read by a convolution;
- a wide concatenation along the last dimension: it fuses on neither side.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from jaxmem.formula.equal import Equals
from jaxmem.formula.fusion import IN_MEMORY, REDUCTIONS, Fusion, find_readers
from jaxmem.formula.library_fusion import LibraryFusions, find_library_fusions
from jaxmem.formula.library_instructions import is_of_library, rounds_each_step
from jaxmem.formula.loop_invariants import CONVERT, IN_ANOTHER_ORDER
from jaxmem.formula.number_formats import NARROW, ROUNDED
from jaxmem.formula.products import Side, read_side
from jaxmem.layer_table import LayerTable, Operation
from jaxmem.roles import Phase

WIDE_CONCATENATION = 128
"""Elements of the last dimension from which on a concatenation is a copy of rows, fused with nothing."""

REDUCED_AT_ONCE = 32
"""A sum of more elements that no library computes is one of sums in windows of so many, which read from memory
(`TreeReductionRewriter`).
"""

EXPENSIVE = frozenset(
    """exp exp2 expm1 log log1p tanh logistic erf erfc erf_inv sqrt rsqrt cbrt pow sin cos tan asin acos atan atan2 sinh cosh
    asinh acosh atanh rem gather pad""".split()
)
"""Not computed twice, and not for each element that it is spread over."""

MADE_OF_PARTS = frozenset({"concatenate", "pad", "gather"})
"""Their result is larger than an operand, yet each element of it is read once."""

IN_A_LOOP = frozenset({"random_bits", "threefry2x32"})
"""Random numbers: JAX lowers the rounds of their generator to a loop on CPU, and a loop writes what it returns."""

_IN_MEMORY = IN_MEMORY | IN_A_LOOP | {IN_ANOTHER_ORDER}


@dataclass(slots=True)
class CpuFusion(Fusion):
    """What exists, and what is computed again all the same.

    Attributes:
        again: existing value → what those readers read that compute it again.
        library: what the library computes together.
        region: values inside, which nobody else reads.
        has_loops: some operations stand in loops or branches.
    """

    again: dict[int, tuple[int, ...]] = field(default_factory=dict)
    library: LibraryFusions = field(default_factory=LibraryFusions)
    region: frozenset[int] = frozenset()
    has_loops: bool = False

    def read_by(self, operation: Operation) -> tuple[int, ...]:
        """What an operation reads from memory."""
        found: list[int] = []
        again, roots = self.again, self.roots
        for operand in self.operands(operation):
            if operand in again and self.takes(operation, operand):
                found += again[operand]
            else:
                found += roots.get(operand, (operand,))
        return tuple(dict.fromkeys(found))

    def reduces_itself(self, reader: Operation) -> bool:
        """Whether XLA's own loop reduces, one that computes what it reads: the library takes no short ones."""
        if reader.primitive not in REDUCTIONS or is_of_library(self.table, reader):
            return False
        shape = self.table.values[reader.operands[0]].shape
        at_once = all(shape[axis] <= REDUCED_AT_ONCE for axis in reader.size("axes"))
        return at_once or not rounds_each_step(self.table, reader)

    def takes(self, reader: Operation, value: int) -> bool:
        """Whether an operation could compute an operand itself."""
        if is_in_memory(reader) and not self.reduces_itself(reader):
            return False
        if not (self.region.isdisjoint(reader.results) and self.ends.isdisjoint(reader.results)):
            return False
        if is_wide_concatenation(self.table, reader):
            return False
        made = self.table.values[value].operation
        if made is None:
            return False
        maker = self.table.operations[made]
        if is_wide_concatenation(self.table, maker) or (
            self.has_loops and _loop_around(reader.scope) != _loop_around(maker.scope)
        ):
            return False  # what comes into a loop from outside is fused over no border
        if reader.primitive in MADE_OF_PARTS or not is_expensive(self.table, maker):
            return True
        widest = max(self.table.values[result].elements for result in reader.results)
        return widest <= self.table.values[value].elements


@lru_cache(maxsize=1 << 12)
def _loop_around(scope: str) -> tuple[bool, str]:
    """Whether a scope is in a loop or a branch, and where that stands; JAX slices for a scan in the body of a while."""
    body, inside, _ = scope.rpartition("/body")
    return bool(inside), body.rpartition("/")[0]


def is_in_memory(operation: Operation) -> bool:
    """Whether an operation reads its operands from memory and writes its result there."""
    return operation.primitive in _IN_MEMORY


def is_expensive(table: LayerTable, operation: Operation) -> bool:
    """Whether a value is rather written than computed twice.

    A quotient is, but for one by a number, or by an array of fewer elements: that is a product with the reciprocal
    (`AlgebraicSimplifier` of XLA).
    """
    if operation.primitive == "div" and len(operation.operands) > 1:
        divisor, result = (table.values[value] for value in (operation.operands[1], operation.results[0]))
        return divisor.elements == result.elements and not _is_spread(table, operation.operands[1])
    return operation.primitive in EXPENSIVE or rounds(table, operation)


def rounds(table: LayerTable, operation: Operation) -> bool:
    """Whether an operation rounds to 16 bits, which takes a processor several steps."""
    return operation.primitive == CONVERT and table.values[operation.results[0]].dtype == ROUNDED


def is_wide_concatenation(table: LayerTable, operation: Operation) -> bool:
    """Whether an operation puts rows of many elements side by side."""
    if operation.primitive != "concatenate":
        return False
    shape = table.values[operation.results[0]].shape
    last = operation.size("dimension") == (len(shape) - 1,)
    return len(shape) > 1 and last and shape[-1] >= WIDE_CONCATENATION


def fuse_for_cpu(table: LayerTable, equals: Equals) -> CpuFusion:
    """Decide for every value whether it exists. Linear in the number of operands.

    Readers come before what they read here: what a value's readers can do decides what becomes of it.
    """
    library = find_library_fusions(table, equals)
    fusion = CpuFusion(table, equals, find_readers(table, equals), library=library)
    fusion.has_loops = any(operation.in_loop for operation in table.operations)
    fusion.region = frozenset(
        result for inside in library.fusions for index in inside[:-1] for result in table.operations[index].results
    )
    fusion.ends = frozenset(result for inside in library.fusions for result in table.operations[inside[-1]].results)
    results = {equals.of[value] for value in table.outputs if value is not None}
    recomputed: set[int] = set()
    for index in reversed(equals.operations):
        operation = table.operations[index]
        for value in operation.results:
            if equals.constant[value] or value in fusion.region:
                continue
            if is_in_memory(operation) or operation.hands_on or value in fusion.ends:
                fusion.exists.add(value)
                continue
            readers = _readers_behind_casts(fusion, value)
            if value not in results:
                wanted_once = len(readers) <= 1 or not is_expensive(table, operation)
                if (
                    wanted_once
                    and not is_inside_erfc(fusion, operation)
                    and not _meets_its_gradient(fusion, operation, value, readers)
                    and all(fusion.takes(reader, value) for reader in readers)
                ):
                    continue
            fusion.exists.add(value)
            if not is_expensive(table, operation) and _grows_by_being_written(fusion, operation, value):
                recomputed.add(value)
    for index in equals.operations:
        operation = table.operations[index]
        read = fusion.read_by(operation)
        for value in operation.results:
            if equals.constant[value]:
                fusion.roots[value] = ()
            elif value not in fusion.exists:
                fusion.roots[value] = read
            elif value in recomputed and len(operation.results) == 1:
                fusion.again[value] = read
    return fusion


def _readers_behind_casts(fusion: CpuFusion, value: int) -> list[Operation]:
    """The operations that read a value, and for a cast to float32, which takes nothing, those that compute it again.

    All do where it exists nowhere; elsewhere the copies of it in another order.
    """
    table = fusion.table
    readers = [table.operations[index] for index in fusion.readers.get(value, ())]
    if table.values[value].dtype not in NARROW:
        return readers
    found: list[Operation] = []
    for reader in readers:
        found.append(reader)
        if reader.primitive != CONVERT:
            continue
        cast = reader.results[0]
        behind = [table.operations[each] for each in fusion.readers.get(cast, ())]
        if cast in fusion.exists:
            found += [reader] * _copies(table, behind, cast)
        elif cast not in fusion.region:
            found[-1:] = behind
    return found


def _copies(table: LayerTable, readers: Sequence[Operation], value: int) -> int:
    """How many copies products read of a value beside the value itself."""
    sides = {
        read_side(table, reader, place)
        for reader in readers
        if reader.primitive == "dot_general" and len(reader.operands) > 1
        for place in (0, 1)
        if reader.operands[place] == value
    }
    copied = sum(side is Side.COPIED for side, _ in sides)
    return copied if copied < len(sides) else max(copied - 1, 0)


def _meets_its_gradient(fusion: CpuFusion, operation: Operation, value: int, readers: Sequence[Operation]) -> bool:
    """Whether what is made of several arrays is read by the forward pass, and beside a gradient that follows from that.

    It is fused into a reader only if it could be on every way to it (``CanFuseOnAllPaths``), and one leads over the gradient,
    through products and reductions: the output of a gate, which the backward pass multiplies with the gradient.
    """
    if operation.phase is not Phase.FORWARD or _grows_by_being_written(fusion, operation, value):
        return False
    return any(reader.phase is Phase.FORWARD for reader in readers) and any(
        reader.phase is Phase.BACKWARD and any(_is_of_backward_pass(fusion, other) for other in fusion.operands(reader))
        for reader in readers
    )


def _is_of_backward_pass(fusion: CpuFusion, value: int) -> bool:
    made = fusion.table.values[value].operation
    return made is not None and fusion.table.operations[made].phase is Phase.BACKWARD


def made_from(fusion: Fusion, value: int) -> tuple[int, ...]:
    """What a copy of a value reads: what the value is computed from, element by element, or the value itself."""
    return fusion.again.get(value, fusion.sources(value)) if isinstance(fusion, CpuFusion) else fusion.sources(value)


def is_inside_erfc(fusion: CpuFusion, operation: Operation) -> bool:
    """Whether an operation is the exp(-x²) of the gradient of erfc(x), which erfc itself computes: a value of many readers."""
    if operation.primitive != "exp":
        return False
    value = fusion.equals.of[operation.operands[0]]
    for step in (frozenset({"neg"}), frozenset({"square", "mul", "integer_pow"})):
        made = fusion.table.values[value].operation
        maker = fusion.table.operations[made] if made is not None else None
        if maker is None or maker.primitive not in step:
            return False
        value = fusion.equals.of[maker.operands[0]]
    return any(fusion.table.operations[reader].primitive == "erfc" for reader in fusion.readers.get(value, ()))


def _grows_by_being_written(fusion: CpuFusion, operation: Operation, value: int) -> bool:
    """Whether reading what a value is made of is no more than reading the value.

    So it is with one array of its size, whatever is spread over it besides (`EffectivelyAtMostUnary`), and where all that it
    is made of is no larger than itself.
    """
    table = fusion.table
    operands = [operand for operand in fusion.operands(operation) if not _is_spread(table, operand)]
    elements = table.values[value].elements
    read = sum(table.values[operand].elements for operand in operands)
    return sum(table.values[operand].elements >= elements for operand in operands) <= 1 or read <= elements


def _is_spread(table: LayerTable, value: int) -> bool:
    made = table.values[value].operation
    return made is not None and table.operations[made].primitive in ("broadcast_in_dim", "iota")
