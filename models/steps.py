"""The training step and the inference function, as a user would write them."""

import jax
import jax.numpy as jnp
import optax
from flax import nnx


def train_step(model: nnx.Module, optimizer: nnx.Optimizer, images: jax.Array, labels: jax.Array) -> jax.Array:
    """One step on a batch: updates model and optimizer in place, and returns the mean loss.

    Args:
        model: in training mode.
        optimizer: of the model's parameters.
        images: [batch, height, width, 3].
        labels: [batch], the number of the class.
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


def infer(model: nnx.Module, images: jax.Array) -> jax.Array:
    """Logits [batch, classes] of images [batch, height, width, 3], by a model in evaluation mode."""
    return model(images)
