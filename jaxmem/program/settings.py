"""Settings, which arrive as text, as the keyword arguments of a callable."""

import enum
import inspect
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any

from jaxmem.errors import UsageError
from jaxmem.program.words import near


def typed_settings(function: Callable[..., Any], settings: Mapping[str, str], target: str, mesh: Any) -> dict[str, Any]:
    """Every keyword argument of a callable, read by annotation or default (int, float, bool, str).

    Raises:
        UsageError: as `jaxmem.program.resolve_program` says.
    """
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
            raise UsageError(f"{target} takes no setting {name!r}.{near(name, accepted)} It takes: {listed}.")
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
