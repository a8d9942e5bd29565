"""What a processor computes in another number format than the program says.

A processor has no arithmetic in bfloat16. XLA converts what an operation reads to float32, and what it computes back
(`FloatNormalization` with `CpuFloatSupport`), before it does anything else with the program; in float16 only what the library
computes (`ChangeOpDataType`). So

- every operation is one of float32, between conversions: steps of one loop where they fuse; a matrix product, a convolution
  and a window lie in memory on both sides, in float32;
- what is only moved about is converted before it is moved, since XLA takes conversions through what moves and cancels them. It
  leaves updates in place as they are, and what takes a maximum over an array;
- where the program itself asks for float32, of a value that was rounded only because it says 16 bits, there is no rounding;
- an array is converted once for all who read it, and in a loop before the loop (`jaxmem.formula.loop_invariants`);
- a sum of 16-bit numbers is rounded after each step, which no library does.

Rounding is several steps of a processor, so what is rounded is not computed twice (`jaxmem.formula.cpu_fusion`): it lies in
memory, in 16 bits, where several read it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from jaxmem.formula.equal import MOVEMENT, moved
from jaxmem.formula.fusion import CONTRACTIONS
from jaxmem.formula.loop_invariants import CONVERT, Borders, with_invariants_before_loops
from jaxmem.layer_table import LayerTable, Operation, Value

_MOVES = MOVEMENT | {"broadcast_in_dim"}

_AS_THEY_ARE = _MOVES | {"dynamic_update_slice", "optimization_barrier", "reduce_max", "reduce_min"}
"""Operations that are in 16 bits in the end."""

_SUMS = frozenset({"reduce_sum", "reduce_prod"})
"""Their steps are rounded: each is converted to 16 bits and back."""

ROUNDED = "bfloat16"
"""The number format that a processor computes nothing in."""

NARROW = frozenset({ROUNDED, "float16"})
"""Those that its library multiplies in float32."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Widened:
    """A traced program, with the conversions that a processor needs.

    Attributes:
        table: the program; values of the traced one keep their indices, those in float32 come behind them.
        traced: for each operation the one of the traced program that it is, or that it converts for.
        narrow: value in float32 → the traced value that holds the same numbers, more coarsely.
    """

    table: LayerTable
    traced: Sequence[int]
    narrow: Mapping[int, int]


def widened(table: LayerTable) -> Widened:
    """Put conversions before and behind what computes. Linear."""
    if not any(value.dtype in NARROW for value in table.values):
        return unchanged(table)
    builder = _Builder(table)
    for index in range(len(table.operations)):
        builder.copy(index)
    return builder.built()


def unchanged(table: LayerTable) -> Widened:
    """A program that is computed in the number formats that it says."""
    return Widened(table=table, traced=range(len(table.operations)), narrow={})


def as_computed(table: LayerTable, in_float32: frozenset[int]) -> LayerTable:
    """The traced program, in which these values are in float32."""
    if not in_float32:
        return table
    values = (
        replace(value, dtype="float32", itemsize_bits=32) if index in in_float32 else value
        for index, value in enumerate(table.values)
    )
    return replace(table, values=tuple(values))


class _Builder:
    def __init__(self, table: LayerTable) -> None:
        self.table = table
        self.values = list(table.values)
        self.operations: list[Operation] = []
        self.traced: list[int] = []
        self.narrow: dict[int, int] = {}
        self.computed: dict[tuple[int, int], int] = {}
        """Value in 16 bits, and the loop or branch that it is made in → what it was before it was rounded."""
        self.read: dict[tuple[int, int], int] = {}
        """Value in 16 bits, and the loop or branch that reads it → the same in float32."""
        self.borders = Borders(table)

    def copy(self, index: int) -> None:
        """One operation of the traced program, with the conversions around it."""
        operation = self.table.operations[index]
        self.borders.reach(index)
        if operation.primitive == "dynamic_slice" and operation.hands_on and self.is_narrow(operation.results[0]):
            operation = replace(operation, hands_on=0)  # fused with the conversion behind it
        if self.borders.crosses(operation) or not self.is_converted(operation):
            self.append(operation, index)
        elif operation.primitive == CONVERT:
            self.convert(operation, index)
        elif not operation.operands or operation.primitive in _AS_THEY_ARE or moved(operation, self.values):
            self.append(operation, index)
        else:
            self.compute(operation, index)

    def is_converted(self, operation: Operation) -> bool:
        """Whether an operation reads or makes what the processor, or for ``float16`` its library, does not compute in."""
        formats = {self.values[value].dtype for value in (*operation.operands, *operation.results)}
        return ROUNDED in formats or (operation.primitive in CONTRACTIONS and not NARROW.isdisjoint(formats))

    def convert(self, operation: Operation, index: int) -> None:
        """A conversion that the program asks for; to float32, what is there already."""
        if not operation.operands or self.values[operation.results[0]].dtype != "float32":
            self.append(operation, index)
            return
        operand = operation.operands[0]
        wide = self.computed.get((operand, self.borders.inside))
        if wide is None:
            wide = self.in_float32(operand, index)
        self.append(replace(operation, primitive="copy", operands=(wide,)), index)

    def compute(self, operation: Operation, index: int) -> None:
        """An operation in float32."""
        operands = tuple(self.in_float32(operand, index) for operand in operation.operands)
        operation = replace(operation, operands=operands)
        if operation.primitive in _SUMS:
            self.append(operation, index)
            return
        if operation.primitive == "reduce_window_sum":
            operation = replace(operation, primitive="reduce_window")
        results = tuple(self.new(result) if self.is_narrow(result) else result for result in operation.results)
        self.append(replace(operation, results=results), index)
        for wide, result in zip(results, operation.results, strict=True):
            if wide != result:
                self.computed[result, self.borders.inside] = wide
                self.append(_conversion(operation, wide, result, "rounded"), index)

    def in_float32(self, value: int, index: int) -> int:
        """A value as an operation reads it: converted before it is moved about, in the loop or branch that reads it."""
        if not self.is_narrow(value):
            return value
        inside = self.borders.inside
        moves: list[Operation] = []
        while (value, inside) not in self.read and (move := self.move_to(value)) is not None:
            moves.append(move)
            value = move.operands[0]
        if (value, inside) not in self.read:
            self.read[value, inside] = self.new(value)
            around = self.table.operations[index]
            self.append(_conversion(around, value, self.read[value, inside], "in float32"), index)
        wide = self.read[value, inside]
        for move in reversed(moves):
            (value,) = move.results
            self.read[value, inside] = self.new(value)
            self.append(replace(move, operands=(wide,), results=(self.read[value, inside],)), index)
            wide = self.read[value, inside]
        return wide

    def move_to(self, value: int) -> Operation | None:
        """The operation that only moves what it reads, in 16 bits, and makes a value of it."""
        made = self.table.values[value].operation
        move = self.table.operations[made] if made is not None else None
        if move is None or len(move.operands) != 1 or len(move.results) != 1:
            return None
        if move.primitive not in _MOVES and not moved(move, self.table.values):
            return None
        return move if self.is_narrow(move.operands[0]) else None

    def is_narrow(self, value: int) -> bool:
        return self.values[value].dtype in NARROW

    def new(self, value: int) -> int:
        """The same numbers in float32."""
        held = self.values[value]
        self.values.append(Value(shape=held.shape, dtype="float32", itemsize_bits=32, divided_over=held.divided_over))
        self.narrow[len(self.values) - 1] = value
        return len(self.values) - 1

    def append(self, operation: Operation, index: int) -> None:
        for result in operation.results:
            self.values[result] = replace(self.values[result], operation=len(self.operations))
        self.operations.append(operation)
        self.traced.append(index)

    def built(self) -> Widened:
        table = replace(self.table, values=tuple(self.values), operations=tuple(self.operations))
        before = with_invariants_before_loops(table, NARROW)
        narrow = self.narrow | {copy: self.narrow.get(value, value) for copy, value in before.copies.items()}
        return Widened(table=before.table, traced=[self.traced[index] for index in before.was], narrow=narrow)


def _conversion(around: Operation, operand: int, result: int, same: str) -> Operation:
    return replace(around, primitive=CONVERT, operands=(operand,), results=(result,), sizes=(), same=same, hands_on=0)
