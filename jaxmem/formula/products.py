"""How a matrix product reads its two sides, as XLA's compiler for CPUs has it.

XLA multiplies [batch, rows, depth] with [batch, depth, columns] (`DotDecomposer`). A side that lies in another order is copied
into it. It is not where that order only exchanges its two dimensions, behind those of a batch: then it is read so
(`TransposeFolding`). Transposing the product of two matrices is multiplying the second with the first (`AlgebraicSimplifier`).
"""

from enum import Enum
from math import prod

from jaxmem.formula.equal import moved
from jaxmem.layer_table import LayerTable, Operation

MOST_SMALL = 8
"""A product of which rows, columns and depth are fewer is not worth the library (`IsDotSupportedByYnn`)."""


class Side(Enum):
    """How one side of a product is read."""

    STANDS = "as it lies"
    EXCHANGED = "with rows and columns exchanged"
    COPIED = "from a copy"


Order = tuple[int, ...]


def product_sides(table: LayerTable, operation: Operation) -> tuple[Side, Side]:
    """How the left and the right side are read."""
    return read_side(table, operation, 0)[0], read_side(table, operation, 1)[0]


def read_side(table: LayerTable, operation: Operation, place: int) -> tuple[Side, Order]:
    """How a side is read, and in which order of the dimensions of the value that its operand was moved from."""
    value = operation.operands[place]
    shape = table.values[value].shape
    batch = operation.size(("lhs_batch", "rhs_batch")[place])
    order = _order(operation, place, shape)
    is_matrix = len(shape) == len(batch) + 2 and batch == tuple(range(len(batch)))
    while (made := table.values[value].operation) is not None:
        move = table.operations[made]
        before = dict(moved(move, table.values)).get(value)
        if before is None:
            break
        read = table.values[before].shape
        if move.primitive == "rev":
            return Side.COPIED, (-1, *order)
        if move.primitive == "transpose":
            axes = move.size("permutation")
            if len(axes) != len(read):  # a capture from before they were written down
                return Side.COPIED, order
            order = tuple(axes[axis] for axis in order)
        else:
            kept, held = _longer(read), _longer(table.values[value].shape)
            same = [read[axis] for axis in kept] == [table.values[value].shape[axis] for axis in held]
            if same and not set(order).difference(held):
                order = tuple(kept[held.index(axis)] for axis in order)
            elif list(order) == sorted(order):
                order = tuple(kept)
            else:
                return Side.EXCHANGED if is_matrix and _is_exchange(order) else Side.COPIED, order
        value = before
    if list(order) == sorted(order):
        return Side.STANDS, order
    return Side.EXCHANGED if is_matrix and _is_exchange(order) else Side.COPIED, order


def _order(operation: Operation, place: int, shape: tuple[int, ...]) -> Order:
    """The dimensions of an operand as they are multiplied, but for those of one element."""
    side = ("lhs", "rhs")[place]
    batch, summed = operation.size(f"{side}_batch"), operation.size(f"{side}_contracting")
    kept = tuple(axis for axis in range(len(shape)) if axis not in (*batch, *summed))
    order = (*batch, *kept, *summed) if place == 0 else (*batch, *summed, *kept)
    return tuple(axis for axis in order if shape[axis] > 1)


def _longer(shape: tuple[int, ...]) -> list[int]:
    return [axis for axis, size in enumerate(shape) if size > 1]


def _is_exchange(order: Order) -> bool:
    exchanged = (*order[:-2], *reversed(order[-2:]))
    return list(exchanged) == sorted(exchanged)


def is_product_of_library(table: LayerTable, operation: Operation) -> bool:
    """Whether the library takes a matrix product: its left side has to lie with the depth last."""
    if len(operation.operands) < 2:
        return False
    left, right = (table.values[operation.operands[number]] for number in (0, -1))
    depth = prod(right.shape[axis] for axis in operation.size("rhs_contracting"))
    batch = prod(right.shape[axis] for axis in operation.size("rhs_batch"))
    rows, columns = (value.elements // max(depth * batch, 1) for value in (left, right))
    if min(rows, columns) <= 1 or max(rows, columns, depth) < MOST_SMALL:
        return False
    of_left, of_right = product_sides(table, operation)
    if _is_turned_round(table, operation):
        return of_right is Side.EXCHANGED
    return of_left is not Side.EXCHANGED


def _is_turned_round(table: LayerTable, operation: Operation) -> bool:
    """Whether the product is only read transposed, which JAX does right behind it."""
    made = table.values[operation.results[0]].operation
    if made is None or made + 1 >= len(table.operations):
        return False
    behind = table.operations[made + 1]
    return (
        behind.primitive == "transpose"
        and behind.operands == operation.results
        and behind.size("permutation") == (1, 0)
    )
