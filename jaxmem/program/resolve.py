"""How a ``module:attribute`` target becomes a program."""

import importlib
import importlib.util
import sys
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxmem.errors import InputError, JaxmemError, UsageError
from jaxmem.program.call import Program
from jaxmem.program.settings import typed_settings
from jaxmem.program.user_code import user_traceback
from jaxmem.program.words import describe, near


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
            f"{target} is {describe(found)}, neither a jaxmem.Program nor a function that returns one. "
            f"Write `{target.rpartition(':')[2]} = jaxmem.Program(train_step, state, batch)`."
        )
    keywords = typed_settings(found, settings, target, mesh)
    try:
        program = found(**keywords)
    except JaxmemError:
        raise
    except (Exception, SystemExit) as error:
        raise InputError(f"{target} raised while it made its program.\n{user_traceback(error)}") from None
    if not isinstance(program, Program):
        raise InputError(
            f"{target} returned {describe(program)}, not a jaxmem.Program. "
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


def _import_module(name: str) -> types.ModuleType:
    # The folder a person works in comes first, as with `python -m`.
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            alike = near(name, (entry for entry in sys.modules if "._" not in entry))
            raise InputError(
                f"There is no module {name!r}: Python finds no {error.name!r} from {Path.cwd()}.{alike} "
                "Give a path ending in .py to load a file."
            ) from None
        raise InputError(f"Importing {name} failed.\n{user_traceback(error)}") from None
    except (Exception, SystemExit) as error:
        raise InputError(f"Importing {name} failed.\n{user_traceback(error)}") from None


def _import_file(path: Path) -> types.ModuleType:
    if not path.is_file():
        siblings = (str(other) for other in path.parent.glob("*.py")) if path.parent.is_dir() else ()
        raise InputError(f"There is no file {path}.{near(str(path), siblings)}")
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
            raise InputError(f"{where} has no attribute {part!r}.{near(part, names)}") from None
    return found
