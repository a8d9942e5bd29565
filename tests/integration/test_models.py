"""Every network of the zoo against its registry row, and VGG against the paper computed another way."""

import math
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from jaxmem.layer_paths import scope_components
from jaxmem_models import programs, registry, vgg
from jaxmem_models.steps import infer, train_step

SMALL: dict[str, Any] = {"classes": 10, "hidden": 32}
NARROW: dict[str, dict[str, Any]] = {
    "alexnet": {"hidden": 32},
    "gpt2": {"vocabulary": 10, "depth": 2},
    "vgg": {"hidden": 32},
    "vit": {"image_size": 32, "depth": 2},
}
"""Arguments that make the smallest network of a family small enough to run here."""

SMALLEST = tuple(
    min((row for row in registry.MODELS if row.family == family), key=lambda row: row.parameter_count)
    for family in dict.fromkeys(row.family for row in registry.MODELS)
)


def variables(module: Any, kind: Any) -> dict[tuple[Any, ...], Any]:
    return {path: variable.get_value() for path, variable in nnx.to_flat_state(nnx.state(module, kind))}


def numbers(module: Any, kind: Any) -> int:
    return sum(math.prod(array.shape) for array in variables(module, kind).values())


def state_bytes(module: Any) -> int:
    """Bytes of every array; a typed key is two 32-bit words."""
    arrays = variables(module, nnx.Variable).values()
    return sum(
        8 if jnp.issubdtype(array.dtype, jax.dtypes.prng_key) else math.prod(array.shape) * array.dtype.itemsize
        for array in arrays
    )


def inputs_and_dimensions(row: registry.Model) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The shape of one input, and the dimensions of its logits before the classes."""
    if row.task == "language":
        shape = () if row.decodes else (row.sequence_length or 0,)
        return shape, shape
    pixels = (row.image_size or 0,) * 2
    return (*pixels, row.channels), pixels if row.task == "segmentation" else ()


def images_and_labels(batch_size: int, size: int, channels: int = 3) -> tuple[jax.Array, jax.Array]:
    images = np.random.default_rng(0).standard_normal((batch_size, size, size, channels), dtype=np.float32)
    return jnp.asarray(images), jnp.arange(batch_size, dtype=jnp.int32)


@pytest.fixture(autouse=True)
def on_cpu():
    with jax.default_device(jax.devices("cpu")[0]):
        yield


@cache
def inference(name: str) -> tuple[programs.ProgramSpec, Any]:
    """The inference program of a network and its trace, made once for all tests that look at it."""
    spec = programs.build(name, mode="infer", batch_size=3)
    return spec, spec.function.trace(*spec.arguments)


@pytest.mark.parametrize("row", registry.MODELS, ids=lambda row: row.name)
class TestEveryModel:
    def test_the_traced_network_has_the_registered_counts(self, row: registry.Model) -> None:
        model = inference(row.name)[0].arguments[0]
        assert numbers(model, nnx.Param) == row.parameter_count
        assert numbers(model, nnx.BatchStat) == row.batch_stat_count
        assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(nnx.state(model)))

    def test_inference_returns_the_logits(self, row: registry.Model) -> None:
        spec, traced = inference(row.name)
        results = traced.out_info
        cache, inputs = spec.arguments[1:-1], spec.arguments[-1]
        # A decoding step returns the cache beside them, as it was handed in.
        logits = results[0] if row.decodes else results
        assert jax.tree.structure(results[1:] if row.decodes else ()) == jax.tree.structure(cache)
        inputs_shape, dimensions = inputs_and_dimensions(row)
        assert inputs.shape == (3, *inputs_shape)
        assert (logits.shape, logits.dtype) == ((3, *dimensions, row.classes), jnp.float32)

    def test_every_operation_has_a_layer_and_every_parameter_its_scope(self, row: registry.Model) -> None:
        spec, traced = inference(row.name)
        stacks = {str(equation.source_info.name_stack) for equation in traced.jaxpr.eqns}
        scopes = {"/".join(scope_components(stack)) for stack in stacks}
        # Auxiliary classifiers are left out of inference.
        paths = [path[:-1] for path in variables(spec.arguments[0], nnx.Param) if not path[0].startswith("auxiliary")]
        parametrised = {"/".join(map(str, path)) for path in paths}
        blocks = {"/".join(map(str, path[:length])) for path in paths for length in range(len(path))}
        assert parametrised <= scopes
        # What else has operations is a layer without parameters, in a block or in the network itself; a block has none.
        assert not scopes & blocks
        assert {scope.rpartition("/")[0] for scope in scopes - parametrised} <= blocks


@pytest.mark.parametrize("row", SMALLEST, ids=lambda row: row.name)
class TestEveryFamily:
    def test_building_and_tracing_allocates_nothing(self, row: registry.Model) -> None:
        before = len(jax.live_arrays())
        for mode in registry.MODES:
            spec = programs.build(row.name, mode=mode, batch_size=2)
            spec.function.trace(*spec.arguments)
        assert len(jax.live_arrays()) == before

    def test_a_forward_pass_on_real_arrays(self, row: registry.Model, with_random_arrays: Any) -> None:
        classes = {} if row.task == "language" else {"classes": 10}
        model = with_random_arrays(row.name, **classes, **NARROW.get(row.family, {}))
        size = max(32, row.smallest_image_size)
        images = images_and_labels(2, size, row.channels)[0]
        inputs = jnp.arange(14).reshape(2, 7) % 10 if row.task == "language" else images
        logits = jax.jit(infer)(model, inputs)
        dimensions = {"language": (7,), "segmentation": (size, size), "classification": ()}[row.task]
        assert logits.shape == (2, *dimensions, 256 if row.family == "llama" else 10)
        assert np.isfinite(logits).all()
        assert (logits[0] != logits[1]).any()  # a logit behind a ReLU may be zero in both

    def test_remat_keeps_only_what_enters_a_block(self, row: registry.Model) -> None:
        def blocks(remat: str | None) -> int:
            if row.decodes:  # a decoding step has nothing to keep for a backward pass
                spec = programs.build(row.name, mode="train", batch_size=1, remat=remat)
                return spec.function.trace(*spec.arguments).lower().as_text().count("stablehlo.optimization_barrier")
            # Inference goes through the same blocks, and takes a fifth of the time.
            spec = programs.build(row.name, mode="infer", batch_size=1, remat=remat)
            return str(spec.function.trace(*spec.arguments).jaxpr).count("remat2[")

        assert blocks(None) == 0
        assert blocks("blocks") > 1


def bytes_of_state(name: str) -> float:
    """Bytes of optimizer state for one 4-byte parameter, as each algorithm's paper has it: arrays the size of w."""
    return {
        "sgd": 0,
        **dict.fromkeys(("momentum", "rmsprop", "adagrad", "lion"), 4),
        **dict.fromkeys(("adam", "adamw", "lamb", "nadam"), 8),
        "amsgrad": 12,
        "adam_bf16": 6,
    }[name]


class TestOptions:
    @pytest.mark.parametrize("optimizer", [row.name for row in registry.OPTIMIZERS])
    def test_every_optimizer_has_the_state_of_its_paper(self, optimizer: str) -> None:
        spec = programs.build("vgg16", mode="train", batch_size=1, optimizer=optimizer)
        found = state_bytes(spec.arguments[1]) - 4  # nnx.Optimizer's own step
        if optimizer == "adafactor":
            assert found == 944_912
        else:
            counts = 4 * (optimizer in {"adam", "adamw", "lamb", "nadam", "amsgrad", "lion", "adam_bf16"})
            assert found == bytes_of_state(optimizer) * 138_357_544 + counts

    @pytest.mark.parametrize(
        ("dtype", "parameters", "first_moment", "images"),
        [
            ("float32", "float32", "float32", "float32"),
            ("bfloat16", "bfloat16", "bfloat16", "bfloat16"),
            ("mixed", "float32", "float32", "float32"),
        ],
    )
    def test_number_formats(self, dtype: str, parameters: str, first_moment: str, images: str) -> None:
        spec = programs.build("vgg11_bn", mode="train", batch_size=1, dtype=dtype)
        model, optimizer, batch, _ = spec.arguments
        assert {array.dtype.name for array in variables(model, nnx.Param).values()} == {parameters}
        moments = optimizer.opt_state[0].mu
        assert {leaf.dtype.name for leaf in jax.tree.leaves(moments)} == {first_moment}
        assert batch.dtype.name == images
        inference = programs.build("vgg11_bn", mode="infer", batch_size=1, dtype=dtype)
        equations = inference.function.trace(*inference.arguments).jaxpr.eqns
        convolutions = {
            equation.outvars[0].aval.dtype.name
            for equation in equations
            if equation.primitive.name == "conv_general_dilated"
        }
        assert convolutions == {"float32" if dtype == "float32" else "bfloat16"}

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"name": "vgg1"}, "There is no model called 'vgg1'"),
            ({"mode": "trian"}, r"There is no mode called 'trian'\. The nearest: train\."),
            ({"optimizer": "addam"}, "There is no optimizer called 'addam'"),
            ({"dtype": "f32"}, "There is no dtype called 'f32'"),
            ({"remat": "block"}, r"There is no remat policy called 'block'\. The nearest: blocks\."),
            ({"batch_size": 0}, r"The batch size is 0; it must be 1 or more\."),
            ({"image_size": 31}, r"The image size is 31; vgg16 needs 32 pixels or more\."),
        ],
    )
    def test_bad_requests_say_what_is_wrong(self, options: dict[str, Any], message: str) -> None:
        request = {"name": "vgg16", "mode": "train", "batch_size": 1} | options
        with pytest.raises(ValueError, match=message):
            programs.build(**request)

    @pytest.mark.parametrize(
        "row",
        {
            (row.family, row.smallest_image_size): row
            for row in reversed(registry.MODELS)
            if row.task == "classification"
        }.values(),
        ids=lambda row: row.name,
    )
    def test_the_smallest_image_traces_and_a_smaller_one_leaves_no_pixel(self, row: registry.Model) -> None:
        spec = programs.build(row.name, mode="infer", batch_size=1, image_size=row.smallest_image_size)
        assert spec.function.eval_shape(*spec.arguments).shape == (1, 1000)
        model, smaller = programs.abstract_model(row.name), row.smallest_image_size - 1
        if not row.auxiliary_weights:  # else an auxiliary classifier may be what runs out of pixels
            model.eval()
        with pytest.raises(ValueError, match=r"no pixel left to average|there are positions for|does not divide"):
            nnx.eval_shape(infer, model, jax.ShapeDtypeStruct((1, smaller, smaller, 3), jnp.float32))


class TestMemory:
    """What XLA keeps of the donation: all of it."""

    def test_the_whole_state_is_updated_in_place(self) -> None:
        spec = programs.build("vgg11_bn", mode="train", batch_size=2, image_size=32)
        memory = compiled_memory(spec)
        model, optimizer = spec.arguments[:2]
        state = state_bytes(model) + state_bytes(optimizer)
        leaves = len(variables(model, nnx.Variable)) + len(variables(optimizer, nnx.Variable))
        assert memory.argument_size_in_bytes == state + 2 * (32 * 32 * 3 * 4 + 4)
        assert memory.alias_size_in_bytes == state
        # The loss, and a tuple with a pointer to each result.
        assert memory.output_size_in_bytes == state + 4 + 8 * (leaves + 1)

    def test_without_donation_nothing_is(self) -> None:
        spec = programs.build("vgg11", mode="train", batch_size=2, image_size=32, optimizer="sgd", donate=False)
        assert spec.donate_argnums == ()
        assert compiled_memory(spec).alias_size_in_bytes == 0

    def test_inference_copies_no_parameter(self) -> None:
        spec = programs.build("vgg11", mode="infer", batch_size=2, image_size=32)
        assert compiled_memory(spec).output_size_in_bytes == 2 * 1000 * 4


def compiled_memory(spec: programs.ProgramSpec) -> Any:
    compiled = spec.function.trace(*spec.arguments).lower().compile()
    return getattr(compiled, "compiled", compiled).memory_analysis()


def forward_in_numpy(model: Any, images: np.ndarray, batch_norm: bool) -> np.ndarray:
    """VGG 11 in evaluation mode in float64, from Table 1, column A: nothing of JAX, nothing of the zoo's own code."""

    def parameters(layer: str, *names: str) -> list[np.ndarray]:
        return [np.asarray(getattr(getattr(model, layer), name)[...], np.float64) for name in names]

    def convolve(features: np.ndarray, kernel: np.ndarray, bias: np.ndarray) -> np.ndarray:
        padded = np.pad(features, ((0, 0), (1, 1), (1, 1), (0, 0)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
        return np.einsum("bhwcij,ijco->bhwo", windows, kernel, optimize=True) + bias

    def pool(features: np.ndarray) -> np.ndarray:
        batch, height, width, channels = features.shape
        return features.reshape(batch, height // 2, 2, width // 2, 2, channels).max(axis=(2, 4))

    features = images.astype(np.float64)
    for block in (["1_1"], ["2_1"], ["3_1", "3_2"], ["4_1", "4_2"], ["5_1", "5_2"]):
        for layer in block:
            features = convolve(features, *parameters(f"conv{layer}", "kernel", "bias"))
            if batch_norm:
                mean, variance, scale, bias = parameters(f"bn{layer}", "mean", "var", "scale", "bias")
                features = (features - mean) / np.sqrt(variance + 1e-5) * scale + bias
            features = np.maximum(features, 0)
        features = pool(features)
    # torch.nn.AdaptiveAvgPool2d((7, 7)), by its definition.
    height, width = features.shape[1:3]
    features = np.stack(
        [
            np.stack(
                [
                    features[
                        :,
                        math.floor(row * height / 7) : math.ceil((row + 1) * height / 7),
                        math.floor(column * width / 7) : math.ceil((column + 1) * width / 7),
                    ].mean(axis=(1, 2))
                    for column in range(7)
                ],
                axis=1,
            )
            for row in range(7)
        ],
        axis=1,
    )
    features = features.reshape(len(features), -1)
    for layer in ("fc6", "fc7", "fc8"):
        kernel, bias = parameters(layer, "kernel", "bias")
        features = features @ kernel + bias
        if layer != "fc8":
            features = np.maximum(features, 0)
    return features


class TestVgg:
    @pytest.mark.parametrize(("name", "size"), [("vgg11", 32), ("vgg11", 96), ("vgg11", 224), ("vgg11_bn", 64)])
    def test_the_forward_pass_is_the_papers(self, name: str, size: int) -> None:
        model: Any = programs.real_model(name, rngs=nnx.Rngs(1), **SMALL)
        random = np.random.default_rng(1)
        state = nnx.state(model, (nnx.Param, nnx.BatchStat))
        for _, variable in nnx.to_flat_state(state):
            # Biases start at zero and statistics at one: as they are, a forgotten one would go unseen.
            if variable[...].ndim == 1:
                variable[...] = jnp.asarray(random.uniform(0.5, 1.5, variable[...].shape), jnp.float32)
        nnx.update(model, state)
        assert (model.conv1_1.bias[...] >= 0.5).all()
        model.eval()
        images, _ = images_and_labels(1, size)
        expected = forward_in_numpy(model, np.asarray(images), name.endswith("_bn"))
        found = np.asarray(jax.jit(infer)(model, images))
        np.testing.assert_allclose(found, expected, rtol=2e-4, atol=2e-4 * np.abs(expected).max())

    def test_the_paper_counts_its_layers(self) -> None:
        # The number in a network's name is that of its layers with weights: convolutions and three dense ones.
        depths = {name: sum(map(len, blocks)) + 3 for name, blocks in vgg.CONFIGURATIONS.items()}
        assert depths == {"A": 11, "B": 13, "D": 16, "E": 19}

    def test_at_the_papers_size_the_average_pool_does_nothing(self) -> None:
        spec = programs.build("vgg16", mode="infer", batch_size=1)
        scopes = {str(equation.source_info.name_stack) for equation in spec.function.trace(*spec.arguments).jaxpr.eqns}
        assert "avgpool" not in scopes
        assert {f"pool{block}" for block in range(1, 6)} <= scopes

    def test_dropout_is_drawn_anew_in_training_and_absent_in_evaluation(self) -> None:
        model = programs.real_model("vgg11", rngs=nnx.Rngs(0), **SMALL)
        images, _ = images_and_labels(1, 32)
        assert (np.asarray(model(images)) != np.asarray(model(images))).any()
        model.eval()
        np.testing.assert_array_equal(model(images), model(images))

    @pytest.mark.slow
    @pytest.mark.parametrize("name", ["vgg11", "vgg11_bn"])
    def test_training_learns(self, name: str) -> None:
        model = programs.real_model(name, rngs=nnx.Rngs(0), classes=10, hidden=256, dropout=0.0)
        optimizer = nnx.Optimizer(model, optax.adam(2e-4), wrt=nnx.Param)
        images, labels = images_and_labels(4, 32)
        before = {path: np.asarray(array) for path, array in variables(model, (nnx.Param, nnx.BatchStat)).items()}
        step = nnx.jit(train_step, donate_argnums=(0, 1))
        losses = [float(step(model, optimizer, images, labels)) for _ in range(6)]
        assert losses[0] == pytest.approx(math.log(10), rel=0.02)  # ten classes, an untrained network
        assert losses[-1] < 0.8 * losses[0]
        for path, array in variables(model, (nnx.Param, nnx.BatchStat)).items():
            assert np.isfinite(array).all(), path
            assert (np.asarray(array) != before[path]).any(), f"{path} did not move"

    @pytest.mark.slow
    def test_remat_leaves_the_step_as_it_is(self) -> None:
        images, labels = images_and_labels(2, 32)
        results = []
        for remat in (None, "blocks"):
            model = programs.real_model("vgg11_bn", rngs=nnx.Rngs(0), remat=remat, **SMALL)
            optimizer = nnx.Optimizer(model, optax.sgd(0.1), wrt=nnx.Param)
            nnx.jit(train_step)(model, optimizer, images, labels)
            results.append(variables(model, (nnx.Param, nnx.BatchStat)))
        for path, array in results[0].items():
            np.testing.assert_allclose(array, results[1][path], rtol=1e-3, atol=1e-5, err_msg=str(path))

    @pytest.mark.parametrize(
        ("remat", "convolutions", "offloaded"),
        [(None, 8 + 8 + 7, 0), ("blocks", 8 + 8 + 8 + 7, 0), ("dots", 8 + 8 + 7, 0), ("offload", 8 + 8 + 8 + 7, 5)],
    )
    def test_remat_convolves_again_in_the_backward_pass(
        self, remat: str | None, convolutions: int, offloaded: int
    ) -> None:
        # Forward 8, again 8, gradients of 8 kernels, and of the inputs of all layers but the first. Counted before XLA:
        # its CPU compiler removes the barriers and merges what is computed twice, and has no memory but the host's.
        spec = programs.build("vgg11", mode="train", batch_size=1, remat=remat)
        text = spec.function.trace(*spec.arguments).lower(lowering_platforms=("tpu",)).as_text()
        assert text.count("stablehlo.convolution") == convolutions
        assert text.count("stablehlo.optimization_barrier") == (5 if remat else 0)
        assert text.count("pinned_host") == offloaded  # the input of each block, on its way out
