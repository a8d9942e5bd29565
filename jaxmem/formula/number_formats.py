"""What a processor computes in another number format than the program says.

A processor has no arithmetic in 16-bit floats: XLA converts what an operation reads to float32, and what it computes back
(`FloatNormalization` with `CpuFloatSupport`). Between operations that fuse, the conversions are steps of one loop. A matrix
product and a convolution lie in memory on both sides: what they read is there in float32, each array converted once for all
of them, and what they compute comes in float32, to be converted where it is read.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from jaxmem.formula.fusion import CONTRACTIONS, WINDOWS
from jaxmem.layer_table import LayerTable, Operation, Value

CONVERT = "convert_element_type"

_FROM_MEMORY_TO_MEMORY = CONTRACTIONS | WINDOWS

_NARROW = frozenset({"bfloat16", "float16"})


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
    """Put conversions before and behind what computes from memory to memory. Linear."""
    if not any(value.dtype in _NARROW for value in table.values):
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


def with_float32(table: LayerTable, operations: Iterable[int]) -> LayerTable:
    """A program in which what these operations make is in float32: a library takes and hands out nothing narrower."""
    made = {result for index in operations for result in table.operations[index].results}
    return as_computed(table, frozenset(value for value in made if table.values[value].dtype in _NARROW))


class _Builder:
    def __init__(self, table: LayerTable) -> None:
        self.table = table
        self.values = list(table.values)
        self.operations: list[Operation] = []
        self.traced: list[int] = []
        self.narrow: dict[int, int] = {}
        self.converted: dict[tuple[int, str], int] = {}

    def copy(self, index: int) -> None:
        """One operation of the traced program, with the conversions around it."""
        operation = self.table.operations[index]
        if operation.primitive not in _FROM_MEMORY_TO_MEMORY or operation.hands_on:
            self.append(operation, index)
            return
        operands = tuple(self.in_float32(operand, operation, index) for operand in operation.operands)
        results = tuple(self.new(result) if self.is_narrow(result) else result for result in operation.results)
        self.append(replace(operation, operands=operands, results=results), index)
        for wide, result in zip(results, operation.results, strict=True):
            if wide != result:
                self.append(_conversion(operation, wide, result), index)

    def in_float32(self, value: int, operation: Operation, index: int) -> int:
        """A value as a contraction reads it. A loop is a program of its own, with conversions of its own."""
        if not self.is_narrow(value):
            return value
        key = value, operation.scope.rpartition("/body")[0]
        if key not in self.converted:
            self.converted[key] = self.new(value)
            self.append(_conversion(operation, value, self.converted[key]), index)
        return self.converted[key]

    def is_narrow(self, value: int) -> bool:
        return self.values[value].dtype in _NARROW

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
        return Widened(table=table, traced=self.traced, narrow=self.narrow)


def _conversion(around: Operation, operand: int, result: int) -> Operation:
    return replace(around, primitive=CONVERT, operands=(operand,), results=(result,), sizes=(), same="")
