"""What the library of XLA's compiler for CPUs takes in one piece, and holds inside it, on tables of a few operations."""

from dataclasses import replace

import pytest
from layer_tables import Table

from jaxmem.devices.library_kernels import TYPICAL
from jaxmem.formula.backends.cpu_fused import fused_bytes
from jaxmem.formula.equal import find_equals
from jaxmem.formula.library_fusion import find_library_fusions
from jaxmem.roles import Phase

FORWARD, BACKWARD = Phase.FORWARD, Phase.BACKWARD


def sized(table, name, **sizes):
    """Whole-number parameters for an operation."""
    index = table.values[table.names[name]].operation
    table.operations[index] = replace(table.operations[index], sizes=tuple(sizes.items()))


def pieces(table, *outputs):
    """The fusions by the names of what they compute, and what is spread out for them: name and shape."""
    traced = table.table(*outputs)
    found = find_library_fusions(traced, find_equals(traced, merges_remat=True))
    name_of = {value: name for name, value in table.names.items()}
    fusions = [
        "+".join(name_of[traced.operations[index].results[0]] for index in operations) for operations in found.fusions
    ]
    spreads = [(name_of.get(spread.value, "a number"), spread.shape) for spread in found.spreads]
    return sorted(fusions), sorted(spreads)


def softmax(rows=4096):
    """Softmax over 64 numbers, and what reads it."""
    table = Table()
    table.argument("x", rows, 64)
    table.do("kept", "select_n", FORWARD, (rows, 64), "x")
    table.do("most", "reduce_max", FORWARD, (rows,), "kept")
    table.do("less", "sub", FORWARD, (rows, 64), "kept", "most")
    table.do("power", "exp", FORWARD, (rows, 64), "less")
    table.do("total", "reduce_sum", FORWARD, (rows,), "power")
    table.do("share", "div", FORWARD, (rows, 64), "power", "total")
    table.do("out", "select_n", FORWARD, (rows, 64), "share")
    for name in ("most", "total"):
        sized(table, name, axes=(1,))
    return table


def test_a_softmax_is_one_piece_between_what_the_library_does_not_know():
    # The power has two readers: they come together only when the fusion has grown down to the quotient.
    table = softmax()
    assert pieces(table, "out") == (["most+less+power+total+share"], [])
    traced = table.table("out")
    equals = find_equals(traced, merges_remat=True)
    found = find_library_fusions(traced, equals).fusions
    # Nothing in it is a buffer but for the two vectors: what is made of operands alone is computed where it is read.
    held = fused_bytes(traced, equals, found, threads=2, features=TYPICAL["AVX2"])
    assert held == {table.names["share"]: 2 * 4096 * 4}


def test_few_elements_are_left_to_loops():
    # 63 rows of 64 are less than 4,096. Of 64 rows the reciprocals of the sums are, and the fusion of the sum ends there.
    assert pieces(softmax(63), "out") == ([], [])
    assert pieces(softmax(64), "out") == (["most+less+power", "total"], [])


def test_what_is_read_elsewhere_ends_a_fusion():
    # The power is a result: the fusion of the largest value ends there, and the sum's begins behind it.
    fusions, _ = pieces(softmax(), "out", "power")
    assert fusions == ["most+less+power", "total+share"]


def relu(table, name, read, **more):
    table.do(name, "max", FORWARD, table.values[table.names[read]].shape, read)
    index = table.values[table.names[name]].operation
    table.operations[index] = replace(table.operations[index], same="max 0", **more)


def test_a_number_that_two_fusions_read_is_spread_out_once():
    table = Table()
    table.argument("x", 64, 64)
    for name in ("one", "other"):
        table.do(f"{name} input", "select_n", FORWARD, (64, 64), *(["x"] if name == "one" else ["x", "x"]))
        relu(table, name, f"{name} input")
        table.do(f"sum of {name}", "reduce_sum", FORWARD, (64,), name)
        sized(table, f"sum of {name}", axes=(1,))
    fusions, spreads = pieces(table, "sum of one", "sum of other")
    assert fusions == ["one+sum of one", "other+sum of other"]
    assert spreads == [("a number", (64, 64))]


def product(table, name, left, right, shape, **sizes):
    table.do(name, "dot_general", FORWARD, shape, left, right)
    sized(table, name, **sizes)


@pytest.mark.parametrize("summed", [1, 2])
def test_a_batch_of_products_reads_a_copy_in_its_own_order(summed):
    # The right side of a batch is multiplied with what is summed over before the columns. Where that is so, the product takes
    # in the softmax; else a copy stands between.
    table = Table()
    table.argument("x", 64, 64, 64)
    table.argument("y", 64, 64, 64)
    table.do("total", "reduce_sum", FORWARD, (64, 64), "x")
    table.do("share", "div", FORWARD, (64, 64, 64), "x", "total")
    sized(table, "total", axes=(2,))
    batch = {"lhs_batch": (0,), "rhs_batch": (0,)}
    product(table, "z", "y", "share", (64, 64, 64), lhs_contracting=(2,), rhs_contracting=(summed,), **batch)
    fusions, _ = pieces(table, "z")
    assert fusions == (["total+share+z"] if summed == 1 else ["total+share", "z"])


def test_a_fusion_takes_a_product_in_and_what_stands_behind_it():
    # Down from the sum through the product, which was a fusion of its own, to the bias: the product's buffer is the result.
    table = Table()
    table.argument("x", 4096, 128)
    table.argument("w", 128, 96)
    table.argument("b", 96)
    table.do("total", "reduce_sum", FORWARD, (4096,), "x")
    sized(table, "total", axes=(1,))
    table.do("share", "div", FORWARD, (4096, 128), "x", "total")
    product(
        table, "y", "share", "w", (4096, 96), lhs_contracting=(1,), rhs_contracting=(0,), lhs_batch=(), rhs_batch=()
    )
    table.do("out", "add", FORWARD, (4096, 96), "y", "b")
    assert pieces(table, "out") == (["total+share+y+out"], [])


def test_a_clamp_is_no_library_operation():
    table = Table()
    table.argument("x", 64, 64)
    table.do("low", "max", FORWARD, (64, 64), "x")
    table.do("high", "min", FORWARD, (64, 64), "low")
    table.do("total", "reduce_sum", FORWARD, (64,), "high")
    sized(table, "total", axes=(1,))
    assert pieces(table, "total") == (["total"], [])
    table = Table()
    table.argument("x", 64, 64)
    table.do("low", "max", FORWARD, (64, 64), "x")
    table.do("total", "reduce_sum", FORWARD, (64,), "low")
    sized(table, "total", axes=(1,))
    assert pieces(table, "total") == (["low+total"], [])


def test_a_fusion_ends_at_a_hundred_instructions():
    # Behind a sum, with its row and its start, 60 sums of two: each an instruction, an operand that is none of it, and one that
    # is. 49 are taken, for 49 and 50 more are 99, and the next one makes it 101.
    table = Table()
    table.argument("x", 4096, 2)
    table.do("total", "reduce_sum", FORWARD, (4096,), "x")
    sized(table, "total", axes=(1,))
    last = "total"
    for number in range(60):
        table.argument(f"a{number}", 4096)
        table.do(f"y{number}", "add", FORWARD, (4096,), last, f"a{number}")
        last = f"y{number}"
    fusions, _ = pieces(table, last)
    (taken,) = (len(fusion.split("+")) for fusion in fusions)
    assert taken == 50
