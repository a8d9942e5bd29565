"""The training steps of the zoo against their losses by hand, and what remat leaves as it is; on networks of a few numbers."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from jaxmem_models.layers import ConvBatchNorm, Sequential, max_pool
from jaxmem_models.registry import REMAT_POLICIES
from jaxmem_models.steps import auxiliary_step, train_step


class Heads(nnx.Module):
    """One matrix for each of several classifiers, all on the same features."""

    head0: nnx.Param

    def __init__(self, count: int) -> None:
        self.count = count
        for number, key in enumerate(jax.random.split(jax.random.key(0), count)):
            setattr(self, f"head{number}", nnx.Param(jax.random.normal(key, (4, 3))))

    def __call__(self, features: jax.Array) -> Any:
        logits = tuple(features @ getattr(self, f"head{number}")[...] for number in range(self.count))
        return logits if self.count > 1 else logits[0]


def cross_entropy(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """−log of the softmax at each label."""
    shares = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    return -np.log(np.take_along_axis(shares, labels[..., None], axis=-1)[..., 0])


def arrays(*shape: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(6)
    return random.standard_normal((*shape, 4)).astype(np.float32), random.integers(0, 3, shape, np.int32)


def test_the_loss_of_an_auxiliary_classifier_counts_for_its_weight() -> None:
    model, (features, labels) = Heads(3), arrays(5)
    before = [np.asarray(getattr(model, f"head{number}")[...], np.float64) for number in range(3)]
    losses = [cross_entropy(features @ head, labels).mean() for head in before]
    optimizer = nnx.Optimizer(model, optax.sgd(1.0), wrt=nnx.Param)
    loss = nnx.jit(auxiliary_step((0.3, 0.4)))(model, optimizer, jnp.asarray(features), jnp.asarray(labels))
    np.testing.assert_allclose(loss, losses[0] + 0.3 * losses[1] + 0.4 * losses[2], rtol=1e-6)
    for number, weight in enumerate((1.0, 0.3, 0.4)):
        # The gradient of a cross-entropy by the logits: shares, less one at the label.
        shares = np.exp(features @ before[number])
        shares /= shares.sum(axis=-1, keepdims=True)
        gradient = weight * features.T @ (shares - np.eye(3)[labels]) / 5
        np.testing.assert_allclose(getattr(model, f"head{number}")[...], before[number] - gradient, atol=1e-6)


def test_a_segmentation_averages_over_all_pixels() -> None:
    model, (features, labels) = Heads(1), arrays(2, 6, 5)
    head = np.asarray(model.head0[...], np.float64)
    expected = cross_entropy(features @ head, labels).mean()
    optimizer = nnx.Optimizer(model, optax.sgd(1.0), wrt=nnx.Param)
    loss = nnx.jit(train_step)(model, optimizer, jnp.asarray(features), jnp.asarray(labels))
    np.testing.assert_allclose(loss, expected, rtol=1e-6)


class Network(nnx.Module):
    """Two blocks with normalization and dropout, whose statistics and random numbers remat must not draw twice."""

    def __init__(self, remat: str | None) -> None:
        rngs = nnx.Rngs(0)
        blocks = {}
        for number, channels in enumerate((3, 8), start=1):
            layers = {"conv": ConvBatchNorm(channels, 8, 3, rngs=rngs), "drop": nnx.Dropout(0.5, rngs=rngs)}
            blocks[f"block{number}"] = Sequential(layers)
        self.blocks = Sequential(blocks, remat=remat)
        self.head = nnx.Linear(8, 3, rngs=rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        return self.head(self.blocks(images).mean(axis=(1, 2)))


def test_remat_leaves_parameters_statistics_and_dropout_as_they_are() -> None:
    images = jnp.asarray(np.random.default_rng(7).standard_normal((4, 6, 6, 3)), jnp.float32)
    labels = jnp.asarray([0, 1, 2, 0])
    states = []
    for remat in (None, *REMAT_POLICIES):
        model = Network(remat)
        optimizer = nnx.Optimizer(model, optax.sgd(0.1), wrt=nnx.Param)
        step = nnx.jit(train_step)
        for _ in range(2):
            step(model, optimizer, images, labels)
        states.append(dict(nnx.to_flat_state(nnx.state(model, (nnx.Param, nnx.BatchStat, nnx.RngCount)))))
    assert len(states[0]) > 10
    for path, variable in states[0].items():
        for policy, state in zip(REMAT_POLICIES, states[1:], strict=True):
            found = state[path].get_value()
            np.testing.assert_allclose(
                found, variable.get_value(), rtol=1e-4, atol=1e-6, err_msg=f"{path} under {policy}"
            )


@pytest.mark.parametrize(("length", "windows"), [(1, 0), (2, 1), (3, 1), (4, 2), (5, 2), (6, 3), (7, 3)])
def test_a_pool_that_rounds_up_has_a_window_for_every_pixel(length: int, windows: int) -> None:
    """Windows of 3 at 0, 2, 4, ...: the last reaches over the end where a pixel is left. One pixel has none."""
    features = jnp.arange(float(length)).reshape(1, length, 1, 1) * jnp.ones((1, 1, length, 1))
    pooled = max_pool(features, 3, 2, round_up=True)
    assert pooled.shape == (1, windows, windows, 1)
    np.testing.assert_array_equal(
        pooled[0, :, 0, 0] if windows else [], [min(2 * window + 2, length - 1) for window in range(windows)]
    )
