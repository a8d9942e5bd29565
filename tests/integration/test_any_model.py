"""Roles of programs that are no convolutional network: loops, branches, caches, accumulated and stacked gradients.

The layers have sizes that occur nowhere else, so every expected number is derived from the program alone.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import optax
from perceptrons import ADAM, WIDTHS, array, epoch, perceptron, perceptron_parameters, squared_error

from jaxmem.assemble import read_report
from jaxmem.capture import Capture
from jaxmem.program import Program
from jaxmem.result import Report
from jaxmem.roles import Role

Compile = Callable[[Program], Capture]

PARAMETER_BYTES = 4 * sum(fan_in * fan_out + fan_out for fan_in, fan_out in pairwise(WIDTHS))


def report_of(compiled: Compile, fn: Callable[..., Any], *args: Any, donate: tuple[int, ...] = ()) -> Report:
    report = read_report(compiled(Program(fn, *args, donate_argnums=donate)))
    assert sum(report.roles.values()) == report.required_bytes
    assert Role.UNATTRIBUTED not in {row.role for row in report.peak_buffers}
    assert report.roles.get(Role.UNATTRIBUTED, 0) == 0
    return report


def assert_adam_state(report: Report, parameter_bytes: int) -> None:
    """Donated state lies in memory once, whatever the loop around it does."""
    for role in (Role.PARAMETERS, Role.OPTIMIZER_FIRST_MOMENT, Role.OPTIMIZER_SECOND_MOMENT):
        assert report.roles[role] == parameter_bytes, role


def test_accumulated_gradients_are_gradients_from_their_zeros_on(compiled: Compile) -> None:
    def step(parameters: Any, state: Any, x: Any, y: Any) -> Any:
        def body(carry: Any, batch: Any) -> Any:
            value, gradients = jax.value_and_grad(squared_error)(parameters, *batch)
            return (jax.tree.map(jnp.add, carry[0], gradients), carry[1] + value), None

        zeros = jax.tree.map(jnp.zeros_like, parameters)
        (gradients, value), _ = jax.lax.scan(body, (zeros, 0.0), (x, y))
        updates, state = ADAM.update(gradients, state, parameters)
        return optax.apply_updates(parameters, updates), state, value

    parameters = perceptron_parameters()
    state = jax.eval_shape(ADAM.init, parameters)
    report = report_of(compiled, step, parameters, state, array(4, 32, 64), array(4, 32, 10), donate=(0, 1))
    assert_adam_state(report, PARAMETER_BYTES)
    # All accumulators, and at most one gradient of the turn that runs beside each.
    assert PARAMETER_BYTES <= report.roles[Role.GRADIENTS] <= 2 * PARAMETER_BYTES


def test_a_loop_over_steps_carries_its_state(compiled: Compile) -> None:
    parameters = perceptron_parameters()
    state = jax.eval_shape(ADAM.init, parameters)
    report = report_of(compiled, epoch, parameters, state, array(4, 128, 64), array(4, 128, 10), donate=(0, 1))
    assert_adam_state(report, PARAMETER_BYTES)
    # The first hidden layer's activation, 128 by 113, is kept for the backward pass of the same turn.
    assert report.roles[Role.SAVED_ACTIVATIONS] >= 4 * 128 * 113


def test_stacked_gradients_of_a_scan_over_layers(compiled: Compile) -> None:
    layers, width = 3, 61

    def step(parameters: Any, state: Any, x: Any) -> Any:
        def network(parameters: Any) -> Any:
            return jnp.mean(
                jax.lax.scan(lambda h, kernel: (jnp.tanh(h @ kernel), None), x, parameters["stack"])[0] ** 2
            )

        value, gradients = jax.value_and_grad(network)(parameters)
        updates, state = ADAM.update(gradients, state, parameters)
        return optax.apply_updates(parameters, updates), state, value

    parameters = {"stack": array(layers, width, width)}
    state = jax.eval_shape(ADAM.init, parameters)
    report = report_of(compiled, step, parameters, state, array(128, width), donate=(0, 1))
    stack_bytes = 4 * layers * width * width
    assert_adam_state(report, stack_bytes)
    # The stack, and the part of the turn that runs before it is written into it.
    assert stack_bytes <= report.roles[Role.GRADIENTS] <= stack_bytes * (layers + 1) // layers


def test_a_cache_written_layer_by_layer_is_an_output(compiled: Compile) -> None:
    layers, batch, length, width = 3, 4, 17, 16

    def decode(parameters: Any, cache: Any, x: Any, position: Any) -> Any:
        def layer(x: Any, of_layer: Any) -> Any:
            kernel, keys = of_layer
            keys = jax.lax.dynamic_update_slice(keys, (x @ kernel)[:, None], (0, position, 0))
            weights = jax.nn.softmax(jnp.einsum("bd,btd->bt", x, keys))
            return x + jnp.einsum("bt,btd->bd", weights, keys), keys

        x, keys = jax.lax.scan(layer, x, (parameters["kernels"], cache["keys"]))
        return x, {"keys": keys}

    report = report_of(
        compiled,
        decode,
        {"kernels": array(layers, width, width)},
        {"keys": array(layers, batch, length, width)},
        array(batch, width),
        array(dtype=jnp.int32),
    )
    cache_bytes = 4 * layers * batch * length * width
    assert report.roles[Role.OTHER_STATE] == cache_bytes
    # The new cache, and the table with two addresses. In the place of the new x lies, at the peak, the x of an earlier
    # layer: an intermediate value.
    assert report.roles[Role.OUTPUTS] == cache_bytes + 2 * 8


def test_what_chooses_a_branch_has_a_role(compiled: Compile) -> None:
    def choose(parameters: Any, x: Any, flag: Any) -> Any:
        return jax.lax.cond(flag, lambda x: perceptron(parameters, x), lambda x: perceptron(parameters, 2 * x) + 1, x)

    report = report_of(compiled, choose, perceptron_parameters(), array(128, 64), array(dtype=jnp.bool_))
    assert report.roles[Role.PARAMETERS] == PARAMETER_BYTES
    # The flag as it came, one byte, beside x; XLA widens it to the four-byte number of a branch.
    assert report.roles[Role.INPUTS] == 4 * 128 * 64 + 1
    assert [row.role for row in report.peak_buffers if row.dtype == "s32"] == [Role.TRANSIENT]


def test_per_example_gradients_are_as_many_as_examples(compiled: Compile) -> None:
    def step(parameters: Any, x: Any, y: Any) -> Any:
        each = jax.vmap(jax.grad(squared_error), (None, 0, 0))(parameters, x, y)
        mean = jax.tree.map(lambda gradient: jnp.clip(gradient, -1, 1).mean(0), each)
        return jax.tree.map(lambda parameter, gradient: parameter - 0.1 * gradient, parameters, mean)

    report = report_of(compiled, step, perceptron_parameters(), array(16, 64), array(16, 10), donate=(0,))
    assert report.roles[Role.PARAMETERS] == PARAMETER_BYTES
    # The two large layers' gradients of each of 16 examples are no gradients of the batch.
    assert report.roles[Role.TRANSIENT] >= 16 * 4 * (64 * 113)
    assert report.roles.get(Role.GRADIENTS, 0) <= PARAMETER_BYTES


def test_arguments_that_nothing_reads_take_nothing(compiled: Compile) -> None:
    def program(scalar: Any, empty: Any, unread: Any) -> Any:
        return scalar + 1, jnp.concatenate([empty, empty]).sum(0)

    report = report_of(compiled, program, array(), array(0, 5), array(1000))
    assert report.roles[Role.INPUTS] == 4
    # One scalar, five sums over nothing, two addresses.
    assert report.roles[Role.OUTPUTS] == 4 + 5 * 4 + 2 * 8


def test_closed_over_numbers_are_constants(compiled: Compile) -> None:
    numbers = jnp.arange(5003.0)
    report = report_of(compiled, lambda x: x + jnp.sin(numbers), array(5003))
    assert report.roles[Role.CONSTANTS] == 4 * 5003
    assert report.roles[Role.INPUTS] == report.roles[Role.OUTPUTS] == 4 * 5003
