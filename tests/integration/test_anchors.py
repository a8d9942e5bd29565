"""VGG-16 to the byte: a reference step with plain pytrees, the zoo's own step, and the terms by which the two differ.

The reference step is Adam on integer-label cross-entropy without dropout, float32, 224 × 224, parameters and optimizer state
donated. All numbers below follow from Table 1 of the paper (arXiv:1409.1556) and torchvision's head.
"""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import optax
import pytest

from jaxmem.assemble import read_report
from jaxmem.capture import Capture
from jaxmem.formula import Formula
from jaxmem.program import Program
from jaxmem.roles import OPTIMIZER_ROLES, Phase, Role
from jaxmem.xla import read_hlo_proto
from jaxmem_models.programs import build

CONVOLUTIONS = (64, 64, "pool", 128, 128, "pool", *(256,) * 3, "pool", *(512,) * 3, "pool", *(512,) * 3, "pool")
DENSE = ((25088, 4096), (4096, 4096), (4096, 1000))

PARAMETERS = 138_357_544
W = 4 * PARAMETERS
IMAGE = 224 * 224 * 3 * 4
LABEL = 4
FEATURE_MAPS = {"conv_general_dilated": 13_547_520, "reduce_window_max": 1_530_368, "dot_general": 9_192}
KEPT_PER_IMAGE = 60_348_320
MASKS_PER_IMAGE = 13_555_712
POINTER = 8

BATCH = 32


# The reference step.


def forward(parameters: Any, images: jax.Array) -> jax.Array:
    """Logits [batch, 1000] of images [batch, 224, 224, 3]."""
    layers = iter(parameters)
    features = images
    for width in CONVOLUTIONS:
        if width == "pool":
            window = (1, 2, 2, 1)
            features = jax.lax.reduce_window(features, -jnp.inf, jax.lax.max, window, window, "VALID")
            continue
        kernel, bias = next(layers)
        dimensions = ("NHWC", "HWIO", "NHWC")
        features = jax.lax.conv_general_dilated(features, kernel, (1, 1), "SAME", dimension_numbers=dimensions)
        features = jax.nn.relu(features + bias)
    features = features.reshape(features.shape[0], -1)
    for number, (kernel, bias) in enumerate(layers):
        features = features @ kernel + bias
        if number < 2:
            features = jax.nn.relu(features)
    return features


OPTIMIZER = optax.adam(1e-3)


def step(parameters: Any, state: Any, images: jax.Array, labels: jax.Array) -> Any:
    """New parameters, new state, mean loss."""

    def loss_of(parameters: Any) -> jax.Array:
        return optax.softmax_cross_entropy_with_integer_labels(forward(parameters, images), labels).mean()

    loss, gradients = jax.value_and_grad(loss_of)(parameters)
    updates, state = OPTIMIZER.update(gradients, state, parameters)
    return optax.apply_updates(parameters, updates), state, loss


def array(*shape: int, dtype: Any = jnp.float32) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype)


def parameters() -> list[tuple[jax.ShapeDtypeStruct, jax.ShapeDtypeStruct]]:
    widths = [3, *(width for width in CONVOLUTIONS if isinstance(width, int))]
    kernels = [(3, 3, *pair) for pair in itertools.pairwise(widths)] + list(DENSE)
    return [(array(*kernel), array(kernel[-1])) for kernel in kernels]


def training(batch_size: int, **keywords: Any) -> Program:
    state = jax.eval_shape(OPTIMIZER.init, parameters())
    batch = array(batch_size, 224, 224, 3), array(batch_size, dtype=jnp.int32)
    return Program(
        step,
        parameters(),
        state,
        *batch,
        donate_argnums=(0, 1),
        mode="train",
        batch_size=batch_size,
        optimizer="adam",
        **keywords,
    )


def inference(batch_size: int, **keywords: Any) -> Program:
    images = array(batch_size, 224, 224, 3)
    return Program(forward, parameters(), images, mode="infer", batch_size=batch_size, **keywords)


@pytest.fixture(scope="module")
def train_capture(compiled) -> Capture:
    return compiled(training(BATCH))


@pytest.fixture(scope="module")
def train_report(train_capture: Capture):
    return read_report(train_capture)


def bytes_of(formula: Formula, *roles: Role) -> int:
    return sum(leaf.bytes for leaf in formula.leaves if leaf.counted and leaf.role in roles)


def textbook(formula: Formula, name: str) -> int:
    return next(row.bytes for row in formula.textbook if row.name == name)


# Training.


def test_parameters_and_optimizer_state(train_capture: Capture) -> None:
    trained = [argument for argument in train_capture.arguments if argument.role is Role.PARAMETERS]
    assert len(trained) == 32
    assert sum(argument.elements for argument in trained) == train_capture.program.parameter_count == PARAMETERS
    assert sum(argument.logical_bytes for argument in trained) == W == 553_430_176
    state = [argument for argument in train_capture.arguments if argument.role in OPTIMIZER_ROLES]
    assert sum(argument.logical_bytes for argument in state) == 2 * W + 4 == 1_106_860_356


def test_xla_reports_the_arguments_the_donated_and_the_results_of_the_step(train_capture: Capture) -> None:
    statistics = train_capture.statistics
    donated = 3 * W + 4
    results = 32 + 2 * 32 + 1 + 1  # parameters, two moments each, Adam's count, the loss
    assert len(train_capture.outputs) == results
    assert statistics.argument_bytes == donated + BATCH * (IMAGE + LABEL)
    assert statistics.alias_bytes == donated
    assert statistics.output_bytes == donated + 4 + POINTER * results


def test_the_formula_has_the_same_arguments_and_results(train_capture: Capture, formula) -> None:
    derived = formula(training(BATCH))
    assert bytes_of(derived, Role.PARAMETERS) == W
    assert bytes_of(derived, Role.OPTIMIZER_FIRST_MOMENT) == W
    assert bytes_of(derived, Role.OPTIMIZER_SECOND_MOMENT) == W
    assert bytes_of(derived, Role.OPTIMIZER_OTHER) == 4
    assert bytes_of(derived, Role.INPUTS) == BATCH * (IMAGE + LABEL)
    assert bytes_of(derived, Role.OUTPUTS) == 4 + POINTER * len(train_capture.outputs)


@pytest.mark.parametrize("batch_size", [1, 32])
def test_saved_activations_are_what_autodiff_lists(batch_size: int, formula) -> None:
    kept = [leaf for leaf in formula(training(batch_size)).leaves if leaf.keeps]
    masks = sum(leaf.bytes for leaf in kept if leaf.bytes == leaf.elements)
    maps = sum(leaf.bytes for leaf in kept if leaf.bytes == 4 * leaf.elements)
    assert masks + maps == sum(leaf.bytes for leaf in kept)
    # The loss keeps, for each image, a mask and two numbers of the class that was right: the gather of the log-sum-exp.
    assert maps == batch_size * (KEPT_PER_IMAGE + 2 * 4)
    assert masks == batch_size * (MASKS_PER_IMAGE + 1)
    # The inputs of all layers but the first (the image is an argument), and exp(logits): as many as the maps themselves.
    assert 4 * sum(FEATURE_MAPS.values()) == KEPT_PER_IMAGE


def test_kept_feature_maps_by_layer(formula) -> None:
    """The input of every layer but the first, whose input is an argument: what each layer before it hands over."""
    kept = [leaf for leaf in formula(training(1)).leaves if leaf.keeps and leaf.bytes == 4 * leaf.elements]
    expected = []
    size = 224
    for width in CONVOLUTIONS:
        size = size // 2 if width == "pool" else size
        widest = width if isinstance(width, int) else expected[-1][1] // (2 * size) ** 2
        expected.append(("reduce_window_max" if width == "pool" else "max", size * size * widest))
    # The last pool feeds fc6 through a reshape; fc6 and fc7 feed the next; the loss keeps exp(logits) beside scalars.
    expected += [("max", 4096), ("max", 4096)]
    maps = [(leaf.primitive, leaf.elements) for leaf in kept if leaf.elements > 1]
    assert maps == [*expected, ("exp", 1000)]


def test_feature_maps_of_one_image(train_capture: Capture) -> None:
    table = train_capture.layer_table
    assert table is not None
    found = dict.fromkeys(FEATURE_MAPS, 0)
    for operation in table.operations:
        if operation.phase is Phase.FORWARD and operation.primitive in found:
            found[operation.primitive] += table.values[operation.results[0]].elements
    assert found == {name: BATCH * elements for name, elements in FEATURE_MAPS.items()}


def test_both_textbook_answers_as_written(formula) -> None:
    trained, inferred = formula(training(BATCH)), formula(inference(1))
    maps, pair = 15_087_080, 2 * 224 * 224 * 64
    inputs = maps - 1000 + 150_528  # the input of every layer: the image, and every map but the last
    assert textbook(trained, "textbook: 4w + B·ΣF") == 4 * (4 * PARAMETERS + BATCH * maps) == 4_144_866_944
    assert textbook(trained, "textbook: B·(w + ΣF)") == BATCH * 4 * (PARAMETERS + inputs)
    assert textbook(inferred, "textbook: w + max(F_l + F_l+1)") == 4 * (PARAMETERS + pair)
    assert textbook(inferred, "textbook: B·(w + ΣF)") == 4 * (PARAMETERS + inputs)


def test_the_reference_step_is_reconciled(train_report) -> None:
    assert train_report.unexplained_bytes == 0
    assert train_report.roles.get(Role.UNATTRIBUTED, 0) == 0
    assert sum(train_report.roles.values()) == train_report.required_bytes
    assert sum(row.compiled_bytes for row in train_report.ledger) == train_report.required_bytes


def test_reserved_is_xlas_own_numbers_and_the_constants_they_leave_out(train_capture: Capture, train_report) -> None:
    statistics = train_capture.statistics
    needed = (statistics.argument_bytes, statistics.output_bytes, statistics.temp_bytes)
    added = sum(part for part in needed if isinstance(part, int)) - (3 * W + 4)  # donated: in arguments and in outputs
    _, assignment = read_hlo_proto(train_capture.hlo_proto, origin="the capture")
    assert assignment is not None
    constants = sum(a.size for a in assignment.allocations if a.is_constant and not a.is_thread_local)
    assert 0 < constants < 1024
    assert train_report.reserved_bytes == added + constants


# Inference.


@pytest.mark.parametrize("batch_size", [1, 8])
def test_with_fusions_opened_inference_needs_two_successive_maps(batch_size: int, compiled, opened, formula) -> None:
    program = inference(batch_size, compiler_options=opened)
    capture = compiled(program)
    pair = 2 * batch_size * 224 * 224 * 64 * 4
    assert capture.statistics.temp_bytes == pair == 25_690_112 * batch_size
    assert textbook(formula(program), "textbook: w + max(F_l + F_l+1)") == capture.statistics.temp_bytes + W
    report = read_report(capture)
    # What is left hidden are the blocks into which the runtime packs the operands of large matrix products.
    assert all(row.instruction.startswith("dot_general") for row in report.hidden.fusions)
    assert report.unexplained_bytes == 0
    infinity = 4  # the constant with which a max-pool begins
    assert report.reserved_bytes == W + batch_size * (IMAGE + 4000) + pair + infinity


@pytest.mark.parametrize("batch_size", [2, 8])
def test_by_default_the_fusions_hide_nearly_all_of_it(batch_size: int, compiled) -> None:
    capture = compiled(inference(batch_size))
    assert capture.statistics.temp_bytes == 49_152 * batch_size
    report = read_report(capture)
    assert report.hidden.fusions
    assert isinstance(report.hidden.bytes, int)
    assert report.hidden.bytes > 100 * capture.statistics.temp_bytes
    assert report.unexplained_bytes == 0


# The zoo's step, from what Flax adds.


def test_the_zoos_step_adds_a_counter_and_the_keys_of_dropout(compiled) -> None:
    spec = build("vgg16", mode="train", batch_size=2)
    capture = compiled(Program(spec.function, *spec.arguments, mode="train", batch_size=2, optimizer="adam"))
    dropout = 2 * (8 + 4)  # two layers, each with a stream of random numbers: a key of two words, and a count
    donated = 3 * W + 4 + 4 + dropout  # Adam's count and nnx.Optimizer's own step
    assert capture.statistics.alias_bytes == donated == 3 * W + 32
    assert capture.statistics.argument_bytes == donated + 2 * (IMAGE + LABEL)
    # 32 parameters with two moments each, two counts, a key and a count for each dropout, the loss.
    results = 3 * 32 + 2 + 2 * 2 + 1
    assert len(capture.outputs) == results
    assert capture.statistics.output_bytes == donated + 4 + POINTER * results
