"""Layer paths: which layer a name stack speaks of. The one reading of names that tracing, attribution and dumps share."""

import re
from collections.abc import Iterable
from functools import cache

_TRANSFORMATION = re.compile(r"^(?:jvp|transpose|vmap|linearize|pmap)\((.*)\)$")
_BRACKET_OR_SLASH = re.compile("[()/]")
_NOT_A_LAYER = re.compile(
    r"^(?:jit|pjit|shard_map|custom_jvp_call|custom_vjp_call|closed_call|core_call)\(.*\)$"
    r"|^(?:|while|body|cond|branch_\d+_fun|scan|checkpoint|remat\d*|rematted_computation|closed_call|core_call"
    r"|custom_jvp_call|custom_vjp_call|custom_lin|shard_map)$"
    r"|\.__call__$"
    r"|->"  # the subscripts of an einsum, which opens a scope of them
)


_JAX = ("jit(", "pjit(", "pmap(")
_GRADIENT_TAPES = frozenset({"gradient_tape", "gradients"})
"""The scopes in which TensorFlow puts the gradient of an operation, below that operation's own name."""


def name_stack(op_name: str) -> str:
    """The scopes in which an operation was written: without JAX's program in front and without the operation at the end.

    ``jit(step)/transpose(jvp(VGG))/conv1_1/mul`` gives ``transpose(jvp(VGG))/conv1_1``, and TensorFlow's
    ``gradient_tape/conv1_1/Conv2D/Conv2DBackpropFilter`` gives ``conv1_1``.
    """
    if is_combined(op_name):
        return ""
    parts = op_name.split(";")[0].split("/")
    if parts[0] in _GRADIENT_TAPES:
        return "/".join(parts[1:-2])
    return "/".join(parts[parts[0].startswith(("jit(", "pjit(")) : -1])


def operation(op_name: str) -> str:
    """The operation at the end of a name, or the name of an argument; empty where an instruction does the work of several."""
    return "" if is_combined(op_name) else op_name.split(";")[0].rpartition("/")[2]


def is_combined(op_name: str) -> bool:
    """Whether an instruction does the work of several, whose names XLA lists: ``jit(f)/(a/add:b/mul)``."""
    return "/(" in op_name


def is_transposed(op_name: str) -> bool:
    """Whether an operation belongs to the backward pass by its name: JAX's transposition, TensorFlow's gradient tape."""
    path = op_name.split(";")[0]
    return "transpose(" in path or path.split("/")[0] in _GRADIENT_TAPES


def is_linearized(op_name: str) -> bool:
    """Whether an operation belongs to the forward pass by its name: that of what JAX differentiates and has not transposed."""
    return "jvp(" in op_name and not is_combined(op_name) and not is_transposed(op_name)


def tells_phases(op_names: Iterable[str]) -> bool:
    """Whether the names of a module tell its backward pass: those of JAX do, and those of TensorFlow where it trains."""
    return any(name.startswith(_JAX) or is_transposed(name) for name in op_names)


def scope_components(scope: str) -> tuple[str, ...]:
    """The parts of a name stack that a model's author wrote: transformations unwrapped, JAX's own words left out.

    ``transpose(jvp(VGG))/conv1_1/jit(relu)`` gives ``("VGG", "conv1_1")``.
    """
    components = []
    for component in _without_repetition(_split_scope(scope)):
        while match := _TRANSFORMATION.match(component):
            component = match[1]
        # A scope opened before the transformation arrives inside its brackets, with its own slashes.
        parts = _split_scope(component) if "/" in component else (component,)
        components.extend(part for part in parts if not _NOT_A_LAYER.search(part))
    return tuple(components)


_AROUND = {"while": "while", "scan": "while", "cond": "cond", "transpose": "transpose"}
"""What is around an operation beside scopes, by its words on either side: JAX lowers a scan to a loop."""


def place(scope: str) -> tuple[str, ...]:
    """Where an operation stands: the loops and branches around it, on which side of differentiation, then its scopes.

    A program as it is traced and XLA call these places alike, but for the words in between: ``jvp()/scan/body`` and
    ``jvp()/while/body/closed_call`` are both ``("while",)``. The condition of a loop stands where its body does.
    """
    around: list[str] = []
    before = ""
    for word in filter(None, _BRACKET_OR_SLASH.split(scope)):
        if word in _AROUND and (word, before) != ("cond", "while"):
            around.append(_AROUND[word])
        before = word
    return *around, *scope_components(scope)


def _without_repetition(parts: tuple[str, ...]) -> tuple[str, ...]:
    """What the backward pass computes again stands in the scope of its transposition and, below that, in its own once more.

    ``transpose(jvp(a))/b/jvp(a)/b/checkpoint/c`` speaks of ``a/b/c``, not of ``a/b/a/b/c``.
    """
    for start, part in enumerate(parts):
        if part.startswith("transpose(") and (own := part[len("transpose(") : -1]) in parts[start + 1 :]:
            return parts[:start] + parts[parts.index(own, start + 1) :]
    return parts


def _split_scope(scope: str) -> tuple[str, ...]:
    """Split at the slashes that are outside brackets."""
    if "(" not in scope:
        return tuple(scope.split("/"))
    parts, depth, start = [], 0, 0
    for mark in _BRACKET_OR_SLASH.finditer(scope):
        if mark[0] == "(":
            depth += 1
        elif mark[0] == ")":
            depth -= 1
        elif depth == 0:
            parts.append(scope[start : mark.start()])
            start = mark.end()
    parts.append(scope[start:])
    return tuple(parts)


class ScopeLayers:
    """Which layer a scope names.

    A scope names a layer when it ends in a path of the parameter tree, or in a prefix of one (a block). Where the program's
    scopes follow the parameter tree at all, a scope of its own (``pool1``) names a layer without parameters.
    """

    def __init__(self, parameter_layers: Iterable[str]) -> None:
        self._known = {tuple(layer.split("/")) for layer in parameter_layers}
        self._prefixes = {path[:length] for path in self._known for length in range(1, len(path) + 1)}
        self._cache: dict[str, str] = {}
        self._components = cache(scope_components)
        self._roots: tuple[tuple[str, ...], ...] = ((),)
        self._follows_tree = False

    def learn(self, scopes: Iterable[str]) -> None:
        """See all scopes once: find what stands before the parameter tree (a class name, say) and whether they follow it."""
        roots: dict[tuple[str, ...], int] = {}
        for scope in set(scopes):
            components = self._components(scope)
            for start in range(len(components)):
                if components[start:] in self._known or any(
                    components[start:end] in self._known for end in range(start + 1, len(components) + 1)
                ):
                    roots[components[:start]] = roots.get(components[:start], 0) + 1
                    break
        self._follows_tree = bool(roots)
        self._roots = tuple(sorted(roots, key=lambda root: (-len(root), root))) or ((),)

    def layer(self, scope: str) -> str:
        """The layer path a scope names, empty if none."""
        if scope not in self._cache:
            self._cache[scope] = self._find(scope)
        return self._cache[scope]

    def _find(self, scope: str) -> str:
        if not self._follows_tree:
            return ""
        components = self._components(scope)
        for root in self._roots:
            if components[: len(root)] != root:
                continue
            path = components[len(root) :]
            for length in range(len(path), 0, -1):
                if path[:length] in self._known:
                    return "/".join(path[:length])
            if path and path not in self._prefixes:
                return "/".join(path)
        return ""
