"""ResNet: He et al., Deep Residual Learning for Image Recognition (arXiv:1512.03385), and two networks of its shape.

ResNeXt (Xie et al., arXiv:1611.05431) groups the 3x3 convolutions of the bottlenecks, Wide ResNet (Zagoruyko and
Komodakis, arXiv:1605.07146) widens them. Torchvision's bottleneck (resnet.py) is meant: its stride stands at the 3x3
convolution, in the paper at the first 1x1. Images are NHWC.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxmem_models.layers import (
    ConvBatchNorm,
    Sequential,
    add,
    batch_norm,
    convolution,
    global_average_pool,
    max_pool,
    run_layer,
)

# Table 1 of arXiv:1512.03385: the blocks of conv2_x ... conv5_x by depth.
BLOCKS: dict[int, tuple[int, int, int, int]] = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}
WIDTHS: tuple[int, int, int, int] = (64, 128, 256, 512)


class ResNet(nnx.Module):
    """ResNet 18, 34, 50, 101 and 152, ResNeXt and Wide ResNet.

    The name of a layer is its attribute and its scope: ``conv1``, ``bn1``, ``layer1/block1/conv1`` ...
    ``layer4/block3/bn3``, ``layer1/block1/downsample/conv``, ``fc``; ``pool1``, ``layer1/block1/add`` and ``avgpool`` are
    scopes alone. A ReLU stands in the scope of what it follows.

    Args:
        depth: a column of Table 1; up to 34 the blocks are basic ones, from 50 on bottlenecks.
        groups: of each 3x3 convolution of a bottleneck (cardinality in ResNeXt).
        group_width: filters of each group in ``layer1``; doubled from layer to layer.
        classes: width of ``fc``.
        dtype: of the activations.
        param_dtype: of the parameters.
        remat: a policy of `jaxmem_models.remat` for each residual block.
        rngs: of the parameters.
    """

    def __init__(
        self,
        *,
        depth: int,
        groups: int = 1,
        group_width: int = 64,
        classes: int = 1000,
        dtype: Any = jnp.float32,
        param_dtype: Any = jnp.float32,
        remat: str | None = None,
        rngs: nnx.Rngs,
    ) -> None:
        formats = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        self.conv1 = convolution(3, 64, 7, strides=2, **formats)
        self.bn1 = batch_norm(64, **formats)
        channels = 64
        for number, (width, count) in enumerate(zip(WIDTHS, BLOCKS[depth], strict=True), start=1):
            blocks: dict[str, nnx.Module] = {}
            for block in range(1, count + 1):
                strides = 2 if block == 1 and number > 1 else 1
                if depth < 50:
                    blocks[f"block{block}"] = BasicBlock(channels, width, strides=strides, **formats)
                    channels = width
                else:
                    inner = groups * group_width * width // 64
                    blocks[f"block{block}"] = Bottleneck(
                        channels, inner, 4 * width, strides=strides, groups=groups, **formats
                    )
                    channels = 4 * width
            setattr(self, f"layer{number}", Sequential(blocks, remat=remat))
        self.fc = nnx.Linear(channels, classes, **formats)

    def __call__(self, images: jax.Array) -> jax.Array:
        """Logits [batch, classes] of images [batch, height, width, 3]."""
        features = run_layer(self, "conv1", images)
        features = run_layer(self, "bn1", features, nnx.relu)
        with jax.named_scope("pool1"):
            features = max_pool(features, 3, 2, padding=1)
        for number in range(1, 5):
            features = run_layer(self, f"layer{number}", features)
        with jax.named_scope("avgpool"):
            features = global_average_pool(features)
        return run_layer(self, "fc", features)


class BasicBlock(nnx.Module):
    """Two 3x3 convolutions around which the input is carried (Figure 5, left).

    Args:
        channels: of the input.
        width: of both convolutions.
        strides: of the first; where it changes the size, or ``width`` the channels, ``downsample`` fits the input to it.
        formats: ``dtype``, ``param_dtype`` and ``rngs``.
    """

    def __init__(self, channels: int, width: int, *, strides: int, **formats: Any) -> None:
        self.conv1 = convolution(channels, width, 3, strides=strides, **formats)
        self.bn1 = batch_norm(width, **formats)
        self.conv2 = convolution(width, width, 3, **formats)
        self.bn2 = batch_norm(width, **formats)
        self.downsample = _projection(channels, width, strides=strides, **formats)

    def __call__(self, features: jax.Array) -> jax.Array:
        """Features [batch, height / strides, width / strides, width of the block]."""
        residual = run_layer(self, "bn1", run_layer(self, "conv1", features), nnx.relu)
        residual = run_layer(self, "bn2", run_layer(self, "conv2", residual))
        return _added(self, features, residual)


class Bottleneck(nnx.Module):
    """A 1x1, a 3x3 and a 1x1 convolution around which the input is carried (Figure 5, right).

    Args:
        channels: of the input.
        inner: width of the first two convolutions.
        width: of the last.
        strides: of the 3x3; where it changes the size, or ``width`` the channels, ``downsample`` fits the input to it.
        groups: of the 3x3.
        formats: ``dtype``, ``param_dtype`` and ``rngs``.
    """

    def __init__(self, channels: int, inner: int, width: int, *, strides: int, groups: int, **formats: Any) -> None:
        self.conv1 = convolution(channels, inner, 1, **formats)
        self.bn1 = batch_norm(inner, **formats)
        self.conv2 = convolution(inner, inner, 3, strides=strides, groups=groups, **formats)
        self.bn2 = batch_norm(inner, **formats)
        self.conv3 = convolution(inner, width, 1, **formats)
        self.bn3 = batch_norm(width, **formats)
        self.downsample = _projection(channels, width, strides=strides, **formats)

    def __call__(self, features: jax.Array) -> jax.Array:
        """Features [batch, height / strides, width / strides, width of the block]."""
        residual = run_layer(self, "bn1", run_layer(self, "conv1", features), nnx.relu)
        residual = run_layer(self, "bn2", run_layer(self, "conv2", residual), nnx.relu)
        residual = run_layer(self, "bn3", run_layer(self, "conv3", residual))
        return _added(self, features, residual)


def _projection(channels: int, width: int, *, strides: int, **formats: Any) -> ConvBatchNorm | None:
    """What makes the input as large as the residual (option B of the paper); None where it is already."""
    if strides == 1 and channels == width:
        return None
    return ConvBatchNorm(channels, width, 1, strides=strides, activation=None, **formats)


def _added(block: BasicBlock | Bottleneck, features: jax.Array, residual: jax.Array) -> jax.Array:
    if block.downsample is not None:
        features = run_layer(block, "downsample", features)
    return add(features, residual, nnx.relu)
