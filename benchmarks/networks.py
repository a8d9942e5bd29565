"""Networks that took no part in deriving the rules (ResNet-18: in one), so that a measurement on them is a test.

Neither belongs to the zoo. ZFNet has wide windows, strides and overlapping pools; ResNet-18 has branches, batch
normalization, pointwise convolutions and an average over the image. Images are NHWC.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx


class ZFNet(nnx.Module):
    """Zeiler and Fergus, Visualizing and Understanding Convolutional Networks (arXiv:1311.2901), figure 3.

    Without its contrast normalization. Windows 7x7 with stride 2, 5x5 with stride 2, then 3x3; pools 3x3 with stride 2.
    """

    def __init__(self, *, classes: int = 1000, rngs: nnx.Rngs) -> None:
        conv = partial(nnx.Conv, rngs=rngs)
        self.conv1 = conv(3, 96, (7, 7), strides=2, padding=1)
        self.conv2 = conv(96, 256, (5, 5), strides=2, padding="VALID")
        self.conv3 = conv(256, 384, (3, 3))
        self.conv4 = conv(384, 384, (3, 3))
        self.conv5 = conv(384, 256, (3, 3))
        self.fc6 = nnx.Linear(6 * 6 * 256, 4096, rngs=rngs)
        self.fc7 = nnx.Linear(4096, 4096, rngs=rngs)
        self.fc8 = nnx.Linear(4096, classes, rngs=rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        """Logits [batch, classes] of images [batch, 224, 224, 3]."""
        pool = partial(nnx.max_pool, window_shape=(3, 3), strides=(2, 2))
        x = pool(nnx.relu(self.conv1(images)), padding="SAME")
        x = pool(nnx.relu(self.conv2(x)), padding="SAME")
        x = nnx.relu(self.conv3(x))
        x = nnx.relu(self.conv4(x))
        x = pool(nnx.relu(self.conv5(x)))
        x = x.reshape(x.shape[0], -1)
        return self.fc8(nnx.relu(self.fc7(nnx.relu(self.fc6(x)))))


class ResidualBlock(nnx.Module):
    """Two 3x3 convolutions around which the input passes, through a pointwise convolution where its shape changes."""

    def __init__(self, channels: int, width: int, stride: int, *, rngs: nnx.Rngs) -> None:
        conv = partial(nnx.Conv, use_bias=False, rngs=rngs)
        self.conv1, self.norm1 = conv(channels, width, (3, 3), strides=stride), nnx.BatchNorm(width, rngs=rngs)
        self.conv2, self.norm2 = conv(width, width, (3, 3)), nnx.BatchNorm(width, rngs=rngs)
        self.changes_shape = stride != 1 or channels != width
        if self.changes_shape:
            self.project = conv(channels, width, (1, 1), strides=stride)
            self.project_norm = nnx.BatchNorm(width, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """[batch, height, width, channels] to the same, divided by the stride."""
        y = nnx.relu(self.norm1(self.conv1(x)))
        y = self.norm2(self.conv2(y))
        return nnx.relu(y + (self.project_norm(self.project(x)) if self.changes_shape else x))


class ResNet18(nnx.Module):
    """He, Zhang, Ren and Sun, Deep Residual Learning for Image Recognition (arXiv:1512.03385), table 1, 18 layers."""

    def __init__(self, *, classes: int = 1000, rngs: nnx.Rngs) -> None:
        self.stem = nnx.Conv(3, 64, (7, 7), strides=2, use_bias=False, rngs=rngs)
        self.norm = nnx.BatchNorm(64, rngs=rngs)
        blocks, channels = [], 64
        for width, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
            blocks += [ResidualBlock(channels, width, stride, rngs=rngs), ResidualBlock(width, width, 1, rngs=rngs)]
            channels = width
        self.blocks = nnx.List(blocks)
        self.classify = nnx.Linear(channels, classes, rngs=rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        """Logits [batch, classes] of images [batch, height, width, 3]."""
        x = nnx.relu(self.norm(self.stem(images)))
        x = nnx.max_pool(x, (3, 3), strides=(2, 2), padding="SAME")
        for block in self.blocks:
            x = block(x)
        return self.classify(jnp.mean(x, axis=(1, 2)))


HELD_OUT: dict[str, Callable[..., nnx.Module]] = {"zfnet": ZFNet, "resnet18": ResNet18}
"""By the name that the commands here give them."""
