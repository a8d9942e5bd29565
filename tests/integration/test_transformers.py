"""ViT and the language models against their papers, computed another way: NumPy in float64, a token and a head at a time."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from jaxmem.analysis import Target, program_of
from jaxmem.errors import UsageError
from jaxmem_models import programs
from jaxmem_models.steps import decode_step, infer, language_step


def with_random_parameters(name: str, **arguments: Any) -> Any:
    """A network in evaluation mode with every parameter drawn: one that starts at 0 would hide that it is forgotten."""
    model = programs.real_model(name, rngs=nnx.Rngs(0), **arguments)
    random = np.random.default_rng(1)
    for _, variable in nnx.to_flat_state(nnx.state(model, nnx.Param)):
        shape = variable.get_value().shape
        spread = 1 / math.sqrt(math.prod(shape[:-1])) if len(shape) > 1 else 0.5
        variable.set_value(jnp.asarray(random.normal(0.3 * (len(shape) == 1), spread, shape), jnp.float32))
    model.eval()
    return model


class Parameters:
    """The parameters of a module by name, in float64."""

    def __init__(self, module: Any) -> None:
        self.module = module

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.module, name)
        return np.asarray(found[...], np.float64) if isinstance(found, nnx.Param) else Parameters(found)

    def __getitem__(self, name: str) -> Any:
        return Parameters(self.module[name])


def dense(layer: Any, features: np.ndarray) -> np.ndarray:
    return features @ layer.kernel + layer.bias


def layer_norm(layer: Any, features: np.ndarray, epsilon: float) -> np.ndarray:
    mean = features.mean(-1, keepdims=True)
    variance = ((features - mean) ** 2).mean(-1, keepdims=True)
    return (features - mean) / np.sqrt(variance + epsilon) * layer.scale + layer.bias


def attention(layer: Any, features: np.ndarray, heads: int, causal: bool) -> np.ndarray:
    """Equation 1 of arXiv:1706.03762 for one sequence [length, width], one head and one query after another."""
    length, width = features.shape
    size = width // heads
    qkv = dense(layer.qkv, features)
    result = np.zeros((length, width))
    for head in range(heads):
        queries, keys, values = (qkv[:, part * width + head * size :][:, :size] for part in range(3))
        for token in range(length):
            seen = token + 1 if causal else length
            scores = np.array([queries[token] @ keys[other] for other in range(seen)]) / math.sqrt(size)
            weights = np.exp(scores - scores.max())
            result[token, head * size : (head + 1) * size] = (weights / weights.sum()) @ values[:seen]
    return dense(layer.project, result)


def exact_gelu(x: np.ndarray) -> np.ndarray:
    return x * np.vectorize(lambda value: (1 + math.erf(value / math.sqrt(2))) / 2)(x)


def approximate_gelu(x: np.ndarray) -> np.ndarray:
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def block(layer: Any, features: np.ndarray, heads: int, causal: bool, gelu: Any, epsilon: float) -> np.ndarray:
    features = features + attention(layer.attention, layer_norm(layer.norm1, features, epsilon), heads, causal)
    hidden = gelu(dense(layer.mlp.widen, layer_norm(layer.norm2, features, epsilon)))
    return features + dense(layer.mlp.narrow, hidden)


class TestViT:
    def test_the_forward_pass_is_the_papers(self) -> None:
        model = with_random_parameters("vit_b_16", image_size=48, classes=5, depth=2)
        images = np.random.default_rng(2).standard_normal((2, 48, 48, 3))
        parameters = Parameters(model)
        expected = []
        for image in images:
            tokens = [parameters.class_token.embedding]
            for row in range(3):
                for column in range(3):
                    patch = image[16 * row : 16 * row + 16, 16 * column : 16 * column + 16]
                    kernel = parameters.patches.kernel
                    tokens.append(np.tensordot(patch, kernel, axes=3) + parameters.patches.bias)
            features = np.stack(tokens) + parameters.positions.embedding
            for name in ("block1", "block2"):
                features = block(getattr(parameters.encoder, name), features, 12, False, exact_gelu, 1e-6)
            expected.append(dense(parameters.head, layer_norm(parameters.norm, features, 1e-6)[0]))
        found = np.asarray(jax.jit(infer)(model, jnp.asarray(images, jnp.float32)))
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())

    def test_another_image_size_has_other_positions(self) -> None:
        usual = programs.build("vit_b_16", mode="infer", batch_size=1)
        larger = programs.build("vit_b_16", mode="infer", batch_size=1, image_size=384)
        assert larger.parameter_count - usual.parameter_count == (24**2 - 14**2) * 768

    def test_an_image_that_no_patch_divides_is_refused(self) -> None:
        with pytest.raises(ValueError, match=r"The image size is 230; vit_b_16 takes multiples of 16, such as 240\."):
            programs.build("vit_b_16", mode="infer", batch_size=1, image_size=230)


class TestGPT2:
    def test_the_forward_pass_is_the_papers(self) -> None:
        model = with_random_parameters("gpt2", vocabulary=11, context=9, depth=2)
        tokens = np.random.default_rng(2).integers(0, 11, (2, 6))
        parameters = Parameters(model)
        embedding = parameters.token_embedding.embedding
        expected = []
        for sequence in tokens:
            features = np.stack([embedding[token] for token in sequence]) + parameters.position_embedding.embedding[:6]
            for name in ("block1", "block2"):
                features = block(getattr(parameters.decoder, name), features, 12, True, approximate_gelu, 1e-5)
            expected.append(layer_norm(parameters.norm, features, 1e-5) @ embedding.T)
        found = np.asarray(jax.jit(infer)(model, jnp.asarray(tokens)))
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())

    def test_the_loss_is_that_of_the_next_token(self) -> None:
        model = with_random_parameters("gpt2", vocabulary=11, context=9, depth=1, dropout=0.0)
        tokens = np.random.default_rng(3).integers(0, 11, (2, 6))
        logits = np.asarray(model(jnp.asarray(tokens)), np.float64)
        losses = [
            math.log(np.exp(logits[sequence, place]).sum()) - logits[sequence, place, tokens[sequence, place + 1]]
            for sequence in range(2)
            for place in range(5)
        ]
        assert loss_of(model, tokens) == pytest.approx(np.mean(losses), rel=1e-5)

    def test_a_sequence_longer_than_its_context_is_refused(self) -> None:
        with pytest.raises(
            ValueError, match=r"The sequence length is 1025; gpt2 takes 2 tokens or more, and 1024 at most\."
        ):
            programs.build("gpt2", mode="train", batch_size=1, sequence_length=1025)

    @pytest.mark.parametrize(
        ("setting", "message"),
        [
            (("sequence_length", "12k"), r"--set sequence_length=12k: '12k' is not a whole number\."),
            (("sequence_length", "1"), r"The sequence length is 1; gpt2 takes 2 tokens or more, and 1024 at most\."),
            (("scan", "1"), r"--set scan=1: '1' is neither True nor False\."),
            (("length", "8"), r"gpt2 takes no setting called length\. .*sequence_length.*scan"),
        ],
    )
    def test_settings_that_it_does_not_take(self, setting: tuple[str, str], message: str) -> None:
        with pytest.raises(UsageError, match=message):
            program_of(Target(text="gpt2", mode="train", settings=(setting,)))

    def test_a_setting_reaches_the_program(self) -> None:
        program = program_of(Target(text="gpt2", mode="infer", settings=(("sequence_length", "12"),)))
        assert program.args[1].shape == (1, 12)

    def test_options_of_images_are_refused(self) -> None:
        with pytest.raises(ValueError, match=r"gpt2 reads tokens, not images"):
            programs.build("gpt2", mode="infer", batch_size=1, image_size=224)
        with pytest.raises(ValueError, match=r"vgg16 reads images, not tokens"):
            programs.build("vgg16", mode="infer", batch_size=1, sequence_length=224)

    def test_training_learns_a_sequence(self) -> None:
        model = programs.real_model("gpt2", rngs=nnx.Rngs(0), vocabulary=11, context=9, depth=1)
        optimizer = nnx.Optimizer(model, optax.adam(1e-3), wrt=nnx.Param)
        tokens = jnp.arange(16).reshape(2, 8) % 11
        step = nnx.jit(language_step, donate_argnums=(0, 1))
        losses = [float(step(model, optimizer, tokens)) for _ in range(8)]
        assert losses[0] == pytest.approx(math.log(11), rel=0.2)
        assert losses[-1] < 0.5 * losses[0]


def rotated(vector: np.ndarray, position: int) -> np.ndarray:
    """Equation 15 of arXiv:2104.09864, for numbers i and i + d/2 as one complex number."""
    half = len(vector) // 2
    pairs = vector[:half] + 1j * vector[half:]
    turned = pairs * np.exp(1j * position * 500_000.0 ** (-2 * np.arange(half) / len(vector)))
    return np.concatenate([turned.real, turned.imag])


def llama_in_numpy(parameters: Any, sequence: np.ndarray, heads: int, groups: int) -> np.ndarray:
    """Logits [length, vocabulary] of one sequence."""

    def norm(layer: Any, features: np.ndarray) -> np.ndarray:
        return features / np.sqrt((features**2).mean(-1, keepdims=True) + 1e-5) * layer.scale

    features = np.stack([parameters.token_embedding.embedding[token] for token in sequence])
    length, width = features.shape
    size = width // heads
    for name in ("block1", "block2"):
        layer = parameters.decoder[name]
        normalized = norm(layer.norm1, features)
        queries, keys, values = (
            normalized @ getattr(layer.attention, part).kernel for part in ("queries", "keys", "values")
        )
        mixed = np.zeros((length, width))
        for head in range(heads):
            own = slice(head * size, (head + 1) * size)
            group = head // (heads // groups)
            shared = slice(group * size, (group + 1) * size)
            for token in range(length):
                query = rotated(queries[token, own], token)
                scores = [query @ rotated(keys[other, shared], other) / math.sqrt(size) for other in range(token + 1)]
                weights = np.exp(np.array(scores) - max(scores))
                mixed[token, own] = weights / weights.sum() @ values[: token + 1, shared]
        features = features + mixed @ layer.attention.project.kernel
        normalized = norm(layer.norm2, features)
        gate = normalized @ layer.mlp.gate.kernel
        hidden = gate / (1 + np.exp(-gate)) * (normalized @ layer.mlp.up.kernel)
        features = features + hidden @ layer.mlp.down.kernel
    return norm(parameters.norm, features) @ parameters.head.kernel


def scanned(model: Any) -> Any:
    """The same network with its blocks stacked."""
    other: Any = programs.real_model("llama_tiny", rngs=nnx.Rngs(0), scan=True)
    states = [nnx.state(model.decoder[name]) for name in model.block_names]
    nnx.update(other.decoder, jax.tree.map(lambda *arrays: jnp.stack(arrays), *states))
    for name in ("token_embedding", "norm", "head"):
        nnx.update(getattr(other, name), nnx.state(getattr(model, name)))
    other.eval()
    return other


class TestLlama:
    def test_the_forward_pass_is_the_papers(self) -> None:
        model = with_random_parameters("llama_tiny")
        tokens = np.random.default_rng(2).integers(0, 256, (2, 7))
        expected = [llama_in_numpy(Parameters(model), sequence, 4, 2) for sequence in tokens]
        found = np.asarray(jax.jit(infer)(model, jnp.asarray(tokens)))
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())

    @pytest.mark.parametrize("scan", [False, True])
    def test_decoding_token_by_token_is_the_whole_sequence(self, scan: bool) -> None:
        model = with_random_parameters("llama_tiny")
        tokens = jnp.asarray(np.random.default_rng(2).integers(0, 256, (2, 7)))
        expected = np.asarray(infer(model, tokens))
        if scan:
            model = scanned(model)
            np.testing.assert_allclose(infer(model, tokens), expected, rtol=1e-3, atol=1e-4)
        cache, step = model.cache(2, 9), jax.jit(decode_step, donate_argnums=1)
        for place in range(7):
            logits, cache = step(model, cache, tokens[:, place])
            np.testing.assert_allclose(logits, expected[:, place], rtol=1e-3, atol=1e-4)

    @pytest.mark.parametrize("scan", [False, True])
    @pytest.mark.parametrize("remat", [None, "blocks"])
    def test_scan_and_remat_leave_the_step_as_it_is(self, scan: bool, remat: str | None) -> None:
        tokens = jnp.asarray(np.random.default_rng(2).integers(0, 256, (2, 7)))
        expected = programs.real_model("llama_tiny", rngs=nnx.Rngs(0))
        found = programs.real_model("llama_tiny", rngs=nnx.Rngs(0), remat=remat)
        found = scanned(found) if scan else found
        losses = []
        for model in (expected, found):
            optimizer = nnx.Optimizer(model, optax.sgd(0.5), wrt=nnx.Param)
            step = nnx.jit(language_step)
            losses.append([float(step(model, optimizer, tokens)) for _ in range(2)])
        assert losses[0] == pytest.approx(losses[1], rel=1e-4)
        assert losses[0][1] < losses[0][0]

    @pytest.mark.parametrize("scan", [False, True])
    def test_the_cache_is_updated_in_place(self, scan: bool) -> None:
        spec = programs.build("llama_tiny", mode="infer", batch_size=3, sequence_length=50, scan=scan)
        compiled = spec.function.trace(*spec.arguments).lower().compile()
        # Keys and values of 2 blocks, 3 sequences, 50 tokens, 2 groups of 16 numbers; and the position.
        cache = 2 * 2 * 3 * 50 * 2 * 16 * 4 + 4
        assert compiled.memory_analysis().alias_size_in_bytes == cache
        kept = programs.build("llama_tiny", mode="infer", batch_size=3, donate=False)
        assert kept.function.trace(*kept.arguments).lower().compile().memory_analysis().alias_size_in_bytes == 0

    def test_only_some_can_be_scanned(self) -> None:
        with pytest.raises(ValueError, match=r"gpt2 does not run its layers as a loop: leave scan out\."):
            programs.build("gpt2", mode="train", batch_size=1, scan=True)

    @pytest.mark.parametrize("sharding", ["data", "fsdp"])
    def test_decoding_is_spread_over_devices(self, sharding: str) -> None:
        mesh = jax.sharding.AbstractMesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
        spec = programs.build("llama_tiny", mode="infer", batch_size=4, mesh=mesh, sharding=sharding)
        parameters, cache, tokens = (
            ["data" in leaf.sharding.spec for leaf in jax.tree.leaves(argument)] for argument in spec.arguments
        )
        assert set(parameters) == {sharding == "fsdp"}
        assert cache == [True, True, True, True, False]
        assert tokens == [True]
        spec.function.trace(*spec.arguments)


def loss_of(model: Any, tokens: np.ndarray) -> float:
    """What a training step returns."""
    optimizer = nnx.Optimizer(model, optax.sgd(0.0), wrt=nnx.Param)
    return float(nnx.jit(language_step)(model, optimizer, jnp.asarray(tokens)))
