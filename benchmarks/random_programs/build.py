"""From a plan to the `jaxmem.Program` that it describes. Nothing is allocated."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jax.sharding import AbstractMesh, AxisType, NamedSharding, PartitionSpec

from benchmarks.random_programs.blocks import make
from benchmarks.random_programs.plan import Plan
from jaxmem.program import Program

_OPTIMIZERS = {
    "sgd": lambda: optax.sgd(0.1),
    "momentum": lambda: optax.sgd(0.1, momentum=0.9),
    "adam": lambda: optax.adam(1e-3),
    "adamw": lambda: optax.adamw(1e-3),
    "rmsprop": lambda: optax.rmsprop(1e-3),
    "lion": lambda: optax.lion(1e-3),
    "adafactor": lambda: optax.adafactor(1e-3, min_dim_size_to_factor=4),
    "by_hand": lambda: optax.identity(),
}


def build(plan: Plan) -> Program:
    """The program, with abstract arguments."""
    mesh = AbstractMesh((plan.devices,), ("data",), axis_types=(AxisType.Auto,)) if plan.devices > 1 else None
    dtype = jnp.dtype(plan.dtype)
    batch = plan.batch // plan.micro_batches
    inputs = jax.ShapeDtypeStruct((batch, plan.width), dtype)
    layers, shape = [], inputs.shape
    for block in plan.blocks:
        parameters, apply = make(block, shape, dtype, mesh)
        layers.append((parameters, apply))
        shape = jax.eval_shape(apply, parameters, jax.ShapeDtypeStruct(shape, dtype)).shape
    applies = [apply for _, apply in layers]
    parameters = _nested(plan.tree, [parameters for parameters, _ in layers])
    extras = tuple(_extra(name) for name in plan.extras)

    def network(parameters: Any, x: jax.Array) -> jax.Array:
        for apply, own in zip(applies, _flat(plan.tree, parameters), strict=True):
            x = apply(own, x).astype(dtype)
        return x

    def loss(parameters: Any, x: jax.Array, extras: Any) -> jax.Array:
        return (network(parameters, x).astype(jnp.float32) ** 2).mean() + _used(plan.extras, extras)

    inputs = jax.ShapeDtypeStruct((plan.batch, plan.width), dtype)
    if mesh is not None:
        inputs = _placed(inputs, mesh, PartitionSpec("data"))
        parameters = jax.tree.map(lambda leaf: _placed(leaf, mesh, _division(leaf, plan)), parameters)
    if plan.mode == "infer":

        def infer(parameters, inputs, extras):
            y = network(parameters, inputs)
            return {"result": (y, [y.sum(), ()]), "nothing": jnp.zeros((0, 3)), "used": _used(plan.extras, extras)}

        return Program(infer, parameters, inputs, extras, donate_argnums=_donated(plan, ("parameters", "inputs")))
    if plan.mode == "gradient":
        gradient = jax.value_and_grad(loss)
        return Program(
            lambda parameters, inputs, extras: gradient(parameters, inputs, extras),
            parameters,
            inputs,
            extras,
            donate_argnums=_donated(plan, ("parameters", "inputs")),
        )
    optimizer = _OPTIMIZERS[plan.optimizer]()

    def gradients(parameters: Any, inputs: jax.Array, extras: Any) -> Any:
        if plan.micro_batches == 1:
            return jax.value_and_grad(loss)(parameters, inputs, extras)
        parts = inputs.reshape(plan.micro_batches, batch, plan.width)
        zeros = jax.tree.map(jnp.zeros_like, parameters)

        def turn(total: Any, part: jax.Array) -> tuple[Any, None]:
            return jax.tree.map(jnp.add, total, jax.value_and_grad(loss)(parameters, part, extras)), None

        return lax.scan(turn, (jnp.float32(0), zeros), parts)[0]

    def step(parameters: Any, state: Any, inputs: jax.Array, extras: Any) -> Any:
        value, found = gradients(parameters, inputs, extras)
        if plan.optimizer == "by_hand":
            new = jax.tree.map(lambda p, g: p - jnp.asarray(0.01, p.dtype) * g.astype(p.dtype), parameters, found)
            return new, state, value
        updates, state = optimizer.update(found, state, parameters)
        return optax.apply_updates(parameters, updates), state, value

    def train(parameters, state, inputs, extras):
        if plan.steps == 1:
            return step(parameters, state, inputs, extras)

        def turn(carried: Any, _: None) -> tuple[Any, jax.Array]:
            new_parameters, new_state, value = step(carried[0], carried[1], inputs, extras)
            return (new_parameters, new_state), value

        (parameters, state), values = lax.scan(turn, (parameters, state), length=plan.steps)
        return parameters, state, values

    state = jax.eval_shape(optimizer.init, parameters)
    if mesh is not None:
        state = jax.tree.map(lambda leaf: _placed(leaf, mesh, _division(leaf, plan)), state)
    names = ("parameters", "state", "inputs")
    return Program(train, parameters, state, inputs, extras, donate_argnums=_donated(plan, names))


def _nested(tree: str, layers: list[Any]) -> Any:
    if tree == "list":
        return layers
    if tree == "tuple":  # each beside the rest
        return (layers[0], _nested(tree, layers[1:])) if layers else ()
    return {f"layer_{number}": layer for number, layer in enumerate(layers)}


def _flat(tree: str, parameters: Any) -> list[Any]:
    if tree == "list":
        return list(parameters)
    if tree == "tuple":
        return [parameters[0], *_flat(tree, parameters[1])] if parameters else []
    return [parameters[f"layer_{number}"] for number in range(len(parameters))]


def _placed(leaf: jax.ShapeDtypeStruct, mesh: Any, spec: PartitionSpec) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=NamedSharding(mesh, spec))


def _division(leaf: jax.ShapeDtypeStruct, plan: Plan) -> PartitionSpec:
    if plan.sharded_parameters and leaf.shape and math.prod(leaf.shape):
        for axis, size in enumerate(leaf.shape):
            if size % plan.devices == 0:
                return PartitionSpec(*(None,) * axis, "data")
    return PartitionSpec()


def _donated(plan: Plan, names: tuple[str, ...]) -> tuple[int, ...]:
    return tuple(place for place, name in enumerate(names) if name in plan.donated)


def _extra(name: str) -> Any:
    match name:
        case "unused":
            return jax.ShapeDtypeStruct((5, 7), jnp.float32)
        case "scalar":
            return jax.ShapeDtypeStruct((), jnp.float32)
        case "integer_scalar":
            return jax.ShapeDtypeStruct((), jnp.int32)
        case "zero_sized":
            return jax.ShapeDtypeStruct((4, 0, 3), jnp.float32)
        case "bool":
            return jax.ShapeDtypeStruct((9,), jnp.bool_)
        case "complex":
            return jax.ShapeDtypeStruct((6,), jnp.complex64)
        case "key":
            return jax.eval_shape(lambda: jax.random.key(0))
        case "nested":
            one = jax.ShapeDtypeStruct((3,), jnp.float32)
            return {"a": (one, [one, None]), "b": ()}
    return jax.ShapeDtypeStruct((13,), jnp.dtype(name))


def _used(names: tuple[str, ...], extras: tuple[Any, ...]) -> jax.Array:
    """A number made of the further arguments."""
    total = jnp.float32(0)
    for name, extra in zip(names, extras, strict=True):
        match name:
            case "unused":
                continue
            case "key":
                total += jax.random.normal(extra, (3,)).sum()
            case _:
                for leaf in jax.tree.leaves(extra):
                    total += jnp.abs(
                        leaf.astype(jnp.complex64) if name == "complex" else leaf.astype(jnp.float32)
                    ).sum()
    return total
