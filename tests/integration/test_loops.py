"""Programs with loops, branches, stacked and cast arrays: the ledger closes, on a CPU and on a GPU that is not here.

Widths and numbers of layers, turns and examples are small and occur nowhere else, so that a wrong explanation shows.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
import pytest
from perceptrons import ADAM, array, epoch, perceptron, perceptron_parameters, squared_error

from jaxmem.assemble import read_report
from jaxmem.compilers import compile_lowering
from jaxmem.devices import find_device
from jaxmem.program import Program
from jaxmem.result import Report
from jaxmem.roles import Role
from jaxmem.tracing import trace
from jaxmem.tracing.layers import layer_table


def training(
    loss: Callable[..., Any], parameters: Any, *batch: Any, optimizer: optax.GradientTransformation = ADAM
) -> Program:
    """One step of an optimizer, its state donated."""

    def step(parameters: Any, state: Any, *batch: Any) -> Any:
        value, gradients = jax.value_and_grad(loss)(parameters, *batch)
        updates, state = optimizer.update(gradients, state, parameters)
        return optax.apply_updates(parameters, updates), state, value

    state = jax.eval_shape(optimizer.init, parameters)
    return Program(step, parameters, state, *batch, donate_argnums=(0, 1))


def layers_in_a_scan(*, again: bool) -> Program:
    layers, width = 4, 61

    def layer(hidden: Any, own: Any) -> Any:
        return jnp.tanh(hidden @ own["kernel"] + own["bias"]), None

    def loss(parameters: Any, x: Any) -> Any:
        return jnp.mean(jax.lax.scan(jax.checkpoint(layer) if again else layer, x, parameters["stack"])[0] ** 2)

    stack = {"kernel": array(layers, width, width), "bias": array(layers, width)}
    return training(loss, {"stack": stack}, array(128, width))


def accumulated_gradients() -> Program:
    def step(parameters: Any, state: Any, x: Any, y: Any) -> Any:
        def turn(carry: Any, batch: Any) -> Any:
            value, gradients = jax.value_and_grad(squared_error)(parameters, *batch)
            return (jax.tree.map(jnp.add, carry[0], gradients), carry[1] + value), None

        (gradients, value), _ = jax.lax.scan(turn, (jax.tree.map(jnp.zeros_like, parameters), 0.0), (x, y))
        updates, state = ADAM.update(gradients, state, parameters)
        return optax.apply_updates(parameters, updates), state, value

    parameters = perceptron_parameters()
    state = jax.eval_shape(ADAM.init, parameters)
    return Program(step, parameters, state, array(4, 32, 64), array(4, 32, 10), donate_argnums=(0, 1))


def gradients_of_several_calls() -> Program:
    optimizer = optax.MultiSteps(ADAM, 4).gradient_transformation()
    return training(squared_error, perceptron_parameters(), array(128, 64), array(128, 10), optimizer=optimizer)


def steps_in_a_scan() -> Program:
    parameters = perceptron_parameters()
    state = jax.eval_shape(ADAM.init, parameters)
    return Program(epoch, parameters, state, array(4, 128, 64), array(4, 128, 10), donate_argnums=(0, 1))


def cache_through_the_layers(*, donated: bool) -> Program:
    layers, batch, length, width = 3, 4, 17, 16

    def decode(parameters: Any, cache: Any, x: Any, position: Any) -> Any:
        def layer(x: Any, own: Any) -> Any:
            kernel, keys = own
            keys = jax.lax.dynamic_update_slice(keys, (x @ kernel)[:, None], (0, position, 0))
            weights = jax.nn.softmax(jnp.einsum("bd,btd->bt", x, keys))
            return x + jnp.einsum("bt,btd->bd", weights, keys), keys

        x, keys = jax.lax.scan(layer, x, (parameters["kernels"], cache["keys"]))
        return x, {"keys": keys}

    return Program(
        decode,
        {"kernels": array(layers, width, width)},
        {"keys": array(layers, batch, length, width)},
        array(batch, width),
        array(dtype=jnp.int32),
        donate_argnums=(1,) if donated else (),
    )


def tokens_in_a_scan() -> Program:
    batch, length, width, words = 4, 32, 48, 101

    def generate(parameters: Any, cache: Any, token: Any) -> Any:
        def turn(carry: Any, position: Any) -> Any:
            cache, token = carry
            x = parameters["embed"][token]
            query, key, value = (x @ parameters[name] for name in ("query", "key", "value"))
            cache = {
                "keys": jax.lax.dynamic_update_slice(cache["keys"], key[:, None], (0, position, 0)),
                "values": jax.lax.dynamic_update_slice(cache["values"], value[:, None], (0, position, 0)),
            }
            scores = jnp.einsum("bd,btd->bt", query, cache["keys"]) / math.sqrt(width)
            scores = jnp.where(jnp.arange(length) <= position, scores, -1e9)
            x = x + jnp.einsum("bt,btd->bd", jax.nn.softmax(scores), cache["values"])
            token = jnp.argmax(x @ parameters["out"], -1).astype(jnp.int32)
            return (cache, token), token

        (cache, _), tokens = jax.lax.scan(turn, (cache, token), jnp.arange(length))
        return cache, tokens

    square = array(width, width)
    parameters = {
        "embed": array(words, width), "query": square, "key": square, "value": square, "out": array(width, words)
    }  # fmt: skip
    cache = {"keys": array(batch, length, width), "values": array(batch, length, width)}
    return Program(generate, parameters, cache, array(batch, dtype=jnp.int32), donate_argnums=(1,))


def until_it_converges() -> Program:
    def solve(a: Any, b: Any) -> Any:
        def turn(state: Any) -> Any:
            x, _, count = state
            better = x + 0.1 * (b - a @ x)
            return better, jnp.linalg.norm(better - x), count + 1

        return jax.lax.while_loop(lambda state: (state[1] > 1e-6) & (state[2] < 100), turn, (b * 0, jnp.inf, 0))

    return Program(solve, array(97, 97), array(97, 31))


def gradients_of_each_example() -> Program:
    def step(parameters: Any, x: Any, y: Any) -> Any:
        each = jax.vmap(jax.grad(squared_error), (None, 0, 0))(parameters, x, y)
        mean = jax.tree.map(lambda gradient: jnp.clip(gradient, -1, 1).mean(0), each)
        return jax.tree.map(lambda parameter, gradient: parameter - 0.1 * gradient, parameters, mean)

    return Program(step, perceptron_parameters(), array(16, 64), array(16, 10), donate_argnums=(0,))


def equinox_network() -> Program:
    equinox = pytest.importorskip("equinox")
    model = equinox.filter_eval_shape(equinox.nn.MLP, 64, 10, 113, 3, key=jax.random.key(0))
    state = equinox.filter_eval_shape(lambda model: ADAM.init(equinox.filter(model, equinox.is_array)), model)

    def step(model: Any, state: Any, x: Any, y: Any) -> Any:
        def loss(model: Any) -> Any:
            return jnp.mean((jax.vmap(model)(x) - y) ** 2)

        value, gradients = equinox.filter_value_and_grad(loss)(model)
        updates, state = ADAM.update(gradients, state, equinox.filter(model, equinox.is_array))
        return equinox.apply_updates(model, updates), state, value

    return Program(step, model, state, array(128, 64), array(128, 10), donate_argnums=(0, 1))


def mixed_precision() -> Program:
    def loss(parameters: Any, x: Any, y: Any) -> Any:
        narrow = jax.tree.map(lambda array: array.astype(jnp.bfloat16), parameters)
        return jnp.mean((perceptron(narrow, x.astype(jnp.bfloat16)).astype(jnp.float32) - y) ** 2)

    return training(loss, perceptron_parameters(), array(256, 64), array(256, 10))


def recurrent_network() -> Program:
    hidden = 53

    def loss(parameters: Any, x: Any, y: Any) -> Any:
        def cell(state: Any, x: Any) -> Any:
            state = jnp.tanh(x @ parameters["in"] + state @ parameters["hidden"] + parameters["bias"])
            return state, state

        _, states = jax.lax.scan(cell, jnp.zeros((x.shape[1], hidden)), x)
        return jnp.mean((states @ parameters["out"] - y) ** 2)

    parameters = {
        "in": array(29, hidden), "hidden": array(hidden, hidden), "bias": array(hidden), "out": array(hidden, 7)
    }  # fmt: skip
    return training(loss, parameters, array(12, 16, 29), array(12, 16, 7))


def blocks_computed_again() -> Program:
    """Transformer blocks in a scan, of each of which only the input is kept."""
    layers, batch, length, width, heads = 3, 4, 24, 32, 4

    def norm(x: Any) -> Any:
        return (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + 1e-6)

    def block(x: Any, own: Any) -> Any:
        h = norm(x) * own["scale1"]
        query, key, value = (jnp.einsum("btd,dhe->bthe", h, own[name]) for name in ("query", "key", "value"))
        weights = jax.nn.softmax(jnp.einsum("bthe,bshe->bhts", query, key) / math.sqrt(width // heads))
        x = x + jnp.einsum("bhts,bshe,hed->btd", weights, value, own["out"])
        h = norm(x) * own["scale2"]
        return x + jax.nn.gelu(h @ own["up"]) @ own["down"], None

    def loss(parameters: Any, x: Any, y: Any) -> Any:
        hidden, _ = jax.lax.scan(jax.checkpoint(block), x, parameters["blocks"])
        return jnp.mean((hidden @ parameters["head"] - y) ** 2)

    of_head = array(layers, width, heads, width // heads)
    blocks = {
        "scale1": array(layers, width), "query": of_head, "key": of_head, "value": of_head,
        "out": array(layers, heads, width // heads, width), "scale2": array(layers, width),
        "up": array(layers, width, 4 * width), "down": array(layers, 4 * width, width),
    }  # fmt: skip
    parameters = {"blocks": blocks, "head": array(width, 11)}
    return training(loss, parameters, array(batch, length, width), array(batch, length, 11))


PROGRAMS: dict[str, Callable[[], Program]] = {
    "layers in a scan": lambda: layers_in_a_scan(again=False),
    "layers in a scan, computed again": lambda: layers_in_a_scan(again=True),
    "accumulated gradients": accumulated_gradients,
    "gradients of several calls": gradients_of_several_calls,
    "steps in a scan": steps_in_a_scan,
    "cache through the layers": lambda: cache_through_the_layers(donated=False),
    "cache through the layers, donated": lambda: cache_through_the_layers(donated=True),
    "tokens in a scan": tokens_in_a_scan,
    "until it converges": until_it_converges,
    "gradients of each example": gradients_of_each_example,
    "Equinox": equinox_network,
    "mixed precision": mixed_precision,
    "recurrent network": recurrent_network,
    "blocks computed again": blocks_computed_again,
}


def report_of(program: Program, device_name: str) -> Report:
    device = find_device(device_name)
    traced = trace(program, platforms=(device.platform,))
    table = layer_table(traced.closed_jaxpr, traced.arguments)
    return read_report(compile_lowering(traced.lowering, table, device, timeout=300))


def assert_closed(report: Report) -> None:
    left = {(row.term, row.layer): row.unexplained_bytes for row in report.ledger if row.unexplained_bytes}
    assert left == {}
    assert report.unexplained_bytes == 0
    assert report.roles.get(Role.UNATTRIBUTED, 0) == 0
    assert sum(report.roles.values()) == report.required_bytes


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_ledger_closes_on_cpu(name: str) -> None:
    assert_closed(report_of(PROGRAMS[name](), "cpu"))


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_ledger_closes_on_a_gpu(name: str, need: Callable[[str], None]) -> None:
    need("cuda")
    assert_closed(report_of(PROGRAMS[name](), "h100-sxm"))


def test_a_loop_carries_its_state_in_one_place() -> None:
    """What a loop receives, hands from turn to turn and returns is one array of the formula."""
    traced = trace(accumulated_gradients())
    table = layer_table(traced.closed_jaxpr, traced.arguments)
    carried = [index for index, value in enumerate(table.values) if value.continues is not None]
    # Six gradients and the loss.
    assert len(carried) == 2 * len(perceptron_parameters()) + 1
    for index in carried:
        value = table.values[index]
        assert value.continues is not None
        received = table.values[value.continues]
        assert received.shape == value.shape
        assert received.operation is not None
        assert value.operation is not None
        assert table.operations[received.operation].primitive == table.operations[value.operation].primitive == "while"


def test_a_scan_slices_and_stacks_under_the_names_that_jax_lowers_to() -> None:
    traced = trace(layers_in_a_scan(again=False))
    table = layer_table(traced.closed_jaxpr, traced.arguments)
    slices = [o for o in table.operations if o.primitive == "dynamic_slice" and o.hands_on]
    stacks = [o for o in table.operations if o.primitive == "dynamic_update_slice" and o.hands_on]
    assert {(1, 4)} == {
        (len(table.values[o.operands[0]].shape) - len(table.values[o.results[0]].shape), o.repeat) for o in slices
    }
    assert {4} == {table.values[o.results[0]].shape[0] for o in stacks}
    # The kernel's gradient and the bias's are stacked, each under the layer of its own.
    assert {o.layer for o in stacks} == {"stack"}
