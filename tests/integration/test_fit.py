"""Boundaries and advice from real compiles: small programs, whose memory is counted by hand where it can be."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

import jaxmem
from jaxmem.analysis import Question, Target, analyze_target, fit_target
from jaxmem.analysis.captures import Pending
from jaxmem.analysis.changes import changes_of_program, changes_of_target, not_tried
from jaxmem.cli import main
from jaxmem.devices import find_device
from jaxmem.errors import InputError, UsageError
from jaxmem.need import Need
from jaxmem.result import Fits, Verdict, from_json, to_json
from jaxmem.unknown import Unknown
from jaxmem_models.layers import split_max_pool
from jaxmem_models.programs import build
from jaxmem_models.steps import accumulating_step, train_step

PROGRAMS = '''
"""Programs with a batch size, good and bad."""
import jax
import jax.numpy as jnp
import jaxmem


def step(weights, velocity, batch):
    loss, gradient = jax.value_and_grad(lambda weights: jnp.tanh(batch @ weights).sum())(weights)
    velocity = 0.9 * velocity + gradient
    return weights - 0.1 * velocity, velocity, loss


def make(batch_size: int, donate: bool = False, width: int = 64) -> jaxmem.Program:
    weights = jax.ShapeDtypeStruct((width, width), jnp.float32)
    batch = jax.ShapeDtypeStruct((batch_size, width), jnp.float32)
    return jaxmem.Program(step, weights, weights, batch, donate_argnums=(0, 1) if donate else ())


def deaf(batch_size: int) -> jaxmem.Program:
    return make(8)


def shrinks(batch_size: int) -> jaxmem.Program:
    array = jax.ShapeDtypeStruct((max(1, 4096 - batch_size), 256), jnp.float32)
    return jaxmem.Program(lambda array: array * 2, array)


def no_batch(width: int = 8) -> jaxmem.Program:
    return make(8)


def meshed(batch_size: int, mesh=None) -> jaxmem.Program:
    if mesh is None:
        return make(batch_size)
    rows = jax.NamedSharding(mesh, jax.P("data"))
    batch = jax.ShapeDtypeStruct((batch_size, 64), jnp.float32, sharding=rows)
    return jaxmem.Program(lambda batch: batch * 2, batch)


finished = make(8)
'''


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("JAXMEM_CACHE_DIR", str(tmp_path / "cache"))
    path = tmp_path / "batch_programs.py"
    path.write_text(PROGRAMS)
    return str(path)


def test_both_sides_of_the_boundary_are_what_a_report_says(programs: str) -> None:
    target = Target(text=f"{programs}:make", device="cpu")
    fit = fit_target(target, Question(limit_bytes=1 << 20, advice=False))
    boundary = fit.boundary
    assert boundary.largest_batch is not None
    assert boundary.next_batch == boundary.largest_batch + 1
    assert boundary.compiles <= 6  # what the library hides grows in steps
    for batch, fits in ((boundary.largest_batch, True), (boundary.next_batch, False)):
        report = analyze_target(Target(text=f"{programs}:make", device="cpu", batch_size=batch))
        probe = next(probe for probe in boundary.proof if probe.batch_size == batch)
        assert probe.required_bytes == report.required_bytes
        assert (report.required_bytes <= 1 << 20) == fits == probe.fits


def test_again_it_comes_from_the_cache(programs: str) -> None:
    def double(array: jax.Array) -> jax.Array:
        return array * 2

    def make(batch_size: int) -> jaxmem.Program:
        return jaxmem.Program(double, jax.ShapeDtypeStruct((batch_size, 256), jnp.float32))

    first, second = (jaxmem.fit(make, limit_bytes=1 << 20, advice=False) for _ in range(2))
    # The argument and the result: 2 KiB an example.
    assert (first.boundary.largest_batch, first.boundary.next_batch) == (512, 513)
    assert not any(probe.from_cache for probe in first.boundary.proof)
    assert all(probe.from_cache for probe in second.boundary.proof)
    assert second.boundary.compiles == first.boundary.compiles


def test_advice_for_a_program_of_ones_own_is_measured(programs: str) -> None:
    fit = fit_target(Target(text=f"{programs}:make", device="cpu", batch_size=8), Question(limit_bytes=1 << 20))
    advice = {row.change: row for row in fit.advice}
    assert {"donate velocity, weights", "donate=True", "float32 arguments in bfloat16"} <= set(advice)
    plain, donated = (
        analyze_target(
            Target(text=f"{programs}:make", device="cpu", batch_size=8, settings=(("donate", donate),))
        ).required_bytes
        for donate in ("False", "True")
    )
    assert plain > donated
    for change in ("donate=True", "donate velocity, weights"):
        assert (advice[change].before_bytes, advice[change].after_bytes) == (plain, donated)
        assert advice[change].helps
    # Each of two devices holds a half of all arguments.
    divided = advice["arguments divided among 2 devices"]
    assert isinstance(divided.after_bytes, int)
    assert divided.helps
    assert {"no fusions of the library", "arguments divided among 8 devices"} <= set(advice)
    assert any("jax.checkpoint" in note for note in fit.notes)
    # Two products of 8 rows of 64 numbers by 64 columns; half the batch does half of them.
    smaller = advice["a smaller batch"]
    assert smaller.helps
    assert smaller.extra_flops == -2 * (2 * 8 * 64 * 64) // 2
    weights = next(leaf for leaf in fit.donation if leaf.path == "weights")
    assert (weights.bytes, weights.outcome) == (64 * 64 * 4, "not requested")
    assert from_json(to_json(Fits(reports=(fit,))), "the test") == Fits(reports=(fit,))


NEED = Need(
    required_bytes=512,
    required_is_lower_bound=False,
    verdict=Verdict(fits=True, judged_bytes=512, usable_bytes=640, headroom_bytes=128, rule=""),
    donation=(),
)


def test_a_factory_that_takes_a_mesh_is_handed_several_devices(programs: str) -> None:
    target = Target(text=f"{programs}:meshed", device="cpu", batch_size=6)
    changes = {change.change: change for change in changes_of_target(target, NEED, 1)}
    assert changes["spread over 2 devices"].note == ""
    assert changes["spread over 8 devices"].note == "at batch 8, which 8 devices divide"
    prepared = changes["spread over 2 devices"].prepare(lambda phase, seconds: None)
    assert isinstance(prepared, Pending)
    assert prepared.lowering.device_count == 2
    assert [argument.shape for argument in prepared.lowering.arguments] == [(3, 64)]


def test_keywords_of_the_factory_are_tried_with_values_of_their_type() -> None:
    def make(
        batch_size: int,
        remat: bool = False,
        dtype: Literal["float32", "bfloat16"] = "float32",
        optimizer: str | None = None,
        accumulate: int = 1,
        donate: str = "no",
    ) -> jaxmem.Program:
        return jaxmem.Program(lambda array: array * 2, jax.ShapeDtypeStruct((batch_size, 8), jnp.int32))

    fit = jaxmem.fit(make, limit_bytes=640, max_batch=8, batch_size=8, advice=False)
    assert fit.advised_batch is None
    changes = changes_of_program(
        make, make, 8, NEED, lambda program, tell: pytest.fail("nothing is compiled here"), platform="tpu"
    )
    assert [change.change for change in changes] == [
        "remat=True",
        "dtype=bfloat16",
        *(f"optimizer={name}" for name in ("adam_bf16", "adafactor", "lion", "momentum", "sgd")),
        "accumulate=4",
        "a smaller batch",
    ]
    assert not_tried(make) == ()
    assert len(not_tried(lambda batch_size: None)) == 3


def test_donation_that_is_done_and_donation_in_vain() -> None:
    def step(weights, scratch, batch):
        return weights + batch.sum()

    def make(batch_size: int) -> jaxmem.Program:
        arrays = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((32, 32), (7, 5), (batch_size, 3))]
        return jaxmem.Program(step, *arrays, donate_argnums=(0, 1), roles={"weights": "parameters"})

    fit = jaxmem.fit(make, limit_bytes=100_000, max_batch=64, advice=False, use_cache=False)
    outcomes = {leaf.path: (leaf.outcome, leaf.bytes) for leaf in fit.donation}
    assert outcomes == {"weights": ("aliased", 4096), "scratch": ("copied", 140)}
    assert fit.boundary.largest_batch == 64
    assert fit.boundary.next_batch is None
    assert "Donation" in str(fit)
    assert "donated in vain" in str(fit)


@pytest.mark.parametrize(
    ("attribute", "error", "message"),
    [
        ("deaf", InputError, "does not use its batch size"),
        ("no_batch", UsageError, "takes no setting 'batch_size'"),
        ("finished", UsageError, "is a Program and takes no settings"),
    ],
)
def test_programs_without_a_batch_size(programs: str, attribute: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        fit_target(Target(text=f"{programs}:{attribute}", device="cpu"), Question(limit_bytes=1 << 20))


def test_memory_that_shrinks_when_the_batch_grows(programs: str) -> None:
    question = Question(limit_bytes=4 << 20, max_batch=4000, advice=False)
    fit = fit_target(Target(text=f"{programs}:shrinks", device="cpu", batch_size=3500), question)
    assert not fit.boundary.monotone
    assert fit.boundary.largest_batch == 4000
    assert "does not always grow" in fit.boundary.answer


def test_nothing_fits_and_nothing_is_left(programs: str) -> None:
    target = Target(text=f"{programs}:make", device="cpu")
    fit = fit_target(target, Question(limit_bytes=1000, advice=False))
    assert (fit.boundary.largest_batch, fit.boundary.next_batch, fit.fits) == (None, 1, False)
    with pytest.raises(UsageError, match="Nothing is left for the program"):
        fit_target(target, Question(limit_bytes=1000, resident_bytes=600, margin_bytes=400))


def test_a_device_of_unknown_size_needs_a_limit(programs: str, monkeypatch: pytest.MonkeyPatch) -> None:
    unknown = replace(find_device("cpu"), usable_bytes=Unknown("nobody says"))
    monkeypatch.setattr(Target, "find_device", lambda target: unknown)
    target = Target(text=f"{programs}:make", device="cpu")
    with pytest.raises(UsageError, match=r"not known \(nobody says\).*--limit 16GiB"):
        fit_target(target, Question(advice=False))
    assert fit_target(target, Question(advice=False, limit_bytes=1 << 20)).boundary.largest_batch is not None


EXAMPLE_BYTES = 64 * 8 * 128 * 4
"""Whole tiles, which no device pads."""


def doubled(batch_size: int) -> jaxmem.Program:
    example = jax.ShapeDtypeStruct((batch_size, 64, 8, 128), jnp.float32)
    return jaxmem.Program(lambda images: images * 2, example)


@pytest.mark.parametrize(("platform", "device"), [("cuda", "h100-sxm"), ("tpu", "tpu-v5e")])
def test_the_boundary_of_an_accelerator_is_where_argument_and_result_fill_it(
    platform: str, device: str, need: Callable[[str], None]
) -> None:
    need(platform)
    fit = jaxmem.fit(doubled, device=device, advice=False, use_cache=False)
    boundary = fit.boundary
    assert boundary.largest_batch == fit.budget_bytes // (2 * EXAMPLE_BYTES)
    assert boundary.next_batch == fit.budget_bytes // (2 * EXAMPLE_BYTES) + 1
    assert boundary.compiles <= 4
    assert fit.budget_bytes == find_device(device).usable_bytes


def test_spread_over_devices_only_batches_that_they_divide_are_tried(need: Callable[[str], None]) -> None:
    need("cuda")
    target = Target(
        text="squeezenet1_1",
        mode="infer",
        device="h100-sxm",
        settings=(("image_size", "32"),),
        mesh=(("data", 4),),
        sharding="data",
        use_cache=False,
    )
    fit = fit_target(target, Question(multiple_of=6, max_batch=40, advice=False))
    assert [probe.batch_size for probe in fit.boundary.proof] == [36]
    assert (fit.boundary.largest_batch, fit.boundary.multiple_of, fit.device.device_count) == (36, 12, 4)


def test_one_batch_already_compiled_has_no_other() -> None:
    with pytest.raises(UsageError, match="no other batch size can be tried"):
        fit_target(Target(text="vgg16.jaxmem"), Question())


def test_on_the_command_line(programs: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answer = tmp_path / "fit.json"
    command = ["fit", f"{programs}:make", "--limit", "1MiB", "--multiple-of", "8", "--resident", "16KiB", "-q"]
    assert main([*command, "--no-advice", "-o", str(answer)]) == 0
    data = json.loads(answer.read_text())
    boundary = data["boundary"]
    assert boundary["next_batch"] - boundary["largest_batch"] == 8
    assert boundary["compiles"] == len(boundary["proof"])
    assert data["reports"][0]["budget_bytes"] == (1 << 20) - (16 << 10)
    largest = boundary["largest_batch"]
    assert main(["report", str(answer)]) == 0
    assert f"Batch {largest} fits" in capsys.readouterr().out
    # The batch that does not fit is a no.
    assert main([*command, "--no-advice", "-b", str(boundary["next_batch"])]) == 1
    assert "does not fit" in capsys.readouterr().out


def test_max_pool_in_pieces_is_max_pool() -> None:
    """Ties included, of which a ReLU makes many, and edges that fill no window."""
    for shape in ((3, 8, 8, 5), (3, 9, 10, 5)):
        features = nnx.relu(jnp.round(2 * jax.random.normal(jax.random.key(0), shape)))
        weights = jax.random.normal(jax.random.key(1), (3, shape[1] // 2, shape[2] // 2, 5))

        def window(features: jax.Array, weights: jax.Array = weights) -> jax.Array:
            return (nnx.max_pool(features, (2, 2), strides=(2, 2)) * weights).sum()

        def split(features: jax.Array, weights: jax.Array = weights) -> jax.Array:
            return (split_max_pool(features, 2) * weights).sum()

        assert jnp.array_equal(nnx.max_pool(features, (2, 2), strides=(2, 2)), split_max_pool(features, 2))
        assert jnp.array_equal(jax.grad(window)(features), jax.grad(split)(features))


class Small(nnx.Module):
    """A layer and nothing that depends on the batch as a whole."""

    def __init__(self) -> None:
        self.dense = nnx.Linear(12, 3, rngs=nnx.Rngs(0))

    def __call__(self, images: jax.Array) -> jax.Array:
        return self.dense(images.reshape(images.shape[0], -1))


def test_micro_batches_make_the_same_step() -> None:
    import optax

    images = jax.random.normal(jax.random.key(2), (8, 2, 2, 3))
    labels = jnp.arange(8) % 3
    results = []
    for step in (train_step, accumulating_step(train_step, 4)):
        model = Small()
        optimizer = nnx.Optimizer(model, optax.sgd(0.5), wrt=nnx.Param)
        loss = step(model, optimizer, images, labels)
        results.append((loss, model.dense.kernel[...]))
    assert jnp.allclose(results[0][0], results[1][0], rtol=1e-6)
    assert jnp.allclose(results[0][1], results[1][1], rtol=1e-5, atol=1e-6)
    assert not jnp.allclose(results[0][1], Small().dense.kernel[...])


def test_options_of_the_zoo_that_do_not_apply_are_refused() -> None:
    with pytest.raises(ValueError, match="does not divide into 3 micro-batches"):
        build("squeezenet1_1", mode="train", batch_size=8, accumulate=3)
    with pytest.raises(ValueError, match="Only a training step"):
        build("squeezenet1_1", mode="infer", batch_size=8, accumulate=2)
    with pytest.raises(ValueError, match="no choice of max-pools"):
        build("squeezenet1_1", mode="train", batch_size=8, pool="split")
