"""What the library of XLA's compiler for CPUs takes in one piece, and holds inside it, on tables of a few operations."""

from dataclasses import replace

import pytest
from layer_tables import Table

from jaxmem.devices.library_kernels import TYPICAL
from jaxmem.formula.backends.cpu import add_cpu
from jaxmem.formula.backends.cpu_fused import fused_bytes
from jaxmem.formula.equal import find_equals
from jaxmem.formula.kernels import Kernel
from jaxmem.formula.library_fusion import find_library_fusions
from jaxmem.formula.orders import first_in_first_out
from jaxmem.formula.plan import Plan
from jaxmem.formula.products import Side, read_side
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


def test_what_the_trace_spreads_out_is_no_second_array():
    # Both sums read it, and it lies in memory for them: as the value that it is.
    table = Table()
    table.argument("x", 64, 64)
    table.argument("row", 64)
    table.do("wide", "broadcast_in_dim", FORWARD, (64, 64), "row")
    for name in ("one", "other"):
        table.do(f"{name} input", "mul", FORWARD, (64, 64), *(["x", "wide"] if name == "one" else ["wide", "wide"]))
        table.do(f"sum of {name}", "reduce_sum", FORWARD, (64,), f"{name} input")
        sized(table, f"sum of {name}", axes=(1,))
    fusions, spreads = pieces(table, "sum of one", "sum of other")
    assert fusions == ["one input+sum of one", "other input+sum of other"]
    assert spreads == []


def product(table, name, left, right, shape, **sizes):
    table.do(name, "dot_general", FORWARD, shape, left, right)
    sized(table, name, **sizes)


@pytest.mark.parametrize("one_more", [False, True])
def test_a_batch_of_products_reads_rows_for_columns_but_copies_other_orders(one_more):
    # The right side of a batch is multiplied with what is summed over before the columns. Exchanged, it is read as it lies, and
    # the product takes the softmax in; with a dimension more, if only of one element, a copy stands between.
    one = (1,) if one_more else ()
    table = Table()
    table.argument("x", 64, *one, 64, 64)
    table.argument("y", 64, 64, 64)
    table.do("total", "reduce_sum", FORWARD, (64, *one, 64), "x")
    table.do("share", "div", FORWARD, (64, *one, 64, 64), "x", "total")
    last = 2 + one_more
    sized(table, "total", axes=(last,))
    batch = {"lhs_batch": (0,), "rhs_batch": (0,)}
    product(table, "z", "y", "share", (64, 64, *one, 64), lhs_contracting=(2,), rhs_contracting=(last,), **batch)
    traced = table.table("z")
    side, order = read_side(traced, traced.operations[-1], 1)
    assert (side, order) == ((Side.COPIED, (0, 3, 2)) if one_more else (Side.EXCHANGED, (0, 2, 1)))
    fusions, _ = pieces(table, "z")
    assert fusions == (["total+share", "z"] if one_more else ["total+share+z"])


def dense_gradients():
    """A gradient, and the two products of a dense layer's backward pass that read it: of 8 x 16 rows, 32 in, 48 out."""
    table = Table()
    table.argument("x", 8, 16, 32)
    table.argument("w", 32, 48)
    table.argument("a", 8, 16, 48)
    table.argument("b", 8, 16, 48)
    table.do("g", "mul", BACKWARD, (8, 16, 48), "a", "b")
    rows = {"lhs_batch": (), "rhs_batch": ()}
    product(table, "transposed", "g", "x", (48, 32), lhs_contracting=(0, 1), rhs_contracting=(0, 1), **rows)
    table.do("of w", "transpose", BACKWARD, (32, 48), "transposed")
    sized(table, "of w", permutation=(1, 0))
    product(table, "of x", "g", "w", (8, 16, 32), lhs_contracting=(2,), rhs_contracting=(1,), **rows)
    return table


def test_a_gradient_is_written_twice_for_the_two_products_of_a_dense_layer():
    # The gradient of the kernel sums over 8 and 16, which stand before the 48: a copy with the 48 first. The other product
    # reads the gradient as a matrix, and each is computed from what the gradient is made of: two arrays of one size.
    plan = Plan(dense_gradients().table("of w", "of x"), platform="cpu", replaced={})
    add_cpu(plan)
    ((copy, name),) = ((index, array.addition.name) for index, array in enumerate(plan.arrays) if array.addition)
    assert name == "operand in another order"
    assert plan.arrays[copy].size_bytes == 4 * 8 * 16 * 48
    own = plan.array_of[next(value for value in plan.array_of if plan.table.values[value].shape == (8, 16, 48))]
    assert not plan.arrays[own].takes_over
    reads = {kernel.writes[0]: kernel.reads for kernel in plan.kernels}
    assert reads[copy] == ()  # from the arguments, like the gradient itself
    assert sorted(array for read in reads.values() for array in read) == sorted((copy, own))


def test_the_gradient_of_an_embedding_is_scattered_into_zeros_that_are_there_from_the_start():
    table = Table()
    table.argument("rows", 8, 1)
    table.argument("g", 8, 64)
    table.do("zeros", "broadcast_in_dim", BACKWARD, (1000, 64))
    table.do("of the table", "scatter-add", BACKWARD, (1000, 64), "zeros", "rows", "g")
    plan = Plan(table.table("of the table"), platform="cpu", replaced={})
    add_cpu(plan)
    (zeros,) = (index for index, array in enumerate(plan.arrays) if array.addition is not None)
    assert plan.arrays[zeros].size_bytes == 4 * 1000 * 64
    assert [kernel.reads for kernel in plan.kernels] == [(zeros,), ()]


def test_what_becomes_ready_together_runs_from_the_end_of_the_program_the_library_first():
    # 0 reads the second argument, 1 the first; 2, 3 and 4 read what 1 writes, 3 is the library's.
    kernels = [
        Kernel(operation=0, reads=(), writes=(0,), arguments=(1,)),
        Kernel(operation=1, reads=(), writes=(1,), arguments=(0,)),
        *(Kernel(operation=number, reads=(1,), writes=(number,)) for number in (2, 3, 4)),
    ]
    assert first_in_first_out(kernels, {3}) == [1, 0, 3, 4, 2]


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


@pytest.mark.parametrize(("primitive", "piece"), [("tanh", "made+total"), ("sin", "total"), ("cos", "total")])
def test_sines_are_no_library_operations(primitive, piece):
    table = Table()
    table.argument("x", 64, 64)
    table.do("made", primitive, FORWARD, (64, 64), "x")
    table.do("total", "reduce_sum", FORWARD, (64,), "made")
    sized(table, "total", axes=(1,))
    assert pieces(table, "total") == ([piece], [])


@pytest.mark.parametrize(("dtype", "fusions"), [("float32", ["total"]), ("bfloat16", [])])
def test_a_sum_whose_steps_are_rounded_is_no_library_operation(dtype, fusions):
    table = Table()
    table.argument("x", 64, 64)
    table.do("total", "reduce_sum", FORWARD, (64,), "x")
    sized(table, "total", axes=(1,))
    total = table.names["total"]
    table.values[total] = replace(table.values[total], dtype=dtype)
    assert pieces(table, "total") == (fusions, [])


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
