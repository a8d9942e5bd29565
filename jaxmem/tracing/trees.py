"""Pytrees opened level by level, so that every leaf keeps the containers it lies in.

A flattened tree has lost what its containers were; roles are read from exactly those. `walk` therefore visits a tree
before it is flattened and hands out each leaf with the steps that lead to it.
"""

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jax


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaf:
    """A flat argument or result: its number, and what JAX says of it. Typed PRNG keys are still keys here.

    ``shape`` is that of the whole array; ``sharding`` says how it lies on several devices, None where JAX does not say.
    """

    index: int
    shape: tuple[int, ...]
    dtype: Any
    donated: bool = False
    sharding: Any = None

    @property
    def device_shape(self) -> tuple[int, ...]:
        """The shape of the part that one device holds."""
        return self.shape if self.sharding is None else tuple(self.sharding.shard_shape(self.shape))


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One step into a tree.

    Attributes:
        owner: the container that is opened; None for the first step, which names a whole argument.
        key: the name, key or index in it; empty where the container only wraps (an NNX variable).
        text: the step as Python writes it: ``.params``, ``['kernel']``, ``[0]``.
    """

    owner: Any
    key: str | int
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A leaf and how it is reached, the argument's name first."""

    leaf: Leaf
    steps: tuple[Step, ...]

    @property
    def path(self) -> str:
        """The path as a person writes it: ``state.params['dense']['kernel']``."""
        return "".join(step.text for step in self.steps)

    def keys(self, start: int = 1) -> tuple[str, ...]:
        """The keys below the first ``start`` steps, as text, wrappers left out."""
        return tuple(str(step.key) for step in self.steps[start:] if step.key != "")


def walk(name: str, tree: Any) -> Iterator[Place]:
    """Visit the leaves of one argument, depth first. A leaf that is reached twice (a shared variable) is visited
    once.
    """
    seen: set[int] = set()
    stack: list[tuple[Any, tuple[Step, ...]]] = [(tree, (Step(owner=None, key=name, text=name),))]
    while stack:
        node, steps = stack.pop()
        if isinstance(node, Leaf):
            if node.index not in seen:
                seen.add(node.index)
                yield Place(leaf=node, steps=steps)
            continue
        stack.extend((child, (*steps, step)) for step, child in reversed(list(_open(node, steps))))


def _open(node: Any, steps: tuple[Step, ...]) -> Iterator[tuple[Step, Any]]:
    if is_nnx(node, "Variable"):
        # A variable is its array: `model.kernel`, not `model.kernel.value`.
        for _, child in _one_level(node):
            yield Step(owner=node, key="", text=""), child
    elif isinstance(node, Mapping):
        # Attribute access is how an NNX state is read, in the mappings inside it too.
        dotted = is_nnx(node, "State") or any(is_nnx(step.owner, "State") for step in steps)
        for key, child in node.items():
            yield Step(owner=node, key=_key(key), text=_key_text(key, dotted)), child
    elif isinstance(node, tuple) and (fields := getattr(node, "_fields", ())):
        for field, child in zip(fields, node, strict=True):
            yield Step(owner=node, key=field, text=f".{field}"), child
    else:
        for key, child in _one_level(node):
            if getattr(key, "name", None) == "_pytree__state":  # NNX's own bookkeeping, without arrays
                continue
            yield _step(node, key), child


def _one_level(node: Any) -> list[tuple[Any, Any]]:
    opened = jax.tree_util.default_registry.flatten_one_level_with_keys(node)
    return [] if opened is None else list(opened[0])


def _step(node: Any, key: Any) -> Step:
    if isinstance(key, jax.tree_util.GetAttrKey):
        return Step(owner=node, key=key.name, text=_key_text(key.name, True))
    if isinstance(key, jax.tree_util.SequenceKey):
        return Step(owner=node, key=key.idx, text=f"[{key.idx}]")
    if isinstance(key, jax.tree_util.DictKey | jax.tree_util.FlattenedIndexKey):
        return Step(owner=node, key=_key(key.key), text=_key_text(key.key, False))
    return Step(owner=node, key=str(key), text=str(key))


def _key(key: Any) -> str | int:
    return key if isinstance(key, str | int) else str(key)


def _key_text(key: Any, dotted: bool) -> str:
    if dotted and isinstance(key, str) and key.isidentifier():
        return f".{key}"
    return f"[{key!r}]"


def is_nnx(node: Any, name: str) -> bool:
    """Whether ``node`` is an instance of ``flax.nnx.<name>``; Flax is not imported where the program has not."""
    nnx = sys.modules.get("flax.nnx")
    return nnx is not None and isinstance(node, getattr(nnx, name))


def is_equinox_module(node: Any) -> bool:
    """Whether ``node`` is an ``equinox.Module``; Equinox is not imported where the program has not."""
    equinox = sys.modules.get("equinox")
    return equinox is not None and isinstance(node, equinox.Module)
