"""The program as XLA's compiler for CPUs has it when its library is asked: what the trace does not show.

- Spreading an array over a larger shape is an instruction, one for all that read the same array spread over the same shape;
  a number of the program is spread likewise.
- A quotient by a smaller array is a product with its reciprocal, and a factor that is a number is multiplied into what is
  spread out (`AlgebraicSimplifier`). The larger of a value and a number, and the smaller of that and another, is a clamp.
- What a batch of products reads in another order than it multiplies in is copied (`DotDecomposer`), and so is a map of one
  pixel that was a vector, for its convolution.
"""

from dataclasses import dataclass, field
from math import prod

from jaxmem.formula.equal import Equals, moved
from jaxmem.formula.fusion import find_readers
from jaxmem.formula.number_formats import NARROW
from jaxmem.formula.products import Side, is_product_of_library, read_side
from jaxmem.layer_table import LayerTable, Operation

FEWEST_ELEMENTS = 4096
"""Of a result or an operand, that an operation is worth the library (`IsInstructionPreferredByYnn`)."""

FEW_CHANNELS = 16
"""Convolutions of so few channels on both sides are the runtime's."""

ELEMENTWISE = frozenset(
    """add add_any sub mul div max min neg abs exp expm1 log log1p logistic tanh sqrt rsqrt square integer_pow sign floor ceil
    round pow convert_element_type""".split()
)
"""What YNNPACK computes element by element (``GetYnnUnaryOpMap``, ``GetYnnBinaryOpMap``). No selection, no comparison, and no
sine: in front of a sum, jaxlib 0.10.2 leaves one to a loop of its own.

XLA writes a logistic function out before, as 1 / (1 + exp(-x)).
"""

BINARY = frozenset({"add", "add_any", "sub", "mul", "div", "max", "min", "pow"})

LIBRARY_REDUCTIONS = frozenset({"reduce_sum", "reduce_max", "reduce_min"})
LIBRARY_WINDOWS = frozenset({"reduce_window_max", "reduce_window_sum", "reduce_window_min"})
"""What `reduce_window` runs is no one operation that the library knows."""
LIBRARY_CONTRACTIONS = frozenset({"conv_general_dilated", "dot_general"})
_TYPES = frozenset({"float32", "float64", "bfloat16"})

Key = tuple[object, ...]


@dataclass(slots=True, eq=False)
class Growing:
    """A fusion while it grows: its instructions, and the one that it ends with."""

    members: list[int]
    root: int


@dataclass(slots=True)
class Node:
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
    fusion: "Growing | None" = None


def is_of_library(table: LayerTable, operation: Operation) -> bool:
    """Whether the library takes a convolution, a product, a reduction or a window."""
    if not operation.operands or table.values[operation.operands[0]].dtype not in _TYPES:
        return False
    if operation.primitive in LIBRARY_REDUCTIONS and rounds_each_step(table, operation):
        return False
    if operation.primitive == "conv_general_dilated":
        return _is_convolution_of_library(table, operation)
    if operation.primitive == "dot_general":
        return is_product_of_library(table, operation)
    if table.values[operation.operands[0]].elements < FEWEST_ELEMENTS:
        return False
    if operation.primitive in LIBRARY_WINDOWS:
        window, strides = operation.size("window_dimensions"), operation.size("window_strides")
        apart = all(size in (1, stride) for size, stride in zip(window, strides, strict=True))
        dilated = any(one > 1 for name in ("base_dilation", "window_dilation") for one in operation.size(name))
        return apart and not dilated and len(operation.results) == 1 and prod(window) > 1
    return operation.primitive in LIBRARY_REDUCTIONS


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


def rounds_each_step(table: LayerTable, operation: Operation) -> bool:
    """Whether a sum is of numbers in float32 that are rounded to 16 bits, as what is added up is in between."""
    operand, result = (table.values[value] for value in (operation.operands[0], operation.results[0]))
    return result.dtype in NARROW and operand.dtype not in NARROW


class Instructions:
    """The instructions, as far as the library is concerned.

    Attributes:
        nodes: themselves, each behind what it reads.
        stays: those that are results of the program.
    """

    def __init__(self, table: LayerTable, equals: Equals) -> None:
        self.table, self.equals = table, equals
        self.nodes: list[Node] = []
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

    def add(self, node: Node, key: Key | None = None) -> int:
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
            node = Node(index, [operand], shape, is_known=known, is_spread=True)
            node.value = self.equals.of[operation.operands[0]]
            self.node_of[operation.results[0]] = self.add(node, key)
            return
        operands = []
        for place, operand in enumerate(operation.operands):
            source = self.source(operand)
            if operation.primitive in LIBRARY_CONTRACTIONS:
                source = self.copied(operation, place, operand, source)
            if spreads and operation.primitive in ELEMENTWISE:
                divides = operation.primitive == "div" and place == 1
                source = self.spread(operation, operand, source, shape, divides=divides)
            operands.append(source)
        if (
            spreads
            and operation.primitive in BINARY
            and len(operation.operands) == 1
            and not self.is_nothing(operation)
        ):
            number = self.number(operation)
            literal = Node(None, [number], shape, is_known=known, is_spread=True)
            operands.append(self.add(literal, ("number", operation.primitive, operation.same, shape)))
        if operation.primitive in LIBRARY_REDUCTIONS or operation.primitive in LIBRARY_WINDOWS:
            operands.append(self.number(operation))
        number = self.add(Node(index, operands, shape, is_known=known))
        for result in operation.results:
            self.node_of[result] = number

    def number(self, operation: Operation) -> int:
        """The number that an operation has for an operand, or that a reduction starts from: one instruction for all alike.

        The trace does not say which it is. A sum starts from zero, and the larger of a value and a number is a ReLU.
        """
        is_zero = operation.primitive in ("max", "reduce_sum", "reduce_window_sum")
        return self.add(
            Node(None, [], ()), ("zero",) if is_zero else ("the number of", operation.primitive, operation.same)
        )

    def spread(self, operation: Operation, operand: int, source: int, shape: tuple[int, ...], *, divides: bool) -> int:
        """What stands between an operation and an operand that is smaller than its result."""
        value = self.table.values[operand]
        if value.elements >= prod(shape) or self.table.values[operation.results[0]].divided_over > 1:
            return source
        first = self.equals.of[operand]
        known = value.dtype in _TYPES
        enough = value.elements >= FEWEST_ELEMENTS
        key: Key = ("spread", first, shape)
        if divides and not self.equals.constant[first]:
            source = self.add(Node(None, [source], value.shape, is_known=known and enough), ("reciprocal", first))
            key = ("spread reciprocal", first, shape)
        if (scale := self.scale_of(operation, operand)) is not None:
            source = self.add(Node(None, [source], value.shape, is_known=known and enough))
            key = ("spread and scaled", scale, first, shape)
        node = Node(None, [source], shape, is_known=known, is_spread=True)
        node.value = None if self.equals.constant[first] else first
        return self.add(node, key)

    def was_a_vector(self, operation: Operation, operand: int) -> bool:
        """Whether a map of one pixel is what a reduction has left, computed with element by element or not."""
        space = operation.size("lhs_spec")[2:]
        if any(self.table.values[operand].shape[axis] > 1 for axis in space):
            return False
        while (made := self.table.values[self.equals.of[operand]].operation) is not None:
            below = self.table.operations[made]
            if below.primitive in LIBRARY_REDUCTIONS:
                return True
            if below.primitive not in ELEMENTWISE or not below.operands:
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
            if (
                self.table.operations[made].primitive in ("mul", "div")
                and len(self.table.operations[made].operands) == 1
            ):
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
                return self.add(Node(None, [source], shape), ("copied", first, shape))
            return source
        side, order = read_side(self.table, operation, place)
        node = self.node_of[first]
        return self.add(Node(None, [node], shape), ("copied", first, order)) if side is Side.COPIED else node

    def source(self, value: int) -> int:
        """The instruction that makes an operand; one that the library does not know for an argument and a transposition."""
        first = self.equals.of[value]
        if first not in self.node_of:
            self.node_of[first] = self.add(Node(None, [], self.table.values[first].shape))
        node = self.node_of[first]
        order = self.transposed(value)
        if order:
            return self.add(Node(None, [node], self.table.values[value].shape), ("transposed", first, order))
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
        if self.is_nothing(operation):
            return True
        if operation.primitive in ELEMENTWISE:
            return max(value.elements for value in values) >= FEWEST_ELEMENTS and not self.clamps(operation)
        return is_of_library(self.table, operation)

    def is_nothing(self, operation: Operation) -> bool:
        """Whether an operation is the larger of a maximum and the least number there is, which JAX writes behind a maximum."""
        made = self.table.values[self.equals.of[operation.operands[0]]].operation if operation.operands else None
        after = made is not None and self.table.operations[made].primitive == "reduce_max"
        return after and operation.primitive == "max" and len(operation.operands) == 1

    def clamps(self, operation: Operation) -> bool:
        """Whether an operation is half of a clamp: the larger of a value and a number, and the smaller of that and another."""
        if operation.primitive not in ("max", "min") or len(operation.operands) != 1:
            return False
        other = "min" if operation.primitive == "max" else "max"
        made = self.table.values[self.equals.of[operation.operands[0]]].operation
        beside = [
            self.table.operations[reader] for reader in self.readers.get(self.equals.of[operation.results[0]], ())
        ]
        if made is not None:
            beside.append(self.table.operations[made])
        return any(one.primitive == other and len(one.operands) == 1 for one in beside)
