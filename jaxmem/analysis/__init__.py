"""The only room that knows the order: wiring, no logic. Behind the Python API and the command line.

A program of the zoo whose capture is in the cache is reported without importing JAX; a user's program is traced again each
time, since what it imports may have changed, and finds its capture by what it lowers to.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxmem.assemble import device_facts, estimate_report, read_report
from jaxmem.capture import (
    Capture,
    CaptureCache,
    installed_versions,
    lowering_key,
    request_key,
    source_digest,
    this_host,
)
from jaxmem.capture import load as load_capture
from jaxmem.capture.machine import COMPILING_PACKAGES
from jaxmem.devices import Device, compiler_packages, find_device, obstacle
from jaxmem.errors import EnvironmentFailure, UsageError
from jaxmem.formula import derive_formula
from jaxmem.program import Program, resolve_program
from jaxmem.quiet import start_jax
from jaxmem.result import EstimateReport, Report, Reports
from jaxmem.result import load as load_result

if TYPE_CHECKING:
    from jaxmem.layer_table import LayerTable
    from jaxmem.tracing import Traced

Progress = Callable[[str, float], None]
"""Told what is being done, and for how many seconds the work has run."""


def _silent(phase: str, seconds: float) -> None:
    """Nobody asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One program for one device, as a person names it.

    Attributes:
        text: a zoo name, ``module:attribute``, ``file.py:attribute`` or a saved capture.
        mode, batch_size, device: None where the target has its own.
        settings: (keyword, text) pairs for what builds the program.
        compiler_options: handed to XLA.
        mesh: (axis, devices) pairs; none for a program on one device. A callable that takes a mesh is handed this one.
        sharding: what of a zoo model is divided over the mesh: ``data`` or ``fsdp``; None otherwise.
        use_cache: look for, and keep, the capture in the user's cache.
    """

    text: str
    mode: str | None = None
    batch_size: int | None = None
    device: str | None = None
    settings: tuple[tuple[str, str], ...] = ()
    compiler_options: tuple[tuple[str, str], ...] = ()
    mesh: tuple[tuple[str, int], ...] = ()
    sharding: str | None = None
    use_cache: bool = True


def analyze_target(target: Target, *, progress: Progress = _silent) -> Report:
    """Formula, compile and reconciliation of what a person named."""
    capture = capture_target(target, progress=progress)
    progress("reading what the compiler left", 0.0)
    return read_report(capture, origin=target.text)


def capture_target(target: Target, *, progress: Progress = _silent) -> Capture:
    """The capture of what a person named: loaded, from the cache, or compiled now."""
    if target.text.lower().endswith(".jaxmem"):
        return load_capture(Path(target.text))
    device = find_device(target.device or "cpu")
    cache = CaptureCache() if target.use_cache else None
    request = _zoo_request(target, device) if _is_zoo(target) else None
    if cache is not None and request is not None and (known := cache.get_request(request)) is not None:
        progress("found in the cache", 0.0)
        return replace(known, device=device)  # the memory of this machine today, not of the day of the compile
    progress("tracing", 0.0)
    start_jax()
    capture, key = _capture(program_of(target), device, cache, progress)
    if cache is not None and request is not None:
        cache.put_request(request, key)
    return capture


def estimate_target(target: Target, *, progress: Progress = _silent) -> EstimateReport:
    """The formula of what a person named, without a compile."""
    if target.text.lower().endswith(".jaxmem"):
        capture = load_capture(Path(target.text))
        if capture.layer_table is None:
            raise UsageError(
                f"{target.text} was captured from a program that was already lowered: its operations are not known, so "
                "there is no formula. `jaxmem report` shows the compiled side."
            )
        formula = derive_formula(
            capture.layer_table,
            capture.arguments,
            capture.outputs,
            capture.program,
            platform=capture.device.platform,
        )
        return estimate_report(formula, capture.program, device_facts(capture.device, capture.device_count))
    device = find_device(target.device or "cpu")
    progress("tracing", 0.0)
    start_jax()
    return _estimate(program_of(target), device)


def program_of(target: Target) -> Program:
    """The program that a target names."""
    settings = dict(target.settings)
    if not _is_zoo(target):
        if target.batch_size is not None:
            settings["batch_size"] = str(target.batch_size)
        program = resolve_program(target.text, settings, _mesh(target))
        return program.with_compiler_options(target.compiler_options) if target.compiler_options else program
    return _zoo_program(target, settings)


def _mesh(target: Target) -> Any:
    """The mesh of a target, over devices that need not exist; None for one device."""
    if not target.mesh:
        return None
    from jax.sharding import AbstractMesh, AxisType

    names, sizes = zip(*target.mesh, strict=True)
    return AbstractMesh(sizes, names, axis_types=(AxisType.Auto,) * len(names))


def analyze(
    fn: Any,
    /,
    *args: Any,
    device: str = "cpu",
    use_cache: bool = True,
    progress: Progress = _silent,
    **keywords: Any,
) -> Report:
    """How much memory a function needs on a device, and where every byte goes. Nothing is run or allocated.

    Args:
        fn: a function and its arguments as `Program` takes them (plain or jitted, NNX and Equinox modules, arrays or
            ``ShapeDtypeStruct``), or a finished `Program`.
        device: as in ``jaxmem devices``.
        use_cache: look for, and keep, the capture in the user's cache.
        progress: told what is being done.
        keywords: those of `Program` (``donate_argnums``, ``roles``, ``name``, ...), and the function's own.

    Raises:
        UsageError, InputError, EnvironmentFailure: see `jaxmem.errors`.
    """
    cache = CaptureCache() if use_cache else None
    capture, _ = _capture(_program(fn, args, keywords), find_device(device), cache, progress)
    return read_report(capture)


def estimate(fn: Any, /, *args: Any, device: str = "cpu", **keywords: Any) -> EstimateReport:
    """The formula of a function alone: traced, never compiled. Arguments as in `analyze`."""
    return _estimate(_program(fn, args, keywords), find_device(device))


def load(path: str | Path) -> Report | Reports | Any:
    """A saved report (``.json``) or capture (``.jaxmem``) as a report; several saved in one file come as `Reports`."""
    if str(path).lower().endswith(".jaxmem"):
        return read_report(load_capture(Path(path)), origin=str(path))
    results = load_result(path)
    return results.reports[0] if len(results.reports) == 1 else results


def _program(fn: Any, args: tuple[Any, ...], keywords: Mapping[str, Any]) -> Program:
    if not isinstance(fn, Program):
        return Program(fn, *args, **keywords)
    if args or keywords:
        raise UsageError("A Program already has its arguments. Pass the Program alone, or the function with them.")
    return fn


def _capture(program: Program, device: Device, cache: CaptureCache | None, progress: Progress) -> tuple[Capture, str]:
    """The capture of a program and its key in the cache."""
    if (problem := obstacle(device.platform)) is not None:  # known before the trace, so said before it
        raise EnvironmentFailure(f"jaxmem cannot compile for {device.name} here: {problem}")
    from jaxmem.compilers import compile_lowering
    from jaxmem.tracing import trace

    traced = trace(program, platforms=(device.platform,))
    lowering = traced.lowering
    key = lowering_key(lowering, device, _versions(device), this_host())
    if cache is not None and (known := cache.get(key)) is not None:
        progress("found in the cache", 0.0)
        return replace(known, device=device), key
    capture = compile_lowering(lowering, _layer_table(traced), device, progress=progress)
    if cache is not None:
        cache.put(key, capture)
    return capture, key


def _versions(device: Device) -> tuple[tuple[str, str], ...]:
    return installed_versions((*COMPILING_PACKAGES, *compiler_packages(device.platform)))


def _estimate(program: Program, device: Device) -> EstimateReport:
    from jaxmem.tracing import trace

    traced = trace(program, platforms=(device.platform,))
    table = _layer_table(traced)
    if table is None:
        raise UsageError(f"There is no formula for this program: {traced.without_jaxpr}.")
    formula = derive_formula(table, traced.arguments, traced.outputs, traced.facts, platform=device.platform)
    return estimate_report(formula, traced.facts, device_facts(device, traced.device_count))


def _layer_table(traced: "Traced") -> "LayerTable | None":
    from jaxmem.tracing.layers import layer_table

    return layer_table(traced.closed_jaxpr, traced.arguments) if traced.closed_jaxpr is not None else None


# The zoo.


def _is_zoo(target: Target) -> bool:
    return ":" not in target.text


def _zoo_request(target: Target, device: Device) -> str:
    """The key of a request for a zoo model. Whatever decides the trace is in it, so JAX need not be asked."""
    options = {f"set {name}": value for name, value in target.settings}
    options |= {f"compiler {name}": value for name, value in target.compiler_options}
    options |= {"mode": target.mode or "", "batch_size": str(target.batch_size or "")}
    options |= {"mesh": str(target.mesh), "sharding": target.sharding or ""}
    from jaxmem_models.registry import constructor_of, find

    try:
        module, _ = constructor_of(find(target.text))
    except ValueError as error:
        raise UsageError(str(error)) from None
    packages = dict.fromkeys(("jaxmem_models", module.partition(".")[0]))
    sources = [source_digest(place) for package in packages for place in _places(package)]
    versions = (*_versions(device), *installed_versions(("flax", "optax")))
    return request_key(target.text, options, device, versions, this_host(), sources)


def _places(package: str) -> tuple[Path, ...]:
    """Where the sources of an importable package are: its folders, or its one file."""
    spec = find_spec(package)
    if spec is None:
        return ()
    if spec.submodule_search_locations is not None:
        return tuple(Path(folder) for folder in spec.submodule_search_locations)
    return (Path(spec.origin),) if spec.origin else ()


def _zoo_program(target: Target, settings: Mapping[str, str]) -> Program:
    from jaxmem_models.programs import build

    known: dict[str, Callable[[str], Any]] = {
        **dict.fromkeys(("optimizer", "dtype", "remat"), str),
        **dict.fromkeys(("image_size", "sequence_length"), _whole_number),
        **dict.fromkeys(("donate", "scan"), _truth),
    }
    unknown = sorted(set(settings) - set(known))
    if unknown:
        raise UsageError(
            f"{target.text} takes no setting called {', '.join(unknown)}. A zoo model takes {', '.join(known)}."
        )
    if target.mode not in ("train", "infer"):
        raise UsageError(f"A zoo model is analysed in mode train or infer, found {target.mode!r}.")
    try:
        spec = build(
            target.text,
            mode=target.mode,
            batch_size=target.batch_size or (32 if target.mode == "train" else 1),
            mesh=_mesh(target),
            sharding=target.sharding or "data",
            **{name: _read(name, known[name], value) for name, value in settings.items()},
        )
    except ValueError as error:
        raise UsageError(str(error)) from None
    return Program(
        spec.function,
        *spec.arguments,
        name=spec.name,
        mode=spec.mode,
        batch_size=spec.batch_size,
        optimizer=spec.optimizer,
        dtype=spec.dtype,
        compiler_options=dict(target.compiler_options),
    )


def _read(name: str, kind: Callable[[str], Any], text: str) -> Any:
    try:
        return kind(text)
    except ValueError as error:
        raise UsageError(f"--set {name}={text}: {error}.") from None


def _whole_number(text: str) -> int:
    if not text.isdecimal():
        raise ValueError(f"{text!r} is not a whole number")
    return int(text)


def _truth(text: str) -> bool:
    words = {"true": True, "false": False}
    if text.lower() not in words:
        raise ValueError(f"{text!r} is neither True nor False")
    return words[text.lower()]
