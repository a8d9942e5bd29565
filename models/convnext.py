"""ConvNeXt: Liu et al., A ConvNet for the 2020s (arXiv:2201.03545).

Figure 4 and section 2 of the paper, and what torchvision (convnext.py) sets where they are silent. Layer normalization is
over the channels of a pixel, GELU the exact one.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxmem_models.layers import Residual, Sequential, global_average_pool, run_layer
from jaxmem_models.transformer import MLP

# Channels and number of blocks of each stage, as section 3 of the paper has them; and the rate of stochastic depth.
CONFIGURATIONS: dict[str, tuple[tuple[int, ...], tuple[int, ...], float]] = {
    "T": ((96, 192, 384, 768), (3, 3, 9, 3), 0.1),
    "S": ((96, 192, 384, 768), (3, 3, 27, 3), 0.4),
    "B": ((128, 256, 512, 1024), (3, 3, 27, 3), 0.5),
    "L": ((192, 384, 768, 1536), (3, 3, 27, 3), 0.5),
}


class LayerScale(nnx.Module):
    """A factor for each channel, tiny at first: Touvron et al., arXiv:2103.17239."""

    def __init__(self, channels: int, *, dtype: Any, param_dtype: Any) -> None:
        self.scale = nnx.Param(jnp.full(channels, 1e-6, param_dtype))
        self.dtype = dtype

    def __call__(self, features: jax.Array) -> jax.Array:
        """Features in the shape of the input."""
        return features * self.scale[...].astype(self.dtype)


class ConvNeXt(nnx.Module):
    """ConvNeXt.

    Its layers: ``stem/patchify`` and ``stem/norm``; ``downsample2/norm`` and ``downsample2/conv`` before stage 2, and so on;
    ``stage1/block1/depthwise``, ``norm``, ``mlp/widen``, ``mlp/narrow``, ``layer_scale``, ``stochastic_depth``, ``add`` ...;
    ``avgpool``, ``norm``, ``fc``.

    Args:
        configuration: ``T``, ``S``, ``B`` or ``L``.
        classes: width of ``fc``.
        dtype: of the activations.
        param_dtype: of the parameters.
        remat: a policy of `jaxmem_models.remat` for each block.
    """

    def __init__(
        self,
        *,
        configuration: str,
        classes: int = 1000,
        dtype: Any = jnp.float32,
        param_dtype: Any = jnp.float32,
        remat: str | None = None,
        rngs: nnx.Rngs,
    ) -> None:
        formats: dict[str, Any] = {"dtype": dtype, "param_dtype": param_dtype}
        init = nnx.initializers.truncated_normal(0.02)
        convolution = partial(nnx.Conv, kernel_init=init, rngs=rngs, **formats)
        normalization = partial(nnx.LayerNorm, epsilon=1e-6, rngs=rngs, **formats)
        widths, depths, drop_rate = CONFIGURATIONS[configuration]
        channels = widths[0]
        patchify = convolution(3, channels, (4, 4), strides=4, padding="VALID")
        self.stem = Sequential({"patchify": patchify, "norm": normalization(channels)})
        built = 0
        for stage, (width, depth) in enumerate(zip(widths, depths, strict=True), start=1):
            if stage > 1:
                halve = convolution(channels, width, (2, 2), strides=2, padding="VALID")
                setattr(self, f"downsample{stage}", Sequential({"norm": normalization(channels), "conv": halve}))
                channels = width
            blocks = {}
            for block in range(1, depth + 1):
                layers = {
                    "depthwise": convolution(channels, channels, (7, 7), padding=3, feature_group_count=channels),
                    "norm": normalization(channels),
                    "mlp": MLP(
                        channels,
                        4 * channels,
                        activation=partial(nnx.gelu, approximate=False),
                        init=init,
                        project_init=init,
                        rngs=rngs,
                        **formats,
                    ),
                    "layer_scale": LayerScale(channels, **formats),
                }
                # The rate grows from 0 at the first block to its full size at the last.
                rate = drop_rate * built / (sum(depths) - 1)
                blocks[f"block{block}"] = Residual(layers, drop_rate=rate, rngs=rngs)
                built += 1
            setattr(self, f"stage{stage}", Sequential(blocks, remat=remat))
        self.norm = normalization(channels)
        self.fc = nnx.Linear(channels, classes, kernel_init=init, rngs=rngs, **formats)

    def __call__(self, images: jax.Array) -> jax.Array:
        """Logits [batch, classes] of images [batch, height, width, 3]."""
        features = run_layer(self, "stem", images)
        for stage in range(1, 5):
            if stage > 1:
                features = run_layer(self, f"downsample{stage}", features)
            features = run_layer(self, f"stage{stage}", features)
        with jax.named_scope("avgpool"):
            features = global_average_pool(features)
        return run_layer(self, "fc", run_layer(self, "norm", features))
