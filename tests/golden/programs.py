"""The programs whose captures are kept here: each the smallest that shows one thing that is hard to account for.

All are training steps with donated state, and every feature map has a size of its own, so that the size alone tells whose
it is.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import optax

import jaxmem


def _abstract(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def _training(
    loss: Callable[..., jax.Array], parameters: Any, inputs: jax.ShapeDtypeStruct, name: str
) -> jaxmem.Program:
    optimizer = optax.adam(1e-3)
    state = jax.eval_shape(optimizer.init, parameters)

    def train_step(parameters, state, inputs):
        value, gradients = jax.value_and_grad(loss)(parameters, inputs)
        updates, state = optimizer.update(gradients, state, parameters)
        return optax.apply_updates(parameters, updates), state, value

    return jaxmem.Program(
        train_step,
        parameters,
        state,
        inputs,
        donate_argnums=(0, 1),
        name=name,
        mode="train",
        optimizer="adam",
        batch_size=inputs.shape[0],
    )


def pools() -> jaxmem.Program:
    """Convolutions with max-pools: zeros and index maps for the backward pass, and a result of a pool that nobody reads."""

    def loss(parameters, images):
        maps = images
        for name in ("first", "second"):
            with jax.named_scope(name):
                kernel = parameters[name]["kernel"]
                maps = jax.lax.conv_general_dilated(
                    maps, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
                )
                maps = jax.nn.relu(maps + parameters[name]["bias"])
            with jax.named_scope(f"pool_{name}"):
                maps = jax.lax.reduce_window(maps, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
        with jax.named_scope("last"):
            return jnp.mean(maps.reshape(maps.shape[0], -1) @ parameters["last"]["kernel"])

    parameters = {
        "first": {"kernel": _abstract(3, 3, 3, 13), "bias": _abstract(13)},
        "second": {"kernel": _abstract(3, 3, 13, 29), "bias": _abstract(29)},
        "last": {"kernel": _abstract(11 * 11 * 29, 17)},
    }
    return _training(loss, parameters, _abstract(6, 46, 46, 3), "pools")


def checkpoints() -> jaxmem.Program:
    """Dense layers, each under ``jax.checkpoint``, without scopes: activations move into the slots of donated parameters."""

    def loss(parameters, inputs):
        for layer in parameters:
            inputs = jax.checkpoint(lambda layer, x: jnp.tanh(x @ layer["kernel"] + layer["bias"]))(layer, inputs)
        return jnp.sum(inputs**2)

    widths = (61, 127, 191, 251, 83)
    parameters = [{"kernel": _abstract(wide, narrow), "bias": _abstract(narrow)} for wide, narrow in pairwise(widths)]
    return _training(loss, parameters, _abstract(113, widths[0]), "checkpoints")


def scanned_layers() -> jaxmem.Program:
    """``jax.lax.scan`` over layers: residuals are stacked, gradients accumulate into zeros."""

    def loss(parameters, inputs):
        with jax.named_scope("layers"):
            inputs, _ = jax.lax.scan(
                lambda x, layer: (x + jnp.tanh(x @ layer["kernel"]), None), inputs, parameters["layers"]
            )
        with jax.named_scope("last"):
            return jnp.mean((inputs @ parameters["last"]["kernel"]) ** 2)

    parameters = {"layers": {"kernel": _abstract(7, 96, 96)}, "last": {"kernel": _abstract(96, 31)}}
    return _training(loss, parameters, _abstract(53, 96), "scanned_layers")


def thin_maps() -> jaxmem.Program:
    """Down and up again with few channels: on a TPU, whose tiles are 128 wide, nearly all is padding."""

    def loss(parameters, images):
        def convolve(name, maps, strides=(1, 1)):
            with jax.named_scope(name):
                kernel = parameters[name]["kernel"]
                return jax.lax.conv_general_dilated(
                    maps, kernel, strides, "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
                )

        high = jax.nn.relu(convolve("enter", images))
        low = jax.nn.relu(convolve("down", high, (2, 2)))
        with jax.named_scope("up"):
            raised = jnp.repeat(jnp.repeat(low, 2, axis=1), 2, axis=2)
            joined = jnp.concatenate([high, raised], axis=-1)
        return jnp.mean(convolve("leave", joined) ** 2)

    parameters = {
        "enter": {"kernel": _abstract(3, 3, 1, 5)},
        "down": {"kernel": _abstract(3, 3, 5, 7)},
        "leave": {"kernel": _abstract(1, 1, 12, 2)},
    }
    return _training(loss, parameters, _abstract(5, 68, 68, 1), "thin_maps")


PROGRAMS = (pools, checkpoints, scanned_layers, thin_maps)
