"""What XLA makes on the way to a result the ledger explains by the operation that it is a step of, to the last byte."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import pytest

import jaxmem
from jaxmem.analysis import Target, analyze_target
from jaxmem.result import Report

_TURNED = "result in another order"

Parameters = dict[str, dict[str, jax.Array]]


def _step(forward: Callable[[Parameters, jax.Array], jax.Array]) -> Callable[[Parameters, jax.Array], Parameters]:
    def step(parameters: Parameters, batch: jax.Array) -> Parameters:
        gradients = jax.grad(lambda parameters: jnp.sum(jnp.square(forward(parameters, batch))))(parameters)
        return jax.tree.map(lambda old, gradient: old - 0.1 * gradient, parameters, gradients)

    return step


def _array(*shape: int) -> Any:
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def _report(forward: Callable[[Parameters, jax.Array], jax.Array], parameters: Any, batch: Any) -> Report:
    return jaxmem.analyze(_step(forward), parameters, batch, device="cpu", donate_argnums=0)


def _kinds(report: Report) -> set[tuple[str, str]]:
    return {(item.kind, row.layer) for row in report.ledger for item in row.items}


def test_the_expanded_kernel_of_a_depthwise_convolution() -> None:
    """For the gradient of a depthwise kernel, XLA for CPU convolves all channels with all and keeps the diagonal.

    All with all is 9 · 256 · 256 numbers of 4 bytes, far more than anything else of the program.
    """

    def forward(parameters: Parameters, batch: jax.Array) -> jax.Array:
        with jax.named_scope("depthwise"):
            return jax.lax.conv_general_dilated(
                batch,
                parameters["depthwise"]["kernel"],
                (1, 1),
                "SAME",
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
                feature_group_count=256,
            )

    report = _report(forward, {"depthwise": {"kernel": _array(3, 3, 1, 256)}}, _array(2, 2, 2, 256))
    steps = [item for row in report.ledger for item in row.items if item.kind == "step of an operation"]
    assert 9 * 256 * 256 * 4 in [item.bytes for item in steps]
    assert report.unexplained_bytes == 0


def test_the_steps_of_an_error_function() -> None:
    """An exact GELU keeps what ``erfc`` has computed on the way, beside its result."""

    def forward(parameters: Parameters, batch: jax.Array) -> jax.Array:
        with jax.named_scope("widen"):
            wide = jax.nn.gelu(batch @ parameters["widen"]["kernel"], approximate=False)
        with jax.named_scope("narrow"):
            return wide @ parameters["narrow"]["kernel"]

    parameters = {"widen": {"kernel": _array(32, 512)}, "narrow": {"kernel": _array(512, 32)}}
    report = _report(forward, parameters, _array(1024, 32))
    assert ("step of an operation", "widen") in _kinds(report)
    assert report.unexplained_bytes == 0


@pytest.mark.parametrize("batch", [2, 8])
def test_the_reciprocals_of_a_softmax(batch: int) -> None:
    """Of the sums that a softmax divides by, XLA for CPU keeps 1 / s, and autodiff s⁻²: JAX has that as 1 / (s · s)."""

    def forward(parameters: Parameters, batch: jax.Array) -> jax.Array:
        with jax.named_scope("query"):
            query = batch @ parameters["query"]["kernel"]
        with jax.named_scope("scores"):
            scores = jax.nn.softmax(jnp.einsum("bqc,bkc->bqk", query, batch))
        with jax.named_scope("mix"):
            return jnp.einsum("bqk,bkc->bqc", scores, query) @ parameters["mix"]["kernel"]

    parameters = {"query": {"kernel": _array(16, 16)}, "mix": {"kernel": _array(16, 16)}}
    report = _report(forward, parameters, _array(batch, 64, 16))
    sums = [item.bytes for row in report.ledger for item in row.items if item.kind == "step of an operation"]
    assert sums == [batch * 64 * 4]
    assert ("step of an operation", "scores") in _kinds(report)
    assert report.unexplained_bytes == 0


@pytest.mark.slow
def test_a_new_kernel_in_the_order_of_the_library(need: Callable[[str], None]) -> None:
    """ResNet-18's largest kernel is updated in cuDNN's order, and its last reader turns it round into the caller's.

    At batch 64 on an RTX 4090 that update is the peak; with less, other moments are.
    """
    need("cuda")
    report = analyze_target(Target(text="resnet18", mode="train", batch_size=64, device="rtx-4090"))
    found = [(row.layer, item.bytes) for row in report.ledger for item in row.items if item.kind == _TURNED]
    assert found == [("layer4/block2/conv2", 3 * 3 * 512 * 512 * 4)]
    assert report.unexplained_bytes == 0


@pytest.mark.slow
def test_the_steps_of_a_logistic_function(need: Callable[[str], None]) -> None:
    """Swin v2's position bias: the exponential of 1 / (1 + exp(−x)) is written out, the rest is done by the softmax."""
    need("cuda")
    report = analyze_target(Target(text="swin_v2_t", mode="infer", batch_size=8, device="h100-sxm"))
    steps = {row.layer for row in report.ledger for item in row.items if item.kind == "step of an operation"}
    assert "stage4/block2/attention/position_bias/gather" in steps
    assert report.unexplained_bytes == 0
