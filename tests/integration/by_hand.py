"""Operations of networks in NumPy and float64, each from its definition: nothing of JAX, nothing of the zoo's own code."""

import math
from typing import Any

import numpy as np
from flax import nnx

Array = np.ndarray[Any, np.dtype[np.float64]]
Pads = tuple[tuple[int, int], tuple[int, int]]


class Network:
    """The arrays of a network by their paths, and operations on them that are written from their definitions."""

    def __init__(self, model: Any, epsilon: float = 1e-5) -> None:
        self.epsilon = epsilon
        flat = nnx.to_flat_state(nnx.state(model, (nnx.Param, nnx.BatchStat)))
        self.unused = {
            "/".join(map(str, path)): np.asarray(variable.get_value(), np.float64) for path, variable in flat
        }
        self.arrays = dict(self.unused)

    def __call__(self, path: str) -> Array:
        self.unused.pop(path, None)
        return self.arrays[path]

    def convolve(self, path: str, features: Array, *, strides: int = 1, padding: Any = 0, groups: int = 1) -> Array:
        kernel = self(f"{path}/kernel")
        above, beside = padding if isinstance(padding, tuple) else (padding, padding)
        height, width, _, filters = kernel.shape
        padded = np.pad(features, ((0, 0), (above, above), (beside, beside), (0, 0)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (height, width), axis=(1, 2))
        windows = windows[:, ::strides, ::strides]
        if groups == kernel.shape[2] * features.shape[3] == filters:  # each channel by itself
            result = np.einsum("bhwcij,ijc->bhwc", windows, kernel[:, :, 0], optimize=True)
            return result + self(f"{path}/bias") if f"{path}/bias" in self.arrays else result
        parts = [
            np.einsum("bhwcij,ijco->bhwo", read, written, optimize=True)
            for read, written in zip(np.split(windows, groups, axis=3), np.split(kernel, groups, axis=3), strict=True)
        ]
        result = np.concatenate(parts, axis=-1)
        assert result.shape[-1] == filters
        return result + self(f"{path}/bias") if f"{path}/bias" in self.arrays else result

    def normalize(self, path: str, features: Array) -> Array:
        centred = features - self(f"{path}/mean")
        return centred / np.sqrt(self(f"{path}/var") + self.epsilon) * self(f"{path}/scale") + self(f"{path}/bias")

    def conv_bn_relu(self, path: str, features: Array, **options: Any) -> Array:
        return relu(self.normalize(f"{path}/bn", self.convolve(f"{path}/conv", features, **options)))

    def dense(self, path: str, features: Array) -> Array:
        return features @ self(f"{path}/kernel") + self(f"{path}/bias")


def relu(features: Array) -> Array:
    return np.maximum(features, 0)


def pool(features: Array, window: int, strides: int, reduce: Any = np.max, pads: Pads = ((0, 0), (0, 0))) -> Array:
    """Windows over features padded with what ``reduce`` passes over (the largest) or counts as nothing (the mean)."""
    filler = -np.inf if reduce is np.max else 0.0
    padded = np.pad(features, ((0, 0), *pads, (0, 0)), constant_values=filler)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (window, window), axis=(1, 2))
    return reduce(windows[:, ::strides, ::strides], axis=(-2, -1))


def average_to(features: Array, size: int) -> Array:
    """torch.nn.AdaptiveAvgPool2d, by its definition."""
    height, width = features.shape[1:3]

    def bounds(index: int, length: int) -> slice:
        return slice(math.floor(index * length / size), math.ceil((index + 1) * length / size))

    rows = [
        [features[:, bounds(row, height), bounds(column, width)].mean(axis=(1, 2)) for column in range(size)]
        for row in range(size)
    ]
    return np.stack([np.stack(row, axis=1) for row in rows], axis=1)


CLOSE = 5e-6
"""Of the largest result. Found are 1e-7 to 3e-7; an epsilon of 1e-5 in place of 1e-3, the smallest mistake, makes 3e-4."""
