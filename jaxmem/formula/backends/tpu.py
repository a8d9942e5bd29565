"""How XLA's compiler for TPUs stores arrays: in tiles, of which the last in a row and in a column are filled up.

A tile has 128 lanes and 8 sublanes of 32 bits; narrower numbers share a sublane, two or four to one (`Tiling` in
https://openxla.org/xla/tiled_layout). One dimension of an array lies in the lanes, another in the sublanes. Read off compiled
programs for v5e:

- A dimension of 1, 2 or up to 4 in the sublanes gets a tile of as many, any longer one tiles of 8.
- An array of one dimension is a row of tiles of 128, 256, 512 or at most 1,024 lanes; a scalar takes 512 bytes.
- An array lies as compactly as possible, be it handed in by the caller or computed: of all pairs of dimensions for lanes and
  sublanes the one that fills up least.
- Convolutions have the channels in the lanes and the images in the sublanes, or the other way round: so do feature maps,
  which are what a convolution reads or makes and all that has its shape. ViT's attention, heads × tokens × tokens, is none.

A convolution or a matrix product computes what it reads on the way (`fuse` with ``into_contractions``): the normalized and
clipped maps of MobileNet and the widened activations of ViT are never written, forward or backward, but computed again from
the outputs of convolutions and products. A pool does not: VGG's maps before each pool are written.

What the program computes lies in the on-chip memory, an account of its own, where all of it fits there; else in main memory.
That some of it may lie on the chip then too, and the program's code, is not derived.
"""

from collections.abc import Container, Iterable, Sequence
from dataclasses import replace
from itertools import permutations
from math import prod

from jaxmem.formula.plan import Plan
from jaxmem.layer_table import LayerTable, Value
from jaxmem.roles import Phase

LANES = 128
SUBLANES = 8
SUBLANE_BITS = 32
LARGEST_ROW = 1024
"""Lanes of 32 bits of the largest tile of an array of one dimension."""

ON_CHIP_BYTES = 128 << 20
"""The vector memory (VMEM) of one core of v5e and v6e."""


def add_tpu(plan: Plan) -> None:
    """Let every array take what it takes in tiles."""
    maps = feature_maps(plan.table)
    for value, array in plan.array_of.items():
        if plan.arrays[array].size_bytes:
            stored = plan.table.values[value]
            padded_bytes = stored.logical_bytes + padding_bytes(stored, maps)
            plan.arrays[array] = replace(plan.arrays[array], size_bytes=padded_bytes)


def feature_maps(table: LayerTable) -> frozenset[tuple[int, ...]]:
    """The shapes of what the convolutions of the forward pass read and make, kernels apart: gradients have the same."""
    return frozenset(
        table.values[value].shape
        for operation in table.operations
        if operation.primitive == "conv_general_dilated" and operation.phase is Phase.FORWARD
        for value in (operation.operands[0], *operation.results)
    )


def padding_bytes(value: Value, maps: Container[tuple[int, ...]] = ()) -> int:
    """What tiles add to an array; 0 for one that is divided over devices, along which dimension is not known.

    Args:
        maps: the shapes of feature maps, where it is one that the program computes.
    """
    if value.divided_over > 1 or not value.elements:
        return 0
    pairs = ((-1, 0), (0, -1)) if value.shape in maps else None
    return tiled_bytes(value.shape, value.itemsize_bits, pairs) - value.logical_bytes


def tiled_bytes(shape: Sequence[int], itemsize_bits: int, pairs: Iterable[tuple[int, int]] | None = None) -> int:
    """Bytes of an array in tiles.

    Args:
        shape: of the array.
        itemsize_bits: of one element.
        pairs: (dimension in the lanes, dimension in the sublanes), of which that one is taken that fills up least; all there
            are where none is given.
    """
    packing = max(SUBLANE_BITS // max(itemsize_bits, 1), 1)
    if len(shape) < 2:
        tile = packing * min(max(LANES, _power_of_two(-(-prod(shape) // packing))), LARGEST_ROW)
        return _whole_tiles(prod(shape), tile) * itemsize_bits // 8
    chosen = pairs if pairs is not None else permutations(range(len(shape)), 2)
    elements = prod(shape)
    return min(
        elements
        // (shape[lanes] * shape[sublanes])
        * _whole_tiles(shape[lanes], LANES)
        * _whole_tiles(shape[sublanes], _tile_rows(shape[sublanes], packing))
        * itemsize_bits
        // 8
        for lanes, sublanes in chosen
    )


def _tile_rows(size: int, packing: int) -> int:
    return max(packing, min(_power_of_two(size), SUBLANES))


def _whole_tiles(size: int, tile: int) -> int:
    return -(-size // tile) * tile


def _power_of_two(size: int) -> int:
    return 1 << max(size - 1, 0).bit_length()
