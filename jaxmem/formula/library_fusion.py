"""What XLA's compiler for CPUs hands to its library, YNNPACK, in one piece: `LibraryRewriter`, step by step.

(xla/backends/cpu/transforms/library_rewriter.cc and ynn_matcher.h, xla/backends/cpu/ynn_support.cc.)

- Convolutions, matrix products, reductions and windows that do not overlap start a fusion, from the end of the program to its
  beginning. One that a reduction or a window started grows; one of a convolution or a product is only taken in.
- It grows down, into the only operation that reads it, and up, into an operand that nothing else reads, breadth first, again
  and again until nothing is left to take. What the library knows is taken, element by element or spread out; a fusion that was
  there before is taken in whole. What has fewer than 4,096 elements, and reads as few, is left to XLA's own loops: so a program
  falls into other pieces with a larger batch.
- It ends at 100 instructions, those that stand for its operands included.

Spreading an array over a larger shape is an instruction of its own, one for all that read the same array spread over the same
shape; a number of the program is spread likewise. Where all that read it are in one fusion, it is in there, and takes nothing.
"""

from collections import deque
from dataclasses import dataclass, field
from math import prod

from jaxmem.formula.equal import Equals, moved
from jaxmem.formula.fusion import find_readers
from jaxmem.layer_table import LayerTable, Operation

FEWEST_ELEMENTS = 4096
"""Of a result or an operand, that an operation is worth the library (`IsInstructionPreferredByYnn`)."""

MOST_INSTRUCTIONS = 100
"""Of a fusion (`MaxFusionSize`)."""

FEW_CHANNELS = 16
"""Convolutions of so few channels on both sides are the runtime's."""

ELEMENTWISE = frozenset(
    """add add_any sub mul div max min neg abs exp expm1 log log1p logistic tanh sqrt rsqrt square integer_pow sign floor ceil
    round sin cos pow convert_element_type""".split()
)
"""What YNNPACK computes element by element (``GetYnnUnaryOpMap``, ``GetYnnBinaryOpMap``). No selection, no comparison.

XLA writes a logistic function out before, as 1 / (1 + exp(-x)).
"""

BINARY = frozenset({"add", "add_any", "sub", "mul", "div", "max", "min", "pow"})

_REDUCTIONS = frozenset({"reduce_sum", "reduce_max", "reduce_min"})
_WINDOWS = frozenset({"reduce_window", "reduce_window_max", "reduce_window_sum", "reduce_window_min"})
_CONTRACTIONS = frozenset({"conv_general_dilated", "dot_general"})
_TYPES = frozenset({"float32", "float64", "bfloat16"})

Key = tuple[object, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """An array that lies in memory at the size of what reads it.

    Attributes:
        value: what is spread out; None for a number of the program.
        shape: over which.
        readers: the operations of the library that read it, by index; of a fusion that ends with it, those behind.
    """

    value: int | None
    shape: tuple[int, ...]
    readers: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class LibraryFusions:
    """What the library computes.

    Attributes:
        fusions: the operations of each fusion, by index and in the order of the program; the last one's result is written.
        spreads: what is spread out for them.
    """

    fusions: tuple[tuple[int, ...], ...] = ()
    spreads: tuple[Spread, ...] = ()


@dataclass(slots=True)
class _Node:
    """An instruction.

    Attributes:
        operation: index of the operation that it is; None for a spreading that the trace does not show, and for a quotient's
            reciprocal.
        operands: instructions that it reads.
        users: those that read it.
        value: what it spreads out.
        shape: of its result.
        is_known: the library computes it.
        fusion: that it is in.
    """

    operation: int | None
    operands: list[int]
    shape: tuple[int, ...]
    is_known: bool = False
    is_spread: bool = False
    value: int | None = None
    users: list[int] = field(default_factory=list)
    fusion: "_Growing | None" = None


@dataclass(slots=True, eq=False)
class _Growing:
    """A fusion while it grows: its instructions, and the one that it ends with."""

    members: list[int]
    root: int


def find_library_fusions(table: LayerTable, equals: Equals) -> LibraryFusions:
    """Which operations the library computes together."""
    return _Rewriter(table, equals).run()


def is_of_library(table: LayerTable, operation: Operation) -> bool:
    """Whether the library takes a convolution, a product, a reduction or a window."""
    if not operation.operands or table.values[operation.operands[0]].dtype not in _TYPES:
        return False
    if operation.primitive == "conv_general_dilated":
        return _is_convolution_of_library(table, operation)
    if operation.primitive == "dot_general":
        return _is_product_of_library(table, operation)
    if table.values[operation.operands[0]].elements < FEWEST_ELEMENTS:
        return False
    if operation.primitive in _WINDOWS:
        window, strides = operation.size("window_dimensions"), operation.size("window_strides")
        apart = all(size in (1, stride) for size, stride in zip(window, strides, strict=True))
        dilated = any(one > 1 for name in ("base_dilation", "window_dilation") for one in operation.size(name))
        return apart and not dilated and len(operation.results) == 1 and prod(window) > 1
    return operation.primitive in _REDUCTIONS


def _is_convolution_of_library(table: LayerTable, operation: Operation) -> bool:
    left, kernel = (table.values[operand] for operand in operation.operands[:2])
    result = table.values[operation.results[0]]
    left_axes, kernel_axes, result_axes = (operation.size(name) for name in ("lhs_spec", "rhs_spec", "out_spec"))
    if len(left_axes) != 4 or operation.size("batch_group_count") != (1,):
        return False
    if max(left.shape[left_axes[1]], result.shape[result_axes[1]]) <= FEW_CHANNELS:
        return False
    if any(dilation > 1 for dilation in operation.size("lhs_dilation")):
        return False
    return all(
        result.shape[made] <= left.shape[read] and kernel.shape[window] <= left.shape[read]
        for made, read, window in zip(result_axes[2:], left_axes[2:], kernel_axes[2:], strict=True)
    )


def _is_product_of_library(table: LayerTable, operation: Operation) -> bool:
    left, right = (table.values[operation.operands[number]] for number in (0, -1))
    depth = prod(right.shape[axis] for axis in operation.size("rhs_contracting"))
    batch = prod(right.shape[axis] for axis in operation.size("rhs_batch"))
    rows, columns = (value.elements // max(depth * batch, 1) for value in (left, right))
    if min(rows, columns) <= 1 or max(rows, columns, depth) < 8:
        return False
    return bool(operation.size("rhs_batch")) or len(left.shape) - 1 in operation.size("lhs_contracting")


def product_order(operation: Operation, place: int, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The dimensions of a side of a product in the order in which XLA multiplies it, but for those of one element.

    The batch first; then what stays and what is summed over, of the left side, and what is summed over and what stays, of the
    right (`DotDecomposer`).
    """
    side = ("lhs", "rhs")[place]
    batch, summed = operation.size(f"{side}_batch"), operation.size(f"{side}_contracting")
    kept = tuple(axis for axis in range(len(shape)) if axis not in (*batch, *summed))
    order = (*batch, *kept, *summed) if place == 0 else (*batch, *summed, *kept)
    return tuple(axis for axis in order if shape[axis] > 1)


def is_copied_for_product(table: LayerTable, operation: Operation, place: int) -> bool:
    """Whether a side of a product lies in another order than it is multiplied in.

    Without a batch, either side may lie with its rows and columns exchanged: the library or the runtime reads it so.
    """
    shape = table.values[operation.operands[place]].shape
    order = product_order(operation, place, shape)
    if list(order) == sorted(order):
        return False
    side = ("lhs", "rhs")[place]
    if any(shape[axis] > 1 for axis in operation.size(f"{side}_batch")):
        return True
    summed = [axis in operation.size(f"{side}_contracting") for axis in range(len(shape)) if shape[axis] > 1]
    return sum(one != other for one, other in zip(summed, summed[1:], strict=False)) > 1


class _Rewriter:
    """The pass itself."""

    def __init__(self, table: LayerTable, equals: Equals) -> None:
        self.table, self.equals = table, equals
        self.nodes: list[_Node] = []
        self.node_of: dict[int, int] = {}
        self.keyed: dict[Key, int] = {}
        self.readers = find_readers(table, equals)
        for index in equals.operations:
            self.read(index)
        outputs = {equals.of[value] for value in table.outputs if value is not None}
        self.stays = {self.node_of[value] for value in outputs if value in self.node_of}
        for number, node in enumerate(self.nodes):
            for operand in dict.fromkeys(node.operands):
                self.nodes[operand].users.append(number)

    def add(self, node: _Node, key: Key | None = None) -> int:
        """A new instruction, or the one that is the same."""
        if key is not None and key in self.keyed:
            return self.keyed[key]
        self.nodes.append(node)
        number = len(self.nodes) - 1
        if key is not None:
            self.keyed[key] = number
        return number

    def read(self, index: int) -> None:
        """The instructions of an operation."""
        table, operation = self.table, self.table.operations[index]
        if all(self.equals.constant[value] for value in operation.results):
            return
        shape = table.values[operation.results[0]].shape if operation.results else ()
        known = self.is_known(operation)
        spreads = len(operation.results) == 1 and (known or operation.primitive in BINARY)
        if operation.primitive == "broadcast_in_dim":
            operand = self.source(operation.operands[0])
            key: Key = ("spread", self.equals.of[operation.operands[0]], shape)
            if key in self.keyed:
                self.node_of[operation.results[0]] = self.keyed[key]
                return
            node = _Node(index, [operand], shape, is_known=known, is_spread=True)
            node.value = self.equals.of[operation.operands[0]]
            self.node_of[operation.results[0]] = self.add(node, key)
            return
        operands = []
        for place, operand in enumerate(operation.operands):
            source = self.source(operand)
            if operation.primitive in _CONTRACTIONS:
                source = self.copied(operation, place, operand, source)
            if spreads and operation.primitive in ELEMENTWISE:
                divides = operation.primitive == "div" and place == 1
                source = self.spread(operation, operand, source, shape, divides=divides)
            operands.append(source)
        if spreads and operation.primitive in BINARY and len(operation.operands) == 1:
            literal = _Node(None, [], shape, is_known=known, is_spread=True)
            operands.append(self.add(literal, ("number", operation.primitive, operation.same, shape)))
        number = self.add(_Node(index, operands, shape, is_known=known))
        for result in operation.results:
            self.node_of[result] = number

    def spread(
        self, operation: Operation, operand: int, source: int, shape: tuple[int, ...], *, divides: bool
    ) -> int:
        """What stands between an operation and an operand that is smaller than its result."""
        value = self.table.values[operand]
        if value.elements >= prod(shape) or self.table.values[operation.results[0]].divided_over > 1:
            return source
        first = self.equals.of[operand]
        known = value.dtype in _TYPES
        enough = value.elements >= FEWEST_ELEMENTS
        key: Key = ("spread", first, shape)
        if divides and not self.equals.constant[first]:
            source = self.add(_Node(None, [source], value.shape, is_known=known and enough), ("reciprocal", first))
            key = ("spread reciprocal", first, shape)
        if (scale := self.scale_of(operation, operand)) is not None:
            source = self.add(_Node(None, [source], value.shape, is_known=known and enough))
            key = ("spread and scaled", scale, first, shape)
        node = _Node(None, [source], shape, is_known=known, is_spread=True)
        node.value = None if self.equals.constant[first] else first
        return self.add(node, key)

    def was_a_vector(self, operation: Operation, operand: int) -> bool:
        """Whether a map of one pixel is what a reduction has left, computed with element by element or not."""
        space = operation.size("lhs_spec")[2:]
        if any(self.table.values[operand].shape[axis] > 1 for axis in space):
            return False
        while (made := self.table.values[self.equals.of[operand]].operation) is not None:
            below = self.table.operations[made]
            if below.primitive in _REDUCTIONS:
                return True
            if below.primitive not in ELEMENTWISE:
                return False
            operand = below.operands[0]
        return False

    def scale_of(self, operation: Operation, spread: int) -> int | None:
        """The operation that multiplies the other operand by a number.

        XLA multiplies what is spread out with the number instead, which is less (`AlgebraicSimplifier`).
        """
        if operation.primitive not in ("mul", "div"):
            return None
        for other in operation.operands:
            first = self.equals.of[other]
            made = self.table.values[first].operation
            if first == self.equals.of[spread] or made is None:
                continue
            if self.table.operations[made].primitive in ("mul", "div") and len(self.table.operations[made].operands) == 1:
                return made
        return None

    def copied(self, operation: Operation, place: int, operand: int, source: int) -> int:
        """What stands between a convolution or a product and an operand that lies in another order.

        A map of one pixel that was a vector is copied for its convolution.
        """
        first = self.equals.of[operand]
        shape = self.table.values[operand].shape
        if operation.primitive == "conv_general_dilated":
            if place == 0 and self.was_a_vector(operation, operand):
                return self.add(_Node(None, [source], shape), ("copied", first, shape))
            return source
        if is_copied_for_product(self.table, operation, place) and not self.transposed(operand):
            return self.add(_Node(None, [source], shape), ("copied", first, product_order(operation, place, shape)))
        return source

    def source(self, value: int) -> int:
        """The instruction that makes an operand: what the library does not know stands for an argument and for a transposition."""
        first = self.equals.of[value]
        if first not in self.node_of:
            self.node_of[first] = self.add(_Node(None, [], self.table.values[first].shape))
        node = self.node_of[first]
        order = self.transposed(value)
        if order:
            return self.add(_Node(None, [node], self.table.values[value].shape), ("transposed", first, order))
        return node

    def transposed(self, value: int) -> tuple[tuple[int, ...], ...]:
        """The permutations between a value and the first that holds its numbers."""
        found = []
        while (made := self.table.values[value].operation) is not None:
            operation = self.table.operations[made]
            same = dict(moved(operation, self.table.values))
            if value not in same:
                break
            if operation.primitive == "transpose":
                order = operation.size("permutation")
                shape = self.table.values[same[value]].shape
                order = tuple(axis for axis in order if shape[axis] > 1)
                if list(order) != sorted(order):
                    found.append(order)
            elif operation.primitive == "rev":
                found.append((-1, *operation.size("dimensions")))
            value = same[value]
        return tuple(found)

    def is_known(self, operation: Operation) -> bool:
        """Whether the library computes an operation."""
        values = [self.table.values[value] for value in (*operation.operands, *operation.results)]
        if len(operation.results) != 1 or any(value.dtype not in _TYPES for value in values):
            return False
        if operation.primitive == "broadcast_in_dim":
            return True
        if operation.primitive in ELEMENTWISE:
            return max(value.elements for value in values) >= FEWEST_ELEMENTS and not self.clamps(operation)
        return is_of_library(self.table, operation)

    def clamps(self, operation: Operation) -> bool:
        """Whether an operation is half of a clamp: the larger of a value and a number, then the smaller of that and a number."""
        if operation.primitive not in ("max", "min") or len(operation.operands) != 1:
            return False
        other = "min" if operation.primitive == "max" else "max"
        made = self.table.values[self.equals.of[operation.operands[0]]].operation
        beside = [self.table.operations[reader] for reader in self.readers.get(self.equals.of[operation.results[0]], ())]
        if made is not None:
            beside.append(self.table.operations[made])
        return any(one.primitive == other and len(one.operands) == 1 for one in beside)

    def run(self) -> LibraryFusions:
        """Start fusions from the end of the program, and let them grow."""
        starters = [
            (number, self.table.operations[node.operation].primitive)
            for number, node in enumerate(self.nodes)
            if node.operation is not None and node.is_known
        ]
        for number, primitive in reversed(starters):
            node = self.nodes[number]
            if primitive not in _CONTRACTIONS | _REDUCTIONS | _WINDOWS or node.fusion is not None:
                continue
            node.fusion = _Growing([number], number)
            if primitive not in _CONTRACTIONS:
                fusion: _Growing = node.fusion
                while self.grow(fusion):
                    fusion = self.nodes[number].fusion or fusion
        return self.found()

    def grow(self, fusion: _Growing) -> bool:
        """Once breadth first; whether anything was taken."""
        waiting: deque[tuple[int, bool]] = deque()
        seen: set[int] = set()
        self.look_around(fusion, fusion.members, fusion.root, waiting, seen, up=True, down=True)
        changed = False
        while waiting and self.instructions(fusion) < MOST_INSTRUCTIONS:
            number, is_up = waiting.popleft()
            node = self.nodes[number]
            if node.fusion is not None:
                other = node.fusion
                if other is fusion or self.instructions(fusion) + self.instructions(other) > MOST_INSTRUCTIONS:
                    continue
                if not is_up:
                    fusion.root = other.root
                for member in other.members:
                    self.nodes[member].fusion = fusion
                fusion.members.extend(other.members)
                changed = True
                continue
            if not node.is_known:
                continue
            node.fusion = fusion
            fusion.members.append(number)
            if is_up:
                self.look_around(fusion, [number], number, waiting, seen, up=True, down=False)
            else:
                fusion.root = number
                self.look_around(fusion, [number], number, waiting, seen, up=False, down=True)
            changed = True
        return changed

    def look_around(
        self,
        fusion: _Growing,
        members: list[int],
        end: int,
        waiting: deque[tuple[int, bool]],
        seen: set[int],
        *,
        up: bool,
        down: bool,
    ) -> None:
        """What could be taken next: operands that only the fusion reads, and the only reader of its end."""
        if up:
            for member in members:
                for operand in self.nodes[member].operands:
                    holder = self.nodes[operand].fusion
                    if holder is fusion or operand in seen or operand in self.stays:
                        continue
                    if all(self.nodes[user].fusion is fusion for user in self.nodes[operand].users):
                        seen.add(operand)
                        waiting.append((operand, True))
        if down and end not in self.stays:
            users = self.nodes[end].users
            entities = {id(self.nodes[user].fusion) if self.nodes[user].fusion else -user for user in users}
            if len(entities) == 1 and users[0] not in seen and self.nodes[users[0]].fusion is not fusion:
                seen.add(users[0])
                waiting.append((users[0], False))

    def instructions(self, fusion: _Growing) -> int:
        """Instructions of a fusion, with those that stand for its operands."""
        if 2 * len(fusion.members) + 1 < MOST_INSTRUCTIONS // 2:
            return len(fusion.members)
        inside = set(fusion.members)
        outside = {operand for member in fusion.members for operand in self.nodes[member].operands} - inside
        return len(inside) + len(outside)

    def found(self) -> LibraryFusions:
        """What has come of it, in the program's own terms."""
        fusions: dict[int, _Growing] = {}
        for node in self.nodes:
            if node.fusion is not None:
                fusions[id(node.fusion)] = node.fusion
        spreads: dict[int, list[int]] = {}
        pieces = []
        for fusion in fusions.values():
            members = sorted(fusion.members)
            while self.nodes[fusion.root].operation is None or self.nodes[fusion.root].is_spread:
                # It ends with spreading: what it spreads out lies in memory at the size of what reads it.
                if self.nodes[fusion.root].is_spread:
                    spreads.setdefault(fusion.root, []).extend(self.nodes[fusion.root].users)
                members.remove(fusion.root)
                fusion.root = self.nodes[fusion.root].operands[0]
            inside = set(members)
            operations = [each for member in members if (each := self.nodes[member].operation) is not None]
            for member in members:
                for operand in self.nodes[member].operands:
                    if operand not in inside and self.nodes[operand].is_spread:
                        spreads.setdefault(operand, []).append(member)
            last = self.nodes[fusion.root].operation
            assert last is not None
            operations.remove(last)
            pieces.append((*operations, last))
        return LibraryFusions(
            fusions=tuple(pieces),
            spreads=tuple(
                Spread(
                    value=self.nodes[number].value,
                    shape=self.nodes[number].shape,
                    readers=tuple(
                        dict.fromkeys(each for one in readers if (each := self.nodes[one].operation) is not None)
                    ),
                )
                for number, readers in spreads.items()
            ),
        )
