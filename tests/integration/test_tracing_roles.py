"""Roles where no type tells them, and the optimizers' states by their documented formulas."""

import itertools
import math

import jax
import jax.numpy as jnp
import optax
import pytest

from jaxmem.program import Program
from jaxmem.roles import OPTIMIZER_ROLES, Role
from jaxmem.tracing import trace
from jaxmem.tracing.optax_states import field_role

IMAGES = jax.ShapeDtypeStruct((2, 4), jnp.float32)
LAYERS = [
    (jax.ShapeDtypeStruct((4, 8), jnp.float32), jax.ShapeDtypeStruct((8,), jnp.float32)),
    (jax.ShapeDtypeStruct((8, 3), jnp.float32), jax.ShapeDtypeStruct((3,), jnp.float32)),
]
W = 4 * (4 * 8 + 8 + 8 * 3 + 3)


def forward(layers, x):
    for kernel, bias in layers:
        x = jnp.tanh(x @ kernel + bias)
    return x


def loss_of(layers, x):
    return (forward(layers, x) ** 2).mean()


def roles(program: Program) -> dict[str, str]:
    return {argument.path: str(argument.role) for argument in trace(program).arguments}


def step_of(transformation):
    def step(layers, state, x):
        loss, gradients = jax.value_and_grad(loss_of)(layers, x)
        updates, state = transformation.update(gradients, state, layers)
        return optax.apply_updates(layers, updates), state, loss

    return step


@pytest.mark.parametrize(
    ("transformation", "expected_bytes"),
    [
        (optax.sgd(0.1), 0),
        (optax.sgd(0.1, momentum=0.9), W),
        (optax.rmsprop(0.1), W),
        (optax.adagrad(0.1), W),
        (optax.adam(0.1), 2 * W + 4),
        (optax.adamw(0.1), 2 * W + 4),
        (optax.lamb(0.1), 2 * W + 4),
        (optax.nadam(0.1), 2 * W + 4),
        (optax.amsgrad(0.1), 3 * W + 4),
        (optax.lion(0.1), W + 4),
        (optax.adam(0.1, mu_dtype=jnp.bfloat16), W + W // 2 + 4),
        # Nested: the clip and the schedule's count (4 more bytes) stand around the same two moments.
        (optax.chain(optax.clip_by_global_norm(1.0), optax.adam(optax.constant_schedule(0.1))), 2 * W + 4 + 4),
        (optax.masked(optax.adam(0.1), [(True, False), (True, False)]), 2 * 4 * (32 + 24) + 4),
        (
            optax.multi_transform({"a": optax.adam(0.1), "b": optax.sgd(0.1, momentum=0.9)}, [("a", "b"), ("a", "b")]),
            2 * 4 * (32 + 24) + 4 + 4 * (8 + 3),
        ),
        # Its own count, and learning rate, b1, b2, eps and eps_root.
        (optax.inject_hyperparams(optax.adam)(learning_rate=0.1), 2 * W + 4 + 4 + 5 * 4),
    ],
    ids=lambda value: None if callable(getattr(value, "init", None)) else str(value),
)
def test_optimizer_state_by_formula(transformation, expected_bytes):
    state = jax.eval_shape(transformation.init, LAYERS)
    arguments = trace(Program(step_of(transformation), LAYERS, state, IMAGES)).arguments
    assert sum(a.logical_bytes for a in arguments if a.role in OPTIMIZER_ROLES) == expected_bytes
    assert sum(a.logical_bytes for a in arguments if a.role is Role.PARAMETERS) == W
    assert sum(a.logical_bytes for a in arguments if a.role is Role.INPUTS) == 2 * 4 * 4
    assert len({a.role for a in arguments}) <= 5


def test_adafactor_keeps_rows_and_columns():
    """A factored kernel of (4, 8) costs 4 + 8 numbers, and one where the whole would be; see Optax `factorized`."""
    transformation = optax.adafactor(0.1, min_dim_size_to_factor=2)
    state = jax.eval_shape(transformation.init, LAYERS)
    arguments = trace(Program(step_of(transformation), LAYERS, state, IMAGES)).arguments
    second = [a for a in arguments if a.role is Role.OPTIMIZER_SECOND_MOMENT]
    kernels = (4 + 8 + 1) + (8 + 3 + 1)
    biases = (1 + 1 + 8) + (1 + 1 + 3)
    assert sum(a.elements for a in second) == kernels + biases
    assert {a.parameter_path for a in second} == {"0/0", "0/1", "1/0", "1/1"}
    assert {a.parameter_path for a in arguments if a.role is Role.PARAMETERS} == {"0/0", "0/1", "1/0", "1/1"}


def test_adafactor_of_vgg16():
    """944,912 B for configuration D with the paper's three dense layers: by hand from Optax's rule.

    A kernel is factored over its two largest dimensions when both are 128 or more, and keeps one number in place of the
    whole. All else keeps the whole, and one number for each of row and column. One step count, 4 B.
    """
    channels = (3, 64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512)
    kernels = [(3, 3, *pair) for pair in itertools.pairwise(channels)] + [(25088, 4096), (4096, 4096), (4096, 1000)]
    network = [
        (jax.ShapeDtypeStruct(kernel, jnp.float32), jax.ShapeDtypeStruct(kernel[-1:], jnp.float32))
        for kernel in kernels
    ]
    transformation = optax.adafactor(1e-3)
    state = jax.eval_shape(transformation.init, network)
    arguments = trace(Program(lambda g, s, p: transformation.update(g, s, p), network, state, network)).arguments
    total = sum(a.logical_bytes for a in arguments if a.role in OPTIMIZER_ROLES)

    def kept(shape):
        small, large = sorted(shape)[-2:] if len(shape) > 1 else (0, 0)
        if small < 128:
            return 1 + 1 + math.prod(shape)
        return math.prod(shape) // large + math.prod(shape) // small + 1

    by_hand = 4 * sum(kept(kernel) + kept(kernel[-1:]) for kernel in kernels)
    counts = sum(a.logical_bytes for a in arguments if a.role is Role.OPTIMIZER_OTHER)
    assert counts == 4
    assert total == by_hand + counts == 944_912


def test_multi_steps_gradients_are_other_state():
    transformation = optax.MultiSteps(optax.adam(0.1), 4)
    state = jax.eval_shape(transformation.init, LAYERS)
    arguments = trace(Program(step_of(transformation), LAYERS, state, IMAGES)).arguments
    by_role = {role: sum(a.logical_bytes for a in arguments if a.role is role) for role in Role}
    assert by_role[Role.OTHER_STATE] == W
    assert by_role[Role.OPTIMIZER_FIRST_MOMENT] == by_role[Role.OPTIMIZER_SECOND_MOMENT] == W
    assert by_role[Role.PARAMETERS] == W


def test_every_field_in_the_table_exists_in_optax():
    """A renamed field would silently become `optimizer_other`."""
    import optax.contrib
    from optax.contrib import _ademamix, _dadapt_adamw, _madgrad, _momo, _muon, _prodigy, _sophia
    from optax.transforms import _accumulation

    from jaxmem.tracing import optax_states

    modules = (optax, optax.contrib, _ademamix, _dadapt_adamw, _madgrad, _momo, _muon, _prodigy, _sophia, _accumulation)
    states = {name: kind for module in modules for name, kind in vars(module).items() if isinstance(kind, type)}
    from optax._src import factorized, transform

    states |= {name: kind for module in (factorized, transform) for name, kind in vars(module).items()}
    for (name, field), role in optax_states._FIELDS.items():
        assert name in states, name
        assert field in states[name]._fields, (name, field)
        assert role is not Role.OPTIMIZER_OTHER


def test_fields_outside_the_table_are_other():
    state = optax.ScaleByAdamState(count=jnp.zeros((), jnp.int32), mu=(), nu=())
    assert field_role(state, "count") is Role.OPTIMIZER_OTHER


def test_plain_lists_have_layers_by_number():
    arguments = {a.path: a for a in trace(Program(forward, LAYERS, IMAGES)).arguments}
    bias = arguments["layers[0][1]"]
    assert (bias.role, bias.parameter_path, bias.layer) == (Role.PARAMETERS, "0/1", "0")
    assert bias.role_rule == "first tree of arrays"
    assert arguments["x"].role is Role.INPUTS


def test_gradient_descent_without_a_state():
    def step(layers, x):
        loss, gradients = jax.value_and_grad(loss_of)(layers, x)
        return jax.tree.map(lambda p, g: p - 0.1 * g, layers, gradients), loss

    traced = trace(Program(step, LAYERS, IMAGES))
    assert {a.role_rule for a in traced.arguments if a.role is Role.PARAMETERS} == {"differentiated and returned"}
    assert [output.argument_index for output in traced.outputs] == [0, 1, 2, 3, None]


@pytest.mark.parametrize("weight_decay", [0.0, 0.01])
def test_gradients_are_not_new_parameters(weight_decay):
    """They have the parameters' structure; only dataflow tells them apart."""

    def regularized(layers, x):
        return loss_of(layers, x) + weight_decay * sum((leaf**2).sum() for leaf in jax.tree.leaves(layers))

    traced = trace(Program(jax.jit(jax.value_and_grad(regularized)), LAYERS, IMAGES))
    assert [output.argument_index for output in traced.outputs] == [None] * 5
    assert {a.path.split("[")[0] for a in traced.arguments if a.role is Role.PARAMETERS} == {"layers"}


def test_update_inside_a_jitted_helper_is_an_update():
    helper = jax.jit(lambda p, g: jax.tree.map(lambda p, g: p - 0.1 * g, p, g))
    traced = trace(Program(lambda layers, x: helper(layers, jax.jit(jax.grad(loss_of))(layers, x)), LAYERS, IMAGES))
    assert [output.argument_index for output in traced.outputs] == [0, 1, 2, 3]


def test_parameters_that_are_one_array_are_told_by_the_update():
    square = jax.ShapeDtypeStruct((4, 4), jnp.float32)

    def step(x, w):
        return w - 0.1 * jax.grad(lambda w: ((x @ w) ** 2).sum())(w)

    assert roles(Program(step, square, square)) == {"x": "inputs", "w": "parameters"}


def test_parameters_come_after_the_optimizer_state():
    """Three trees have one structure; the largest match first, then the name, keeps them apart."""
    transformation = optax.adam(0.1)
    state = jax.eval_shape(transformation.init, LAYERS)

    def step(state, layers, x):
        layers, state, loss = step_of(transformation)(layers, state, x)
        return layers, loss, state

    traced = trace(Program(step, state, LAYERS, IMAGES))
    replaced = {
        output.path: traced.arguments[output.argument_index].path
        for output in traced.outputs
        if output.argument_index is not None
    }
    assert replaced["result[0][0][1]"] == "layers[0][1]"
    assert replaced["result[2][0].nu[0][1]"] == "state[0].nu[0][1]"
    assert "result[1]" not in replaced


def test_gradients_handed_in_are_not_the_parameters():
    transformation = optax.adam(0.1)
    state = jax.eval_shape(transformation.init, LAYERS)

    def apply(gradients, state, layers):
        updates, state = transformation.update(gradients, state, layers)
        return optax.apply_updates(layers, updates), state

    for given in ({}, {"gradients": "gradients"}):
        found = roles(Program(apply, LAYERS, state, LAYERS, roles=given))
        assert found["gradients[0][0]"] == "gradients"
        assert found["layers[0][0]"] == "parameters"


def test_keys_and_counters_that_come_back_are_state():
    def step(layers, key, x):
        key, drawn = jax.random.split(key)
        return forward(layers, x + jax.random.normal(drawn, x.shape)), key

    found = roles(Program(step, LAYERS, jax.eval_shape(lambda: jax.random.key(0)), IMAGES))
    assert found["key"] == "other_state"


def test_cache_of_a_decoder_is_state():
    cache = {"k": jax.ShapeDtypeStruct((2, 8), jnp.float32), "v": jax.ShapeDtypeStruct((2, 8), jnp.float32)}

    def decode(layers, cache, x):
        out = forward(layers, x)
        return out, {"k": cache["k"] + 1, "v": cache["v"] * 2}

    found = roles(Program(decode, LAYERS, cache, IMAGES, donate_argnums=1))
    assert found["cache['k']"] == "other_state"
    assert found["layers[0][0]"] == "parameters"


def test_user_decides_and_the_longest_path_wins():
    state = {"a": IMAGES, "b": IMAGES}
    found = roles(
        Program(lambda state: state["a"] + state["b"], state, roles={"state": "other_state", "state['b']": "inputs"})
    )
    assert found == {"state['a']": "other_state", "state['b']": "inputs"}
    (rule,) = {a.role_rule for a in trace(Program(lambda s: s["a"], {"a": IMAGES}, roles={"s": "inputs"})).arguments}
    assert rule == "given by the user"
