"""Which value of a compiled program a leaf of the formula speaks of, on programs small enough to read."""

import pytest
from lowerings_by_hand import argument as by_hand
from lowerings_by_hand import replacing

from jaxmem.attribution import Dataflow, Facts, attribute, take_account
from jaxmem.formula import Formula, Leaf
from jaxmem.lowering import Output
from jaxmem.profile import profile_memory
from jaxmem.reconcile.book import Book
from jaxmem.reconcile.evidence import Evidence
from jaxmem.reconcile.gradients import explain_gradients
from jaxmem.reconcile.values import explain_values
from jaxmem.roles import Phase, Role


def argument(number, name, shape, role=Role.PARAMETERS):
    if role is not Role.PARAMETERS:
        return by_hand(number, name, shape, role)
    return by_hand(number, name, shape, role, layer="norm", path=f"norm/{name}")


def leaf(name, primitive, role, path=""):
    return Leaf(
        role=role, layer="norm", name=name, primitive=primitive, phase=Phase.BACKWARD, elements=4, itemsize_bits=32,
        bytes=16, counted=True, why="by hand", path=path,
    )  # fmt: skip


def test_a_sum_that_the_update_multiplies_is_not_the_gradient_beside_it(hlo, memory):
    """The bias's gradient is a sum; of the scale's, the formula has the sum and XLA's update does the multiplication.

    Both sums are ``reduce_sum`` of one size, and XLA holds both for the update. Each leaf is asked for its own.
    """
    backward, batch, vector = "jit(step)/transpose(jvp(norm))/", hlo.f32(8, 4), hlo.f32(4)
    for number, (name, shape) in enumerate([("bias", vector), ("scale", vector), ("x", batch), ("factor", vector)]):
        hlo.parameter(name, number, shape)
    hlo.add("zero", "constant", hlo.f32(), literal="0")
    hlo.add("cotangent", "sine", batch, "x", op_name=backward + "sin")
    hlo.add("product", "multiply", batch, "x", "cotangent", op_name=backward + "mul")
    hlo.add("g_bias", "reduce", vector, "cotangent", "zero", op_name=backward + "reduce_sum")
    hlo.add("sum", "reduce", vector, "product", "zero", op_name=backward + "reduce_sum")
    hlo.add("bias_new", "subtract", vector, "bias", "g_bias", op_name="jit(step)/sub")
    hlo.parameter("inner_scale", 0, vector, computation=2)
    hlo.parameter("inner_sum", 1, vector, computation=2)
    hlo.parameter("inner_factor", 2, vector, computation=2)
    hlo.add("g_scale", "multiply", vector, "inner_sum", "inner_factor", op_name=backward + "mul", computation=2)
    hlo.add("stepped", "subtract", vector, "inner_scale", "g_scale", op_name="jit(step)/sub", computation=2)
    hlo.add("scale_new", "fusion", vector, "scale", "sum", "factor", calls=(2,))
    hlo.add("root", "tuple", hlo.tuple_of(vector, vector), "bias_new", "scale_new")
    places = memory(hlo)
    for number, name in enumerate(["bias", "scale"]):
        places.allocate(
            16, (name, 0, 16), (f"{name}_new", 0, 16), is_entry_computation_parameter=True, parameter_number=number,
            maybe_live_out=True, is_parameter_aliased_with_output=True,
        )  # fmt: skip
    for number, (name, size) in enumerate([("x", 128), ("factor", 16)], start=2):
        places.allocate(size, (name, 0, size), is_entry_computation_parameter=True, parameter_number=number)
    places.allocate(16, ("root", 0, 16), maybe_live_out=True)
    places.allocate(4, ("zero", 0, 4), is_constant=True)
    places.allocate(288, ("cotangent", 0, 128), ("product", 128, 128), ("g_bias", 256, 16), ("sum", 272, 16))

    arguments = (
        argument(0, "bias", (4,)),
        argument(1, "scale", (4,)),
        argument(2, "x", (8, 4), Role.INPUTS),
        argument(3, "factor", (4,), Role.INPUTS),
    )
    outputs = tuple(replacing(number, of) for number, of in enumerate(arguments[:2]))
    module = hlo.module()
    facts = Facts(Dataflow(module), arguments, outputs)
    profile = profile_memory(module, places.assignment(("cotangent", ()), ("product", ())), platform="cpu")
    attributions = attribute(profile, facts)
    gradient = leaf("gradient of norm/bias", "reduce_sum", Role.GRADIENTS, path="norm/bias")
    summed = leaf("reduce_sum", "reduce_sum", Role.TRANSIENT)
    book = Book(
        Formula(leaves=(gradient, summed), peak="", symbols=(), textbook=()),
        take_account(profile, attributions),
        Evidence(profile, facts, attributions),
        arguments,
        outputs,
    )
    explain_gradients(book)
    explain_values(book)
    absent = {
        (row.term, dict(item.evidence)["buffer"]): item.bytes
        for row in book.rows()
        for item in row.items
        if item.kind == "made after the peak"
    }
    assert absent == {("gradients", "g_bias"): -16, ("transient", "sum"): -16}


@pytest.mark.parametrize("held", [False, True])
def test_a_gather_ends_where_a_constant_is_put_for_indices_outside(hlo, memory, held):
    """``jnp.take`` fills by a mask of its own: the selection is the gather, unless a buffer holds what was read.

    A ``jnp.where`` around it is none.
    """
    take, rows = "jit(f)/embed/jit(_take)/", hlo.f32(8, 4)
    hlo.parameter("table", 0, hlo.f32(16, 4))
    hlo.parameter("tokens", 1, hlo.f32(8, 4))
    hlo.add("nothing", "constant", hlo.f32(), literal="nan")
    hlo.add("fill", "broadcast", rows, "nothing", op_name=take + "broadcast_in_dim")
    hlo.add("inside", "compare", rows, "tokens", "fill", op_name=take + "ge")
    hlo.add("rows", "gather", rows, "table", "tokens", op_name=take + "gather")
    hlo.add("filled", "select", rows, "inside", "rows", "fill", op_name=take + "select_n")
    hlo.add("mask", "compare", rows, "fill", "tokens", op_name="jit(f)/embed/ge")
    hlo.add("where", "select", rows, "mask", "rows", "fill", op_name="jit(f)/embed/jit(_where)/select_n")
    hlo.add("result", "add", rows, "filled", "where", op_name="jit(f)/embed/add")
    places = memory(hlo)
    for name, size in [("table", 256), ("tokens", 128)]:
        places.allocate(size, (name, 0, size), is_entry_computation_parameter=True)
    places.allocate(128, ("result", 0, 128), maybe_live_out=True)
    places.allocate(4, ("nothing", 0, 4), is_constant=True)
    names = [("fill", 128), ("inside", 128), *[("rows", 128)] * held, ("filled", 128), ("mask", 128), ("where", 128)]
    places.allocate(768, *((name, 128 * number, size) for number, (name, size) in enumerate(names)))
    arguments = (argument(0, "table", (16, 4)), argument(1, "tokens", (8, 4), Role.INPUTS))
    outputs = (Output(path="result", shape=(8, 4), dtype="float32", itemsize_bits=32, role=Role.OUTPUTS),)
    module = hlo.module()
    facts = Facts(Dataflow(module), arguments, outputs)
    profile = profile_memory(module, places.assignment(), platform="cpu")
    evidence = Evidence(profile, facts, attribute(profile, facts))
    (gathers,) = (values for name, values in evidence.values_named.items() if name[1:] == ("gather", 32))
    assert [evidence.instruction_of(value) for value in gathers] == ["rows" if held else "filled"]
