"""What can be changed about a program and tried: options of the zoo's models, and what can be done from outside, or by
the keywords of a factory, to programs of one's own."""

import enum
import inspect
import sys
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from math import lcm
from typing import Any

from jaxmem.analysis.captures import Pending, prepare, prepare_target
from jaxmem.analysis.targets import Progress, Target, is_zoo, program_of
from jaxmem.capture import Capture, CaptureCache
from jaxmem.devices import find_device
from jaxmem.need import Need
from jaxmem.program import Program, find_attribute

Prepare = Callable[[Program, Progress], Capture | Pending]
"""The capture of a program on the device asked about, or the compile that makes it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A change that can be tried: ``change``, ``how`` and ``note`` as in `Advice`."""

    change: str
    how: str
    prepare: Callable[[Progress], Capture | Pending]
    note: str = ""


LEANER_OPTIMIZERS = ("adam_bf16", "adafactor", "lion", "momentum", "sgd")
"""Optimizers of the zoo that keep less than Adam.

They are other algorithms: what they save is measured, what they learn is not."""

_ANOTHER_OPTIMIZER = "another algorithm: its learning rate and what it learns are its own"
_LESS_EXACT = "fewer digits: check that training still converges"
_MICRO_BATCHES = (4, 2, 3, 5, 7)
"""Numbers of micro-batches to try; the first that divides the batch is."""

_SHARDED_OVER = (2, 8)


def changes_of_target(target: Target, need: Need, multiple_of: int) -> tuple[Change, ...]:
    """What can be tried with what a person named, at the batch size that it has."""
    batch = target.batch_size
    assert batch is not None  # a search sets it
    if not is_zoo(target):
        return _changes_of_own(target, batch, need, multiple_of)

    def change(what: str, how: str, changed: Target, note: str = "") -> Change:
        return Change(change=what, how=how, prepare=lambda tell: prepare_target(changed, progress=tell), note=note)

    return tuple(change(*row) for row in _zoo_changes(target, batch, multiple_of))


def _zoo_changes(target: Target, batch: int, multiple_of: int) -> Iterator[tuple[str, str, Target, str]]:
    settings = dict(target.settings)

    def with_setting(name: str, value: str) -> Target:
        return replace(target, settings=tuple(sorted((settings | {name: value}).items())))

    if settings.get("donate", "").lower() == "false":
        yield "donate the state", "leave out --no-donate", with_setting("donate", "True"), ""
    dtype = settings.get("dtype", "float32")
    if dtype == "float32":
        yield "activations in bfloat16", "--dtype mixed", with_setting("dtype", "mixed"), _LESS_EXACT
    if dtype != "bfloat16":
        yield "everything in bfloat16", "--dtype bfloat16", with_setting("dtype", "bfloat16"), _LESS_EXACT
    if target.mode == "train":
        yield from _zoo_training_changes(target, settings, with_setting, batch)
    half = batch // 2 // multiple_of * multiple_of
    if half:
        yield "a smaller batch", f"-b {half}", replace(target, batch_size=half), "half the examples a step"
    if not target.mesh and target.mode == "train":
        for count in _SHARDED_OVER:
            whole = -(-batch // lcm(count, multiple_of)) * lcm(count, multiple_of)
            spread = replace(target, mesh=(("data", count),), sharding="fsdp", batch_size=whole)
            note = "" if whole == batch else f"at batch {whole}, which {count} devices divide"
            yield f"everything divided among {count} devices", f"--devices {count} --sharding fsdp", spread, note


def _zoo_training_changes(
    target: Target, settings: Mapping[str, str], with_setting: Callable[[str, str], Target], batch: int
) -> Iterator[tuple[str, str, Target, str]]:
    from jaxmem_models.registry import find

    if "remat" not in settings:
        yield "recompute the blocks in the backward pass", "--remat blocks", with_setting("remat", "blocks"), ""
    parts = next((count for count in _MICRO_BATCHES if batch % count == 0 and batch > count), None)
    if parts and "accumulate" not in settings and not target.mesh:
        yield (
            f"accumulate the gradients of {parts} micro-batches",
            f"--set accumulate={parts}",
            with_setting("accumulate", str(parts)),
            "batch normalization sees the micro-batches",
        )
    row = find(target.text)
    if row.takes_pool and "pool" not in settings:
        exact = "the same numbers, gradients included"
        yield "max-pool that compares with its maxima", "--set pool=split", with_setting("pool", "split"), exact
    if row.scans and "scan" not in settings:
        yield "the layers as one loop", "--set scan=True", with_setting("scan", "True"), ""
    for optimizer in LEANER_OPTIMIZERS:
        if optimizer != settings.get("optimizer", "adam"):
            how = f"--optimizer {optimizer}"
            yield f"the optimizer {optimizer}", how, with_setting("optimizer", optimizer), _ANOTHER_OPTIMIZER


# Programs of one's own.


def _changes_of_own(target: Target, batch: int, need: Need, multiple_of: int) -> tuple[Change, ...]:
    device = find_device(target.device or "cpu")
    cache = CaptureCache() if target.use_cache else None

    def make(batch_size: int, **settings: Any) -> Program:
        as_text = {name: str(value) for name, value in settings.items()}
        changed = tuple(sorted((dict(target.settings) | as_text).items()))
        return program_of(replace(target, batch_size=batch_size, settings=changed))

    changes = changes_of_program(
        make,
        find_attribute(target.text),
        batch,
        need,
        lambda program, tell: prepare(program, device, cache, progress=tell),
        multiple_of=multiple_of,
        given=dict(target.settings),
    )
    return (*changes, *_over_devices(target, batch, multiple_of))


def _over_devices(target: Target, batch: int, multiple_of: int) -> Iterator[Change]:
    """A factory that takes a mesh says itself what it divides."""
    if target.mesh or "mesh" not in _parameters(find_attribute(target.text)):
        return
    for count in _SHARDED_OVER:
        whole = -(-batch // lcm(count, multiple_of)) * lcm(count, multiple_of)
        spread = replace(target, mesh=(("data", count),), batch_size=whole)
        yield Change(
            change=f"spread over {count} devices",
            how=f"--devices {count}",
            prepare=lambda tell, spread=spread: prepare_target(spread, progress=tell),
            note="" if whole == batch else f"at batch {whole}, which {count} devices divide",
        )


def changes_of_program(
    make: Callable[..., Program],
    factory: Callable[..., Any],
    batch: int,
    need: Need,
    prepared: Prepare,
    *,
    multiple_of: int = 1,
    given: Mapping[str, str] = {},
) -> tuple[Change, ...]:
    """What can be tried with programs that a factory makes.

    Args:
        make: the factory with its settings, called with a batch size and further settings.
        factory: what the person wrote, for its keywords.
        need: of the program as it is, for what it does not donate.
        prepared: the capture of a program, or the compile that makes it.
        given: settings that the person chose, which stay.
    """
    changes = []

    def add(what: str, how: str, program: Callable[[], Program], note: str = "") -> None:
        changes.append(
            Change(change=what, how=how, prepare=lambda tell: prepared(program(), tell), note=note),
        )

    names = _replaced_and_kept(need)
    plain = make(batch)
    if names and not hasattr(plain.fn, "lower") and not hasattr(plain.fn, "compiler_ir"):
        add(
            f"donate {', '.join(names)}",
            f"donate_argnames={names!r}",
            lambda: make(batch).with_donated(names),
        )
    if _castable(plain):
        add(
            "float32 arguments in bfloat16",
            "cast them before the call",
            lambda: _in_bfloat16(make(batch)),
            f"{_LESS_EXACT}; what the function makes itself keeps its type",
        )
    for name, value in _keywords_to_try(_parameters(factory), given):
        add(f"{name}={value}", f"--set {name}={value}", lambda name=name, value=value: make(batch, **{name: value}))
    half = batch // 2 // multiple_of * multiple_of
    if half:
        add("a smaller batch", f"-b {half}", lambda: make(half), "half the examples a step")
    return tuple(changes)


def _replaced_and_kept(need: Need) -> tuple[str, ...]:
    """The arguments of which a result replaces something, and that are not donated."""
    paths = [leaf.path for leaf in need.donation if leaf.outcome == "not requested"]
    return tuple(sorted({path.replace("[", ".").partition(".")[0] for path in paths}))


_TRIED_KEYWORDS: dict[str, tuple[Any, ...]] = {
    "remat": (True, "blocks"),
    "checkpoint": (True,),
    "donate": (True,),
    "scan": (True,),
    "dtype": ("bfloat16", "mixed"),
    "optimizer": LEANER_OPTIMIZERS,
    "accumulate": _MICRO_BATCHES[:1],
    "accumulation_steps": _MICRO_BATCHES[:1],
    "gradient_accumulation": _MICRO_BATCHES[:1],
}
"""Keywords of a factory that change memory under the usual names, and values worth trying."""


def _keywords_to_try(
    parameters: Mapping[str, inspect.Parameter], given: Mapping[str, str]
) -> Iterator[tuple[str, Any]]:
    """Values of the factory's keywords that its annotation or its default allows."""
    for name, values in _TRIED_KEYWORDS.items():
        if name not in parameters or name in given:
            continue
        parameter = parameters[name]
        allowed = _allowed(parameter)
        for value in allowed if allowed is not None else values:
            if value != parameter.default and (allowed is not None or type(value) is type(parameter.default)):
                yield name, value


def _allowed(parameter: inspect.Parameter) -> tuple[Any, ...] | None:
    """The values that the annotation lists; None where it lists none."""
    annotation = parameter.annotation
    if typing.get_origin(annotation) is typing.Literal:
        return typing.get_args(annotation)
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        return tuple(member.name for member in annotation)
    return None


def _parameters(factory: Any) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(factory, eval_str=True).parameters
    except (NameError, TypeError, ValueError):
        return {}


def _castable(program: Program) -> bool:
    """Arrays that can be handed over in another type: not the modules of NNX, which share them among one another."""
    import jax

    nnx = sys.modules.get("flax.nnx")
    values = (program.args, program.kwargs)
    if nnx is not None and any(
        isinstance(node, nnx.Module | nnx.Optimizer)
        for node in jax.tree.leaves(values, is_leaf=lambda node: isinstance(node, nnx.Module | nnx.Optimizer))
    ):
        return False
    return any(str(getattr(leaf, "dtype", "")) == "float32" for leaf in jax.tree.leaves(values))


def _in_bfloat16(program: Program) -> Program:
    import jax
    import jax.numpy as jnp

    def cast(leaf: Any) -> Any:
        if str(getattr(leaf, "dtype", "")) != "float32":
            return leaf
        return jax.ShapeDtypeStruct(leaf.shape, jnp.bfloat16, sharding=getattr(leaf, "sharding", None))

    return program.with_arguments(jax.tree.map(cast, program.args), jax.tree.map(cast, dict(program.kwargs)))
