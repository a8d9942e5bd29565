"""Program → a JAX stage (traced or lowered), with its arguments and results as trees of leaves.

Whatever the program is written in, what comes out is `jax.stages.Traced`, whose ``args_info`` keeps the containers of
the arguments. Frameworks that pack their arguments before they reach `jax.jit` (Flax NNX, Equinox) are unpacked here.
"""

import functools
import inspect
import re
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.core

from jaxmem.errors import InputError, JaxmemError, UsageError
from jaxmem.program import Program, user_traceback
from jaxmem.tracing.sharding_queries import answered_at_once
from jaxmem.tracing.shardings import Shardings, lowered_shardings, traced_shardings
from jaxmem.tracing.stablehlo import argument_names
from jaxmem.tracing.trees import Leaf, is_equinox_module, is_nnx


@dataclass(frozen=True, slots=True, kw_only=True)
class Staged:
    """A program in JAX's hands.

    Attributes:
        traced: the ``jax.stages.Traced``; None where the program was handed over already lowered.
        lowered: the ``jax.stages.Lowered`` then; None otherwise.
        arguments, results: name and tree of `Leaf`, numbered in the flat order of the stage. A result is named after
            the argument where the framework hands an updated argument back, ``result`` otherwise.
    """

    traced: Any
    lowered: Any
    arguments: tuple[tuple[str, Any], ...]
    results: tuple[tuple[str, Any], ...]
    quiet: bool = False


def stage(program: Program) -> Staged:
    """Trace a program. Nothing is executed, and nothing is allocated on a device.

    Raises:
        UsageError: donation or static arguments were given for a function that has its own.
        InputError: the arguments do not fit the function, or it raised; with the user's own traceback.
    """
    fn, args, kwargs, shift = _unbind(program.fn, program.args, dict(program.kwargs))
    if _has_stage(fn, "traced", "lowered") or isinstance(fn, jax.stages.Traced | jax.stages.Lowered):
        if program.args or program.kwargs:
            raise UsageError(
                "A traced or lowered program has its arguments already. Write Program(traced), without more."
            )
        _refuse_settings(program, "traced already")
        fn = getattr(fn, "traced", getattr(fn, "lowered", fn))
        return _from_lowered(fn) if isinstance(fn, jax.stages.Lowered) else _from_traced(fn)
    args, kwargs = _abstract((args, kwargs))
    with answered_at_once(), _explained(program):
        if _is_equinox_jit(fn):
            _refuse_settings(program, "jitted already")
            return _stage_equinox_jit(fn, args, kwargs)
        if hasattr(fn, "trace") and hasattr(fn, "lower"):
            _refuse_settings(program, "jitted already")
            return _from_traced(_plain_traced(fn.trace(*args, **kwargs)))
        settings = _jit_settings(program, shift)
        inside = (fn, args, kwargs)
        if _contains(
            inside, lambda node: is_nnx(node, "Module") or is_nnx(node, "Optimizer") or is_nnx(node, "Variable")
        ):
            from flax import nnx

            return _from_traced(_plain_traced(nnx.jit(fn, **settings).trace(*args, **kwargs)))
        if _contains(inside, is_equinox_module):
            return _stage_equinox_plain(fn, args, kwargs, settings)
        return _from_traced(jax.jit(fn, **settings).trace(*args, **kwargs))


class _explained:
    """Turns what a user's function raises into an `InputError` with the user's own traceback."""

    def __init__(self, program: Program) -> None:
        self.program = program

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, _: Any) -> None:
        if isinstance(error, Exception) and not isinstance(error, JaxmemError):
            raise InputError(
                f"{self.program.name} could not be traced with the arguments given.\n{user_traceback(error)}"
            ) from None


def _refuse_settings(program: Program, what: str) -> None:
    given = [
        name
        for name in ("donate_argnums", "donate_argnames", "static_argnums", "static_argnames")
        if getattr(program, name)
    ]
    if given:
        raise UsageError(
            f"{program.name} is {what} and keeps its own donation and static arguments; {', '.join(given)} cannot be "
            "changed here. Give them to jit, or hand over the function without jit."
        )


def _unbind(fn: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, tuple[Any, ...], dict[str, Any], int]:
    """Open bound methods, partials of jitted functions and callable modules, so that what they hold is an argument.

    An array inside a partial or behind ``self`` would else be a constant of the program. The last result is by how many
    positions the arguments moved.
    """
    shift = 0
    while True:
        if isinstance(fn, types.MethodType) and (_is_module(fn.__self__) or hasattr(fn.__func__, "trace")):
            fn, args, shift = fn.__func__, (fn.__self__, *args), shift + 1
        elif (partial := _as_partial(fn)) is not None and hasattr(partial.func, "lower"):
            shift += len(partial.args)
            fn, args, kwargs = partial.func, (*partial.args, *args), {**partial.keywords, **kwargs}
        elif _is_module(fn) and not hasattr(fn, "lower"):
            fn, args, shift = type(fn).__call__, (fn, *args), shift + 1
        else:
            return fn, args, kwargs, shift


def _as_partial(fn: Any) -> Any:
    """``fn`` if it is a partial; Equinox has one of its own, for methods under `equinox.filter_jit`."""
    is_partial = isinstance(fn, functools.partial) or (type(fn).__name__ == "Partial" and is_equinox_module(fn))
    return fn if is_partial else None


def _is_module(value: Any) -> bool:
    return is_nnx(value, "Module") or is_equinox_module(value)


def _has_stage(fn: Any, *names: str) -> bool:
    """Flax NNX and Equinox wrap JAX's stages, which they show as ``traced`` and ``lowered``."""
    return any(isinstance(getattr(fn, name, None), jax.stages.Traced | jax.stages.Lowered) for name in names)


def _plain_traced(traced: Any) -> Any:
    return getattr(traced, "traced", traced)


def _jit_settings(program: Program, shift: int) -> dict[str, Any]:
    settings = {
        "donate_argnums": tuple(number + shift * (number >= 0) for number in program.donate_argnums),
        "donate_argnames": program.donate_argnames,
        "static_argnums": tuple(number + shift * (number >= 0) for number in program.static_argnums),
        "static_argnames": program.static_argnames,
    }
    return {name: value for name, value in settings.items() if value}


def _abstract(tree: Any) -> Any:
    """Arrays become shapes. NNX modules stay whole, for copying one would break the sharing between two of them:
    tracing reads nothing but their shapes either."""

    def leaf(value: Any) -> Any:
        if not isinstance(value, jax.Array) or isinstance(value, jax.core.Tracer):
            return value
        # On one device a sharding says only where the array lies now; over several it decides what is compiled.
        sharding = value.sharding if value.committed and len(value.sharding.device_set) > 1 else None
        return jax.ShapeDtypeStruct(value.shape, value.dtype, sharding=sharding, weak_type=value.aval.weak_type)

    return jax.tree.map(leaf, tree, is_leaf=lambda node: is_nnx(node, "Pytree") or is_nnx(node, "Variable"))


def _contains(tree: Any, matches: Callable[[Any], bool]) -> bool:
    return any(matches(node) for node in jax.tree.leaves(tree, is_leaf=matches))


# --- JAX's own stages -------------------------------------------------------------------------------------------------


def _from_traced(traced: Any) -> Staged:
    names = getattr(getattr(getattr(traced.jaxpr, "jaxpr", None), "debug_info", None), "arg_names", None)
    received, returned = traced_shardings(traced)
    arguments = _arguments(traced.args_info, names, received)
    results = _results(traced.out_info, arguments, returned)
    return Staged(traced=traced, lowered=None, arguments=arguments, results=results)


def _from_lowered(lowered: Any) -> Staged:
    count = len(jax.tree.leaves(lowered.args_info))
    received, returned = lowered_shardings(lowered, count)
    arguments = _arguments(lowered.args_info, argument_names(lowered, count), received)
    results = _results(lowered.out_info, arguments, returned)
    return Staged(traced=None, lowered=lowered, arguments=arguments, results=results)


def _arguments(
    args_info: Any, names: tuple[str | None, ...] | None, shardings: Shardings = ()
) -> tuple[tuple[str, Any], ...]:
    leaves = numbered(args_info, shardings)
    positional, keywords = leaves
    positional = tuple(positional)
    merged_positional, merged_keywords = _merge_modules((positional, keywords))
    named = []
    for position, (packed, tree) in enumerate(zip(positional, merged_positional, strict=True)):
        name = _parameter_name(packed, names) or f"args[{position}]"
        # A module that was called, or whose method was: `self` says nothing to the reader.
        named.append(("model" if name == "self" and _is_module(tree) else name, tree))
    named.extend(keywords_of(merged_keywords))
    return tuple(named)


def keywords_of(keywords: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Keyword arguments in the order JAX flattens them."""
    yield from sorted(keywords.items())


_FLAT_INDEX = re.compile(r"\[<flat index (\d+)>\]")
"""How ``keystr`` writes the steps into a container without named keys; JAX's names of arguments have the number alone."""


def _parameter_name(tree: Any, names: tuple[str | None, ...] | None) -> str | None:
    """The parameter's name in the signature, from JAX's name of a leaf (``params['w']``) less the path in it.

    The position does not tell it: static arguments are gone by now, and ``*args`` has one name for many.
    """
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0] if names else ():
        name = names[leaf.index] if names and leaf.index < len(names) else None
        inner = _FLAT_INDEX.sub(r"[\1]", jax.tree_util.keystr(path))
        if name and name.endswith(inner) and len(name) > len(inner):
            return name[: len(name) - len(inner)]
    return None


def _results(
    out_info: Any, arguments: tuple[tuple[str, Any], ...], shardings: Shardings = ()
) -> tuple[tuple[str, Any], ...]:
    out = numbered(out_info, shardings)
    return _nnx_results(out, arguments) or (("result", _merge_modules(out)),)


def numbered(tree: Any, shardings: Shardings = ()) -> Any:
    """The same tree with a `Leaf` for each of its leaves, numbered in flat order; ``shardings`` in that order, if any."""
    leaves, structure = jax.tree.flatten(tree)
    return structure.unflatten(
        Leaf(
            index=index,
            shape=tuple(leaf.shape),
            dtype=leaf.dtype,
            donated=getattr(leaf, "donated", False),
            sharding=shardings[index] if shardings else None,
        )
        for index, leaf in enumerate(leaves)
    )


# --- Flax NNX ---------------------------------------------------------------------------------------------------------


def _is_split_module(node: Any) -> bool:
    """Whether this is a module as nnx.jit hands it to jax.jit: a graph definition and its arrays."""
    return type(node).__name__ in ("NodeStates", "TreeState") and type(node).__module__ == "flax.nnx.extract"


def _merge_modules(tree: Any) -> Any:
    """Put split NNX modules together again, so that leaves lie in variables that lie in modules.

    What two of them share belongs to the first, as in nnx.jit itself.
    """
    if not _contains(tree, _is_split_module):
        return tree
    from flax import nnx

    shared = nnx.graph.IndexMap()

    def merge(node: Any) -> Any:
        if not _is_split_module(node):
            return node
        states = getattr(node, "states", None) or (node.state,)
        # Variables that are sharded differently, or mapped over differently, come in a state each.
        flat = [nnx.to_flat_state(state) if isinstance(state, nnx.State) else state for state in states]
        state = states[0] if len(states) == 1 else nnx.from_flat_state([item for one in flat for item in one])
        return nnx.graph.unflatten(node.graphdef, state, index_ref=shared)

    return jax.tree.map(merge, tree, is_leaf=_is_split_module)


def _nnx_results(out: Any, arguments: tuple[tuple[str, Any], ...]) -> tuple[tuple[str, Any], ...]:
    """What nnx.jit hands back: updated arguments, then the function's own result. Empty where it is no such result."""
    if not isinstance(out, tuple):
        return ()
    graph_updates = len(out) == 3 and isinstance(out[0], tuple) and isinstance(out[1], dict)
    if graph_updates and _contains(out[:2], _is_split_module):
        args_out, kwargs_out, result = _merge_modules(out)
        updated = (*args_out, *(tree for _, tree in keywords_of(kwargs_out)))
        return (*((name, tree) for (name, _), tree in zip(arguments, updated, strict=False)), ("result", result))
    if len(out) == 2 and isinstance(out[1], list) and out[1] and all(_is_updates(update) for update in out[1]):
        # Without graph updates: the variables that changed, by their paths in (args, kwargs).
        changed: dict[str, Any] = {}
        for path, variable in (item for updates in out[1] for item in zip(updates.paths, updates.leaves, strict=True)):
            keys = [getattr(key, "idx", getattr(key, "key", getattr(key, "name", key))) for key in path]
            name = arguments[keys[1]][0] if keys[0] == "args" else keys[1]
            tree = changed.setdefault(name, {})
            inside = [key for key in keys[2:] if key != "__state__"]
            for key in inside[:-1]:
                tree = tree.setdefault(key, {})
            tree[inside[-1]] = variable
        from flax import nnx

        return (*((name, nnx.State(tree)) for name, tree in changed.items()), ("result", _merge_modules(out[0])))
    return ()


def _is_updates(node: Any) -> bool:
    return type(node).__name__ == "Updates" and type(node).__module__ == "flax.nnx.extract"


# --- Equinox ----------------------------------------------------------------------------------------------------------


def _is_equinox_jit(fn: Any) -> bool:
    return is_equinox_module(fn) and type(fn).__name__ == "_JitWrapper"


def _is_array(value: Any) -> bool:
    """What Equinox traces: arrays, and here also shapes, which stand for arrays."""
    import equinox

    return equinox.is_array(value) or isinstance(value, jax.ShapeDtypeStruct)


def _stage_equinox_jit(fn: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Staged:
    """Trace an `equinox.filter_jit` function as it traces itself.

    It takes no shapes in place of arrays over its public call, so its inner `jax.jit` is called in its own way
    (``equinox/_jit.py``): flat arrays in two dictionaries, donated and kept, and the rest as one hashable static
    argument.
    """
    try:
        signature, inner, dynamic_fun, static_fun = fn._signature, fn._cached, fn._dynamic_fun, fn._static_fun
    except AttributeError as error:
        raise InputError(
            f"This version of Equinox keeps filter_jit functions in a form that is not known ({error}). "
            "Hand over the function without filter_jit, with donate_argnums."
        ) from None
    bound = signature.bind(*args, **kwargs)
    positional = (*bound.args, None)  # filter_jit adds a None, so that there is a first argument always
    first, rest = positional[0], (positional[1:], bound.kwargs)
    dynamic_first, static_first = _split_flat(first)
    dynamic_rest, static_rest = _split_flat(rest)
    donated, kept = {}, {}
    (donated if fn.donate_first else kept)["first"] = dynamic_first
    (donated if fn.donate_rest else kept).update(fun=dynamic_fun, rest=dynamic_rest)
    traced = inner.trace(donated, kept, (static_fun, static_first, static_rest))

    received, returned = traced_shardings(traced)
    leaves = numbered(traced.args_info, received)[0]
    packed = {**leaves[0], **leaves[1]}
    first_tree = static_first[1].unflatten(packed["first"])
    rest_tree, keyword_tree = static_rest[1].unflatten(packed["rest"])
    names = _positional_names(signature, len(bound.args))
    named = [
        *zip(names, (first_tree, *rest_tree), strict=False),
        *keywords_of(keyword_tree),
        ("closure", packed["fun"]),
    ]
    marker, out, _ = numbered(traced.out_info, returned)
    results = (("marker", marker), ("result", out))
    return Staged(traced=traced, lowered=None, arguments=tuple(named), results=results, quiet=fn.filter_warning)


def _split_flat(tree: Any) -> tuple[tuple[Any, ...], tuple[tuple[Any, ...], Any]]:
    leaves, structure = jax.tree.flatten(tree)
    dynamic = tuple(leaf if _is_array(leaf) else None for leaf in leaves)
    static = tuple(None if _is_array(leaf) else leaf for leaf in leaves)
    return dynamic, (static, structure)


def _stage_equinox_plain(fn: Any, args: tuple[Any, ...], kwargs: dict[str, Any], settings: dict[str, Any]) -> Staged:
    """A plain function of Equinox modules: what is no array in them is closed over, as `equinox.filter_jit` does."""
    import equinox

    dynamic, static = equinox.partition((args, kwargs), _is_array)

    @functools.wraps(fn)
    def arrays_only(*dynamic_args: Any, **dynamic_kwargs: Any) -> Any:
        all_args, all_kwargs = equinox.combine((dynamic_args, dynamic_kwargs), static)
        return equinox.filter(fn(*all_args, **all_kwargs), equinox.is_array)

    return _from_traced(jax.jit(arrays_only, **settings).trace(*dynamic[0], **dynamic[1]))


def _positional_names(signature: inspect.Signature, count: int) -> tuple[str, ...]:
    names: list[str] = []
    for parameter in signature.parameters.values():
        if parameter.kind is parameter.VAR_POSITIONAL:
            names.extend(f"{parameter.name}[{index}]" for index in range(count - len(names)))
        elif parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
            names.append(parameter.name)
    return tuple(names[:count])
