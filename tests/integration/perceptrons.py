"""A small perceptron with a prime-sized middle, for tests of what is around it."""

from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import optax

WIDTHS = (64, 113, 59, 10)
ADAM = optax.adam(1e-3)


def array(*shape: int, dtype: Any = jnp.float32) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype)


def perceptron_parameters() -> dict[str, dict[str, jax.ShapeDtypeStruct]]:
    return {
        f"layer{i}": {"kernel": array(fan_in, fan_out), "bias": array(fan_out)}
        for i, (fan_in, fan_out) in enumerate(pairwise(WIDTHS))
    }


def perceptron(parameters: Any, x: Any) -> Any:
    for layer in parameters.values():
        x = jax.nn.relu(x @ layer["kernel"] + layer["bias"])
    return x


def squared_error(parameters: Any, x: Any, y: Any) -> Any:
    return jnp.mean((perceptron(parameters, x) - y) ** 2)


def epoch(parameters: Any, state: Any, x: Any, y: Any) -> Any:
    """A step of Adam for each of the batches that `x` and `y` are stacks of, in one loop."""

    def step(carry: Any, batch: Any) -> Any:
        parameters, state = carry
        value, gradients = jax.value_and_grad(squared_error)(parameters, *batch)
        updates, state = ADAM.update(gradients, state, parameters)
        return (optax.apply_updates(parameters, updates), state), value

    (parameters, state), values = jax.lax.scan(step, (parameters, state), (x, y))
    return parameters, state, values
