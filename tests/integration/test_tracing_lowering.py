"""The lowering itself: bytecode, kept and dropped arguments, keys, keywords, errors, and nothing allocated."""

import functools
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from jaxmem.errors import InputError, UsageError
from jaxmem.lowering import Lowering
from jaxmem.program import Program
from jaxmem.roles import Role
from jaxmem.tracing import lower, trace

X = jax.ShapeDtypeStruct((2, 4), jnp.float32)
PARAMS = {"w": jax.ShapeDtypeStruct((4, 3), jnp.float32), "unused": jax.ShapeDtypeStruct((5,), jnp.float32)}


def predict(params, x, scale=1.0):
    with jax.named_scope("dense"):
        return x @ params["w"] * scale


def numbers(lowering: Lowering) -> dict[str, int | None]:
    return {argument.path: argument.parameter_number for argument in lowering.arguments}


def test_dropped_arguments_have_no_number():
    assert numbers(lower(Program(predict, PARAMS, X))) == {"params['unused']": None, "params['w']": 0, "x": 1}


def test_keep_unused_keeps_them():
    jitted = jax.jit(predict, keep_unused=True)
    assert numbers(lower(Program(jitted, PARAMS, X))) == {"params['unused']": 0, "params['w']": 1, "x": 2}


def test_numbers_are_those_of_the_compiled_program():
    """Shapes are all different, so the compiled program's own parameters tell which argument each one is."""
    program = Program(
        lambda a, b, c, d: (a.sum() + c.sum() + d.sum(), b.shape[0]),
        *(jax.ShapeDtypeStruct((size,), jnp.float32) for size in (3, 5, 7, 11)),
    )
    traced = trace(program)
    by_number = {a.parameter_number: a.shape for a in traced.lowering.arguments if a.parameter_number is not None}
    compiled = traced.staged.traced.lower().compile()
    entry = compiled.as_text().split("entry_computation_layout={(")[1].split(")->")[0]
    assert entry == ", ".join(f"f32[{by_number[number][0]}]{{0}}" for number in range(3))


def test_captured_arrays_do_not_shift_numbers():
    captured = jnp.arange(4.0)
    assert numbers(lower(Program(lambda params, x: predict(params, x + captured), PARAMS, X)))["x"] == 1


def test_bytecode_keeps_scopes_and_source_lines():
    lowering = lower(Program(predict, PARAMS, X))
    assert lowering.stablehlo.startswith(b"ML\xefR")
    assert b"dense/dot_general" in lowering.stablehlo
    assert __file__.encode() in lowering.stablehlo
    assert lowering.device_count == 1
    assert lowering.platforms == ("cpu",)


def test_lowering_for_another_platform_needs_no_device():
    lowering = lower(Program(predict, PARAMS, X), platforms=("tpu",))
    assert lowering.platforms == ("tpu",)


def test_typed_keys_arrive_as_words():
    key = jax.eval_shape(lambda: jax.random.key(0))
    lowering = lower(Program(lambda key, x: x + jax.random.normal(key, x.shape), key, X))
    argument = lowering.arguments[0]
    assert (argument.path, argument.shape, argument.dtype, argument.logical_bytes) == ("key", (2,), "uint32", 8)


@pytest.mark.parametrize(("dtype", "bits"), [(jnp.bool_, 8), (jnp.bfloat16, 16), (jnp.int4, 4), (jnp.complex64, 64)])
def test_bits_of_an_element(dtype, bits):
    lowering = lower(Program(lambda x: x, jax.ShapeDtypeStruct((3,), dtype)))
    argument, (output,) = lowering.arguments[0], lowering.outputs
    assert (argument.itemsize_bits, output.itemsize_bits) == (bits, bits)
    assert argument.logical_bytes == (3 * bits + 7) // 8


def test_numbers_and_numpy_arrays():
    lowering = lower(Program(lambda a, b, c: a + b + c, np.zeros((3,), np.float64), 2, 1.5))
    assert [(a.path, a.shape, a.dtype) for a in lowering.arguments] == [
        ("a", (3,), "float32"),
        ("b", (), "int32"),
        ("c", (), "float32"),
    ]


def test_keywords_and_defaults():
    assert set(numbers(lower(Program(predict, PARAMS, x=X, scale=2.0)))) == {
        "params['unused']",
        "params['w']",
        "x",
        "scale",
    }
    assert "scale" not in numbers(lower(Program(predict, PARAMS, X)))


def test_keywords_that_the_program_uses_itself():
    def run(x, *, optimizer, name):
        return x + optimizer + name

    program = Program(run, X, keywords={"optimizer": 1.0, "name": 2.0}, name="mine")
    assert set(numbers(lower(program))) == {"x", "optimizer", "name"}


@pytest.mark.parametrize("by", ["number", "name", "own"])
def test_static_arguments_are_no_arrays(by):
    def repeat(params, times, x):
        for _ in range(times):
            x = x @ params["w"] @ params["w"].T
        return x

    if by == "own":
        program = Program(jax.jit(repeat, static_argnums=1), PARAMS, 2, X)
    elif by == "number":
        program = Program(repeat, PARAMS, 2, X, static_argnums=1)
    else:
        program = Program(repeat, PARAMS, times=2, x=X, static_argnames="times")
    assert numbers(lower(program)) == {"params['unused']": None, "params['w']": 0, "x": 1}


def test_variadic_arguments():
    assert list(numbers(lower(Program(lambda *arrays, **named: arrays[0] + arrays[1] + named["z"], X, X, z=X)))) == [
        "arrays[0]",
        "arrays[1]",
        "z",
    ]


def test_partials():
    assert list(numbers(lower(Program(functools.partial(predict, scale=2.0), PARAMS, X)))) == [
        "params['unused']",
        "params['w']",
        "x",
    ]
    bound = functools.partial(jax.jit(predict, donate_argnums=0), PARAMS)
    with pytest.warns(UserWarning, match="donated buffers"):
        lowering = lower(Program(bound, X))
    assert [a.donated for a in lowering.arguments] == [True, True, False]
    assert lowering.program.name == "predict"


def test_jitted_method():
    class Trainer:
        @functools.partial(jax.jit, static_argnums=0)
        def run(self, params, x):
            return predict(params, x)

    assert numbers(lower(Program(Trainer().run, PARAMS, X)))["x"] == 1


def test_traced_program():
    traced = jax.jit(predict, donate_argnums=1).trace(PARAMS, X)
    with pytest.warns(UserWarning, match="donated buffers"):
        lowering = lower(Program(traced))
    assert numbers(lowering) == {"params['unused']": None, "params['w']": 0, "x": 1}
    assert [a.donated for a in lowering.arguments] == [False, False, True]
    assert lowering.program.name == "predict"


def test_lowered_program_has_no_jaxpr_and_says_so():
    traced = trace(Program(jax.jit(predict).lower(PARAMS, X)))
    assert traced.closed_jaxpr is None
    assert "already lowered" in traced.without_jaxpr
    assert numbers(traced.lowering) == {"params['unused']": None, "params['w']": 0, "x": 1}
    assert traced.lowering.program.name == "predict"
    assert traced.arguments[1].role is Role.PARAMETERS


def test_lowered_by_nnx():
    model = nnx.eval_shape(lambda: nnx.Linear(4, 3, rngs=nnx.Rngs(0)))
    lowered = nnx.jit(lambda model, x: model(x)).lower(model, X)
    arguments = trace(Program(lowered)).arguments
    assert [(a.path, a.role) for a in arguments] == [
        ("model.bias", Role.PARAMETERS),
        ("model.kernel", Role.PARAMETERS),
        ("x", Role.INPUTS),
    ]


def test_jaxpr_has_one_variable_an_argument():
    traced = trace(Program(predict, PARAMS, X))
    assert len(traced.closed_jaxpr.jaxpr.invars) == len(traced.arguments)
    assert traced.without_jaxpr == ""


def test_compiler_options_are_kept_as_text():
    lowering = lower(Program(predict, PARAMS, X, compiler_options={"b": True, "a": 3}))
    assert lowering.compiler_options == (("a", "3"), ("b", "true"))


def test_the_same_program_lowers_to_the_same_bytes():
    assert lower(Program(predict, PARAMS, X)) == lower(Program(predict, PARAMS, X))


def test_shardings_of_arrays_over_several_devices_are_kept():
    mesh = jax.sharding.AbstractMesh((2,), ("data",))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    lowering = lower(Program(lambda x: x * 2, jax.ShapeDtypeStruct((4, 4), jnp.float32, sharding=sharding)))
    assert lowering.device_count == 2


def test_nothing_is_allocated():
    """A network of 4 TiB is traced and lowered, and no array is made."""
    huge = {"w": jax.ShapeDtypeStruct((2**20, 2**20), jnp.float32)}
    transformation = optax.adam(1e-3)
    state = jax.eval_shape(transformation.init, huge)

    def step(params, state, x):
        gradients = jax.grad(lambda params: ((x @ params["w"]) ** 2).mean())(params)
        updates, state = transformation.update(gradients, state, params)
        return optax.apply_updates(params, updates), state

    before = {id(array) for array in jax.live_arrays()}
    program = Program(step, huge, state, jax.ShapeDtypeStruct((2, 2**20), jnp.float32), donate_argnums=(0, 1))
    lowering = lower(program)
    model = nnx.eval_shape(lambda: nnx.Linear(2**20, 2**20, rngs=nnx.Rngs(0)))
    lower(Program(nnx.jit(lambda model, x: model(x)), model, jax.ShapeDtypeStruct((2, 2**20), jnp.float32)))
    assert {id(array) for array in jax.live_arrays()} == before
    assert sum(a.logical_bytes for a in lowering.arguments if a.role is Role.PARAMETERS) == 2**42


def test_tracing_imports_no_framework():
    code = (
        "import sys, jax, jaxmem.tracing as t, jaxmem.program as p\n"
        "t.lower(p.Program(lambda x: x * 2, 1.0))\n"
        "assert not {'flax', 'optax', 'equinox', 'haiku'} & set(sys.modules), 'framework imported'"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_donation_of_a_jitted_function_cannot_be_changed():
    with pytest.raises(UsageError, match=r"predict is jitted already and keeps its own donation .* donate_argnums"):
        trace(Program(jax.jit(predict), PARAMS, X, donate_argnums=0))


def test_arguments_of_a_traced_program_cannot_be_given():
    with pytest.raises(UsageError, match="has its arguments already"):
        trace(Program(jax.jit(predict).trace(PARAMS, X), X))


def test_missing_arguments():
    with pytest.raises(
        InputError, match=r"predict could not be traced.*\n.*missing 1 required positional argument: 'x'"
    ):
        trace(Program(predict, PARAMS))


def test_error_inside_the_function_shows_the_users_frames_only():
    def broken(params, x):
        return predict(params, x.T)

    with pytest.raises(InputError) as caught:
        trace(Program(broken, PARAMS, X))
    message = str(caught.value)
    assert message.startswith("broken could not be traced with the arguments given.\nTraceback")
    assert "in broken" in message
    assert "return predict(params, x.T)" in message
    assert "dot_general requires contracting dimensions" in message
    assert "jaxmem/tracing" not in message
    assert "site-packages" not in message
