"""What is the same in every turn of a loop is computed once, before it begins.

XLA moves it out of the body, loop by loop, and hands it in with what the loop carries (`WhileLoopInvariantCodeMotion` in
xla/service). So it exists, whole, until the loop is over: of an array of which each turn reads a slice, as of the layers in a
scan, the cast of all of it. The array itself is then read by nobody, if all that the body reads is the cast. Out of a branch,
which may not run, nothing is moved.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from jaxmem.layer_table import LayerTable, Operation

LOOP = "while"
"""The primitive of what waits for all that a loop receives or returns."""

TOKEN = "token"
"""The number format of what it makes."""

BRANCH = "/cond/body"
"""The end of the scope of what stands in a branch."""

CONVERT = "convert_element_type"

IN_ANOTHER_ORDER = "copy in another order"
"""The primitive of a copy that stands where no operation of the trace asks for one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Region:
    """A loop, or the branches of one choice.

    Attributes:
        begin: index of the operation that waits for all that a loop receives, or of the first in a branch.
        scope: of that operation; of branches, that of what stands in them.
        is_loop: it runs again and again.
    """

    begin: int
    scope: str
    is_loop: bool


class Borders:
    """The loops and branches around an operation, while the operations of a table are gone through in order."""

    def __init__(self, table: LayerTable) -> None:
        self.table = table
        self.regions: list[Region] = []

    def reach(self, index: int) -> Region | None:
        """Go on to an operation; the loop that it begins or ends, if it does."""
        operation = self.table.operations[index]
        while self.regions and not self.regions[-1].is_loop and not operation.scope.startswith(self.regions[-1].scope):
            self.regions.pop()
        branches = operation.scope.split(BRANCH)[:-1]
        for depth in range(sum(not region.is_loop for region in self.regions), len(branches)):
            scope = BRANCH.join((*branches[: depth + 1], ""))
            self.regions.append(Region(begin=index, scope=scope, is_loop=False))
        if operation.primitive != LOOP or operation.hands_on or not self.crosses(operation):
            return None
        if self.regions and self.regions[-1].is_loop and self.regions[-1].scope == operation.scope:
            return self.regions.pop()
        self.regions.append(Region(begin=index, scope=operation.scope, is_loop=True))
        return self.regions[-1]

    @property
    def inside(self) -> int:
        """The innermost region, by the operation that begins it; -1 outside of all."""
        return self.regions[-1].begin if self.regions else -1

    @property
    def loop(self) -> int | None:
        """The innermost loop, by the operation that begins it."""
        return next((region.begin for region in reversed(self.regions) if region.is_loop), None)

    def crosses(self, operation: Operation) -> bool:
        """Whether an operation begins or ends a region, or hands on what goes in or comes out, as it is."""
        return (
            operation.primitive != "dynamic_slice"
            if operation.hands_on
            else bool(operation.results) and self.table.values[operation.results[0]].dtype == TOKEN
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Moved:
    """A program in which what is the same in every turn of a loop is computed before it.

    Attributes:
        table: the program; values keep their indices, new ones come behind them.
        was: for each of its operations the one that it was.
        copies: new value → the value that holds the same numbers in another order.
    """

    table: LayerTable
    was: Sequence[int]
    copies: Mapping[int, int]


def with_invariants_before_loops(table: LayerTable, formats: Collection[str]) -> Moved:
    """A program in which what is the same in every turn of a loop, and reads or makes arrays in some number formats or what is
    made of them, is computed before the loop. Linear.

    What is moved exists from before the loop until it is over, in place of what it was made from; a cast of one array is made
    once. A product could have read an array with its dimensions exchanged as it lies. Not when that is exchanged before: then
    it is written once as it is computed, and once more in the order that it is read in.
    """
    if not any(operation.in_loop for operation in table.operations):
        return Moved(table=table, was=range(len(table.operations)), copies={})
    mover = _Mover(table, formats)
    for index in range(len(table.operations)):
        mover.place(index)
    return mover.built()


class _Mover:
    def __init__(self, table: LayerTable, formats: Collection[str]) -> None:
        self.table = table
        self.formats = formats
        self.values = list(table.values)
        self.copies: dict[int, int] = {}
        self.borders = Borders(table)
        self.kept: list[int] = []
        self.before: dict[int, list[tuple[int, Operation]]] = {}
        """What begins a loop → what is computed before it, each with the operation that it was."""
        self.made: dict[int, int] = {}
        """Of what is moved, the operation that it comes before, less one."""
        self.casts: dict[tuple[int, str, int], int] = {}
        self.same: dict[int, int] = {}
        """Result of a cast → that of the same cast before."""
        self.around: dict[int, tuple[int, ...]] = {}
        """What begins or ends a loop → what begins those around it, its own the last."""
        self.cast: dict[int, set[int]] = {}
        """What begins a loop → what is cast before it."""
        self.read: dict[int, set[int]] = {}
        """What begins a loop → what is read in it, from wherever it comes."""
        self.lasting: dict[int, dict[int, None]] = {}
        """What begins a loop → what is computed before it and read in it."""

    def place(self, index: int) -> None:
        """Keep an operation where it is, or move it."""
        operation = self.table.operations[index]
        around = tuple(region.begin for region in self.borders.regions)
        region = self.borders.reach(index)
        if region is not None:
            self.around[index] = around if region.begin in around else (*around, region.begin)
            self.kept.append(index)
            return
        loop = self.loop_around(operation) if self.may_move(operation) else None
        if loop is not None:
            self.move(index, loop)
            return
        self.kept.append(index)
        if not operation.hands_on:
            for begin in around:
                self.read.setdefault(begin, set()).update(operation.operands)
        for operand in operation.operands:
            if operand in self.made:
                self.lasting.setdefault(self.made[operand] + 1, {})[self.same.get(operand, operand)] = None

    def move(self, index: int, loop: Region) -> None:
        """Compute an operation before a loop."""
        operation = replace(self.table.operations[index], scope=loop.scope)
        self.made.update(dict.fromkeys(operation.results, loop.begin - 1))
        moved = self.before.setdefault(loop.begin, [])
        if operation.primitive == CONVERT:
            (operand,), (result,) = operation.operands, operation.results
            self.cast.setdefault(loop.begin, set()).add(operand)
            key = self.same.get(operand, operand), self.values[result].dtype, loop.begin
            if key in self.casts:
                self.same[result] = self.casts[key]
                return
            self.casts[key] = result
        if self.exchanges(operation):
            made, written = self.like(operation.results[0]), self.like(operation.results[0])
            moved.append((index, replace(operation, primitive=CONVERT, results=(made,), sizes=(), same="")))
            copy = replace(
                operation, primitive=IN_ANOTHER_ORDER, operands=(made,), results=(written,), sizes=(), same=""
            )
            moved.append((index, copy))
            operation = replace(operation, primitive="copy", operands=(written,), sizes=(), same="")
        moved.append((index, operation))

    def exchanges(self, operation: Operation) -> bool:
        """Whether an operation exchanges dimensions of an array in the number format that the loop reads."""
        if operation.primitive != "transpose" or self.values[operation.results[0]].dtype in self.formats:
            return False
        shape = self.values[operation.operands[0]].shape
        order = [axis for axis in operation.size("permutation") if axis < len(shape) and shape[axis] > 1]
        return order != sorted(order)

    def like(self, value: int) -> int:
        """A new value, of the same numbers."""
        self.values.append(self.values[value])
        self.copies[len(self.values) - 1] = value
        return len(self.values) - 1

    def may_move(self, operation: Operation) -> bool:
        return (
            bool(operation.operands)
            and not operation.hands_on
            and not self.borders.crosses(operation)
            and any(
                value in self.made or self.values[value].dtype in self.formats
                for value in (*operation.operands, *operation.results)
            )
        )

    def loop_around(self, operation: Operation) -> Region | None:
        """The outermost loop in all turns of which an operation reads the same; from a branch nothing is taken out."""
        made = max(map(self.made_by, operation.operands))
        found = None
        for region in reversed(self.borders.regions):
            if not region.is_loop or made >= region.begin:
                break
            found = region
        return found

    def made_by(self, value: int) -> int:
        made = self.made.get(value, self.table.values[value].operation)
        return made if made is not None else -1

    def built(self) -> Moved:
        order = [
            each for index in self.kept for each in (*self.before.get(index, ()), (index, self.table.operations[index]))
        ]
        operations: list[Operation] = []
        for index, operation in order:
            operands = operation.operands
            if index in self.around and operation is self.table.operations[index]:
                around = self.around[index]
                gone = set[int]().union(*(self.cast.get(begin, ()) for begin in around)) - self.read.get(
                    around[-1], set()
                )
                kept = (operand for operand in operands if operand not in gone)
                operands = (*kept, *self.lasting.get(around[-1], ()))
            operands = tuple(self.same.get(operand, operand) for operand in operands)
            for result in operation.results:
                self.values[result] = replace(self.values[result], operation=len(operations))
            operations.append(replace(operation, operands=operands))
        table = replace(self.table, values=tuple(self.values), operations=tuple(operations))
        return Moved(table=table, was=[index for index, _ in order], copies=self.copies)
