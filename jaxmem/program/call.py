"""Program: what a person hands over."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jaxmem.errors import UsageError
from jaxmem.program.words import describe, near
from jaxmem.roles import Role

_Names = str | Sequence[str]
_Numbers = int | Sequence[int]


@dataclass(frozen=True, slots=True, init=False, eq=False)
class Program:
    """A function and the arguments it is called with.

    Attributes:
        fn: a plain function, a jitted one (``jax.jit``, ``flax.nnx.jit``, ``equinox.filter_jit``: its own donation,
            shardings and static arguments are kept), a callable module, or a ``jax.stages.Traced`` or ``Lowered`` (no
            arguments then).
        args, kwargs: arrays, ``ShapeDtypeStruct``, NumPy arrays, Python numbers, any pytree, NNX and Equinox modules.
            Nothing in them is read but shapes and types, except static arguments.
        donate_argnums, donate_argnames, static_argnums, static_argnames: for a plain function, as in ``jax.jit``.
        roles: decides what arguments are for: argument name or path (``"state"``, ``"state.ema"``) to role
            (``"other_state"``). Comes before every other rule.
        name: what the program is called; the function's own name by default.
        compiler_options: handed to XLA, sorted by name.
        mode, batch_size, optimizer, dtype: what the program says of itself in reports; nothing is derived from them.
    """

    fn: Any
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    donate_argnums: tuple[int, ...]
    donate_argnames: tuple[str, ...]
    static_argnums: tuple[int, ...]
    static_argnames: tuple[str, ...]
    roles: tuple[tuple[str, Role], ...]
    name: str
    compiler_options: tuple[tuple[str, str], ...]
    mode: str | None
    batch_size: int | None
    optimizer: str | None
    dtype: str | None

    def __init__(
        self,
        fn: Any,
        /,
        *args: Any,
        donate_argnums: _Numbers = (),
        donate_argnames: _Names = (),
        static_argnums: _Numbers = (),
        static_argnames: _Names = (),
        roles: Mapping[str, Role | str] | None = None,
        name: str | None = None,
        compiler_options: Mapping[str, Any] | None = None,
        mode: str | None = None,
        batch_size: int | None = None,
        optimizer: str | None = None,
        dtype: str | None = None,
        keywords: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Keep a call for analysis.

        Args:
            keywords: further keyword arguments of ``fn``, for those whose names this constructor uses itself
                (``keywords={"optimizer": optimizer}``).

        Raises:
            UsageError: a description is not text or a number, or a role is not known.
        """
        if not callable(fn) and not hasattr(fn, "compiler_ir") and not hasattr(fn, "lower"):
            raise UsageError(
                f"A Program needs a function first, and got {describe(fn)}. "
                "Write Program(train_step, state, batch): the function, then its arguments."
            )
        for described, value in {"name": name, "mode": mode, "optimizer": optimizer, "dtype": dtype}.items():
            if value is not None and not isinstance(value, str):
                raise UsageError(
                    f"Program({described}=...) describes the program in words, and got {describe(value)}. "
                    f"If it is an argument of the function, pass it by position or as keywords={{{described!r}: ...}}."
                )
        if batch_size is not None and (isinstance(batch_size, bool) or not isinstance(batch_size, int)):
            raise UsageError(f"Program(batch_size=...) is a whole number, and got {describe(batch_size)}.")
        if batch_size is not None and batch_size < 1:
            raise UsageError(f"Program(batch_size={batch_size}): a batch has at least one example.")
        values = {
            "fn": fn,
            "args": args,
            "kwargs": {**kwargs, **(keywords or {})},
            "donate_argnums": _as_tuple(donate_argnums, int),
            "donate_argnames": _as_tuple(donate_argnames, str),
            "static_argnums": _as_tuple(static_argnums, int),
            "static_argnames": _as_tuple(static_argnames, str),
            "roles": tuple((path, _role(path, role)) for path, role in (roles or {}).items()),
            "name": name or _function_name(fn),
            "compiler_options": tuple(sorted((k, _option(v)) for k, v in (compiler_options or {}).items())),
            "mode": mode,
            "batch_size": batch_size,
            "optimizer": optimizer,
            "dtype": dtype,
        }
        for field, value in values.items():
            object.__setattr__(self, field, value)

    def with_compiler_options(self, options: Sequence[tuple[str, Any]]) -> "Program":
        """The same program with further options for XLA; one that it has already takes the new value."""
        merged = dict(self.compiler_options) | {name: _option(value) for name, value in options}
        return self._with(compiler_options=tuple(sorted(merged.items())))

    def with_donated(self, names: Sequence[str]) -> "Program":
        """The same program that gives up these arguments too. Its function must be a plain one."""
        return self._with(donate_argnames=tuple(dict.fromkeys((*self.donate_argnames, *names))))

    def with_arguments(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> "Program":
        """The same function called with other arguments."""
        return self._with(args=args, kwargs=dict(kwargs))

    def _with(self, **changes: Any) -> "Program":
        changed = object.__new__(Program)
        for name in Program.__slots__:
            object.__setattr__(changed, name, changes.get(name, getattr(self, name)))
        return changed


def _as_tuple(value: Any, kind: type) -> tuple[Any, ...]:
    return (value,) if isinstance(value, kind) else tuple(value)


def _role(path: str, role: Role | str) -> Role:
    try:
        return Role(role)
    except ValueError:
        raise UsageError(
            f"roles[{path!r}] = {role!r} is no role.{near(str(role), Role)} The roles are {', '.join(Role)}."
        ) from None


def _option(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _function_name(fn: Any) -> str:
    while not (name := getattr(fn, "__name__", None)) and (inner := getattr(fn, "func", None)) is not None:
        fn = inner
    return name or getattr(fn, "fun_name", None) or type(fn).__name__
