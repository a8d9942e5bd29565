"""What a processor computes in float32, whatever the program says: the formula against the compile, to the byte."""

from typing import Any

import jax
import jax.numpy as jnp
import pytest

import jaxmem
from jaxmem.assemble import read_report
from jaxmem.formula.number_formats import unchanged, widened
from jaxmem.tracing import trace


def dense(w1: Any, w2: Any, x: Any) -> Any:
    return jax.nn.gelu(x @ w1) @ w2


def biased(w1: Any, b1: Any, w2: Any, x: Any) -> Any:
    """A product, what is added to it and the larger of that and zero are one call of the library."""
    return jax.nn.relu(x @ w1 + b1) @ w2


def convolutions(w1: Any, w2: Any, x: Any) -> Any:
    def convolved(x: Any, w: Any) -> Any:
        return jax.lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    return jax.nn.relu(convolved(jax.nn.relu(convolved(x, w1)), w2))


def trained(w1: Any, w2: Any, x: Any) -> Any:
    gradients = jax.grad(lambda w1, w2: jnp.sum(jax.nn.relu(jax.nn.relu(x @ w1) @ w2).astype("float32")), (0, 1))(
        w1, w2
    )
    return jax.tree.map(lambda w, gradient: w - gradient * 0.1, (w1, w2), gradients)


def residual(w1: Any, w2: Any, x: Any) -> Any:
    """The library computes all but the first convolution in one piece, conversions included."""
    return jnp.mean(convolutions(w1, w2, x) + x, (1, 2))


def gated(w: Any, x: Any) -> Any:
    """What is rounded is read by two, and lies in memory."""
    left, right = jnp.split(x @ w, 2, -1)
    return jax.nn.sigmoid(left) * jnp.tanh(right)


def scanned(w: Any, x: Any) -> Any:
    """A processor without bfloat16 converts the kernels of all layers before the loop; float16 in each turn."""
    return jax.lax.scan(lambda h, w: (jax.nn.relu(h @ w), None), x, w)[0]


def exchanged(w: Any, x: Any) -> Any:
    """A kernel that is the same in every turn is converted and turned round before the loop: two copies, one at a time."""
    return jax.lax.fori_loop(0, 8, lambda _, h: jax.nn.relu(h @ w.T), x)


SHAPES: dict[Any, Any] = {
    dense: ((512, 1024), (1024, 512), (64, 512)),
    biased: ((512, 1024), (1024,), (1024, 512), (64, 512)),
    convolutions: ((3, 3, 16, 32), (3, 3, 32, 64), (8, 32, 32, 16)),
    trained: ((512, 1024), (1024, 256), (64, 512)),
    residual: ((3, 3, 64, 64), (3, 3, 64, 64), (8, 16, 16, 64)),
    gated: ((512, 1024), (256, 512)),
    scanned: ((8, 512, 512), (64, 512)),
    exchanged: ((512, 512), (64, 512)),
}

COUNTERS = {scanned: 80, exchanged: 80}
"""What counts the turns of a loop, and how many they are, with the gap behind it; the formula counts no single numbers."""


def program(fn: Any, dtype: str) -> jaxmem.Program:
    return jaxmem.Program(fn, *(jax.ShapeDtypeStruct(shape, dtype) for shape in SHAPES[fn]))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("fn", SHAPES, ids=lambda fn: fn.__name__)
def test_an_estimate_counts_what_the_processor_converts(fn: Any, dtype: str, compiled: Any) -> None:
    report = read_report(compiled(program(fn, dtype)))
    estimate, required = report.estimates[0].bytes, report.required_bytes
    assert isinstance(estimate, int)
    assert isinstance(required, int)
    assert estimate + COUNTERS.get(fn, 0) == required
    assert report.unexplained_bytes == 0


def attended(model: Any, x: Any) -> Any:
    with jax.named_scope("heads"):
        heads = (x @ model["heads"]["kernel"]).reshape(1, 128, 4, 1, 64)
    with jax.named_scope("scores"):
        scores = jnp.einsum("blghd,bmgd->bghlm", heads, heads[:, :, :, 0]).astype("float32")
        masked = jnp.where(jnp.tril(jnp.ones((128, 128), bool)), scores, -1e9)
        return jax.nn.softmax(masked + model["scores"]["bias"]).astype("bfloat16")


def test_a_product_without_a_name_belongs_to_the_scope_behind_its_casts(compiled: Any) -> None:
    """XLA turns the product round and casts it, and its name is lost: it was counted where its operands come from."""
    model = {
        "heads": {"kernel": jax.ShapeDtypeStruct((256, 256), "bfloat16")},
        "scores": {"bias": jax.ShapeDtypeStruct((128,), "bfloat16")},
    }
    program = jaxmem.Program(attended, model, jax.ShapeDtypeStruct((1, 128, 256), "bfloat16"))
    report = read_report(compiled(program))
    products = [row for row in report.buffers.rows() if row.dtype == "f32" and row.shape == (4, 128, 128)]
    assert {row.layer for row in products} == {"scores"}
    assert report.unexplained_bytes == 0


def test_an_array_is_converted_once_for_all_who_read_it() -> None:
    table = trace(program(trained, "bfloat16")).layer_table
    assert table is not None
    wide = widened(table)
    products = [operation for operation in wide.table.operations if operation.primitive == "dot_general"]
    read = [operand for operation in products for operand in operation.operands]
    assert {
        wide.table.values[value].dtype for operation in products for value in (*operation.operands, *operation.results)
    } == {"float32"}
    assert len(set(read)) < len(read)
    made = [result for operation in wide.table.operations for result in operation.results]
    assert len(set(made)) == len(made)
    assert [table.operations[index].layer for index in wide.traced] == [each.layer for each in wide.table.operations]


def nested(w: Any, x: Any) -> Any:
    return jax.lax.fori_loop(0, 3, lambda _, h: exchanged(w, h) + h, x)


def chosen(w: Any, x: Any) -> Any:
    """A kernel that only a branch reads."""

    def turn(i: Any, h: Any) -> Any:
        return jax.lax.cond(i > 1, lambda h: jax.nn.relu(h @ w), lambda h: h, h)

    return jax.lax.fori_loop(0, 3, turn, x)


@pytest.mark.parametrize(("fn", "moved"), [(exchanged, True), (nested, True), (chosen, False)])
def test_what_is_the_same_in_every_turn_is_converted_before_the_outer_loop(fn: Any, moved: bool) -> None:
    shapes = (jax.ShapeDtypeStruct(shape, "bfloat16") for shape in SHAPES[exchanged])
    table = trace(jaxmem.Program(fn, *shapes)).layer_table
    assert table is not None
    wide = widened(table).table
    begin = next(index for index, each in enumerate(wide.operations) if wide.values[each.results[0]].dtype == "token")
    kernel = wide.arguments[0]
    casts = [index for index, each in enumerate(wide.operations) if kernel in each.operands and index != begin]
    converted = [index for index in casts if wide.operations[index].primitive == "convert_element_type"]
    assert len(converted) == 1
    assert (converted[0] < begin) is moved
    assert (kernel in wide.operations[begin].operands) is not moved


def test_a_program_in_float32_is_left_as_it_is() -> None:
    table = trace(program(trained, "float32")).layer_table
    assert table is not None
    assert widened(table) == unchanged(table)
    assert widened(table).table is table
