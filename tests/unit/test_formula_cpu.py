"""What exists on a CPU, and what XLA's compiler for it adds, on tables of a few operations."""

from dataclasses import replace

import pytest
from layer_tables import Table

from jaxmem.devices.library_kernels import TYPICAL
from jaxmem.formula.backends.cpu import add_cpu
from jaxmem.formula.backends.cpu_library import convolution_bytes, product_bytes
from jaxmem.formula.cpu_fusion import fuse_for_cpu
from jaxmem.formula.equal import find_equals
from jaxmem.formula.plan import Plan
from jaxmem.roles import Phase

FORWARD, BACKWARD, UPDATE = Phase.FORWARD, Phase.BACKWARD, Phase.UPDATE


def fused(table, *outputs):
    """The names of the values that exist, and of those that are computed again all the same."""
    traced = table.table(*outputs)
    fusion = fuse_for_cpu(traced, find_equals(traced, merges_remat=True))
    name_of = {value: name for name, value in table.names.items()}
    return {name_of[value] for value in fusion.exists}, {name_of[value] for value in fusion.again}


def sized(table, last, **sizes):
    """The table with whole-number parameters on its last operation."""
    index = table.values[table.names[last]].operation
    table.operations[index] = replace(table.operations[index], sizes=tuple(sizes.items()))


def centred():
    """x - mean, which a sum reads and the result besides: batch norm in small."""
    table = Table()
    table.argument("x", 256, 16)
    table.argument("mean", 16)
    table.do("centred", "sub", FORWARD, (256, 16), "x", "mean")
    table.do("square", "mul", FORWARD, (256, 16), "centred")
    table.do("variance", "reduce_sum", FORWARD, (16,), "square")
    table.do("out", "add", FORWARD, (256, 16), "centred")
    return table


def test_a_sum_reads_from_memory_what_others_compute_again():
    # The square is read by the sum alone: the library takes it along. The difference has two readers: it is written for the
    # library, and the other one, which reads as much from x, computes it again.
    exists, again = fused(centred(), "variance", "out")
    assert exists == {"centred", "variance", "out"}
    assert "centred" in again


def test_a_sum_of_two_maps_is_not_computed_again_where_one_reader_cannot():
    table = Table()
    table.argument("x", 512, 16)
    table.argument("y", 512, 16)
    table.do("joined", "add", FORWARD, (512, 16), "x", "y")
    table.do("total", "reduce_sum", FORWARD, (16,), "joined")
    table.do("one", "add", FORWARD, (512, 16), "joined")
    table.do("other", "mul", FORWARD, (512, 16), "joined")
    exists, again = fused(table, "total", "one", "other")
    assert "joined" in exists
    assert "joined" not in again
    exists, _ = fused(table, "one", "other")  # without the sum every reader takes it
    assert "joined" not in exists


@pytest.mark.parametrize(("primitive", "written"), [("tanh", True), ("mul", False)])
def test_what_is_expensive_is_computed_once(primitive, written):
    table = Table()
    table.argument("x", 64, 16)
    table.do("y", primitive, FORWARD, (64, 16), "x")
    table.do("one", "add", FORWARD, (64, 16), "y")
    table.do("other", "mul", FORWARD, (64, 16), "y")
    assert ("y" in fused(table, "one", "other")[0]) is written


@pytest.mark.parametrize(("elements", "written"), [(64, True), (1, False)])
def test_a_quotient_by_a_smaller_array_is_a_product(elements, written):
    table = Table()
    table.argument("x", 64, 16)
    table.argument("y", elements, 16)
    table.do("quotient", "div", FORWARD, (64, 16), "x", "y")
    table.do("one", "add", FORWARD, (64, 16), "quotient")
    table.do("other", "mul", FORWARD, (64, 16), "quotient")
    assert ("quotient" in fused(table, "one", "other")[0]) is written


@pytest.mark.parametrize(("columns", "written"), [(64, True), (48, False)])
def test_a_wide_concatenation_is_a_copy(columns, written):
    # Twice 64 columns are 128: rows are copied, and both operands are written before. Twice 48 are computed by the reader.
    table = Table()
    table.argument("x", 64, columns)
    table.do("doubled", "mul", FORWARD, (64, columns), "x")
    table.do("joined", "concatenate", FORWARD, (64, 2 * columns), "doubled", "x")
    sized(table, "joined", dimension=(1,))
    table.do("out", "sin", FORWARD, (64, 2 * columns), "joined")
    assert fused(table, "out")[0] == ({"doubled", "joined", "out"} if written else {"out"})


@pytest.mark.parametrize("forward", [True, False])
def test_the_output_of_a_gate_is_written_for_the_gradient_that_follows_from_it(forward):
    # The gate is made of two arrays. It reaches the gradient through the product of the forward pass, if that reads it: then it
    # could not be computed on every way to the last operation, and is written.
    table = Table()
    table.argument("x", 64, 16)
    table.argument("y", 64, 16)
    table.argument("w", 16, 16)
    table.do("gate", "mul", FORWARD, (64, 16), "x", "y")
    table.do("gated", "add", FORWARD, (64, 16), *(("gate", "y") if forward else ("x", "y")))
    table.do("out", "dot_general", FORWARD, (64, 16), "gated", "w")
    table.do("g", "dot_general", BACKWARD, (64, 16), "out", "w")
    table.do("of y", "mul", BACKWARD, (64, 16), "g", "gate")
    for name in ("out", "g"):
        sized(table, name, lhs_contracting=(1,), rhs_contracting=(0,), lhs_batch=(), rhs_batch=())
    assert ("gate" in fused(table, "of y")[0]) is forward


def planned(table, *outputs):
    plan = Plan(table.table(*outputs), platform="cpu", replaced={})
    add_cpu(plan)
    return plan


def added(plan):
    """Name of what the backend adds → (how many, bytes of each)."""
    found = {}
    for array in plan.arrays:
        if array.addition is not None:
            count, _ = found.get(array.addition.name, (0, 0))
            found[array.addition.name] = (count + 1, array.size_bytes)
    return found


def test_random_bits_wait_as_two_words():
    table = Table()
    table.argument("key", 2)
    table.argument("x", 8, 16)
    table.do("bits", "random_bits", FORWARD, (8, 16), "key", dtype="uint32")
    table.do("mask", "lt", FORWARD, (8, 16), "bits", dtype="bool")
    table.do("kept", "select_n", FORWARD, (8, 16), "mask", "x")
    table.do("gated", "select_n", BACKWARD, (8, 16), "mask", "kept")
    plan = planned(table, "kept", "gated")
    assert added(plan)["word of the random bits"] == (2, 4 * 8 * 16)
    words = [index for index, array in enumerate(plan.arrays) if array.addition is not None]
    readers = [kernel for kernel in plan.kernels if set(words) <= set(kernel.reads)]
    assert len(readers) == 2  # the forward and the backward selection; no mask is written


def test_the_scale_of_a_norm_is_written_at_the_size_of_the_map_where_two_read_it():
    table = Table()
    table.argument("x", 256, 16)
    table.argument("scale", 16)
    table.do("out", "mul", FORWARD, (256, 16), "x", "scale")
    table.do("scaled", "mul", BACKWARD, (256, 16), "x", "scale")
    table.do("total", "reduce_sum", BACKWARD, (256,), "scaled")
    assert added(planned(table, "out", "total"))["operand spread out"] == (1, 4 * 256 * 16)
    assert "operand spread out" not in added(planned(table, "total"))


def depthwise(groups, features):
    """The gradient of a kernel of 3 x 3, by a map of 8 images of 7 x 7."""
    table = Table()
    table.argument("x", 8, 7, 7, groups)
    table.argument("g", 8, 7, 7, features)
    table.do("gradient", "conv_general_dilated", BACKWARD, (3, 3, 1, features), "x", "g")
    sized(
        table,
        "gradient",
        window_strides=(1, 1),
        padding=(1, 1, 1, 1),
        lhs_dilation=(1, 1),
        rhs_dilation=(1, 1),
        lhs_spec=(3, 0, 1, 2),
        rhs_spec=(3, 0, 1, 2),
        out_spec=(2, 3, 0, 1),
        feature_group_count=(1,),
        batch_group_count=(groups,),
    )
    return table


def test_the_gradient_of_a_depthwise_kernel_is_computed_for_every_pair_of_channels():
    # 32 channels: 3 x 3 x 32 x 32 numbers, twice. In two groups of 16 nothing is thrown away.
    plan = added(planned(depthwise(32, 32), "gradient"))
    assert plan["gradient of every pair of channels"] == (1, 4 * 9 * 32 * 32)
    assert plan["gradient within each group"] == (1, 4 * 9 * 32 * 32)
    assert "gradient of every pair of channels" not in added(planned(depthwise(2, 32), "gradient"))


def test_what_a_strided_depthwise_convolution_holds_backward():
    # A dilated input in groups is the runtime's: for each of 96 channels 8 x 16 x 16 rows of 9 numbers, and its kernel's.
    table = Table()
    table.argument("x", 8, 8, 8, 96)
    table.argument("w", 3, 3, 1, 96)
    table.do("y", "conv_general_dilated", BACKWARD, (8, 16, 16, 96), "x", "w")
    sized(
        table,
        "y",
        window_strides=(1, 1),
        padding=(1, 2, 1, 2),
        lhs_dilation=(2, 2),
        rhs_dilation=(1, 1),
        lhs_spec=(0, 3, 1, 2),
        rhs_spec=(3, 2, 0, 1),
        out_spec=(0, 3, 1, 2),
        feature_group_count=(96,),
        batch_group_count=(1,),
    )
    traced = table.table("y")
    held = convolution_bytes(traced, traced.operations[0], threads=2, features=TYPICAL["AVX2"])
    assert held == 96 * (8 * 16 * 16 + 1) * 9 * 4


def test_what_the_library_packs():
    # As a whole convolution the gradient's depth is 8 x 7 x 7 = 392; 32 columns fit into one block of 128 KiB (16 columns are
    # 24.5 KiB, so up to 80): packed 392 x 32. Its one task of 3 rows holds the padded map: 32 x 8 x 9 x 9.
    table = depthwise(32, 32)
    traced = table.table("gradient")
    assert convolution_bytes(traced, traced.operations[0], threads=2, features=TYPICAL["AVX2"]) == 4 * (
        392 * 32 + 32 * 8 * 9 * 9
    )
    # 64 rows are 11 calls of 6: packed. For 100 columns calls of 8 are the fastest, in tiles of 4; one block holds them all.
    table = Table()
    table.argument("x", 64, 64)
    table.argument("w", 64, 100)
    table.do("y", "dot_general", FORWARD, (64, 100), "x", "w")
    sized(table, "y", rhs_contracting=(0,), rhs_batch=(), lhs_contracting=(1,), lhs_batch=())
    traced = table.table("y")
    assert product_bytes(traced, traced.operations[0], threads=2, features=TYPICAL["AVX2"]) == 4 * 64 * 100
    table.values[0] = replace(table.values[0], shape=(60, 64))  # 10 calls: the right side is read as it is
    traced = table.table("y")
    assert product_bytes(traced, traced.operations[0], threads=2, features=TYPICAL["AVX2"]) == 0


@pytest.mark.parametrize("late", [True, False])
def test_a_donated_argument_is_copied_unless_its_readers_must_run_before_the_update(late):
    # The weight is read by `back`. Its update follows from `back` itself, or from another product that does not wait for it.
    table = Table()
    table.argument("w", 16, 16)
    table.argument("x", 64, 16)
    table.do("y", "dot_general", FORWARD, (64, 16), "x", "w")
    table.do("back", "dot_general", BACKWARD, (64, 16), "y", "w")
    table.do("gradient", "dot_general", BACKWARD, (16, 16), "x", "back" if late else "y")
    table.do("new", "sub", UPDATE, (16, 16), "w", "gradient")
    table.do("loss", "reduce_sum", BACKWARD, (), "back")
    for name in ("y", "back", "gradient"):
        sized(table, name, rhs_contracting=(0,), rhs_batch=())
    traced = table.table("new", "loss")
    plan = Plan(traced, platform="cpu", replaced={table.names["w"]: table.names["new"]})
    add_cpu(plan)
    assert ("copy of a donated argument" in added(plan)) is not late


@pytest.mark.parametrize("same", [True, False])
def test_convolutions_that_read_one_map_share_its_transposed_copy(same):
    # Two branches, and the gradients of their kernels: one copy of what both read, or one of each map.
    table = Table()
    table.argument("x", 8, 7, 7, 16)
    table.argument("y", 8, 7, 7, 16)
    for name, read in (("one", "x"), ("other", "x" if same else "y")):
        table.argument(f"g_{name}", 8, 7, 7, 32)
        table.do(name, "conv_general_dilated", BACKWARD, (1, 1, 16, 32), read, f"g_{name}")
        sized(
            table,
            name,
            window_strides=(1, 1),
            padding=(0, 0, 0, 0),
            lhs_dilation=(1, 1),
            rhs_dilation=(1, 1),
            lhs_spec=(3, 0, 1, 2),
            rhs_spec=(3, 0, 1, 2),
            out_spec=(2, 3, 0, 1),
            feature_group_count=(1,),
            batch_group_count=(1,),
        )
    assert added(planned(table, "one", "other"))["map transposed"] == (1 if same else 2, 4 * 8 * 7 * 7 * 16)
