"""Which of its kernels YNNPACK takes for a matrix product, and how it packs and divides the work for it.

The choice depends on the processor (`jaxmem.devices.library_kernels`), on the columns of the right side and on what is
summed over; the left side is taken to have many rows (``estimate_dot_cost`` and ``get_dot_kernel`` in
`ynnpack/kernels/dot/dot.cc`). Checked for jaxlib 0.10.2 against the answers of that function, kernel for kernel.
"""

from dataclasses import dataclass
from functools import lru_cache

from jaxmem.devices.library_kernels import Kernel, kernels_of

PACKED_BLOCK_BYTES = 128 << 10
"""A packed block of columns grows to this size while it can (``cache_size_l2`` in dot.cc: 131,072 in jaxlib 0.10.2)."""

_ASSUMED_ROWS = 2048
_PACK_FROM_CALLS = 10
_CACHE_LINE_BYTES = 64


class UnknownKernel(Exception):
    """The library's kernels for a product are not known: an element type or a processor that is not listed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Product:
    """A convolution or dot as YNNPACK runs it: rows × depth times depth × columns, over the outer dimensions.

    Attributes:
        rows, columns: of one product.
        depth: what is summed over, packed: filled up to whole tiles.
        packs: whether the right side is copied into blocks; else it is read where it stands.
        block: columns of a packed block.
        row_split, column_split: rows and columns of a task.
    """

    rows: int
    columns: int
    depth: int
    packs: bool
    block: int
    row_split: int
    column_split: int

    @property
    def row_tasks(self) -> int:
        """Tasks over the rows."""
        return -(-self.rows // self.row_split)

    @property
    def column_tasks(self) -> int:
        """Tasks over the columns."""
        return -(-self.columns // self.column_split)

    @property
    def packed_columns(self) -> int:
        """Columns of the packed right side, the last block filled up; 0 where it is not packed."""
        return _whole(self.columns, self.block) if self.packs else 0

    @property
    def packed_columns_of_a_task(self) -> int:
        """Likewise, those that one task reads."""
        return _whole(min(self.column_split, self.columns), self.block) if self.packs else 0

    def at_work(self, workers: int) -> int:
        """How many tasks can be at work at once."""
        return min(workers + 1, min(self.row_tasks, workers) * min(self.column_tasks, workers))


@lru_cache(maxsize=1 << 12)
def divide(
    *,
    rows: int,
    columns: int,
    depth: int,
    windows: int = 1,
    repeats: int = 1,
    is_transposed: bool = False,
    element_type: str,
    item_bytes: int,
    features: frozenset[str],
) -> Product:
    """How the library runs a product (``should_pack_b``, ``define_pack_b``, ``choose_split_factors`` in dot.cc).

    Args:
        rows, columns: of the result, of one product.
        depth: what is summed over in the innermost dimension: a convolution's input channels.
        windows: elements of the window, which are summed over as well, each a dimension of its own.
        repeats: products that share one right side (a convolution's images and rows), or 1.
        is_transposed: the right side has to be transposed, which packing does on the way.
        element_type, item_bytes: of both sides.
        features: the processor's extensions.

    Raises:
        UnknownKernel: the kernels are not listed.
    """
    rows, columns, depth, item_bytes = max(rows, 1), max(columns, 1), max(depth, 1), max(item_bytes, 1)
    kernels = kernels_of(element_type, features)
    if not kernels:
        raise UnknownKernel(element_type)
    kernel = min(kernels, key=lambda each: _cost(each, columns, depth))
    unpacked = min(
        (each for each in kernels if each.reads_unpacked), key=lambda each: _cost(each, columns, depth), default=None
    )
    packs = (
        is_transposed
        or unpacked is None
        or _cost(unpacked, columns, depth) > 2 * _cost(kernel, columns, depth)
        or -(-rows // unpacked.rows) * repeats > _PACK_FROM_CALLS
    )
    if packs:
        depth = _whole(depth, kernel.tile_depth) * windows
        fitting = PACKED_BLOCK_BYTES // (kernel.columns * depth * item_bytes)
        block = min(_whole(columns, kernel.tile_columns), kernel.columns * max(1, fitting))
    else:
        assert unpacked is not None
        depth *= windows
        block = max(_CACHE_LINE_BYTES // item_bytes, unpacked.columns)
    row_split, column_split = _task(rows, columns, depth, block)
    return Product(
        rows=rows,
        columns=columns,
        depth=depth,
        packs=packs,
        block=block,
        row_split=row_split,
        column_split=column_split,
    )


def _cost(kernel: Kernel, columns: int, depth: int) -> int:
    """The library's estimate of the time, times 10⁴: calls × loads, of which those of the right side count twice."""
    calls = -(-_ASSUMED_ROWS // kernel.rows) * -(-columns // kernel.columns) * -(-depth // kernel.depth)
    left = kernel.rows * kernel.depth // (kernel.tile_rows * kernel.tile_depth)
    right = kernel.columns * kernel.depth // (kernel.tile_columns * kernel.tile_depth)
    tile = kernel.tile_rows * kernel.tile_columns * kernel.tile_depth
    return calls * (10_000 * (5 * left + 11 * right + 9) + tile)


def _task(rows: int, columns: int, depth: int, block: int) -> tuple[int, int]:
    """Rows and columns of a task: it grows, square-ish, until it is worth a thread.

    That is at least 64 × 64 results, and then 2¹⁶ by its cost or by its area.
    """
    cost_depth, aspect = min(depth, 1024), 4
    column_split, row_split = min(columns, block), min(rows, 16)
    least = min(rows, 64) * min(columns, 64)
    while True:
        area, cost = column_split * row_split, (row_split + column_split) * cost_depth
        if area >= least and (cost >= 1 << 16 or area >= 1 << 16):
            break
        if (aspect * column_split <= row_split or row_split >= rows) and column_split < columns:
            column_split *= 2
        elif (row_split <= aspect * column_split or column_split >= columns) and row_split < rows:
            row_split *= 2
        else:
            break
    return min(row_split, 1 << 15), min(column_split, 1 << 16)


def _whole(size: int, step: int) -> int:
    return -(-size // step) * step
