"""The training step and the inference function, as a user would write them."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx


def train_step(model: nnx.Module, optimizer: nnx.Optimizer, images: jax.Array, labels: jax.Array) -> jax.Array:
    """One step on a batch: updates model and optimizer in place, and returns the mean loss.

    Args:
        model: in training mode.
        optimizer: of the model's parameters.
        images: [batch, height, width, channels].
        labels: the number of the class, [batch], or of each pixel's class, [batch, height, width].
    """

    def loss_of(model):
        logits = model(images)
        with jax.named_scope("loss"):
            # A cross-entropy in bfloat16 would round the loss to three digits.
            losses = optax.softmax_cross_entropy_with_integer_labels(logits.astype(jnp.float32), labels)
            return losses.mean()

    loss, gradients = nnx.value_and_grad(loss_of)(model)
    optimizer.update(model, gradients)
    return loss


def infer(model: nnx.Module, inputs: jax.Array) -> jax.Array:
    """Logits of images [batch, height, width, channels] or tokens [batch, length], by a model in evaluation mode."""
    return model(inputs)


def language_step(model: nnx.Module, optimizer: nnx.Optimizer, tokens: jax.Array) -> jax.Array:
    """One step of a language model: updates model and optimizer in place, and returns the mean loss.

    Args:
        model: in training mode.
        optimizer: of the model's parameters.
        tokens: [batch, length]. Each is foretold from those before it; after the last stands none.
    """

    def loss_of(model):
        logits = model(tokens)
        with jax.named_scope("loss"):
            # Rolled, not sliced: logits without their last position would be a copy of all of them.
            following = jnp.roll(tokens, -1, axis=1)
            losses = optax.softmax_cross_entropy_with_integer_labels(logits.astype(jnp.float32), following)
            return losses[:, :-1].mean()

    loss, gradients = nnx.value_and_grad(loss_of)(model)
    optimizer.update(model, gradients)
    return loss


def auxiliary_step(weights: tuple[float, ...]) -> Callable[..., jax.Array]:
    """`train_step` for a network with auxiliary classifiers: the loss of each counts for its weight beside the main one."""

    def train_step(model: nnx.Module, optimizer: nnx.Optimizer, images: jax.Array, labels: jax.Array) -> jax.Array:
        def loss_of(model):
            every_logits = model(images)
            with jax.named_scope("loss"):
                losses = [
                    optax.softmax_cross_entropy_with_integer_labels(logits.astype(jnp.float32), labels).mean()
                    for logits in every_logits
                ]
                return sum(weight * loss for weight, loss in zip((1.0, *weights), losses, strict=True))

        loss, gradients = nnx.value_and_grad(loss_of)(model)
        optimizer.update(model, gradients)
        return loss

    return train_step


class _Keeper:
    """Stands where a step expects an optimizer, and keeps the gradients."""

    gradients: Any = None

    def update(self, model: nnx.Module, gradients: Any) -> None:
        """What an optimizer does, less the update."""
        self.gradients = gradients


def accumulating_step(step: Callable[..., jax.Array], count: int) -> Callable[..., jax.Array]:
    """The training step ``step`` with its batch cut into ``count`` micro-batches, one after another, and one update.

    The gradients are the mean of those of the micro-batches, which is that of the whole batch. What depends on the batch as
    a whole, as the statistics of batch normalization do, is of a micro-batch.
    """

    def train_step(model: nnx.Module, optimizer: nnx.Optimizer, *batch: jax.Array) -> jax.Array:
        graph, parameters, state = nnx.split(model, nnx.Param, ...)

        def add(carry, micro_batch):
            sums, state = carry
            copy, keeper = nnx.merge(graph, parameters, state, copy=True), _Keeper()
            loss = step(copy, keeper, *micro_batch)
            _, _, state = nnx.split(copy, nnx.Param, ...)
            return (jax.tree.map(jnp.add, sums, keeper.gradients), state), loss

        micro_batches = [array.reshape(count, array.shape[0] // count, *array.shape[1:]) for array in batch]
        zeros = jax.tree.map(jnp.zeros_like, parameters)
        (sums, state), losses = jax.lax.scan(add, (zeros, state), micro_batches)
        nnx.update(model, state)
        optimizer.update(model, jax.tree.map(lambda total: total / count, sums))
        return losses.mean()

    return train_step


def decode_step(model: Any, cache: Any, tokens: jax.Array) -> tuple[jax.Array, Any]:
    """One more token of every sequence: logits [batch, classes] of what follows ``tokens`` [batch], and the next cache."""
    return model.decode(tokens, cache)
