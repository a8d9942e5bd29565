"""Programs in every framework: what each argument is for, where it is, which result replaces it."""

import functools
import warnings
from collections import Counter
from typing import Any, NamedTuple

import equinox as eqx
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx
from flax.training.train_state import TrainState

from jaxmem.lowering import Lowering
from jaxmem.program import Program
from jaxmem.roles import Role
from jaxmem.tracing import trace

ADAM = optax.adam(1e-3)
IMAGES = jax.ShapeDtypeStruct((2, 4), jnp.float32)
DENSE = {
    "first": {"kernel": jax.ShapeDtypeStruct((4, 8), jnp.float32), "bias": jax.ShapeDtypeStruct((8,), jnp.float32)},
    "second": {"kernel": jax.ShapeDtypeStruct((8, 3), jnp.float32)},
}
WEIGHTS = 4 * 8 + 8 + 8 * 3


def dense(params, x):
    hidden = x @ params["first"]["kernel"] + params["first"]["bias"]
    return jnp.mean((jax.nn.relu(hidden) @ params["second"]["kernel"]) ** 2)


def adam_step(params, state, x):
    loss, gradients = jax.value_and_grad(dense)(params, x)
    updates, state = ADAM.update(gradients, state, params)
    return optax.apply_updates(params, updates), state, loss


class Net(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.conv1 = nnx.Linear(4, 8, rngs=rngs)
        self.norm = nnx.BatchNorm(8, rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)
        self.blocks = nnx.List([nnx.Linear(8, 3, rngs=rngs)])

    def __call__(self, x):
        return self.blocks[0](self.drop(self.norm(self.conv1(x))))

    def encode(self, x):
        return self.conv1(x)


NET_WEIGHTS = 4 * 8 + 8 + 8 + 8 + 8 * 3 + 3


def nnx_step(model, optimizer, x):
    loss, gradients = nnx.value_and_grad(lambda model: (model(x) ** 2).mean())(model)
    optimizer.update(model, gradients)
    return loss


def nnx_arguments(transformation=ADAM):
    model = nnx.eval_shape(lambda: Net(nnx.Rngs(0)))
    return model, nnx.eval_shape(lambda model: nnx.Optimizer(model, transformation, wrt=nnx.Param), model)


def elements(lowering: Lowering) -> dict[Role, int]:
    counts: Counter[Role] = Counter()
    for argument in lowering.arguments:
        counts[argument.role] += argument.elements
    return dict(counts)


def by_path(lowering: Lowering):
    return {argument.path: argument for argument in lowering.arguments}


def assert_replaced(lowering: Lowering, *, outputs: list[str]) -> None:
    """Every state argument comes back exactly once, as itself; only ``outputs`` are new."""
    assert [output.path for output in lowering.outputs if output.role is Role.OUTPUTS] == outputs
    replaced = [output.argument_index for output in lowering.outputs if output.argument_index is not None]
    state = [i for i, argument in enumerate(lowering.arguments) if argument.role is not Role.INPUTS]
    assert sorted(replaced) == state
    for output in lowering.outputs:
        if output.argument_index is not None:
            argument = lowering.arguments[output.argument_index]
            assert (output.role, output.layer, output.parameter_path) == (
                argument.role,
                argument.layer,
                argument.parameter_path,
            )
            assert (output.shape, output.dtype) == (argument.shape, argument.dtype)


def test_plain_function_of_dictionaries():
    state = jax.eval_shape(ADAM.init, DENSE)
    lowering = trace(Program(adam_step, DENSE, state, IMAGES, donate_argnums=(0, 1))).lowering
    assert elements(lowering) == {
        Role.PARAMETERS: WEIGHTS,
        Role.OPTIMIZER_FIRST_MOMENT: WEIGHTS,
        Role.OPTIMIZER_SECOND_MOMENT: WEIGHTS,
        Role.OPTIMIZER_OTHER: 1,
        Role.INPUTS: 8,
    }
    arguments = by_path(lowering)
    kernel = arguments["params['first']['kernel']"]
    assert (kernel.layer, kernel.parameter_path, kernel.donated) == ("first", "first/kernel", True)
    assert kernel.role_rule == "mirrored by the optimizer's state"
    moment = arguments["state[0].mu['first']['kernel']"]
    assert (moment.layer, moment.parameter_path) == ("first", "first/kernel")
    assert arguments["state[0].count"].role_rule == "optax ScaleByAdamState.count"
    assert not arguments["x"].donated
    assert_replaced(lowering, outputs=["result[2]"])
    assert lowering.program.parameter_count == WEIGHTS
    assert lowering.program.name == "adam_step"
    assert lowering.program.source == f"{__file__}:{adam_step.__code__.co_firstlineno}"


def test_jit_keeps_its_own_donation():
    state = jax.eval_shape(ADAM.init, DENSE)
    lowering = trace(Program(jax.jit(adam_step, donate_argnums=1), DENSE, state, IMAGES)).lowering
    assert {argument.path.split("[")[0] for argument in lowering.arguments if argument.donated} == {"state"}


@pytest.mark.parametrize(
    "jitted",
    [
        nnx.jit(nnx_step, donate_argnums=(0, 1)),
        nnx.jit(nnx_step, donate_argnames=("model", "optimizer")),
        nnx.jit(nnx_step, donate_argnums=(0, 1), graph_updates=False),
        nnx.jit(nnx_step, donate_argnums=(0, 1), graph=False, graph_updates=False),
    ],
    ids=["graph", "by name", "without graph updates", "tree"],
)
def test_nnx_jit(jitted):
    # Without a graph the sharing of the keys between model and optimizer would be refused; they share none.
    model, optimizer = nnx_arguments()
    lowering = trace(Program(jitted, model, optimizer, IMAGES)).lowering
    assert elements(lowering) == {
        Role.PARAMETERS: NET_WEIGHTS,
        Role.MODEL_STATE: 16,
        Role.OTHER_STATE: 3,  # dropout: a count, and a key of two words
        Role.OPTIMIZER_FIRST_MOMENT: NET_WEIGHTS,
        Role.OPTIMIZER_SECOND_MOMENT: NET_WEIGHTS,
        Role.OPTIMIZER_OTHER: 2,  # Adam's count and the optimizer's own step
        Role.INPUTS: 8,
    }
    arguments = by_path(lowering)
    assert arguments["model.conv1.kernel"].layer == "conv1"
    assert arguments["model.blocks[0].kernel"].parameter_path == "blocks/0/kernel"
    assert arguments["optimizer.opt_state[0].mu.conv1.kernel"].parameter_path == "conv1/kernel"
    assert arguments["model.norm.mean"].layer == "norm"
    assert arguments["model.drop.rngs.key"].dtype == "uint32"
    assert all(argument.donated == (argument.path != "x") for argument in lowering.arguments)
    assert {output.path for output in lowering.outputs if output.role is Role.OUTPUTS} == {"result"}
    for output in lowering.outputs:
        if output.argument_index is not None:
            assert output.path == lowering.arguments[output.argument_index].path


def test_nnx_plain_function_is_nnx_jitted():
    model, optimizer = nnx_arguments()
    lowering = trace(Program(nnx_step, model, optimizer, IMAGES, donate_argnums=(0, 1))).lowering
    assert elements(lowering)[Role.OPTIMIZER_FIRST_MOMENT] == NET_WEIGHTS
    assert_replaced(lowering, outputs=["result"])


def test_nnx_module_called_and_method_of_it():
    model, _ = nnx_arguments()
    called = trace(Program(model, IMAGES)).lowering
    assert by_path(called)["model.conv1.kernel"].role is Role.PARAMETERS
    method = trace(Program(model.encode, IMAGES)).lowering
    used = {argument.path for argument in method.arguments if argument.parameter_number is not None}
    assert {"model.conv1.kernel", "x"} <= used
    assert called.program.name == "Net"


def test_nnx_concrete_modules_are_not_touched():
    model = Net(nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, ADAM, wrt=nnx.Param)
    before = [np.asarray(leaf).copy() for leaf in jax.tree.leaves(nnx.state(model, nnx.Param))]
    lowering = trace(Program(nnx_step, model, optimizer, np.zeros((2, 4), np.float32))).lowering
    assert elements(lowering)[Role.PARAMETERS] == NET_WEIGHTS
    after = jax.tree.leaves(nnx.state(model, nnx.Param))
    assert all(np.array_equal(old, new) for old, new in zip(before, after, strict=True))


def test_nnx_shared_variables_are_one_argument():
    class Tied(nnx.Module):
        def __init__(self, rngs):
            self.encoder = nnx.Linear(4, 4, rngs=rngs)
            self.decoder = self.encoder

        def __call__(self, x):
            return self.decoder(self.encoder(x))

    model = nnx.eval_shape(lambda: Tied(nnx.Rngs(0)))
    lowering = trace(Program(nnx.jit(lambda model, x: model(x)), model, IMAGES)).lowering
    assert elements(lowering)[Role.PARAMETERS] == 4 * 4 + 4


def test_nnx_functional_states():
    model, _ = nnx_arguments()
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)

    @functools.partial(jax.jit, donate_argnames=("params", "rest", "state"))
    def step(params, rest, state, x):
        def loss_of(params):
            model = nnx.merge(graphdef, params, rest, copy=True)
            return (model(x) ** 2).mean(), nnx.state(model, nnx.Not(nnx.Param))

        (loss, new), gradients = jax.value_and_grad(loss_of, has_aux=True)(params)
        updates, state = ADAM.update(gradients, state, params)
        return optax.apply_updates(params, updates), new, state, loss

    lowering = trace(Program(step, params, rest, jax.eval_shape(ADAM.init, params), IMAGES)).lowering
    counts = elements(lowering)
    assert (counts[Role.PARAMETERS], counts[Role.OPTIMIZER_SECOND_MOMENT]) == (NET_WEIGHTS, NET_WEIGHTS)
    assert by_path(lowering)["params.conv1.kernel"].layer == "conv1"
    assert_replaced(lowering, outputs=["result[3]"])


def test_linen_train_state():
    class Linen(linen.Module):
        @linen.compact
        def __call__(self, x):
            x = linen.BatchNorm(use_running_average=False)(linen.Dense(8)(x))
            return linen.Dense(3)(x)

    class State(TrainState):
        batch_stats: dict
        average: dict  # of the parameters

    net = Linen()
    variables = jax.eval_shape(net.init, jax.random.key(0), IMAGES)

    def create():
        return State.create(
            apply_fn=net.apply,
            params=jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), variables["params"]),
            batch_stats=jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), variables["batch_stats"]),
            average=jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), variables["params"]),
            tx=ADAM,
        )

    @functools.partial(jax.jit, donate_argnums=0)
    def step(state, x):
        def loss_of(params):
            out, new = state.apply_fn({"params": params, "batch_stats": state.batch_stats}, x, mutable=["batch_stats"])
            return (out**2).mean(), new["batch_stats"]

        (loss, stats), gradients = jax.value_and_grad(loss_of, has_aux=True)(state.params)
        state = state.apply_gradients(grads=gradients, batch_stats=stats)
        average = jax.tree.map(lambda a, p: 0.9 * a + 0.1 * p, state.average, state.params)
        return state.replace(average=average), loss

    lowering = trace(Program(step, jax.eval_shape(create), IMAGES)).lowering
    weights = 4 * 8 + 8 + 8 + 8 + 8 * 3 + 3
    assert elements(lowering) == {
        Role.PARAMETERS: weights,
        Role.MODEL_STATE: 16,
        Role.OTHER_STATE: weights,
        Role.OPTIMIZER_FIRST_MOMENT: weights,
        Role.OPTIMIZER_SECOND_MOMENT: weights,
        Role.OPTIMIZER_OTHER: 2,
        Role.INPUTS: 8,
    }
    arguments = by_path(lowering)
    assert arguments["state.params['Dense_0']['kernel']"].parameter_path == "Dense_0/kernel"
    assert arguments["state.batch_stats['BatchNorm_0']['mean']"].layer == "BatchNorm_0"
    assert arguments["state.step"].role_rule == "TrainState.step"
    assert arguments["state.average['Dense_0']['kernel']"].role_rule == "a further tree like the parameters"
    assert_replaced(lowering, outputs=["result[1]"])


def test_linen_inference_by_collections():
    net = linen.Dense(3)
    variables = jax.eval_shape(net.init, jax.random.key(0), IMAGES)
    arguments = by_path(trace(Program(net.apply, variables, IMAGES)).lowering)
    kernel = arguments["variables['params']['kernel']"]
    assert (kernel.role, kernel.parameter_path, kernel.role_rule) == (
        Role.PARAMETERS,
        "kernel",
        "collection 'params'",
    )


def equinox_arguments():
    model = eqx.filter_eval_shape(lambda: eqx.nn.MLP(4, 3, 8, 1, key=jax.random.key(0)))
    return model, eqx.filter_eval_shape(lambda model: ADAM.init(eqx.filter(model, eqx.is_inexact_array)), model)


def equinox_step(model, state, x):
    loss, gradients = eqx.filter_value_and_grad(lambda model: (jax.vmap(model)(x) ** 2).mean())(model)
    updates, state = ADAM.update(gradients, state, model)
    return eqx.apply_updates(model, updates), state, loss


@pytest.mark.parametrize("form", ["filter_jit", "plain"])
def test_equinox(form):
    model, state = equinox_arguments()
    if form == "filter_jit":
        program = Program(eqx.filter_jit(equinox_step, donate="all"), model, state, IMAGES)
    else:
        program = Program(equinox_step, model, state, IMAGES, donate_argnums=(0, 1))
    lowering = trace(program).lowering
    weights = 4 * 8 + 8 + 8 * 3 + 3
    assert elements(lowering) == {
        Role.PARAMETERS: weights,
        Role.OPTIMIZER_FIRST_MOMENT: weights,
        Role.OPTIMIZER_SECOND_MOMENT: weights,
        Role.OPTIMIZER_OTHER: 1,
        Role.INPUTS: 8,
    }
    arguments = by_path(lowering)
    assert arguments["model.layers[0].weight"].layer == "layers/0"
    assert arguments["state[0].mu.layers[0].weight"].parameter_path == "layers/0/weight"
    assert arguments["x"].donated == (form == "filter_jit")
    # filter_jit adds a scalar of its own to the results.
    assert_replaced(lowering, outputs=["marker", "result[2]"] if form == "filter_jit" else ["result[2]"])


@pytest.mark.parametrize("donate", ["none", "all", "all-except-first"])
def test_equinox_lowers_to_what_it_runs(donate):
    """With real arrays Equinox lowers itself: the same module as ours, made from shapes."""
    model = eqx.nn.MLP(4, 3, 8, 1, key=jax.random.key(0))
    state = ADAM.init(eqx.filter(model, eqx.is_inexact_array))
    jitted: Any = eqx.filter_jit(equinox_step, donate=donate)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Some donated buffers were not usable")
        own = jitted.lower(model, state, jnp.zeros((2, 4))).lowered
        ours = trace(Program(jitted, *equinox_arguments(), IMAGES)).staged.traced.lower()
    assert ours.as_text() == own.as_text()


def test_equinox_method_and_keywords():
    class Model(eqx.Module):
        layer: eqx.nn.Linear

        @eqx.filter_jit
        def predict(self, x, *, scale):
            return self.layer(x) * scale

    model = eqx.filter_eval_shape(lambda: Model(eqx.nn.Linear(4, 3, key=jax.random.key(0))))
    vector = jax.ShapeDtypeStruct((4,), jnp.float32)
    arguments = by_path(trace(Program(model.predict, vector, scale=np.float32(2))).lowering)
    assert set(arguments) == {"self.layer.weight", "self.layer.bias", "x", "scale"}
    assert arguments["self.layer.weight"].parameter_path == "layer/weight"


def test_haiku_with_state():
    def forward(x):
        x = hk.BatchNorm(create_scale=True, create_offset=True, decay_rate=0.9)(hk.Linear(3)(x), is_training=True)
        return (x**2).mean()

    net = hk.transform_with_state(forward)
    params, state = jax.eval_shape(net.init, jax.random.key(0), IMAGES)

    def step(params, state, moments, x):
        (loss, state), gradients = jax.value_and_grad(net.apply, has_aux=True)(params, state, None, x)
        updates, moments = ADAM.update(gradients, moments, params)
        return optax.apply_updates(params, updates), state, moments, loss

    lowering = trace(Program(step, params, state, jax.eval_shape(ADAM.init, params), IMAGES)).lowering
    counts = elements(lowering)
    assert counts[Role.PARAMETERS] == counts[Role.OPTIMIZER_SECOND_MOMENT] == 4 * 3 + 3 + 3 + 3
    assert counts[Role.MODEL_STATE] == 2 * (3 + 3 + 1)
    assert by_path(lowering)["params['linear']['w']"].layer == "linear"
    assert_replaced(lowering, outputs=["result[3]"])


def test_two_models_of_one_kind():
    """Generator and discriminator: the same paths inside, so each path begins with its tree."""

    class State(NamedTuple):
        generator: Any
        discriminator: Any
        generator_moments: optax.OptState
        discriminator_moments: optax.OptState

    def step(state, x):
        def one(params, moments):
            gradients = jax.grad(dense)(params, x)
            updates, moments = ADAM.update(gradients, moments, params)
            return optax.apply_updates(params, updates), moments

        generator, generator_moments = one(state.generator, state.generator_moments)
        discriminator, discriminator_moments = one(state.discriminator, state.discriminator_moments)
        return State(generator, discriminator, generator_moments, discriminator_moments)

    moments = jax.eval_shape(ADAM.init, DENSE)
    program = Program(
        step,
        State(DENSE, DENSE, moments, moments),
        IMAGES,
        roles={"state.generator": "parameters", "state.discriminator": "parameters"},
    )
    arguments = by_path(trace(program).lowering)
    assert arguments["state.generator['first']['kernel']"].parameter_path == "generator/first/kernel"
    assert arguments["state.discriminator['first']['kernel']"].layer == "discriminator/first"
    assert (
        arguments["state.discriminator_moments[0].nu['first']['kernel']"].parameter_path == "discriminator/first/kernel"
    )
    assert arguments["state.generator_moments[0].mu['first']['kernel']"].parameter_path == "generator/first/kernel"
