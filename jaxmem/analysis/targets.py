"""What a person names, and the program it stands for."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from jaxmem.devices import Device, find_device
from jaxmem.errors import UsageError
from jaxmem.program import Program, resolve_program

Progress = Callable[[str, float], None]
"""Told what is being done, and for how many seconds the work has run."""


def silent(phase: str, seconds: float) -> None:
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
        gemm: the backend of a GPU's matrix products: ``triton``, ``cublas``, or ``both`` for a range; None leaves it
            to XLA.
        use_cache: look for, and keep, the capture or the estimate in the user's cache.
        measure: run it too, on the attached device.
        memory_fraction: what JAX's allocator takes of a GPU; None for its default.
    """

    text: str
    mode: str | None = None
    batch_size: int | None = None
    device: str | None = None
    settings: tuple[tuple[str, str], ...] = ()
    compiler_options: tuple[tuple[str, str], ...] = ()
    mesh: tuple[tuple[str, int], ...] = ()
    sharding: str | None = None
    gemm: str | None = None
    use_cache: bool = True
    measure: bool = False
    memory_fraction: float | None = None

    def find_device(self) -> Device:
        """The device it names, or this machine's processor. Raises as in `jaxmem.devices.find_device`."""
        return find_device(self.device or "cpu", self.memory_fraction)


def program_of(target: Target) -> Program:
    """The program that a target names."""
    settings = dict(target.settings)
    if not is_zoo(target):
        if target.batch_size is not None:
            settings["batch_size"] = str(target.batch_size)
        program = resolve_program(target.text, settings, _mesh(target))
        return program.with_compiler_options(target.compiler_options) if target.compiler_options else program
    return _zoo_program(target, settings)


def is_zoo(target: Target) -> bool:
    """Whether it is a model that jaxmem ships."""
    return ":" not in target.text


def program_from(fn: Any, args: tuple[Any, ...], keywords: Mapping[str, Any]) -> Program:
    """The program of a function and its arguments, or the finished one that was handed over."""
    if not isinstance(fn, Program):
        return Program(fn, *args, **keywords)
    if args or keywords:
        raise UsageError("A Program already has its arguments. Pass the Program alone, or the function with them.")
    return fn


def _mesh(target: Target) -> Any:
    """The mesh of a target, over devices that need not exist; None for one device."""
    if not target.mesh:
        return None
    from jax.sharding import AbstractMesh, AxisType

    names, sizes = zip(*target.mesh, strict=True)
    return AbstractMesh(sizes, names, axis_types=(AxisType.Auto,) * len(names))


def _zoo_program(target: Target, settings: Mapping[str, str]) -> Program:
    from jaxmem_models.programs import build

    known: dict[str, Callable[[str], Any]] = {
        **dict.fromkeys(("optimizer", "dtype", "remat", "pool"), str),
        **dict.fromkeys(("image_size", "sequence_length", "accumulate"), _whole_number),
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
