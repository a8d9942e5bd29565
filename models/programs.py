"""From a row of the registry to a program: the function and its arguments, all of them abstract."""

from dataclasses import dataclass
from importlib import import_module
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec

from jaxmem_models.registry import (
    MODES,
    REMAT_POLICIES,
    SHARDINGS,
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
        sharding: over the devices of a mesh, a name of the registry; None on one device.
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
    sharding: str | None


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
    mesh: jax.sharding.Mesh | jax.sharding.AbstractMesh | None = None,
    sharding: str = "data",
) -> ProgramSpec:
    """The training step or the inference function of a network, without allocating anything.

    Args:
        name: of a network in the registry.
        mode: ``train`` or ``infer``.
        batch_size: images of one step, on all devices together.
        optimizer: its name in the registry; inference has none.
        dtype: ``float32``, ``bfloat16``, or ``mixed``: activations in bfloat16, parameters in float32.
        image_size: height and width in pixels; the paper's where none is given.
        donate: the training step gives up model and optimizer, so that their memory is used for the new ones.
        remat: a policy of the registry: what the backward pass computes again instead of keeping it. XLA's
            CPU compiler merges what is computed twice, so that it changes nothing there.
        mesh: several devices, along one axis called ``data``; they need not exist. The batch is divided among them.
        sharding: what else is. ``data``: nothing, every device has the whole model and optimizer. ``fsdp``: each parameter
            and its optimizer state too, along the largest dimension that the number of devices divides; what has none is
            whole everywhere.

    Raises:
        UnknownNameError: a name that stands in no table, with the nearest ones.
        ValueError: a batch or image size too small for the network, a mesh with other axes, or a batch that does not
            divide by its size.
    """
    row, precision, rule = find(name), find_precision(dtype), find_optimizer(optimizer)
    for kind, value, known in (
        ("mode", mode, MODES),
        ("remat policy", remat, (None, *REMAT_POLICIES)),
        ("sharding", sharding, SHARDINGS),
    ):
        if value not in known:
            raise UnknownNameError(f"There is no {kind} called {value!r}. {nearest(str(value), filter(None, known))}")
    if batch_size < 1:
        raise ValueError(f"The batch size is {batch_size}; it must be 1 or more.")
    size = row.image_size if image_size is None else image_size
    if size < row.smallest_image_size:
        raise ValueError(f"The image size is {size}; {name} needs {row.smallest_image_size} pixels or more.")
    if mesh is not None:
        _check_mesh(mesh, batch_size)

    model = abstract_model(name, dtype=dtype, remat=remat)
    images = jax.ShapeDtypeStruct((batch_size, size, size, 3), precision.images)
    if mode == "train":
        transformation = getattr(optax, rule.constructor)(**dict(rule.arguments))
        model.train()
        state = nnx.eval_shape(lambda model: nnx.Optimizer(model, transformation, wrt=nnx.Param), model)
        labels = jax.ShapeDtypeStruct((batch_size,), jnp.int32)
        arguments, donate_argnums = (model, state, images, labels), (0, 1) if donate else ()
        shardings = {}
        if mesh is not None:
            arguments, kept, whole = _spread(arguments, mesh, sharding)
            # State comes back as it went in, so that it can be written over the old.
            shardings = {"in_shardings": kept, "out_shardings": whole}
        function = nnx.jit(train_step, donate_argnums=donate_argnums, **shardings)
    else:
        model.eval()
        arguments, donate_argnums = (model, images), ()
        # Not nnx.jit: it returns the whole module, so that the compiled function copies every parameter to an output.
        function = jax.jit(infer)
        if mesh is not None:
            arguments, kept, _ = _spread(arguments, mesh, sharding)
            function = jax.jit(infer, out_shardings=kept[-1])
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
        sharding=sharding if mesh is not None else None,
    )


def _check_mesh(mesh: jax.sharding.Mesh | jax.sharding.AbstractMesh, batch_size: int) -> None:
    if tuple(mesh.axis_names) != ("data",):
        raise ValueError(
            f"The mesh has the axes {', '.join(mesh.axis_names)}; a network of the zoo takes `data` alone."
        )
    if batch_size % mesh.size:
        raise ValueError(f"A batch of {batch_size} does not divide by the {mesh.size} devices of the data axis.")


def _spread(
    arguments: tuple[Any, ...], mesh: jax.sharding.Mesh | jax.sharding.AbstractMesh, rule: str
) -> tuple[tuple[Any, ...], tuple[Any, ...], NamedSharding]:
    """The arguments with shardings, the shardings as ``nnx.jit`` takes them, and that of an array whole everywhere."""
    whole, batch = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec("data"))
    spread, shardings = [], []
    for argument in arguments:
        if isinstance(argument, jax.ShapeDtypeStruct):
            shardings.append(batch)
            spread.append(jax.ShapeDtypeStruct(argument.shape, argument.dtype, sharding=batch))
            continue
        state = nnx.to_flat_state(nnx.state(argument))
        of = [
            (path, _divided(variable, mesh) if rule == "fsdp" and _is_trained(variable) else whole)
            for path, variable in state
        ]
        chosen = dict(of)
        nnx.update(
            argument,
            nnx.from_flat_state(
                [
                    (
                        path,
                        variable.replace(jax.ShapeDtypeStruct(variable.shape, variable.dtype, sharding=chosen[path])),
                    )
                    for path, variable in state
                ]
            ),
        )
        spread.append(argument)
        shardings.append(nnx.StateSharding(nnx.from_flat_state(of)))
    return tuple(spread), tuple(shardings), whole


def _is_trained(variable: nnx.Variable) -> bool:
    """A parameter, or what the optimizer keeps for one."""
    return isinstance(variable, nnx.Param | nnx.optimizer.OptState)


def _divided(variable: nnx.Variable, mesh: jax.sharding.Mesh | jax.sharding.AbstractMesh) -> NamedSharding:
    """Along the largest dimension that divides by the number of devices, the first of several; else whole."""
    sizes = {dimension: size for dimension, size in enumerate(variable.shape) if size % mesh.size == 0}
    if not sizes:
        return NamedSharding(mesh, PartitionSpec())
    dimension = max(sizes, key=lambda place: (sizes[place], -place))
    return NamedSharding(mesh, PartitionSpec(*[None] * dimension, "data"))


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
