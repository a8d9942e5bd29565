"""From a row of the registry to a program: the function and its arguments, all of them abstract."""

import math
from collections.abc import Callable
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
    POOLS,
    REMAT_POLICIES,
    SHARDINGS,
    Model,
    UnknownNameError,
    constructor_of,
    find,
    find_optimizer,
    find_precision,
    nearest,
)
from jaxmem_models.steps import accumulating_step, auxiliary_step, decode_step, infer, language_step, train_step


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgramSpec:
    """A program of the zoo, ready to be traced: ``function(*arguments)``.

    Attributes:
        function: jitted, its donation included.
        arguments: modules, optimizers and arrays of which only shape and dtype exist.
        donate_argnums: which arguments the caller gives up; already part of ``function``.
        name, mode, batch_size, dtype, remat: as asked for.
        image_size: None of a language model.
        sequence_length: None of a network of images.
        optimizer: None in inference.
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
    image_size: int | None
    sequence_length: int | None
    remat: str | None
    sharding: str | None

    @property
    def parameter_count(self) -> int:
        """Trained numbers."""
        return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(nnx.state(self.arguments[0], nnx.Param)))


def build(
    name: str,
    *,
    mode: str,
    batch_size: int,
    optimizer: str = "adam",
    dtype: str = "float32",
    image_size: int | None = None,
    sequence_length: int | None = None,
    donate: bool = True,
    remat: str | None = None,
    scan: bool = False,
    accumulate: int = 1,
    pool: str | None = None,
    mesh: jax.sharding.Mesh | jax.sharding.AbstractMesh | None = None,
    sharding: str = "data",
) -> ProgramSpec:
    """The training step or the inference function of a network, without allocating anything.

    Args:
        name: of a network in the registry.
        mode: ``train`` or ``infer``.
        batch_size: images or sequences of one step, on all devices together.
        optimizer: its name in the registry; inference has none.
        dtype: ``float32``, ``bfloat16``, or ``mixed``: activations in bfloat16, parameters in float32.
        image_size: height and width in pixels; the paper's where none is given.
        sequence_length: tokens of a sequence, or of the cache that a decoding step has; the model's own where none is
            given.
        donate: the training step gives up model and optimizer, the decoding step its cache, so that their memory is used
            for the new ones.
        remat: a policy of the registry: what the backward pass computes again instead of keeping it. XLA's
            CPU compiler merges what is computed twice, so that it changes nothing there.
        scan: run the layers as one loop over stacked parameters, for the models that can.
        accumulate: micro-batches that the training step cuts its batch into; their gradients are added up before one update.
        pool: how max-pool finds its maxima, a name of the registry, for the models that can choose; JAX's own where none is
            given.
        mesh: several devices, along one axis called ``data``; they need not exist. The batch is divided among them.
        sharding: what else is. ``data``: nothing, every device has the whole model and optimizer. ``fsdp``: each parameter
            and its optimizer state too, along the largest dimension that the number of devices divides; what has none is
            whole everywhere.

    Raises:
        UnknownNameError: a name that stands in no table, with the nearest ones.
        RegistrationError: see `jaxmem_models.registry.entry_points`.
        ValueError: a batch, image size or sequence length that the network does not take, an option that it does not have,
            a mesh with other axes, or a batch that does not divide by its size.
    """
    row, precision, rule = find(name), find_precision(dtype), find_optimizer(optimizer)
    for kind, value, known in (
        ("mode", mode, MODES),
        ("remat policy", remat, (None, *REMAT_POLICIES)),
        ("sharding", sharding, SHARDINGS),
        ("pool", pool, (None, *POOLS)),
    ):
        if value not in known:
            raise UnknownNameError(f"There is no {kind} called {value!r}. {nearest(str(value), filter(None, known))}")
    if batch_size < 1:
        raise ValueError(f"The batch size is {batch_size}; it must be 1 or more.")
    image_size, sequence_length = _image_size(row, image_size), _sequence_length(row, sequence_length)
    _check_accumulation(mode, batch_size, accumulate)
    if mesh is not None:
        _check_mesh(mesh, batch_size)

    model = abstract_model(name, dtype=dtype, remat=remat, **_own_arguments(row, image_size, scan, pool))
    inputs, labels = _batch(row, batch_size, image_size, sequence_length, precision.images)
    shardings: dict[str, Any] = {}
    if mode == "train":
        transformation = getattr(optax, rule.constructor)(**dict(rule.arguments))
        model.train()
        state = nnx.eval_shape(lambda model: nnx.Optimizer(model, transformation, wrt=nnx.Param), model)
        arguments, donate_argnums = (model, state, inputs, *labels), (0, 1) if donate else ()
        if mesh is not None:
            arguments, kept, whole = _spread(arguments, mesh, sharding)
            # State comes back as it went in, so that it can be written over the old.
            shardings = {"in_shardings": kept, "out_shardings": whole}
        step = _training_step(row)
        if accumulate > 1:
            step = accumulating_step(step, accumulate)
        function = nnx.jit(step, donate_argnums=donate_argnums, **shardings)
    else:
        model.eval()
        step, arguments, donate_argnums = infer, (model, inputs), ()
        if row.decodes:
            cache = jax.eval_shape(lambda: model.cache(batch_size, sequence_length))
            tokens = jax.ShapeDtypeStruct((batch_size,), jnp.int32)
            step, arguments, donate_argnums = decode_step, (model, cache, tokens), (1,) if donate else ()
        if mesh is not None:
            arguments, kept, _ = _spread(arguments, mesh, sharding)
            shardings = {"out_shardings": (kept[-1], kept[1]) if row.decodes else kept[-1]}
        # Not nnx.jit: it returns the whole module, so that the compiled function copies every parameter to an output.
        function = jax.jit(step, donate_argnums=donate_argnums, **shardings)
    return ProgramSpec(
        function=function,
        arguments=arguments,
        donate_argnums=donate_argnums,
        name=name,
        mode=mode,
        batch_size=batch_size,
        optimizer=optimizer if mode == "train" else None,
        dtype=dtype,
        image_size=image_size,
        sequence_length=sequence_length,
        remat=remat,
        sharding=sharding if mesh is not None else None,
    )


def _image_size(row: Model, asked: int | None) -> int | None:
    """The height and width of the images, None where there are none."""
    if row.image_size is None:
        if asked is not None:
            raise ValueError(f"{row.name} reads tokens, not images: an image size does not apply. Set sequence_length.")
        return None
    size = row.image_size if asked is None else asked
    if size < row.smallest_image_size:
        raise ValueError(f"The image size is {size}; {row.name} needs {row.smallest_image_size} pixels or more.")
    if size % row.image_size_divisor:
        raise ValueError(
            f"The image size is {size}; {row.name} takes multiples of {row.image_size_divisor}, "
            f"such as {-(-size // row.image_size_divisor) * row.image_size_divisor}."
        )
    return size


def _sequence_length(row: Model, asked: int | None) -> int | None:
    """The tokens of a sequence, None where there are none."""
    if row.sequence_length is None:
        if asked is not None:
            raise ValueError(f"{row.name} reads images, not tokens: a sequence length does not apply. Set image_size.")
        return None
    length = row.sequence_length if asked is None else asked
    shortest, longest = 1 if row.decodes else 2, row.longest_sequence_length or length
    if not shortest <= length <= longest:
        raise ValueError(
            f"The sequence length is {length}; {row.name} takes {shortest} tokens or more"
            + (f", and {longest} at most." if row.longest_sequence_length else ".")
        )
    return length


def _check_accumulation(mode: str, batch_size: int, count: int) -> None:
    if count == 1:
        return
    if mode != "train":
        raise ValueError("Only a training step accumulates gradients: leave accumulate out.")
    if count < 1 or batch_size % count:
        raise ValueError(f"A batch of {batch_size} does not divide into {count} micro-batches.")


def _own_arguments(row: Model, image_size: int | None, scan: bool, pool: str | None) -> dict[str, Any]:
    """What only some constructors take."""
    if scan and not row.scans:
        raise ValueError(f"{row.name} does not run its layers as a loop: leave scan out.")
    if pool and not row.takes_pool:
        raise ValueError(f"{row.name} has no choice of max-pools: leave pool out.")
    arguments: dict[str, Any] = ({"scan": True} if scan else {}) | ({"pool": pool} if pool else {})
    return arguments | ({"image_size": image_size} if row.takes_image_size else {})


def _batch(
    row: Model, batch_size: int, image_size: int | None, sequence_length: int | None, image_dtype: str
) -> tuple[jax.ShapeDtypeStruct, tuple[jax.ShapeDtypeStruct, ...]]:
    """What the network reads, and what training compares it with beside that."""
    if sequence_length is not None:
        return jax.ShapeDtypeStruct((batch_size, sequence_length), jnp.int32), ()
    assert image_size is not None  # a row has one of them
    pixels = (batch_size, image_size, image_size)
    labels = pixels if row.task == "segmentation" else (batch_size,)
    return jax.ShapeDtypeStruct((*pixels, row.channels), image_dtype), (jax.ShapeDtypeStruct(labels, jnp.int32),)


def _training_step(row: Model) -> Callable[..., jax.Array]:
    if row.task == "language":
        return language_step
    if row.auxiliary_weights:
        return auxiliary_step(row.auxiliary_weights)
    return train_step


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
            spread.append(_with_sharding(argument, batch))
            continue
        if not isinstance(argument, nnx.Module | nnx.Optimizer):
            # A cache: each of its arrays begins with the sequences, but for plain numbers.
            chosen = jax.tree.map(lambda leaf: batch if leaf.shape else whole, argument)
            shardings.append(chosen)
            spread.append(jax.tree.map(_with_sharding, argument, chosen))
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
                        variable.replace(_with_sharding(variable, chosen[path])),
                    )
                    for path, variable in state
                ]
            ),
        )
        spread.append(argument)
        shardings.append(nnx.StateSharding(nnx.from_flat_state(of)))
    return tuple(spread), tuple(shardings), whole


def _with_sharding(array: Any, sharding: NamedSharding) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=sharding)


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


def abstract_model(name: str, *, dtype: str = "float32", remat: str | None = None, **arguments: Any) -> Any:
    """The network with shapes and dtypes in place of its arrays. ``arguments`` are the constructor's own."""
    return nnx.eval_shape(lambda: real_model(name, dtype=dtype, remat=remat, rngs=_same_keys(), **arguments))


class _SameKey(nnx.RngStream):
    """A stream that hands out one key over and over.

    An abstract network draws no number. A stream that counts would trace its counting, and each traced count takes Flax
    longer than the one before: half a minute for a network of 200 layers.
    """

    def __call__(self) -> jax.Array:
        return self.key[...]

    def fork(self, *, split: int | tuple[int, ...] | None = None) -> nnx.RngStream:
        """A stream that counts, for a layer to keep."""
        return nnx.RngStream(self(), tag=self.tag)


def _same_keys() -> nnx.Rngs:
    rngs = nnx.Rngs()
    setattr(rngs, "default", _SameKey(0, tag="default"))  # noqa: B010 (a stream is an attribute that Flax does not declare)
    return rngs


def real_model(
    name: str, *, rngs: nnx.Rngs, dtype: str = "float32", remat: str | None = None, **arguments: Any
) -> nnx.Module:
    """The network with its arrays. ``arguments`` are the constructor's own, such as ``classes``."""
    row, precision = find(name), find_precision(dtype)
    module, constructor = constructor_of(row)
    return getattr(import_module(module), constructor)(
        **dict(row.arguments) | arguments,
        dtype=jnp.dtype(precision.activations),
        param_dtype=jnp.dtype(precision.parameters),
        remat=remat,
        rngs=rngs,
    )
