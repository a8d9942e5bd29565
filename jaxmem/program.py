"""Program: what a person hands over, and how a `module:attribute` target becomes one.

Importing this module does not import JAX: a program keeps its function and arguments as they are, `tracing` looks
    inside.
"""

import difflib
import enum
import importlib
import importlib.util
import inspect
import sys
import traceback
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxmem.errors import InputError, JaxmemError, UsageError
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
                f"A Program needs a function first, and got {_describe(fn)}. "
                "Write Program(train_step, state, batch): the function, then its arguments."
            )
        for described, value in {"name": name, "mode": mode, "optimizer": optimizer, "dtype": dtype}.items():
            if value is not None and not isinstance(value, str):
                raise UsageError(
                    f"Program({described}=...) describes the program in words, and got {_describe(value)}. "
                    f"If it is an argument of the function, pass it by position or as keywords={{{described!r}: ...}}."
                )
        if batch_size is not None and (isinstance(batch_size, bool) or not isinstance(batch_size, int)):
            raise UsageError(f"Program(batch_size=...) is a whole number, and got {_describe(batch_size)}.")
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


def resolve_program(target: str, settings: Mapping[str, str], mesh: Any = None) -> Program:
    """Find the program that ``package.module:attribute`` or ``path/to/file.py:attribute`` names.

    Args:
        target: where it is. The attribute is a `Program`, or a callable that returns one; dots lead into it.
        settings: keyword arguments of the callable as text, read by annotation or default (int, float, bool, str).
        mesh: of several devices, a ``jax.sharding.Mesh`` or ``AbstractMesh``; handed to a callable that has an argument
            called ``mesh``.

    Raises:
        UsageError: a setting the callable does not take, a value of the wrong type, a required argument not set; a mesh for
            a program that takes none, or none for one that needs it.
        InputError: no such module, file or attribute; it raised (with the user's own traceback); it returned no
            Program.
    """
    found = find_attribute(target)
    if isinstance(found, Program):
        if settings:
            raise UsageError(
                f"{target} is a Program and takes no settings (got {', '.join(sorted(settings))}). "
                "Make it a function that returns a Program to set them."
            )
        if mesh is not None:
            raise UsageError(
                f"{target} is a Program, made for the devices that it was made for, and cannot be spread over "
                f"{mesh.size} here. Make it a function with an argument `mesh` that returns a Program."
            )
        return found
    if not callable(found):
        raise InputError(
            f"{target} is {_describe(found)}, neither a jaxmem.Program nor a function that returns one. "
            f"Write `{target.rpartition(':')[2]} = jaxmem.Program(train_step, state, batch)`."
        )
    keywords = _typed_settings(found, settings, target, mesh)
    try:
        program = found(**keywords)
    except JaxmemError:
        raise
    except (Exception, SystemExit) as error:
        raise InputError(f"{target} raised while it made its program.\n{user_traceback(error)}") from None
    if not isinstance(program, Program):
        raise InputError(
            f"{target} returned {_describe(program)}, not a jaxmem.Program. "
            "Let it end with `return jaxmem.Program(train_step, state, batch)`."
        )
    return program


def find_attribute(target: str) -> Any:
    """What ``package.module:attribute`` or ``path/to/file.py:attribute`` names: a `Program`, a callable, anything.

    Raises:
        UsageError: it names nothing.
        InputError: no such module, file or attribute; or importing it raised.
    """
    place, separator, attribute = target.rpartition(":")
    if not separator or not place or not attribute:
        raise UsageError(
            f"{target!r} names no program. Write package.module:attribute or path/to/file.py:attribute, "
            "where the attribute is a jaxmem.Program or a function that returns one."
        )
    module = _import_file(Path(place)) if place.endswith(".py") else _import_module(place)
    return _find_attribute(module, attribute, place)


def user_traceback(error: BaseException) -> str:
    """The traceback of ``error`` as Python prints it, without the frames of jaxmem and of the libraries beneath it."""
    frames = traceback.extract_tb(error.__traceback__)
    if isinstance(error, SyntaxError):
        frames = traceback.StackSummary()
    kept = [frame for frame in frames if not _is_library(frame.filename)]
    lines = ["Traceback (most recent call last):\n", *traceback.format_list(kept)] if kept else []
    final = traceback.TracebackException(type(error), error, None).format_exception_only()
    # JAX adds notes about frames it removed; they would speak of a traceback that is not shown.
    notes = {f"{line}\n" for note in getattr(error, "__notes__", ()) for line in note.split("\n")}
    return "".join([*lines, *(line for line in final if line not in notes)]).rstrip()


_OWN_FOLDER = str(Path(__file__).parent)
_LIBRARIES = ("jax", "jaxlib", "flax", "optax", "equinox", "haiku")


def _is_library(filename: str) -> bool:
    if filename.startswith((_OWN_FOLDER, "<frozen ")):
        return True
    parts = Path(filename).parts
    below = parts[len(parts) - 1 - parts[::-1].index("site-packages") :][1:2] if "site-packages" in parts else ()
    return bool(below) and below[0] in _LIBRARIES


def _import_module(name: str) -> types.ModuleType:
    # The folder a person works in comes first, as with `python -m`.
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            near = _near(name, (entry for entry in sys.modules if "._" not in entry))
            raise InputError(
                f"There is no module {name!r}: Python finds no {error.name!r} from {Path.cwd()}.{near} "
                "Give a path ending in .py to load a file."
            ) from None
        raise InputError(f"Importing {name} failed.\n{user_traceback(error)}") from None
    except (Exception, SystemExit) as error:
        raise InputError(f"Importing {name} failed.\n{user_traceback(error)}") from None


def _import_file(path: Path) -> types.ModuleType:
    if not path.is_file():
        siblings = (str(other) for other in path.parent.glob("*.py")) if path.parent.is_dir() else ()
        raise InputError(f"There is no file {path}.{_near(str(path), siblings)}")
    path = path.resolve()
    loaded = sys.modules.get(path.stem)
    if loaded is not None and getattr(loaded, "__file__", None) == str(path):
        return loaded
    # A script's own folder is where its neighbours are imported from, as with `python path/to/file.py`.
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))
    name = path.stem if loaded is None and path.stem.isidentifier() else f"jaxmem_program_{abs(hash(str(path)))}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise InputError(f"{path} cannot be loaded as Python.")
    module = importlib.util.module_from_spec(spec)
    # Dataclasses and pickling look a module up by its name while it is still being executed.
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        del sys.modules[name]
        if isinstance(error, (Exception, SystemExit)) and not isinstance(error, JaxmemError):
            raise InputError(f"Importing {path} failed.\n{user_traceback(error)}") from None
        raise
    return module


def _find_attribute(module: types.ModuleType, attribute: str, place: str) -> Any:
    found: Any = module
    for position, part in enumerate(attribute.split(".")):
        try:
            found = getattr(found, part)
        except AttributeError:
            where = place if position == 0 else f"{place}:{'.'.join(attribute.split('.')[:position])}"
            names = [name for name in dir(found) if not name.startswith("_")]
            raise InputError(f"{where} has no attribute {part!r}.{_near(part, names)}") from None
    return found


def _near(name: str, names: typing.Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(names), n=3)
    return f" Did you mean {' or '.join(close)}?" if close else ""


def _typed_settings(
    function: Callable[..., Any], settings: Mapping[str, str], target: str, mesh: Any
) -> dict[str, Any]:
    try:
        parameters = inspect.signature(function, eval_str=True).parameters
    except (NameError, TypeError, ValueError):
        parameters = _unevaluated_parameters(function)
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    accepted = {
        name: parameter
        for name, parameter in parameters.items()
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    }
    handed = {}
    # An argument called `mesh` is not a setting: it is handed the mesh.
    takes_mesh = accepted.pop("mesh", None)
    if takes_mesh is not None and "mesh" in settings:
        raise UsageError(f"{target}: a mesh is not set as text. Say --devices 8, or --mesh data=8.")
    if mesh is not None:
        if takes_mesh is None and not takes_any:
            raise UsageError(
                f"{target} has no argument `mesh` and cannot be spread over {mesh.size} devices. "
                "Give it one, and shard the program's arguments over it."
            )
        handed = {"mesh": mesh}
    elif takes_mesh is not None and takes_mesh.default is takes_mesh.empty:
        raise UsageError(f"{target} needs a mesh. Say over how many devices: --devices 8, or --mesh data=8.")
    for name in settings:
        if name not in accepted and not takes_any:
            listed = ", ".join(accepted) or "none"
            raise UsageError(f"{target} takes no setting {name!r}.{_near(name, accepted)} It takes: {listed}.")
    missing = [
        name for name, parameter in accepted.items() if parameter.default is parameter.empty and name not in settings
    ]
    if missing:
        how = " ".join(f"--set {name}=..." for name in missing)
        raise UsageError(f"{target} needs {', '.join(missing)}. Give a value with {how}.")
    typed = {name: _typed(text, accepted.get(name), f"{target}: {name}") for name, text in settings.items()}
    return typed | handed


def _unevaluated_parameters(function: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(function).parameters
    except (TypeError, ValueError):
        return {"settings": inspect.Parameter("settings", inspect.Parameter.VAR_KEYWORD)}


_TRUE, _FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")


def _typed(text: str, parameter: inspect.Parameter | None, what: str) -> Any:
    """Read a setting by the parameter's annotation, else by the type of its default, else as text."""
    kinds: tuple[Any, ...] = (str,)
    if parameter is not None and parameter.annotation is not parameter.empty:
        kinds = _alternatives(parameter.annotation)
    elif parameter is not None and parameter.default not in (None, parameter.empty):
        kinds = (type(parameter.default),)
    for kind in kinds:
        if kind is type(None) and text.lower() == "none":
            return None
        if kind is bool and text.lower() in _TRUE + _FALSE:
            return text.lower() in _TRUE
        if kind in (int, float):
            try:
                return kind(text)
            except ValueError:
                continue
        if isinstance(kind, type) and issubclass(kind, enum.Enum):
            for member in kind:
                if text in (member.name, str(member.value)):
                    return member
        if typing.get_origin(kind) is typing.Literal:
            for value in typing.get_args(kind):
                if text == str(value):
                    return value
        if kind is str:
            return text
    # A type that cannot be read from text is handed the text; the callable knows better.
    if not any(kind in (int, float, bool, type(None)) or typing.get_origin(kind) is typing.Literal for kind in kinds):
        return text
    wanted = " or ".join(getattr(kind, "__name__", str(kind)) for kind in kinds)
    raise UsageError(f"{what}={text!r} is not of type {wanted}.")


def _alternatives(annotation: Any) -> tuple[Any, ...]:
    if isinstance(annotation, str):
        named: dict[str, Any] = {"int": int, "float": float, "bool": bool, "str": str, "None": type(None)}
        return tuple(named.get(part.strip(), str) for part in annotation.split("|"))
    if isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is typing.Union:
        # Text reads as anything, so it comes last.
        return tuple(sorted(typing.get_args(annotation), key=lambda kind: kind is str))
    return (annotation,)


def _as_tuple(value: Any, kind: type) -> tuple[Any, ...]:
    return (value,) if isinstance(value, kind) else tuple(value)


def _role(path: str, role: Role | str) -> Role:
    try:
        return Role(role)
    except ValueError:
        raise UsageError(
            f"roles[{path!r}] = {role!r} is no role.{_near(str(role), Role)} The roles are {', '.join(Role)}."
        ) from None


def _option(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _function_name(fn: Any) -> str:
    while not (name := getattr(fn, "__name__", None)) and (inner := getattr(fn, "func", None)) is not None:
        fn = inner
    return name or getattr(fn, "fun_name", None) or type(fn).__name__


def _describe(value: Any) -> str:
    if value is None:
        return "None"
    kind = type(value)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    text = repr(value)
    return f"{text} ({name})" if len(text) <= 40 and "\n" not in text else f"a {name}"
