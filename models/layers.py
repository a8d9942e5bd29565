"""What several architectures share: layers that run in the scope of their name, convolutions, normalization, pools."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxmem_models.remat import rematerialized

Activation = Callable[[jax.Array], jax.Array]


def run_layer(module: nnx.Module, name: str, features: jax.Array, activation: Activation | None = None) -> jax.Array:
    """The layer ``module.<name>`` and the activation that follows it, in the scope of that name."""
    with jax.named_scope(name):
        features = getattr(module, name)(features)
        return features if activation is None else activation(features)


class Sequential(nnx.Module):
    """Layers one after another, each an attribute and a scope of its own.

    Args:
        layers: by name, in the order in which they run.
        remat: a policy of `rematerialized` for each of them.
    """

    def __init__(self, layers: Mapping[str, nnx.Module], *, remat: str | None = None) -> None:
        for name, layer in layers.items():
            setattr(self, name, layer)
        self.names = tuple(layers)
        self.remat = remat

    def __call__(self, features: jax.Array) -> jax.Array:
        """What the last layer returns."""
        for name in self.names:
            with jax.named_scope(name):
                features = run_block(getattr(self, name), features, remat=self.remat)
        return features


def run_block(block: Any, *features: jax.Array, remat: str | None) -> jax.Array:
    """``block(*features)``, under a policy of `rematerialized`."""
    return rematerialized(type(block).__call__, remat)(block, *features)


def convolution(
    channels: int,
    width: int,
    kernel_size: int | tuple[int, int],
    *,
    strides: int = 1,
    padding: int | tuple[int, int] | None = None,
    groups: int = 1,
    use_bias: bool = False,
    **formats: Any,
) -> nnx.Conv:
    """A convolution of NHWC features, without bias unless asked for, initialized as in He et al. (arXiv:1502.01852).

    Args:
        channels: of its input.
        width: the number of its filters.
        kernel_size: height and width, or one number for both.
        strides: in both directions.
        padding: pixels on either side, of the height and of the width; half the kernel where none is given, which keeps
            the size at stride 1.
        groups: each filter reads ``channels / groups`` channels.
        use_bias: add a number to each filter's result.
        formats: ``dtype``, ``param_dtype`` and ``rngs``.
    """
    height, breadth = _pair(kernel_size)
    above, beside = _pair(padding) if padding is not None else (height // 2, breadth // 2)
    return nnx.Conv(
        channels,
        width,
        kernel_size=(height, breadth),
        strides=strides,
        padding=((above, above), (beside, beside)),
        feature_group_count=groups,
        use_bias=use_bias,
        kernel_init=nnx.initializers.variance_scaling(2.0, "fan_out", "normal"),
        **formats,
    )


def batch_norm(channels: int, *, epsilon: float = 1e-5, momentum: float = 0.9, **formats: Any) -> nnx.BatchNorm:
    """Batch normalization. ``momentum`` is the share of the old statistics: torchvision's 0.1 is the share of the new."""
    return nnx.BatchNorm(channels, epsilon=epsilon, momentum=momentum, **formats)


class ConvBatchNorm(nnx.Module):
    """A convolution without bias, batch normalization and an activation, in the scopes ``conv`` and ``bn``.

    Args:
        channels, width, kernel_size, strides, padding, groups: see `convolution`.
        activation: after the normalization; None for none.
        epsilon, momentum: see `batch_norm`.
        formats: ``dtype``, ``param_dtype`` and ``rngs``.
    """

    def __init__(
        self,
        channels: int,
        width: int,
        kernel_size: int | tuple[int, int],
        *,
        strides: int = 1,
        padding: int | tuple[int, int] | None = None,
        groups: int = 1,
        activation: Activation | None = nnx.relu,
        epsilon: float = 1e-5,
        momentum: float = 0.9,
        **formats: Any,
    ) -> None:
        self.conv = convolution(
            channels, width, kernel_size, strides=strides, padding=padding, groups=groups, **formats
        )
        self.bn = batch_norm(width, epsilon=epsilon, momentum=momentum, **formats)
        self.activation = activation

    def __call__(self, features: jax.Array) -> jax.Array:
        """Features [batch, height, width, width of the convolution]."""
        return run_layer(self, "bn", run_layer(self, "conv", features), self.activation)


class SqueezeExcitation(nnx.Module):
    """Squeeze-and-excitation: Hu et al., arXiv:1709.01507, as 1x1 convolutions of the mean of each channel.

    Its scopes: ``squeeze`` takes the means, ``fc1`` and ``fc2`` make a factor for each channel of them, ``scale`` multiplies.

    Args:
        channels: of its input and of its result.
        hidden: width of ``fc1``.
        activation: after ``fc1``.
        gate: after ``fc2``, from any number to a factor.
        formats: ``dtype``, ``param_dtype`` and ``rngs``.
    """

    def __init__(
        self,
        channels: int,
        hidden: int,
        *,
        activation: Activation = nnx.relu,
        gate: Activation = nnx.sigmoid,
        **formats: Any,
    ) -> None:
        self.fc1 = convolution(channels, hidden, 1, use_bias=True, **formats)
        self.fc2 = convolution(hidden, channels, 1, use_bias=True, **formats)
        self.activation = activation
        self.gate = gate

    def __call__(self, features: jax.Array) -> jax.Array:
        """Features [batch, height, width, channels], each channel times its factor."""
        with jax.named_scope("squeeze"):
            factors = features.mean(axis=(1, 2), keepdims=True)
        factors = run_layer(self, "fc2", run_layer(self, "fc1", factors, self.activation), self.gate)
        with jax.named_scope("scale"):
            return features * factors


def stochastic_depth(rate: float, *, rngs: nnx.Rngs) -> nnx.Dropout:
    """Stochastic depth: Huang et al., arXiv:1603.09382, on features [batch, height, width, channels].

    Training drops all that a residual branch adds to an image with probability ``rate``, and divides the others by what is
    left.
    """
    return nnx.Dropout(rate, broadcast_dims=(1, 2, 3), rngs=rngs)


def add(
    shortcut: jax.Array, residual: jax.Array, activation: Activation | None = None, *, name: str = "add"
) -> jax.Array:
    """The end of a residual block, in the scope of its name: the sum, and the activation that follows it."""
    with jax.named_scope(name):
        features = shortcut + residual
        return features if activation is None else activation(features)


class Residual(Sequential):
    """Layers one after another, and the sum of their input and their result, in the scope ``add``.

    Args:
        layers: by name, in the order in which they run.
        drop_rate: of ``stochastic_depth``, a layer of its own before the sum where it is not zero.
    """

    def __init__(self, layers: Mapping[str, nnx.Module], *, drop_rate: float = 0.0, rngs: nnx.Rngs) -> None:
        last = {"stochastic_depth": stochastic_depth(drop_rate, rngs=rngs)} if drop_rate else {}
        super().__init__({**layers, **last})

    def __call__(self, features: jax.Array) -> jax.Array:
        """The sum, in the shape of the input."""
        return add(features, super().__call__(features))


class Classifier(nnx.Module):
    """The mean of each channel, dropout (unless 0) and a dense layer, in the scopes ``avgpool``, ``drop`` and ``fc``."""

    def __init__(self, channels: int, classes: int, *, dropout: float = 0.0, rngs: nnx.Rngs, **formats: Any) -> None:
        self.drop = nnx.Dropout(dropout, rngs=rngs) if dropout else None
        self.fc = nnx.Linear(channels, classes, kernel_init=nnx.initializers.normal(0.01), rngs=rngs, **formats)

    def __call__(self, features: jax.Array) -> jax.Array:
        """Logits [batch, classes] of features [batch, height, width, channels]."""
        with jax.named_scope("avgpool"):
            features = global_average_pool(features)
        if self.drop is not None:
            features = run_layer(self, "drop", features)
        return run_layer(self, "fc", features)


def round_width(width: float, divisor: int = 8) -> int:
    """The multiple of ``divisor`` nearest to ``width``, the next one up where that would lose more than a tenth."""
    rounded = max(divisor, int(width + divisor / 2) // divisor * divisor)
    return rounded if rounded >= 0.9 * width else rounded + divisor


def concatenate(branches: Sequence[jax.Array]) -> jax.Array:
    """Feature maps behind one another along the channels, in the scope ``concat``."""
    with jax.named_scope("concat"):
        return jnp.concatenate(branches, axis=-1)


class Branches(nnx.Module):
    """Layers side by side on the same features, each an attribute and a scope of its own, joined in the scope ``concat``.

    Args:
        branches: by name, in the order of their channels.
    """

    def __init__(self, branches: Mapping[str, nnx.Module]) -> None:
        for name, branch in branches.items():
            setattr(self, name, branch)
        self.names = tuple(branches)

    def __call__(self, features: jax.Array) -> jax.Array:
        """Features [batch, height, width, channels of all branches]."""
        return concatenate([run_layer(self, name, features) for name in self.names])


def max_pool(features: jax.Array, window: int, strides: int, *, padding: int = 0, round_up: bool = False) -> jax.Array:
    """The largest number of each window.

    Args:
        features: [batch, height, width, channels].
        window: height and width of a window.
        strides: in both directions.
        padding: pixels on either side, smaller than any number.
        round_up: add a last window that begins inside the image or its padding and ends outside (``ceil_mode``).
    """
    # Flax types the padding as text alone; it takes pairs as well.
    pads: Any = [
        (padding, padding + _overhang(features.shape[axis], window, strides, padding, round_up)) for axis in (1, 2)
    ]
    return nnx.max_pool(features, window_shape=(window, window), strides=(strides, strides), padding=pads)


class MaxPool(nnx.Module):
    """`max_pool` as a layer."""

    def __init__(self, window: int, strides: int, *, padding: int = 0, round_up: bool = False) -> None:
        self.window, self.strides, self.padding, self.round_up = window, strides, padding, round_up

    def __call__(self, features: jax.Array) -> jax.Array:
        """The largest number of each window."""
        return max_pool(features, self.window, self.strides, padding=self.padding, round_up=self.round_up)


def split_max_pool(features: jax.Array, window: int) -> jax.Array:
    """The largest number of each window, windows side by side; pixels that fill none are left out.

    The gradient goes to the first pixel of a window that has its maximum, row by row, as that of `max_pool` does. To find it
    XLA makes zeros in the shape of the features, and numbers for every window; here the features are compared with the
    maxima, and both exist already: the next layer keeps the maxima, the layer before the features.

    Args:
        features: [batch, height, width, channels].
        window: height and width of a window.
    """
    maxima: Any = _split_maxima(features, window)
    return maxima


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def _split_maxima(features: jax.Array, window: int) -> jax.Array:
    return _split(features, window).max(axis=(2, 4))


def _split(features: jax.Array, window: int) -> jax.Array:
    """[batch, rows, window, columns, window, channels]."""
    batch, height, width, channels = features.shape
    rows, columns = height // window, width // window
    inside = features[:, : rows * window, : columns * window]
    return inside.reshape(batch, rows, window, columns, window, channels)


def _split_maxima_forward(features: jax.Array, window: int) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    maxima: Any = _split_maxima(features, window)
    return maxima, (features, maxima)


def _split_maxima_backward(window: int, kept: tuple[jax.Array, jax.Array], gradient: jax.Array) -> tuple[jax.Array]:
    features, maxima = kept
    split = _split(features, window)
    taken = jnp.zeros(maxima.shape, bool)
    lines = []
    for row in range(window):
        pixels = []
        for column in range(window):
            first = (split[:, :, row, :, column] == maxima) & ~taken
            taken |= first
            pixels.append(jnp.where(first, gradient, 0))
        lines.append(jnp.stack(pixels, axis=3))
    inside = jnp.stack(lines, axis=2)
    batch, rows, _, columns, _, channels = inside.shape
    inside = inside.reshape(batch, rows * window, columns * window, channels)
    beyond = [(0, 0), *((0, features.shape[axis] - inside.shape[axis]) for axis in (1, 2)), (0, 0)]
    return (jnp.pad(inside, beyond),)


_split_maxima.defvjp(_split_maxima_forward, _split_maxima_backward)


def _overhang(length: int, window: int, strides: int, padding: int, round_up: bool) -> int:
    """How many pixels the last window reaches over the padded end."""
    if not round_up:
        return 0
    last = -(-(length + 2 * padding - window) // strides)
    if last * strides >= length + padding:
        last -= 1
    return max(0, last * strides + window - length - 2 * padding)


def global_average_pool(features: jax.Array) -> jax.Array:
    """The mean of each channel: [batch, height, width, channels] → [batch, channels]."""
    if 0 in features.shape[1:3]:
        raise ValueError(NO_PIXEL)
    return features.mean(axis=(1, 2))


def adaptive_average_pool(features: jax.Array, size: int) -> jax.Array:
    """Average [batch, height, width, channels] down, or repeat it up, to [batch, size, size, channels].

    Output i is the mean of the inputs from floor(i * n / size) to ceil((i + 1) * n / size), as torchvision's
    AdaptiveAvgPool2d has it. Where the features have that size already, nothing is done.
    """
    for axis in (1, 2):
        length = features.shape[axis]
        if length == size:
            continue
        if length == 0:
            raise ValueError(NO_PIXEL)
        weights = np.zeros((size, length))
        for index in range(size):
            start, stop = index * length // size, -(-(index + 1) * length // size)
            weights[index, start:stop] = 1 / (stop - start)
        pooled = jnp.tensordot(features, jnp.asarray(weights, features.dtype), axes=(axis, 1))
        features = jnp.moveaxis(pooled, -1, axis)
    return features


NO_PIXEL = "There is no pixel left to average: the image is too small for the layers before it."


def _pair(size: int | tuple[int, int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else size
