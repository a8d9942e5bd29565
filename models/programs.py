"""From a row of the registry to a program: the function and its arguments, all of them abstract."""

from dataclasses import dataclass
from importlib import import_module
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from jaxmem_models.registry import (
    MODES,
    REMAT_POLICIES,
    UnknownNameError,
    find,
    find_optimizer,
    find_precision,
    nearest,
)
from jaxmem_models.steps import infer, train_step


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgramSpec:
    """A program of the zoo, ready to be traced: ``function(*arguments)``.

    Attributes:
        function: jitted, its donation included.
        arguments: modules, optimizers and arrays of which only shape and dtype exist.
        donate_argnums: which arguments the caller gives up; already part of ``function``.
        name, mode, batch_size, dtype, image_size, remat: as asked for.
        optimizer: None in inference.
        parameter_count: trained numbers.
    """

    function: Any
    arguments: tuple[Any, ...]
    donate_argnums: tuple[int, ...]
    name: str
    mode: str
    batch_size: int
    optimizer: str | None
    dtype: str
    image_size: int
    remat: str | None
    parameter_count: int


def build(
    name: str,
    *,
    mode: str,
    batch_size: int,
    optimizer: str = "adam",
    dtype: str = "float32",
    image_size: int | None = None,
    donate: bool = True,
    remat: str | None = None,
) -> ProgramSpec:
    """The training step or the inference function of a network, without allocating anything.

    Args:
        name: of a network in the registry.
        mode: ``train`` or ``infer``.
        batch_size: images of one step.
        optimizer: its name in the registry; inference has none.
        dtype: ``float32``, ``bfloat16``, or ``mixed``: activations in bfloat16, parameters in float32.
        image_size: height and width in pixels; the paper's where none is given.
        donate: the training step gives up model and optimizer, so that their memory is used for the new ones.
        remat: a policy of the registry: what the backward pass computes again instead of keeping it. XLA's
            CPU compiler merges what is computed twice, so that it changes nothing there.

    Raises:
        UnknownNameError: a name that stands in no table, with the nearest ones.
        ValueError: a batch or image size too small for the network.
    """
    row, precision, rule = find(name), find_precision(dtype), find_optimizer(optimizer)
    for kind, value, known in (("mode", mode, MODES), ("remat policy", remat, (None, *REMAT_POLICIES))):
        if value not in known:
            raise UnknownNameError(f"There is no {kind} called {value!r}. {nearest(str(value), filter(None, known))}")
    if batch_size < 1:
        raise ValueError(f"The batch size is {batch_size}; it must be 1 or more.")
    size = row.image_size if image_size is None else image_size
    if size < row.smallest_image_size:
        raise ValueError(f"The image size is {size}; {name} needs {row.smallest_image_size} pixels or more.")

    model = abstract_model(name, dtype=dtype, remat=remat)
    images = jax.ShapeDtypeStruct((batch_size, size, size, 3), precision.images)
    if mode == "train":
        transformation = getattr(optax, rule.constructor)(**dict(rule.arguments))
        model.train()
        state = nnx.eval_shape(lambda model: nnx.Optimizer(model, transformation, wrt=nnx.Param), model)
        labels = jax.ShapeDtypeStruct((batch_size,), jnp.int32)
        arguments, donate_argnums = (model, state, images, labels), (0, 1) if donate else ()
        function = nnx.jit(train_step, donate_argnums=donate_argnums)
    else:
        model.eval()
        arguments, donate_argnums = (model, images), ()
        # Not nnx.jit: it returns the whole module, so that the compiled function copies every parameter to an output.
        function = jax.jit(infer)
    return ProgramSpec(
        function=function,
        arguments=arguments,
        donate_argnums=donate_argnums,
        name=name,
        mode=mode,
        batch_size=batch_size,
        optimizer=optimizer if mode == "train" else None,
        dtype=dtype,
        image_size=size,
        remat=remat,
        parameter_count=row.parameter_count,
    )


def abstract_model(name: str, *, dtype: str = "float32", remat: str | None = None) -> nnx.Module:
    """The network with shapes and dtypes in place of its arrays."""
    return nnx.eval_shape(lambda: real_model(name, dtype=dtype, remat=remat, rngs=nnx.Rngs(0)))


def real_model(
    name: str, *, rngs: nnx.Rngs, dtype: str = "float32", remat: str | None = None, **arguments: Any
) -> nnx.Module:
    """The network with its arrays. ``arguments`` are the constructor's own, such as ``classes``."""
    row, precision = find(name), find_precision(dtype)
    module, constructor = row.constructor.split(":")
    return getattr(import_module(f"jaxmem_models.{module}"), constructor)(
        **dict(row.arguments) | arguments,
        dtype=jnp.dtype(precision.activations),
        param_dtype=jnp.dtype(precision.parameters),
        remat=remat,
        rngs=rngs,
    )
