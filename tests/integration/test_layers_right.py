"""Layers are right, not only present: networks without scopes, whose sizes alone tell the true layer.

Every feature map of these networks has a number of elements that no other layer's array has (widths are different primes), so a
buffer of that size can only be of that layer. Nothing in the programs names a layer but the parameters' own paths.
"""

from collections.abc import Callable
from math import prod
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
import pytest
from flax import nnx

from jaxmem.assemble import read_report
from jaxmem.program import Program
from jaxmem.result import Report
from jaxmem.roles import Phase, Role

BATCH, CLASSES = 7, 5
WIDTHS = (131, 61, 97, 41)
"""Of the hidden layers of the MLPs; all different primes."""

CHANNELS, SIZES, WINDOW = (11, 17, 23), (26, 26, 13), 2
"""Of the CNN: convolution, convolution, pool (one window after the second), convolution, on images of 26 × 26 × 3."""


def array(*shape: int, dtype: Any = jnp.float32) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype)


def training(model: Callable[[Any, jax.Array], jax.Array]) -> Callable[..., Any]:
    optimizer = optax.adam(1e-3)

    def step(parameters: Any, state: Any, inputs: jax.Array, labels: jax.Array) -> Any:
        def loss_of(parameters: Any) -> jax.Array:
            return optax.softmax_cross_entropy_with_integer_labels(model(parameters, inputs), labels).mean()

        loss, gradients = jax.value_and_grad(loss_of)(parameters)
        updates, state = optimizer.update(gradients, state, parameters)
        return optax.apply_updates(parameters, updates), state, loss

    return step


def plain(model: Callable[[Any, jax.Array], jax.Array], parameters: Any, inputs: jax.ShapeDtypeStruct) -> Program:
    state = jax.eval_shape(optax.adam(1e-3).init, parameters)
    labels = array(BATCH, dtype=jnp.int32)
    return Program(training(model), parameters, state, inputs, labels, donate_argnums=(0, 1), batch_size=BATCH)


def plain_mlp() -> tuple[Program, dict[int, str]]:
    def model(parameters: Any, features: jax.Array) -> jax.Array:
        for number in range(len(WIDTHS)):
            layer = parameters[f"hidden{number}"]
            features = jax.nn.relu(features @ layer["kernel"] + layer["bias"])
        return features @ parameters["head"]["kernel"] + parameters["head"]["bias"]

    inputs = (13, *WIDTHS)
    parameters = {
        f"hidden{n}": {"kernel": array(inputs[n], width), "bias": array(width)} for n, width in enumerate(WIDTHS)
    }
    parameters["head"] = {"kernel": array(WIDTHS[-1], CLASSES), "bias": array(CLASSES)}
    sizes = {BATCH * width: f"hidden{n}" for n, width in enumerate(WIDTHS)}
    return plain(model, parameters, array(BATCH, 13)), sizes


def plain_cnn() -> tuple[Program, dict[int, str]]:
    def model(parameters: Any, features: jax.Array) -> jax.Array:
        for number in range(len(CHANNELS)):
            layer = parameters[f"conv{number}"]
            dimensions = ("NHWC", "HWIO", "NHWC")
            features = jax.lax.conv_general_dilated(features, layer["w"], (1, 1), "SAME", dimension_numbers=dimensions)
            features = jax.nn.relu(features + layer["b"])
            if number == 1:
                window = (1, WINDOW, WINDOW, 1)
                features = jax.lax.reduce_window(features, -jnp.inf, jax.lax.max, window, window, "VALID")
        return features.reshape(BATCH, -1) @ parameters["head"]["w"]

    inputs = (3, *CHANNELS)
    parameters = {
        f"conv{n}": {"w": array(3, 3, inputs[n], width), "b": array(width)} for n, width in enumerate(CHANNELS)
    }
    parameters["head"] = {"w": array(13 * 13 * CHANNELS[-1], CLASSES)}
    sizes = {
        BATCH * size * size * width: f"conv{n}" for n, (size, width) in enumerate(zip(SIZES, CHANNELS, strict=True))
    }
    # The pool stands behind the second convolution and has no parameters: it belongs to the layer whose map it reads.
    sizes[BATCH * 13 * 13 * CHANNELS[1]] = "conv1"
    return plain(model, parameters, array(BATCH, 26, 26, 3)), sizes


def nnx_mlp() -> tuple[Program, dict[int, str]]:
    """NNX without named scopes: the trace says ``jvp()`` and nothing else."""

    class Network(nnx.Module):
        def __init__(self, rngs: nnx.Rngs) -> None:
            inputs = (13, *WIDTHS)
            for number, width in enumerate(WIDTHS):
                setattr(self, f"hidden{number}", nnx.Linear(inputs[number], width, rngs=rngs))
            self.head = nnx.Linear(WIDTHS[-1], CLASSES, rngs=rngs)

        def __call__(self, features: jax.Array) -> jax.Array:
            for number in range(len(WIDTHS)):
                features = nnx.relu(getattr(self, f"hidden{number}")(features))
            return self.head(features)

    def step(model: Network, optimizer: nnx.Optimizer, inputs: jax.Array, labels: jax.Array) -> jax.Array:
        def loss_of(model: Network) -> jax.Array:
            return optax.softmax_cross_entropy_with_integer_labels(model(inputs), labels).mean()

        loss, gradients = nnx.value_and_grad(loss_of)(model)
        optimizer.update(model, gradients)
        return loss

    model = nnx.eval_shape(lambda: Network(nnx.Rngs(0)))
    optimizer = nnx.eval_shape(lambda model: nnx.Optimizer(model, optax.adam(1e-3), wrt=nnx.Param), model)
    function = nnx.jit(step, donate_argnums=(0, 1))
    labels = array(BATCH, dtype=jnp.int32)
    sizes = {BATCH * width: f"hidden{n}" for n, width in enumerate(WIDTHS)}
    return Program(function, model, optimizer, array(BATCH, 13), labels, batch_size=BATCH), sizes


def equinox_mlp() -> tuple[Program, dict[int, str]]:
    """Equinox: vmapped over the batch, layers in a list."""

    class Network(eqx.Module):
        hidden: list[eqx.nn.Linear]
        head: eqx.nn.Linear

        def __init__(self, key: jax.Array) -> None:
            inputs = (13, *WIDTHS)
            keys = jax.random.split(key, len(WIDTHS) + 1)
            self.hidden = [eqx.nn.Linear(inputs[n], width, key=keys[n]) for n, width in enumerate(WIDTHS)]
            self.head = eqx.nn.Linear(WIDTHS[-1], CLASSES, key=keys[-1])

        def __call__(self, features: jax.Array) -> jax.Array:
            for layer in self.hidden:
                features = jax.nn.relu(layer(features))
            return self.head(features)

    network = eqx.filter_eval_shape(lambda: Network(jax.random.key(0)))
    program = plain(lambda network, inputs: jax.vmap(network)(inputs), network, array(BATCH, 13))
    return program, {BATCH * width: f"hidden/{n}" for n, width in enumerate(WIDTHS)}


NETWORKS = {"plain MLP": plain_mlp, "plain CNN": plain_cnn, "NNX MLP": nnx_mlp, "Equinox MLP": equinox_mlp}


@pytest.fixture(
    scope="module", params=[(name, how) for name in NETWORKS for how in ("default", "opened")], ids="-".join
)
def network(request: pytest.FixtureRequest, compiled, opened) -> tuple[Report, dict[int, str]]:
    name, how = request.param
    program, sizes = NETWORKS[name]()
    if how == "opened":
        program = program.with_compiler_options(tuple(opened.items()))
    return read_report(compiled(program)), sizes


@pytest.mark.parametrize("name", NETWORKS)
def test_the_formula_gives_a_feature_map_the_layer_that_its_size_tells(name: str, formula) -> None:
    program, sizes = NETWORKS[name]()
    # What the backend makes for its own sake, a transposed copy, belongs to the operation that wants it so.
    leaves = [
        leaf
        for leaf in formula(program).leaves
        if leaf.elements in sizes and leaf.phase is Phase.FORWARD and not leaf.of_backend
    ]
    assert [(leaf.name, leaf.layer) for leaf in leaves if leaf.layer != sizes[leaf.elements]] == []
    assert {leaf.layer for leaf in leaves if leaf.keeps} == set(sizes.values())


def test_a_feature_map_has_the_layer_that_its_size_tells(network: tuple[Report, dict[int, str]]) -> None:
    report, sizes = network
    found = {}
    for row in report.buffers.rows():
        made_forward = row.phase is Phase.FORWARD and row.role in (Role.SAVED_ACTIVATIONS, Role.TRANSIENT)
        if made_forward and prod(row.shape) in sizes:
            found.setdefault(sizes[prod(row.shape)], set()).add(row.layer)
    assert found == {layer: {layer} for layer in found}
    assert len(found) >= len(set(sizes.values())) - 1


def test_nothing_is_unexplained(network: tuple[Report, dict[int, str]]) -> None:
    report, _ = network
    assert [row for row in report.ledger if row.unexplained_bytes] == []


def test_gradients_carry_the_layer_of_their_parameter(network: tuple[Report, dict[int, str]]) -> None:
    report, _ = network
    layers = {row.layer for row in report.ledger if row.term == "parameters"}
    kernels: dict[int, set[str]] = {}
    for row in report.buffers.rows():
        if row.role is Role.PARAMETERS and row.opcode == "parameter":
            kernels.setdefault(prod(row.shape), set()).add(row.layer)
    for row in report.buffers.rows():
        if row.role is Role.GRADIENTS:
            assert row.layer in layers
            assert row.layer in kernels.get(prod(row.shape), layers)
