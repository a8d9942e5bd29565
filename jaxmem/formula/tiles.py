"""Does Triton find tiles for every matrix product of a program? If not, XLA compiles all of them with cuBLAS.

Triton computes a product tile by tile and reads an operand where it lies, also through a transposition that was not carried
out. A tile of T rows of the matrix that the product sees must then be a block of the array as it lies. A row number that runs
over several dimensions of that array, which do not follow one another in memory, has such blocks only if T, from the innermost
dimension outwards, divides each dimension or is a multiple of it. Windows of 7 × 7 tokens and sequences of 197 have none
(`FindOutputTileSizesForEpilogue` in XLA's xla/service/gpu/transforms/nest_gemm_fusion.cc: "Couldn't find output tile sizes"),
and without a card to measure on, jaxmem has such a program compiled without Triton, as it must be.
"""

from collections.abc import Sequence
from math import prod

from jaxmem.formula.equal import Equals, moved
from jaxmem.layer_table import LayerTable, Operation

TILE = 16
"""Rows, columns and depth of the tile that XLA takes unless a card has been measured (`kDefaultGemmTiling`)."""

_Atoms = list[tuple[int, int]]
"""A dimension as it lies in memory: (size, stride) of its parts, outermost first."""


def has_no_tiles(table: LayerTable, equals: Equals) -> bool:
    """Whether Triton finds no tiles for some matrix product of a program."""
    return any(
        not _has_tiles(table, table.operations[index], number)
        for index in equals.operations
        if table.operations[index].primitive == "dot_general" and len(table.operations[index].operands) == 2
        for number in (0, 1)
    )


def is_matrix(table: LayerTable, product: Operation, number: int) -> bool:
    """Whether an operand of a product, or each of its batch, lies in memory as a matrix: rows and columns of equal steps."""
    return all(len(runs) <= 1 for runs in _runs(table, product, number))


def _has_tiles(table: LayerTable, product: Operation, number: int) -> bool:
    return all(_divides(runs) for runs in _runs(table, product, number))


def _runs(table: LayerTable, product: Operation, number: int) -> tuple[_Atoms, ...]:
    """How the rows of an operand lie in memory, and what is summed over; empty where that is not known."""
    side = ("lhs", "rhs")[number]
    dimensions = _layout(table, product.operands[number])
    if dimensions is None:
        return ()
    summed, batch = product.size(f"{side}_contracting"), product.size(f"{side}_batch")
    rows = [axis for axis in range(len(dimensions)) if axis not in summed and axis not in batch]
    return tuple(_coalesced([atom for axis in axes for atom in dimensions[axis]]) for axes in (rows, summed))


def _coalesced(atoms: _Atoms) -> _Atoms:
    """The parts of dimensions that count as one, those that follow one another in memory as one part."""
    runs: _Atoms = []
    for size, stride in atoms:
        if size == 1:
            continue
        if runs and runs[-1][1] == size * stride:
            runs[-1] = (runs[-1][0] * size, stride)
        else:
            runs.append((size, stride))
    return runs


def _divides(runs: _Atoms) -> bool:
    """Whether a tile is a block of dimensions that count as one."""
    left = TILE
    for size, _ in reversed(runs[1:]):
        if size % left == 0:
            return True
        if left % size:
            return False
        left //= size
    return True


def _layout(table: LayerTable, value: int) -> list[_Atoms] | None:
    """How a value lies in memory where it is only moved: as what it was moved from. None where that is not known."""
    steps = []
    while (made := table.values[value].operation) is not None and (same := moved(table.operations[made])):
        steps.append((table.operations[made], value))
        value = next(operand for result, operand in same if result == value)
    shape = table.values[value].shape
    dimensions: list[_Atoms] | None = [[(size, prod(shape[axis + 1 :]))] for axis, size in enumerate(shape)]
    for operation, result in reversed(steps):
        if dimensions is None or operation.primitive == "rev":
            return None
        if operation.primitive == "transpose":
            dimensions = [dimensions[axis] for axis in operation.size("permutation")]
        else:
            dimensions = _regrouped([atom for atoms in dimensions for atom in atoms], table.values[result].shape)
    return dimensions


def _regrouped(atoms: _Atoms, shape: Sequence[int]) -> list[_Atoms] | None:
    """The same parts, dealt out to the dimensions of another shape."""
    waiting = [atom for atom in atoms if atom[0] != 1]
    dimensions: list[_Atoms] = []
    for size in shape:
        own: _Atoms = []
        while size > 1:
            if not waiting:
                return None
            part, stride = waiting.pop(0)
            if size % part == 0:
                own.append((part, stride))
                size //= part
            elif part % size == 0:
                inner = part // size
                own.append((size, stride * inner))
                waiting.insert(0, (inner, stride))
                size = 1
            else:
                return None
        dimensions.append(own)
    return dimensions
