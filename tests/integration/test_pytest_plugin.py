"""The plugin of pytest over real compiles: a network that grew fails, and the text names the layer and the line."""

import pytest

import jaxmem.analysis
import jaxmem.pytest_plugin.check
import jaxmem.report.terminal

pytest_plugins = ("pytester",)

TEST = """
import os

import jax
import jax.numpy as jnp
import optax

import jaxmem


def network(parameters, images):
    with jax.named_scope("stem"):
        hidden = jnp.tanh(images @ parameters["stem"]["kernel"])
    with jax.named_scope("block"):
        kernel = parameters["block"]["kernel"]
        if os.environ["ATTENTION"] == "on":  # what a commit adds
            scores = jax.nn.softmax(hidden @ hidden.T)
            hidden = scores @ hidden
        hidden = jnp.tanh(hidden @ kernel)
    with jax.named_scope("head"):
        return jnp.mean((hidden @ parameters["head"]["kernel"]) ** 2)


def train_step(parameters, state, images):
    loss, gradients = jax.value_and_grad(network)(parameters, images)
    updates, state = optax.adam(1e-3).update(gradients, state)
    return optax.apply_updates(parameters, updates), state, loss


def test_train_step(device_memory):
    array = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.float32)
    widths = {"stem": (32, 64), "block": (64, 64), "head": (64, 8)}
    parameters = {name: {"kernel": array(*shape)} for name, shape in widths.items()}
    state = jax.eval_shape(optax.adam(1e-3).init, parameters)
    device_memory.check(train_step, parameters, state, array(512, 32), donate_argnums=(0, 1), tolerance="5%")
"""


def test_a_layer_that_grew_fails_and_is_named(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setenv("JAXMEM_CACHE_DIR", str(pytester.path / "cache"))
    pytester.makepyfile(test_network=TEST)
    monkeypatch.setenv("ATTENTION", "off")
    plugins = [jaxmem.pytest_plugin]
    pytester.runpytest_inprocess("--jaxmem-update", plugins=plugins).assert_outcomes(passed=1)
    pytester.runpytest_inprocess(plugins=plugins).assert_outcomes(passed=1)
    monkeypatch.setenv("ATTENTION", "on")
    result = pytester.runpytest_inprocess(plugins=plugins)
    result.assert_outcomes(failed=1)
    text = result.stdout.str()
    assert "train_step on cpu needs more than its baseline." in text
    assert "Most of it in block (saved activations) +" in text
    assert "f32[512,512]" in text
    assert "test_network.py:" in text
    assert "pytest --jaxmem-update test_network.py::test_train_step" in text
