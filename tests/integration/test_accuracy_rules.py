"""The rules that the accuracy benchmark lays beside the formula, and the figures that it makes of many errors."""

from dataclasses import replace

import pytest

from benchmarks.accuracy.programs import (
    BATCH_SIZES,
    DEVELOPMENT,
    HELD_OUT,
    MODES,
    NETWORKS,
    OWN_BATCH_SIZES,
    questions,
    side,
)
from benchmarks.accuracy.rows import Answer, Row, summarize
from benchmarks.accuracy.rules import four_times_bytes, torchinfo_bytes
from jaxmem.analysis import Target, program_of
from jaxmem.tracing import trace
from jaxmem.tracing.layers import layer_table
from jaxmem_models.registry import MODELS

ROW = Row(
    network="vgg16",
    family="vgg",
    mode="train",
    batch_size=8,
    device="cpu",
    required_bytes=1000,
    is_lower_bound=False,
    answers=(),
    unexplained_bytes=0,
    unattributed_bytes=0,
    gap=None,
    compile_seconds=1.0,
    date="2026-01-01",
)


def test_torchinfo_counts_the_outputs_of_modules_with_parameters() -> None:
    """VGG-16 on one image: 13,547,520 numbers of convolutions and 9,192 of dense layers, twice; pools and ReLUs are not."""
    traced = trace(program_of(Target(text="vgg16", mode="infer", batch_size=1)), platforms=("cpu",))
    table = layer_table(traced.closed_jaxpr, traced.arguments)
    outputs = 4 * (13_547_520 + 9_192)
    assert torchinfo_bytes(table, traced.arguments) == 4 * 224 * 224 * 3 + 4 * 138_357_544 + 2 * outputs
    assert four_times_bytes(traced.arguments) == 16 * 138_357_544


def test_every_family_of_the_zoo_stands_on_one_side_of_the_split() -> None:
    assert not DEVELOPMENT & HELD_OUT
    assert {model.family for model in MODELS} <= DEVELOPMENT | HELD_OUT
    with pytest.raises(KeyError, match="neither side"):
        side("perceptron")


def test_questions_begin_with_small_batches() -> None:
    batches = [question.batch_size for question in questions("cpu")]
    assert batches == sorted(batches)
    each = [len(OWN_BATCH_SIZES.get(network, BATCH_SIZES)) for network in NETWORKS]
    assert len(questions("cpu")) == len(set(questions("cpu"))) == len(MODES) * sum(each)


def test_a_network_of_every_family_is_compared() -> None:
    families = {model.name: model.family for model in MODELS}
    assert {families[network] for network in NETWORKS} == set(families.values()) == DEVELOPMENT | HELD_OUT


def test_summary_of_errors() -> None:
    rows = [
        replace(ROW, answers=(Answer(name="rule", bytes=1000 + error),))
        for error in (-10, 20, -30, 40, 50, 60, 70, 80, -90, 1000)
    ]
    summary = summarize(rows, "rule")
    assert summary is not None
    assert (summary.programs, summary.median, summary.ninth_decile, summary.largest) == (10, 5.5, 9.0, 100.0)
    assert summary.too_low == 30.0
    assert summarize(rows, "another rule") is None
