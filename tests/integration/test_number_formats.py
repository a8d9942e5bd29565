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


SHAPES: dict[Any, Any] = {
    dense: ((512, 1024), (1024, 512), (64, 512)),
    biased: ((512, 1024), (1024,), (1024, 512), (64, 512)),
    convolutions: ((3, 3, 16, 32), (3, 3, 32, 64), (8, 32, 32, 16)),
    trained: ((512, 1024), (1024, 256), (64, 512)),
}


def program(fn: Any, dtype: str) -> jaxmem.Program:
    return jaxmem.Program(fn, *(jax.ShapeDtypeStruct(shape, dtype) for shape in SHAPES[fn]))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("fn", SHAPES, ids=lambda fn: fn.__name__)
def test_an_estimate_counts_what_the_processor_converts(fn: Any, dtype: str, compiled: Any) -> None:
    report = read_report(compiled(program(fn, dtype)))
    assert report.estimates[0].bytes == report.required_bytes
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


def test_a_program_in_float32_is_left_as_it_is() -> None:
    table = trace(program(trained, "float32")).layer_table
    assert table is not None
    assert widened(table) == unchanged(table)
    assert widened(table).table is table
