"""From options to targets: what kind of PROGRAM it is, which variants of it, for which devices."""

import argparse
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from math import prod
from pathlib import Path
from typing import Any

from jaxmem.cli.analysis_protocol import Analysis
from jaxmem.dump.names import is_dump
from jaxmem.errors import EnvironmentFailure, UsageError

DEFAULT_BATCH_SIZES = {"train": 32, "infer": 1}
DEFAULT_DEVICE = "cpu"


class Kind(StrEnum):
    """What the word PROGRAM turned out to be."""

    ZOO = "a model of the zoo"
    PROGRAM = "a program"
    CAPTURE = "a saved capture"
    REPORT = "a saved report"
    DUMP = "an XLA dump"


@dataclass(frozen=True, slots=True, kw_only=True)
class Requested:
    """One target and what to call it while it is worked on."""

    label: str
    file_stem: str
    target: Any


def kind_of(text: str) -> Kind:
    """Tell what PROGRAM is, without importing or opening anything.

    Raises:
        UsageError: it is none of these; the message has the nearest names.
    """
    lowered = text.lower()
    if lowered.endswith(".jaxmem"):
        return Kind.CAPTURE
    if lowered.endswith(".json"):
        return Kind.REPORT
    if is_dump(text) and not _names_model(text):
        return Kind.DUMP
    if ":" in text:
        return Kind.PROGRAM
    if lowered.endswith(".py"):
        raise UsageError(
            f"{text} names a file but nothing in it. Write {text}:attribute, a Program or what returns one."
        )
    _check_zoo("find", text, "A program of your own is written package.module:attribute or path/to/file.py:attribute.")
    return Kind.ZOO


def requested(options: argparse.Namespace, analysis: Analysis, *, open_batch: bool = False) -> tuple[Requested, ...]:
    """Every target that the options ask for: modes × devices.

    Args:
        open_batch: without -b the target has no batch size, instead of the usual one.

    Raises:
        UsageError: an option has no meaning for this kind of program, or names something that does not exist.
    """
    kind = kind_of(options.program)
    if kind is Kind.DUMP:
        raise UsageError(
            f"{options.program} is {kind.value}: the compiled module without its program. Only report and diff read it, "
            "and oom where its compile ran out of memory."
        )
    if kind in (Kind.CAPTURE, Kind.REPORT):
        refuse_options(options, kind)
    settings, mode, batch_size = _settings(options, kind)
    compiler_options = _compiler_options(options)
    mesh = _mesh(options, kind, batch_size)
    devices: tuple[str | None, ...] = (None,) if kind is Kind.CAPTURE else options.device or (DEFAULT_DEVICE,)
    _check_devices([device for device in devices if device], getattr(options, "memory_fraction", None))
    modes: tuple[str | None, ...] = (None,)
    if kind is Kind.ZOO:
        modes = ("train", "infer") if mode in (None, "both") else (mode,)
    return tuple(
        _request(
            analysis,
            text=options.program,
            mode=one_mode,
            batch_size=batch_size or (None if open_batch else _default_batch_size(one_mode, mesh)),
            device=device,
            settings=settings,
            compiler_options=compiler_options,
            mesh=mesh,
            sharding=(options.sharding or "data") if kind is Kind.ZOO and mesh else None,
            gemm=getattr(options, "gemm", None),
            use_cache=not getattr(options, "no_cache", False),
            measure=getattr(options, "measure", False),
            memory_fraction=getattr(options, "memory_fraction", None),
        )
        for one_mode in modes
        for device in devices
    )


def refuse_options(options: argparse.Namespace, kind: Kind) -> None:
    """A saved file is what it is: options that make variants are refused rather than silently without effect."""
    given = [
        name
        for name, value in (
            ("--mode", options.mode),
            ("-b", options.batch_size),
            ("-d", options.device if kind is not Kind.DUMP else None),
            ("--devices", options.devices),
            ("--mesh", options.mesh),
            ("--sharding", options.sharding),
            ("--optimizer", options.optimizer),
            ("--dtype", options.dtype),
            ("--image-size", options.image_size),
            ("--no-donate", options.no_donate),
            ("--remat", options.remat),
            ("--set", options.settings),
            ("--compiler-option", getattr(options, "compiler_options", ())),
            ("--gemm", getattr(options, "gemm", None)),
            ("--autotune-results", getattr(options, "autotune_results", None)),
        )
        if value
    ]
    if kind in (Kind.REPORT, Kind.DUMP) and getattr(options, "measure", False):
        given.append("--measure")
    if given:
        raise UsageError(
            f"{options.program} is {kind.value}: {', '.join(given)} cannot change it. "
            "Leave that out, or name the program itself."
        )


def _compiler_options(options: argparse.Namespace) -> tuple[tuple[str, str], ...]:
    """What is handed to XLA: as it was given, and the file of autotune results."""
    from jaxmem.lowering import AUTOTUNE_RESULTS_OPTION

    given = _unique(getattr(options, "compiler_options", ()), "--compiler-option")
    results: Path | None = getattr(options, "autotune_results", None)
    if results is None:
        return given
    if AUTOTUNE_RESULTS_OPTION in dict(given):
        raise UsageError(f"--autotune-results stands for --compiler-option {AUTOTUNE_RESULTS_OPTION}. Say it once.")
    return tuple(sorted((*given, (AUTOTUNE_RESULTS_OPTION, str(results.absolute())))))


def _settings(options: argparse.Namespace, kind: Kind) -> tuple[tuple[tuple[str, str], ...], str | None, int | None]:
    """The keyword arguments of the program; mode and batch size apart."""
    from_options = [
        (name, str(value))
        for name, value in (
            ("optimizer", options.optimizer),
            ("dtype", options.dtype),
            ("image_size", options.image_size),
            ("donate", False if options.no_donate else None),
            ("remat", options.remat),
        )
        if value is not None
    ]
    settings = dict(_unique([*options.settings, *from_options], "--set, or an option that stands for it,"))
    mode, batch_size = options.mode, options.batch_size
    if "batch_size" in settings:
        if batch_size is not None:
            raise UsageError("The batch size is given twice, with -b and with --set batch_size.")
        batch_size = _batch_size(settings.pop("batch_size"))
    if kind is Kind.PROGRAM and mode is not None:
        raise UsageError(
            "--mode chooses between the programs of a zoo model. A callable of your own that takes a mode is told with "
            f"--set mode={mode}."
        )
    if kind is Kind.ZOO:
        if "mode" in settings:
            raise UsageError(f"Write --mode {settings['mode']}: the mode of a zoo model is an option.")
        for name, find in (("optimizer", "find_optimizer"), ("dtype", "find_precision")):
            if name in settings:
                _check_zoo(find, settings[name])
    return tuple(sorted(settings.items())), mode, batch_size


def _mesh(options: argparse.Namespace, kind: Kind, batch_size: int | None) -> tuple[tuple[str, int], ...]:
    """The axes of the mesh, empty for one device.

    Raises:
        UsageError: the mesh has another number of devices than was asked for; for a zoo model, an axis other than ``data``,
            or a batch that does not divide by it.
    """
    mesh = options.mesh or ((("data", options.devices),) if options.devices else ())
    count = prod(size for _, size in mesh)
    if options.devices and count != options.devices:
        raise UsageError(
            f"--mesh {_written(mesh)} has {count} devices, and --devices says {options.devices}. "
            "The sizes of its axes multiply to the number of devices."
        )
    if options.sharding and kind is not Kind.ZOO:
        raise UsageError(
            "--sharding divides a zoo model. A program of your own shards its arguments over the mesh that it is handed."
        )
    if kind is not Kind.ZOO:
        return mesh
    if options.sharding and not mesh:
        raise UsageError(f"--sharding {options.sharding} needs several devices. Say how many: --devices 8.")
    if mesh and [axis for axis, _ in mesh] != ["data"]:
        raise UsageError(
            f"--mesh {_written(mesh)}: a zoo model is spread over one axis, data. Say --mesh data={count}."
        )
    if batch_size and batch_size % count:
        larger = -(-batch_size // count) * count
        raise UsageError(
            f"The batch of {batch_size} does not divide by {count} devices. It is that of all of them together: "
            f"-b {larger} gives each {larger // count}."
        )
    return mesh if count > 1 else ()


def _default_batch_size(mode: str | None, mesh: Iterable[tuple[str, int]]) -> int | None:
    """The usual one, or the next larger that gives every device of the mesh as much."""
    usual, count = DEFAULT_BATCH_SIZES.get(mode or ""), prod(size for _, size in mesh)
    return None if usual is None else -(-usual // count) * count


def _written(mesh: Iterable[tuple[str, int]]) -> str:
    return ",".join(f"{axis}={size}" for axis, size in mesh)


def _batch_size(text: str) -> int:
    from jaxmem.cli.options import positive_integer

    try:
        return positive_integer(text)
    except argparse.ArgumentTypeError as error:
        raise UsageError(f"--set batch_size: {error}.") from None


def _unique(pairs: Iterable[tuple[str, str]], option: str) -> tuple[tuple[str, str], ...]:
    pairs = tuple(pairs)
    keys = [key for key, _ in pairs]
    twice = sorted({key for key in keys if keys.count(key) > 1})
    if twice:
        raise UsageError(f"{option} sets {', '.join(twice)} more than once. Say it once.")
    return tuple(sorted(pairs))


def _names_model(text: str) -> bool:
    """A folder that is called like a model of the zoo does not hide the model."""
    from jaxmem_models import registry

    try:
        registry.find(text)
    except ValueError:
        return False
    return True


def _check_zoo(find: str, name: str, advice: str = "") -> None:
    from jaxmem_models import registry

    try:
        getattr(registry, find)(name)
    except registry.UnknownNameError as error:
        raise UsageError(f"{error} {advice}".rstrip()) from None
    except registry.RegistrationError as error:
        raise EnvironmentFailure(str(error)) from None


def _check_devices(devices: Sequence[str], memory_fraction: float | None) -> None:
    """Before the first compile, not after it."""
    from jaxmem.devices import find_device, refuse_bad_fraction

    platforms = {find_device(device).platform for device in devices}
    if devices:
        refuse_bad_fraction(memory_fraction, platforms, found=f"{', '.join(devices)} is none")


def _request(analysis: Analysis, **facts: Any) -> Requested:
    name = facts["text"].rsplit(":", 1)[-1] if ":" in facts["text"] else Path(facts["text"]).stem
    batch_size, mode, count = facts["batch_size"], facts["mode"], prod(size for _, size in facts["mesh"])
    sharding = facts["sharding"]
    batch = None if batch_size is None else f"batch {batch_size}"
    words = (name, mode, batch, f"{facts['device']} × {count}" if count > 1 else facts["device"], sharding)
    batch = None if batch_size is None else f"b{batch_size}"
    parts = (name, mode, batch, f"{facts['device']}-x{count}" if count > 1 else facts["device"], sharding)
    return Requested(
        label=" · ".join(word for word in words if word),
        file_stem="-".join(part for part in parts if part),
        target=analysis.Target(**facts),
    )
