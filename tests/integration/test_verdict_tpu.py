"""The TPU compiler's word against our account of a program, on both sides of the limit of a chip.

Each program is chosen so that one thing decides whether it fits: an argument, a temporary, donation, padding and so on.
Three answers must agree: what the shapes say by hand, what the compiler does (it compiles, or refuses with
RESOURCE_EXHAUSTED), and what the report's own sum of bytes says beside the limit.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AbstractMesh, AxisType, NamedSharding, PartitionSpec

from jaxmem.assemble import read_report
from jaxmem.capture import Capture
from jaxmem.compilers import compile_lowering
from jaxmem.devices import find_device
from jaxmem.program import Program
from jaxmem.report import as_text
from jaxmem.result import Report
from jaxmem.tracing import trace

GIB = 2**30
TILE_BYTES = 8 * 128 * 4
CHIP = find_device("tpu-v5e")  # takes 15.75 GiB


@pytest.fixture(autouse=True)
def tpu(need: Callable[[str], None]) -> None:
    need("tpu")


def of_shape(*shape: int, dtype: Any = jnp.float32, **keywords: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype, **keywords)


def of_size(gib: float, **keywords: Any) -> jax.ShapeDtypeStruct:
    """Whole tiles of float32, which nothing pads."""
    return of_shape(int(gib * GIB) // TILE_BYTES, 8, 128, **keywords)


def compile_program(program: Program) -> tuple[Capture, Report]:
    capture = compile_lowering(trace(program, platforms=("tpu",)).lowering, None, CHIP)
    return capture, read_report(capture)


def argument(gib: float) -> Program:
    return Program(lambda x: x[0, 0, 0] * 2, of_size(gib))


def arguments(gib: float) -> Program:
    return Program(lambda *xs: sum(x[0, 0, 0] for x in xs), *[of_size(gib / 4)] * 4)


def result(gib: float) -> Program:
    tiles = int(gib * GIB) // TILE_BYTES
    return Program(lambda x: jnp.broadcast_to(x, (tiles, 8, 128)), of_shape(8, 128))


def updated(*, donated: bool) -> Program:
    """8 GiB in, 8 GiB out: the same ones, or others."""
    return Program(lambda x: x + 1, of_size(8), donate_argnums=0 if donated else ())


def matrix_chain(gib: float) -> Program:
    """Intermediate results of ``gib``, two of them at a time: each is wanted again once its mean is known."""
    rows = int(gib * GIB) // (8192 * 4)

    def f(x: jax.Array, first: jax.Array, second: jax.Array) -> jax.Array:
        h = x @ first
        h = jnp.tanh(h - h.mean(0)) @ second
        h = jnp.tanh(h - h.mean(0)) @ second
        return (h - h.mean(0)).max(0)

    return Program(f, of_shape(rows, 128), of_shape(128, 8192), of_shape(8192, 8192))


def stacked_residuals(steps: int, *, rematerialized: bool = False) -> Program:
    """Each step of the scan keeps two arrays of 128 MiB for its backward pass; rematerialized, the carry alone."""

    def f(weight: jax.Array, x: jax.Array) -> jax.Array:
        def step(h: jax.Array, _: None) -> tuple[jax.Array, None]:
            return jnp.sin(jnp.cos(h * weight) * weight), None

        body = jax.checkpoint(step) if rematerialized else step
        return jax.grad(lambda x: jax.lax.scan(body, x, None, length=steps)[0].sum())(x)

    return Program(f, of_shape(8, 128), of_size(1 / 8))


def six_sides(*, flat: bool) -> Program:
    """33⁶ numbers, 4.81 GiB. As an array of six sides, the last two are padded from 33 × 33 to 40 × 128."""
    shape = (33**6,) if flat else (33,) * 6
    return Program(lambda x: x[(0,) * len(shape)] * 2, of_shape(*shape))


def column() -> Program:
    """Two thousand million numbers, 7.45 GiB, in a column. Row by row each would be padded to 128 of them."""
    return Program(lambda x: x[0, 0] * 2, of_shape(2_000_000_000, 1))


def of_type(dtype: Any) -> Program:
    """4 Gi numbers: 8 or 16 GiB."""
    return Program(lambda x: x[0, 0, 0] * 2, of_shape(2**22, 8, 128, dtype=dtype))


def on_four_chips(*, sharded: bool) -> Program:
    """Two arguments of 16 GiB, over four chips or on each of them."""
    mesh = AbstractMesh((4,), ("data",), axis_types=(AxisType.Auto,))
    sharding = NamedSharding(mesh, PartitionSpec("data") if sharded else PartitionSpec())
    return Program(lambda x, y: (x * y).sum(), *[of_size(16, sharding=sharding)] * 2)


def optimizer_step(make: Callable[[float], optax.GradientTransformation], gib: float) -> Program:
    """Parameters of ``gib``, donated with what the optimizer keeps: nothing with SGD, twice as much with Adam."""
    optimizer = make(1e-3)
    parameters = of_size(gib)

    def step(parameters: jax.Array, state: Any, x: jax.Array) -> Any:
        gradient = jax.grad(lambda parameters: (parameters**2 * x).sum())(parameters)
        updates, state = optimizer.update(gradient, state, parameters)
        return optax.apply_updates(parameters, updates), state

    return Program(step, parameters, jax.eval_shape(optimizer.init, parameters), of_shape(), donate_argnums=(0, 1))


def in_host_memory() -> Program:
    """20 GiB that live in the host's memory."""
    mesh = AbstractMesh((1,), ("data",), axis_types=(AxisType.Auto,))
    pinned = NamedSharding(mesh, PartitionSpec(), memory_kind="pinned_host")
    return Program(lambda x, y: (x, y + 1), of_size(20, sharding=pinned), of_shape(8, 128))


def convolutions(batch_size: int) -> Program:
    """A step through two convolutions; each image is 8 MiB wherever it is kept."""

    def step(kernels: list[jax.Array], x: jax.Array) -> Any:
        def loss(kernels: list[jax.Array]) -> jax.Array:
            h = x
            for kernel in kernels:
                dimensions = ("NHWC", "HWIO", "NHWC")
                h = jax.nn.relu(jax.lax.conv_general_dilated(h, kernel, (1, 1), "SAME", dimension_numbers=dimensions))
            return (h**2).mean()

        return jax.tree.map(lambda w, g: w - 0.1 * g, kernels, jax.grad(loss)(kernels))

    return Program(step, [of_shape(3, 3, 128, 128)] * 2, of_shape(batch_size, 128, 128, 128), donate_argnums=0)


CASES: dict[str, tuple[Callable[[], Program], bool]] = {
    "an argument of 15.5 GiB": (lambda: argument(15.5), True),
    "an argument of 16 GiB": (lambda: argument(16), False),
    "four arguments of 15.5 GiB": (lambda: arguments(15.5), True),
    "four arguments of 16 GiB": (lambda: arguments(16), False),
    "a result of 15.5 GiB": (lambda: result(15.5), True),
    "a result of 16 GiB": (lambda: result(16), False),
    "donated": (lambda: updated(donated=True), True),
    "not donated": (lambda: updated(donated=False), False),
    "two temporaries of 7 GiB": (lambda: matrix_chain(7), True),
    "two temporaries of 9 GiB": (lambda: matrix_chain(9), False),
    "residuals of 24 steps": (lambda: stacked_residuals(24), True),
    "residuals of 64 steps": (lambda: stacked_residuals(64), False),
    "carries of 64 steps": (lambda: stacked_residuals(64, rematerialized=True), True),
    "a flat array": (lambda: six_sides(flat=True), True),
    "the same padded": (lambda: six_sides(flat=False), False),
    "a column, which is not padded": (column, True),
    "bfloat16": (lambda: of_type(jnp.bfloat16), True),
    "the same in float32": (lambda: of_type(jnp.float32), False),
    "sharded over four chips": (lambda: on_four_chips(sharded=True), True),
    "whole on each of four chips": (lambda: on_four_chips(sharded=False), False),
    "5.5 GiB with SGD": (lambda: optimizer_step(optax.sgd, 5.5), True),
    "5.5 GiB with Adam": (lambda: optimizer_step(optax.adam, 5.5), False),
    "20 GiB in the host's memory": (in_host_memory, True),
    "a convolutional step, batch 256": (lambda: convolutions(256), True),
    "a convolutional step, batch 768": (lambda: convolutions(768), False),
}


@pytest.mark.parametrize(("make", "fits"), CASES.values(), ids=CASES)
def test_the_compiler_agrees(make: Callable[[], Program], fits: bool) -> None:
    capture, report = compile_program(make())
    refused = capture.failure is not None and capture.failure.startswith("RESOURCE_EXHAUSTED")
    assert refused or capture.failure is None
    assert report.verdict.fits is fits is not refused
    # The verdict is the compiler's word. The sum of bytes, which is ours, says the same.
    assert isinstance(report.verdict.headroom_bytes, int)
    assert (report.verdict.headroom_bytes >= 0) is fits


def test_a_constant_counts_once_and_4_kib_decide() -> None:
    """An argument grown by tiles of 4 KiB up to the limit, beside a constant of 16 MiB, which libtpu counts as code.

    Counted twice, the constant would put the limit 16 MiB lower. There are no temporaries: libtpu takes their memory in
    steps of 16 KiB (its message has 15.5 KiB of fragmentation for a temporary of 512 B), which no allocation shows.
    """
    table = np.random.default_rng(0).standard_normal(4 * 2**20).astype(np.float32)

    def attempt(tiles: int) -> tuple[Capture, Report]:
        return compile_program(Program(lambda x: x[0, 0, 0] * 2 + jnp.asarray(table), of_shape(tiles, 8, 128)))

    usable = CHIP.usable_bytes
    assert isinstance(usable, int)
    tiles = (usable - 64 * 2**20) // TILE_BYTES
    _, below = attempt(tiles)
    assert below.verdict.fits
    assert isinstance(below.verdict.headroom_bytes, int)
    most = tiles + below.verdict.headroom_bytes // TILE_BYTES
    (fitting, fits), (refused, too_large) = attempt(most), attempt(most + 1)
    assert fitting.failure is None
    assert fits.verdict.fits is True
    assert isinstance(fits.verdict.headroom_bytes, int)
    assert 0 <= fits.verdict.headroom_bytes < TILE_BYTES
    assert refused.failure is not None
    assert refused.failure.startswith("RESOURCE_EXHAUSTED")
    assert too_large.verdict.fits is False
    # Of a program that it refuses, the compiler does not tell the size of the code, which decided here.
    assert isinstance(too_large.verdict.headroom_bytes, int)
    assert too_large.verdict.headroom_bytes >= 0
    assert "usable, too little for the program's code" in " ".join(as_text(too_large).split())
