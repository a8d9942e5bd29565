"""Every option that a program of the zoo can be built with, as literal tables."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Optimizer:
    """An optimizer of optax: its name, the constructor in ``optax``, and the constructor's arguments."""

    name: str
    constructor: str
    arguments: tuple[tuple[str, float | str], ...]


def _optimizer(name: str, constructor: str | None = None, **arguments: float | str) -> Optimizer:
    return Optimizer(name=name, constructor=constructor or name, arguments=tuple(arguments.items()))


OPTIMIZERS: tuple[Optimizer, ...] = (
    _optimizer("adam", learning_rate=1e-3),
    _optimizer("adamw", learning_rate=1e-3, weight_decay=1e-4),
    _optimizer("sgd", learning_rate=1e-2),
    _optimizer("momentum", "sgd", learning_rate=1e-2, momentum=0.9),
    _optimizer("rmsprop", learning_rate=1e-3),
    _optimizer("adagrad", learning_rate=1e-2),
    _optimizer("lamb", learning_rate=1e-3),
    _optimizer("nadam", learning_rate=1e-3),
    _optimizer("amsgrad", learning_rate=1e-3),
    _optimizer("lion", learning_rate=1e-4),
    _optimizer("adafactor", learning_rate=1e-3),
    _optimizer("adam_bf16", "adam", learning_rate=1e-3, mu_dtype="bfloat16"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Precision:
    """The number formats of a program: of its parameters, of its activations, and of the images it is fed, if any."""

    name: str
    parameters: str
    activations: str
    images: str


PRECISIONS: tuple[Precision, ...] = (
    Precision(name="float32", parameters="float32", activations="float32", images="float32"),
    Precision(name="bfloat16", parameters="bfloat16", activations="bfloat16", images="bfloat16"),
    Precision(name="mixed", parameters="float32", activations="bfloat16", images="float32"),
)

MODES: tuple[str, ...] = ("train", "infer")

REMAT_POLICIES: tuple[str, ...] = ("blocks", "dots", "offload")
"""What the backward pass computes again. ``blocks``: of a block of layers only the input is kept. ``dots``: and what its
convolutions and matrix products return. ``offload``: only the input, in the memory of the host."""

POOLS: tuple[str, ...] = ("window", "split")
"""How max-pool finds its maxima. ``window``: JAX's own. ``split``: each window split into its pixels, the same numbers."""

SHARDINGS: tuple[str, ...] = ("data", "fsdp")
"""What several devices divide among them: the batch, or model and optimizer as well."""
