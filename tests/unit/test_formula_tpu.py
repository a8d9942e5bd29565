"""Tiles of a TPU: what arrays take in them, by hand and beside compiled programs."""

from pathlib import Path

import pytest
from layer_tables import Table

from jaxmem.capture import load
from jaxmem.formula.backends.tpu import ON_CHIP_BYTES, feature_maps, padding_bytes, tiled_bytes
from jaxmem.formula.live_ranges import find_live_ranges
from jaxmem.layer_table import Value
from jaxmem.roles import Phase
from jaxmem.xla import read_hlo_proto

CAPTURES = sorted((Path(__file__).parents[1] / "golden").glob("*.tpu-v5e.jaxmem"))


@pytest.mark.parametrize(
    ("shape", "bits", "size_bytes"),
    [
        ((), 32, 512),  # a tile of 128 lanes
        ((), 8, 512),  # of 512, four to a sublane
        ((191,), 32, 1024),  # a tile of 256
        ((1500,), 32, 8192),  # two of 1,024
        ((113, 61), 32, 64 * 128 * 4),  # 113 in the lanes and 61 in the sublanes; the other way round 120 rows
        ((3, 3, 3, 13), 32, 9 * 4 * 128 * 4),  # three rows in a tile of four
        ((1, 1, 12, 2), 32, 2 * 128 * 4),
        ((113, 127), 16, 120 * 128 * 2),  # two rows of bfloat16 to a sublane: 8 to a tile all the same
        ((48, 3), 8, 4 * 128),  # four rows of booleans are one sublane
    ],
)
def test_tiles_by_hand(shape, bits, size_bytes):
    assert tiled_bytes(shape, bits) == size_bytes


@pytest.mark.parametrize("path", CAPTURES, ids=lambda path: path.name.split(".")[0])
def test_every_argument_takes_what_the_compiler_gives_it(path):
    capture = load(path)
    _, assignment = read_hlo_proto(capture.hlo_proto, origin=path.name)
    assert assignment is not None
    assert capture.layer_table is not None
    slots = {one.parameter_number: one for one in assignment.allocations if one.is_entry_computation_parameter}
    for argument, index in zip(capture.arguments, capture.layer_table.arguments, strict=True):
        if argument.parameter_number is not None:
            value = capture.layer_table.values[index]
            assert tiled_bytes(value.shape, value.itemsize_bits) == slots[argument.parameter_number].size, argument.path


def test_a_feature_map_has_channels_or_images_in_the_lanes():
    # 64 channels fill half of 128 lanes, 32 images four rows of 8: twice its size. 256 images fill the lanes.
    maps = {(32, 14, 14, 64), (256, 14, 14, 64)}
    few = Value(shape=(32, 14, 14, 64), dtype="float32", itemsize_bits=32)
    assert padding_bytes(few, maps) == few.logical_bytes
    assert padding_bytes(Value(shape=(256, 14, 14, 64), dtype="float32", itemsize_bits=32), maps) == 0
    # Along which dimension a device's part is cut is not known.
    assert padding_bytes(Value(shape=(32, 14, 14, 64), dtype="float32", itemsize_bits=32, divided_over=4), maps) == 0


def test_what_is_no_feature_map_lies_compactly():
    # ViT's attention: 12 heads of 197 × 197, with 197 in the lanes and 8 images in the sublanes.
    scores = Value(shape=(8, 12, 197, 197), dtype="float32", itemsize_bits=32)
    assert padding_bytes(scores) == 4 * 8 * 12 * 197 * (256 - 197)
    table = Table()
    table.argument("x", 8, 14, 14, 64)
    table.argument("w", 3, 3, 64, 32)
    table.do("y", "conv_general_dilated", Phase.FORWARD, (8, 14, 14, 32), "x", "w")
    table.do("z", "reshape", Phase.FORWARD, (8, 196, 32), "y")
    assert feature_maps(table.table("z")) == {(8, 14, 14, 64), (8, 14, 14, 32)}


@pytest.mark.parametrize(
    ("reader", "platform", "written"),
    [
        ("conv_general_dilated", "tpu", False),
        ("reduce_window_max", "tpu", True),
        ("conv_general_dilated", "cuda", True),
        ("reduce_window_max", "cuda", False),
    ],
)
def test_a_convolution_of_a_tpu_computes_what_it_reads_and_a_pool_does_not(reader, platform, written):
    table = Table()
    table.argument("x", 2048, 14, 14, 64)
    table.argument("w", 1, 1, 64, 64)
    table.do("clipped", "max", Phase.FORWARD, (2048, 14, 14, 64), "x")
    table.do("y", reader, Phase.FORWARD, (2048, 14, 14, 64), "clipped", *(["w"] if "conv" in reader else []))
    table.do("loss", "reduce_sum", Phase.FORWARD, (), "y")
    ranges = find_live_ranges(table.table("loss"), platform=platform)
    assert ranges.exists[table.names["clipped"]] is written


@pytest.mark.parametrize("fits", [True, False])
def test_what_fits_on_the_chip_needs_no_main_memory(fits):
    # x·w of whole tiles, 128 numbers wide: exactly as large as the on-chip memory, or a row of tiles larger.
    rows = ON_CHIP_BYTES // (4 * 128) + (0 if fits else 8)
    table = Table()
    table.argument("x", rows, 128)
    table.argument("w", 128, 128)
    table.do("y", "dot_general", Phase.FORWARD, (rows, 128), "x", "w")
    table.do("loss", "reduce_sum", Phase.FORWARD, (), "y")
    ranges = find_live_ranges(table.table("loss"), platform="tpu")
    assert ranges.on_chip is fits
    assert ranges.exists[table.names["y"]] is not fits
