"""What can be changed about a program and tried: options of the zoo's models, and what can be done from outside, or by
the keywords of a factory, to programs of one's own."""

import enum
import inspect
import sys
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from math import lcm
from typing import Any

from jaxmem.analysis.captures import Pending, prepare, prepare_target
from jaxmem.analysis.targets import Progress, Target, is_zoo, program_of
from jaxmem.capture import Capture, CaptureCache
from jaxmem.need import Need
from jaxmem.program import Program, find_attribute
from jaxmem.roles import STATE_ROLES

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

COMPILER_OPTIONS: dict[str, tuple[tuple[str, tuple[str, str], str], ...]] = {
    "cpu": (
        (
            "no fusions of the library",
            ("xla_cpu_experimental_ynn_fusion_type", ""),
            "XLA's own loops instead of the library's, which allocates unseen; they may be slower",
        ),
    ),
    "cuda": (
        (
            "a tighter limit for XLA's scheduler",
            ("xla_gpu_memory_limit_slop_factor", "60"),
            "percent of the memory that XLA plans with and computes again to stay within; 95 without this",
        ),
    ),
}
"""Options for XLA that are tried, by platform: the change, the option, what to mind."""

REMAT_POLICIES = (
    ("blocks", "recompute the blocks in the backward pass", ""),
    ("dots", "recompute all but convolutions and matrix products", ""),
    ("offload", "recompute the blocks, their inputs in the host's memory", "every input travels to the host and back"),
)
"""Policies of the zoo: the name, the change, what to mind."""

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
    for what, option, note in COMPILER_OPTIONS.get(target.find_device().platform, ()):
        if option[0] not in dict(target.compiler_options):
            told = replace(target, compiler_options=tuple(sorted((*target.compiler_options, option))))
            yield what, f"--compiler-option {option[0]}={option[1]}", told, note
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
        platform = target.find_device().platform
        for policy, what, note in REMAT_POLICIES:
            if policy != "offload" or platform != "cpu":  # on CPU the host's memory is the device's
                yield what, f"--remat {policy}", with_setting("remat", policy), note
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
    device = target.find_device()
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
        platform=device.platform,
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
    platform: str,
    multiple_of: int = 1,
    given: Mapping[str, str] = {},
) -> tuple[Change, ...]:
    """What can be tried with programs that a factory makes.

    Args:
        make: the factory with its settings, called with a batch size and further settings.
        factory: what the person wrote, for its keywords.
        need: of the program as it is, for what it does not donate.
        prepared: the capture of a program, or the compile that makes it.
        platform: of the device.
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
        for count in _SHARDED_OVER:
            whole = -(-batch // lcm(count, multiple_of)) * lcm(count, multiple_of)
            add(
                f"arguments divided among {count} devices",
                f"shard them: inputs by examples, state by its largest dimension, over {count}",
                lambda whole=whole, count=count: spread(make(whole), count),
                "" if whole == batch else f"at batch {whole}, which {count} devices divide",
            )
    for what, option, note in COMPILER_OPTIONS.get(platform, ()):
        if option[0] not in dict(plain.compiler_options):
            told = f"--compiler-option {option[0]}={option[1]}"
            add(what, told, lambda option=option: make(batch).with_compiler_options((option,)), note)
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
    "remat": (True, "blocks", "dots", "offload"),
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
        for value in _listed(parameters[name].annotation) or _of_its_type(parameters[name], values):
            if value != parameters[name].default:
                yield name, value


def _listed(annotation: Any) -> tuple[Any, ...]:
    """The values that the annotation lists; none where it names a type."""
    if typing.get_origin(annotation) is typing.Literal:
        return typing.get_args(annotation)
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        return tuple(member.name for member in annotation)
    return tuple(value for part in _parts(annotation) for value in _listed(part))


def _of_its_type(parameter: inspect.Parameter, values: tuple[Any, ...]) -> tuple[Any, ...]:
    """Those of the values that have the type of the annotation, or else of the default."""
    annotated = parameter.annotation is not parameter.empty
    kinds = _parts(parameter.annotation) or ((parameter.annotation,) if annotated else (type(parameter.default),))
    return tuple(value for value in values if type(value) in kinds)


def _parts(annotation: Any) -> tuple[Any, ...]:
    is_union = isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is typing.Union
    return typing.get_args(annotation) if is_union else ()


def not_tried(factory: Any) -> tuple[str, ...]:
    """Changes inside a program that its factory has no keyword for, with what to write."""
    parameters = _parameters(factory)
    inside = {
        "recomputation (jax.checkpoint around each layer)": ("remat", "checkpoint"),
        "a leaner optimizer": ("optimizer",),
        "gradient accumulation": ("accumulate", "accumulation_steps", "gradient_accumulation"),
    }
    return tuple(what for what, names in inside.items() if not any(name in parameters for name in names))


def _parameters(factory: Any) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(factory, eval_str=True).parameters
    except (NameError, TypeError, ValueError):
        return {}


def _castable(program: Program) -> bool:
    """Arrays that can be handed over in another type, or divided: not NNX modules, which share them among one another."""
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


def spread(program: Program, count: int) -> Program:
    """The program with its arguments divided over devices that need not exist, along one axis ``data``.

    Inputs are divided by their first dimension, the examples; state by the largest dimension that the devices divide.
    What they do not divide is whole everywhere.
    """
    import jax
    from jax.sharding import AbstractMesh, AxisType, NamedSharding, PartitionSpec

    from jaxmem.tracing import trace

    mesh = AbstractMesh((count,), ("data",), axis_types=(AxisType.Auto,))
    leaves, tree = jax.tree.flatten((program.args, dict(program.kwargs)))
    divided = []
    for leaf, argument in zip(leaves, trace(program).arguments, strict=True):
        axes = [axis for axis, size in enumerate(argument.shape) if size and size % count == 0]
        if argument.role not in STATE_ROLES:
            axes = [axis for axis in axes if axis == 0]
        largest = max(axes, key=lambda axis: argument.shape[axis], default=None)
        spec = PartitionSpec() if largest is None else PartitionSpec(*(None,) * largest, "data")
        divided.append(jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=NamedSharding(mesh, spec)))
    args, kwargs = jax.tree.unflatten(tree, divided)
    return program.with_arguments(args, kwargs)
