"""The blocks that random networks are made of: each makes its parameters and a function of them and the batch so far.

An array of any rank may come in, the batch first; every block brings it into the form it wants.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from benchmarks.random_programs.plan import COLLECTIVES, Block

Apply = Callable[[Any, jax.Array], jax.Array]
Made = tuple[dict[str, jax.ShapeDtypeStruct], Apply]

CAST = ("float16", "bfloat16", "float8_e4m3fn", "float8_e5m2", "int8", "int4")


def make(block: Block, shape: tuple[int, ...], dtype: Any, mesh: Any) -> Made:
    """Parameters and function of a block for a batch of this shape, with everything that is wrapped around it."""
    if block.name in COLLECTIVES:
        parameters, apply = {}, partial(_collective, name=block.name, mesh=mesh)
    elif block.name in CAST:
        parameters, apply = {}, partial(_cast, name=block.name)
    else:
        parameters, apply = globals()[f"_{block.name}"](block.width, shape, dtype)
    for wrap in block.wraps:
        parameters, apply = _wrapped(wrap, parameters, apply, shape, dtype)
    return parameters, apply


# Forms.


def _rows(x: jax.Array) -> jax.Array:
    return x.reshape(x.shape[0], math.prod(x.shape[1:]))


def _length(shape: tuple[int, ...]) -> int:
    inner = math.prod(shape[1:])
    return next(each for each in (4, 3, 2, 1) if inner % each == 0)


def _sequence(x: jax.Array) -> jax.Array:
    return x.reshape(x.shape[0], _length(x.shape), math.prod(x.shape[1:]) // _length(x.shape))


def _side(shape: tuple[int, ...]) -> int:
    inner = math.prod(shape[1:])
    return next(each for each in (4, 3, 2, 1) if inner % each**2 == 0)


def _image(x: jax.Array) -> jax.Array:
    side = _side(x.shape)
    return x.reshape(x.shape[0], side, side, math.prod(x.shape[1:]) // side**2)


def _inner(shape: tuple[int, ...]) -> int:
    return math.prod(shape[1:])


def _of(dtype: Any, *shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype)


# Layers.


def _dense(width, shape, dtype) -> Made:
    parameters = {"kernel": _of(dtype, _inner(shape), width), "bias": _of(dtype, width)}
    return parameters, lambda p, x: _rows(x) @ p["kernel"] + p["bias"]


def _mlp(width, shape, dtype) -> Made:
    inner = _inner(shape)
    parameters = {"up": _of(dtype, inner, 2 * width), "down": _of(dtype, 2 * width, inner)}
    return parameters, lambda p, x: jax.nn.gelu(_rows(x) @ p["up"]) @ p["down"]


def _conv(width, shape, dtype) -> Made:
    channels = _inner(shape) // _side(shape) ** 2
    parameters = {"kernel": _of(dtype, 3, 3, channels, width), "bias": _of(dtype, width)}

    def apply(p, x):
        numbers = ("NHWC", "HWIO", "NHWC")
        y = lax.conv_general_dilated(_image(x), p["kernel"], (1, 1), "SAME", dimension_numbers=numbers)
        return y + p["bias"]

    return parameters, apply


def _depthwise(width, shape, dtype) -> Made:
    channels = _inner(shape) // _side(shape) ** 2

    def apply(p, x):
        return lax.conv_general_dilated(
            _image(x),
            p["kernel"],
            (1, 1),
            "SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=channels,
        )

    return {"kernel": _of(dtype, 3, 3, 1, channels)}, apply


def _max_pool(width, shape, dtype) -> Made:
    def apply(p, x):
        least = np.array(-np.inf, x.dtype)  # autodiff knows a maximum by it, and must see it
        return lax.reduce_window(_image(x), least, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "SAME")

    return {}, apply


def _average_pool(width, shape, dtype) -> Made:
    def apply(p, x):
        return lax.reduce_window(_image(x), jnp.array(0, x.dtype), lax.add, (1, 2, 2, 1), (1, 1, 1, 1), "SAME") / 4

    return {}, apply


def _layer_norm(width, shape, dtype) -> Made:
    inner = _inner(shape)

    def apply(p, x):
        x = _rows(x)
        mean = x.mean(-1, keepdims=True)
        return (x - mean) * lax.rsqrt(x.var(-1, keepdims=True) + 1e-3) * p["scale"] + p["bias"]

    return {"scale": _of(dtype, inner), "bias": _of(dtype, inner)}, apply


def _batch_norm(width, shape, dtype) -> Made:
    inner = _inner(shape)

    def apply(p, x):
        x = _rows(x)
        return (x - x.mean(0)) / jnp.sqrt(x.var(0) + 1e-3) * p["scale"] + p["bias"]

    return {"scale": _of(dtype, inner), "bias": _of(dtype, inner)}, apply


def _attention(width, shape, dtype) -> Made:
    channels = _inner(shape) // _length(shape)
    parameters = {
        name: _of(dtype, channels, 2 * width) if name != "out" else _of(dtype, 2 * width, channels)
        for name in ("query", "key", "value", "out")
    }

    def apply(p, x):
        x = _sequence(x)
        q, k, v = ((x @ p[name]).reshape(*x.shape[:2], 2, width) for name in ("query", "key", "value"))
        return jax.nn.dot_product_attention(q, k, v).reshape(*x.shape[:2], 2 * width) @ p["out"]

    return parameters, apply


def _recurrence(width, shape, dtype) -> Made:
    channels = _inner(shape) // _length(shape)

    def apply(p, x):
        x = _sequence(x).swapaxes(0, 1)

        def turn(state, token):
            state = jnp.tanh(token @ p["input"] + state @ p["state"])
            return state, state

        return lax.scan(turn, jnp.zeros((x.shape[1], width), x.dtype), x)[1].swapaxes(0, 1)

    return {"input": _of(dtype, channels, width), "state": _of(dtype, width, width)}, apply


def _embedding(width, shape, dtype) -> Made:
    def apply(p, x):
        return p["table"][jnp.abs(_rows(x)).astype(jnp.int32) % 7]

    return {"table": _of(dtype, 7, width)}, apply


def _einsum(width, shape, dtype) -> Made:
    side, channels = _side(shape), _inner(shape) // _side(shape) ** 2
    return {"kernel": _of(dtype, side, channels, width)}, lambda p, x: jnp.einsum(
        "nhwc,hcd->nwd", _image(x), p["kernel"]
    )


def _scalar(width, shape, dtype) -> Made:
    return {"scale": _of(dtype), "shift": _of(dtype)}, lambda p, x: x * p["scale"] + p["shift"]


def _zero_sized(width, shape, dtype) -> Made:
    def apply(p, x):
        return jnp.concatenate([_rows(x), jnp.sin(p["nothing"]) @ jnp.zeros((0, 3), x.dtype)], axis=1)

    return {"nothing": _of(dtype, shape[0], 0)}, apply


# Operations without parameters.


def _plain(function: Callable[[jax.Array], jax.Array]) -> Made:
    return {}, lambda p, x: function(x)


def _relu(width, shape, dtype) -> Made:
    return _plain(jax.nn.relu)


def _gelu(width, shape, dtype) -> Made:
    return _plain(partial(jax.nn.gelu, approximate=bool(width % 2)))


def _silu(width, shape, dtype) -> Made:
    return _plain(jax.nn.silu)


def _softmax(width, shape, dtype) -> Made:
    return _plain(lambda x: jax.nn.softmax(_rows(x)))


def _dropout(width, shape, dtype) -> Made:
    def apply(x):
        kept = jax.random.bernoulli(jax.random.key(width), 0.75, x.shape)
        return jnp.where(kept, x / 0.75, 0)

    return _plain(apply)


def _gather(width, shape, dtype) -> Made:
    return _plain(lambda x: jnp.take(_rows(x), jnp.arange(width) * 3 % _inner(x.shape), axis=1))


def _scatter(width, shape, dtype) -> Made:
    def apply(x):
        x = _rows(x)
        places = jnp.argsort(x[0])
        return jnp.zeros((x.shape[0], x.shape[1] + width), x.dtype).at[:, places].add(x)

    return _plain(apply)


def _sort(width, shape, dtype) -> Made:
    return _plain(lambda x: jnp.sort(_rows(x), axis=1))


def _top_k(width, shape, dtype) -> Made:
    return _plain(lambda x: lax.top_k(_rows(x), min(width, _inner(x.shape)))[0])


def _cumsum(width, shape, dtype) -> Made:
    return _plain(lambda x: jnp.cumsum(_rows(x), axis=1))


def _dynamic_slice(width, shape, dtype) -> Made:
    def apply(x):
        x = _rows(x)
        start = jnp.argmax(x[0])
        return lax.dynamic_slice_in_dim(x, start, min(width, x.shape[1]), axis=1)

    return _plain(apply)


def _dynamic_update(width, shape, dtype) -> Made:
    def apply(x):
        x = _rows(x)
        part = jnp.tanh(x[:, : min(width, x.shape[1])])
        return lax.dynamic_update_slice_in_dim(x, part, jnp.argmin(x[0]), axis=1)

    return _plain(apply)


def _one_hot(width, shape, dtype) -> Made:
    def apply(x):
        x = _rows(x)
        return x.sum(1, keepdims=True) * jax.nn.one_hot(jnp.argmax(x, axis=1), width, dtype=x.dtype)

    return _plain(apply)


def _concatenate(width, shape, dtype) -> Made:
    return _plain(lambda x: jnp.concatenate([_rows(x), jnp.sin(_rows(x)[:, :width])], axis=1))


def _fourier(width, shape, dtype) -> Made:
    def apply(x):
        return jnp.abs(jnp.fft.rfft(_rows(x).astype(jnp.float32))).astype(x.dtype)

    return _plain(apply)


def _transpose(width, shape, dtype) -> Made:
    return _plain(lambda x: _sequence(x).swapaxes(1, 2))


def _straight_through(width, shape, dtype) -> Made:
    return _plain(lambda x: x + lax.stop_gradient(jnp.round(x) - x))


@jax.custom_vjp
def _clipped_backward(x: jax.Array) -> jax.Array:
    return jnp.sin(x)


_clipped_backward.defvjp(
    lambda x: (jnp.sin(x), (x, x.sum())), lambda kept, g: (jnp.clip(g, -1, 1) * jnp.cos(kept[0]) + kept[1],)
)


def _custom_vjp(width, shape, dtype) -> Made:
    return _plain(_clipped_backward)


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def _through(x: jax.Array, name: str) -> jax.Array:
    return x.astype(name).astype(x.dtype)


_through.defvjp(lambda x, name: (x.astype(name).astype(x.dtype), None), lambda name, _, g: (g,))


def _cast(parameters: Any, x: jax.Array, *, name: str) -> jax.Array:
    """Through another number format and back; what is kept is narrow."""
    narrow = x.astype(name)
    if not jnp.issubdtype(narrow.dtype, jnp.floating):
        return jnp.multiply(_through(jnp.clip(x, -7, 7), name), jnp.tanh(x))
    return (narrow.astype(x.dtype) * 2 + x).astype(x.dtype)


def _collective(parameters: Any, x: jax.Array, *, name: str, mesh: Any) -> jax.Array:
    """Exchanged between devices along the axis ``data``."""
    rows, spec = _rows(x), jax.sharding.PartitionSpec
    if mesh is None:
        return jnp.tanh(rows)
    count = mesh.size
    if name == "constraint":
        columns = spec(None, "data") if rows.shape[1] % count == 0 else spec()
        return jnp.tanh(lax.with_sharding_constraint(rows, jax.sharding.NamedSharding(mesh, columns)))
    pad = -rows.shape[1] % count
    rows = jnp.pad(rows, ((0, 0), (0, pad)))

    def part(x):
        if name == "psum":
            return x + lax.psum(x.sum(0, keepdims=True), "data")
        if name == "all_gather":
            return x + lax.all_gather(x, "data").mean((0, 1))
        if name == "permute":
            return x + lax.ppermute(x, "data", [(i, (i + 1) % count) for i in range(count)])
        if name == "reduce_scatter":
            return x * lax.psum_scatter(x, "data", scatter_dimension=1, tiled=True).sum(1, keepdims=True)
        return lax.all_to_all(jnp.sin(x), "data", split_axis=1, concat_axis=0, tiled=True).reshape(x.shape)

    return jax.shard_map(part, mesh=mesh, in_specs=spec("data"), out_specs=spec("data"))(rows)


# Around a block.

TURNS = 3


def _wrapped(wrap: str, parameters: dict[str, Any], apply: Apply, shape: tuple[int, ...], dtype: Any) -> Made:
    """A block inside a transformation. Loops and branches need a result as large as what comes in: it is brought to that."""

    def same(p: Any, x: jax.Array) -> jax.Array:
        y = apply(p, x)
        if y.shape == x.shape:
            return y.astype(x.dtype)
        return (x + y.astype(x.dtype).mean(tuple(range(1, y.ndim))).reshape(-1, *(1,) * (x.ndim - 1))).astype(x.dtype)

    match wrap:
        case "remat":
            return parameters, jax.checkpoint(apply)
        case "jit":
            return parameters, jax.jit(apply)
        case "residual":
            return parameters, lambda p, x: x + same(p, x)
        case "cond":
            return parameters, lambda p, x: lax.cond(x.sum() > 0, same, lambda p, x: jnp.cos(x), p, x)
        case "switch":
            branches = [same, lambda p, x: jnp.sin(x), lambda p, x: x]
            return parameters, lambda p, x: lax.switch(jnp.argmax(x.reshape(-1)) % 3, branches, p, x)
        case "fori":
            return parameters, lambda p, x: lax.fori_loop(0, TURNS, lambda _, x: same(p, x), x)
        case "while":  # has no gradient: what it makes is a constant to autodiff

            def loop(p: Any, x: jax.Array) -> jax.Array:
                p, start = lax.stop_gradient((p, x))

                def turn(state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
                    return state[0] + 1, same(p, state[1])

                limit = jnp.argmax(start.reshape(-1)) % 5
                return x + lax.while_loop(lambda s: s[0] < limit, turn, (jnp.int32(0), start))[1]

            return parameters, loop
        case "vmap":
            return parameters, lambda p, x: jax.vmap(lambda row: same(p, row[None])[0])(x)
        case "scan" | "checkpointed_scan":
            stacked = {
                name: jax.ShapeDtypeStruct((TURNS, *leaf.shape), leaf.dtype) for name, leaf in parameters.items()
            }
            step = jax.checkpoint(same) if wrap == "checkpointed_scan" else same

            def scanned(p: Any, x: jax.Array) -> jax.Array:
                return lax.scan(lambda x, q: (step(q, x), x.sum()), x, p, length=TURNS)[0]

            return stacked, scanned
    raise ValueError(wrap)
