"""The lowered module: its bytes, and which argument became which entry parameter."""

import io
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp

from jaxmem.errors import InvariantError
from jaxmem.tracing.trees import Leaf


def bytecode(lowered: Any) -> bytes:
    """The StableHLO module as MLIR bytecode, source locations and scopes included."""
    buffer = io.BytesIO()
    _module(lowered).operation.write_bytecode(buffer)
    return buffer.getvalue()


def device_count(lowered: Any) -> int:
    """Over how many devices the module is partitioned or replicated."""
    attributes = _module(lowered).operation.attributes
    return attributes["mhlo.num_partitions"].value * attributes["mhlo.num_replicas"].value


def module_name(lowered: Any) -> str:
    """The name of the function that was lowered: JAX calls its module ``jit_name``."""
    return _module(lowered).operation.attributes["sym_name"].value.removeprefix("jit_")


def parameter_numbers(lowered: Any, leaves: Sequence[Leaf]) -> tuple[int | None, ...]:
    """The entry parameter that receives each flat argument; None for one the lowering dropped because nothing uses it.

    The signature of the module's ``main`` is public, but does not say whom it left out; the lowering's own list does,
    and is checked against that signature.
    """
    shapes = [tuple(kind.shape) for kind in _main(lowered).type.inputs if hasattr(kind, "shape")]
    kept = _kept(lowered, len(leaves))
    # Captured constants and the tokens of ordered effects come before the arguments.
    first = len(_main(lowered).type.inputs) - len(kept)
    received = [_received_shape(leaves[index]) for index in kept]
    if first < 0 or shapes[len(shapes) - len(kept) :] != received:
        raise InvariantError(
            f"the lowered program takes arrays of shapes {shapes}, and the arguments kept are {received}."
        )
    numbers: list[int | None] = [None] * len(leaves)
    for position, index in enumerate(kept):
        numbers[index] = first + position
    return tuple(numbers)


def argument_names(lowered: Any, count: int) -> tuple[str | None, ...]:
    """JAX's names of the flat arguments (``params['w']``), from the locations of the entry parameters.

    None for a dropped argument, and where the location is something else.
    """
    names: list[str | None] = [None] * count
    kept = _kept(lowered, count)
    for index, parameter in zip(kept, list(_main(lowered).arguments)[-len(kept) :] if kept else [], strict=True):
        location = _NAMED_LOCATION.fullmatch(str(parameter.location))
        names[index] = location[1] if location else None
    return tuple(names)


_NAMED_LOCATION = re.compile(r'loc\("(.*)"\)')


def _kept(lowered: Any, count: int) -> list[int]:
    arguments = getattr(getattr(lowered, "_lowering", None), "compile_args", None) or {}
    if "kept_var_idx" in arguments:
        return sorted(arguments["kept_var_idx"])
    inputs = len(_main(lowered).type.inputs)
    if inputs >= count:
        return list(range(count))
    raise InvariantError("this version of JAX does not say which arguments it dropped from the lowered program.")


def _received_shape(leaf: Leaf) -> tuple[int, ...]:
    return received(leaf)[0]


def received_by_device(leaf: Leaf) -> tuple[tuple[int, ...], str, int]:
    """As `received`, for the part of the array that one device holds."""
    return received(replace(leaf, shape=leaf.device_shape))


def received(leaf: Leaf) -> tuple[tuple[int, ...], str, int]:
    """Shape, dtype by JAX's name and bits of one element, as XLA receives the array.

    A typed PRNG key is the unsigned integers it is made of; a truth value takes a byte.
    """
    shape, dtype = leaf.shape, leaf.dtype
    if jnp.issubdtype(dtype, jax.dtypes.prng_key):
        data = jax.eval_shape(jax.random.key_data, jax.ShapeDtypeStruct(shape, dtype))
        shape, dtype = tuple(data.shape), data.dtype
    if dtype == jax.dtypes.float0:
        return shape, "bool", 8
    return shape, str(dtype), _bits(dtype)


def _bits(dtype: Any) -> int:
    # NumPy has no smaller unit than a byte; JAX's own narrow types say their width.
    if jnp.issubdtype(dtype, jnp.integer):
        return jnp.iinfo(dtype).bits
    if jnp.issubdtype(dtype, jnp.floating):
        return jnp.finfo(dtype).bits
    return dtype.itemsize * 8


def _module(lowered: Any) -> Any:
    return lowered.compiler_ir("stablehlo")


def _main(lowered: Any) -> Any:
    return next(
        operation
        for operation in _module(lowered).body.operations
        if "sym_name" in operation.attributes and operation.attributes["sym_name"].value == "main"
    )
