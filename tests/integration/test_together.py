"""What lives together over a training run, against sums written out by hand."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
import pytest

import jaxmem
from jaxmem.errors import UsageError
from jaxmem.program import Program
from jaxmem.result import Together, from_json, to_json

WIDTH, BATCH = 256, 8
W = 4 * 2 * WIDTH * WIDTH  # two square kernels of float32
TRAIN_BATCH = 4 * BATCH * WIDTH
OPTIMIZER = optax.adam(1e-3)

KERNEL = jax.ShapeDtypeStruct((WIDTH, WIDTH), jnp.float32)
PARAMETERS = {"first": KERNEL, "second": KERNEL}
STATE = jax.eval_shape(OPTIMIZER.init, PARAMETERS)


def forward(parameters: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    return jnp.tanh(x @ parameters["first"]) @ parameters["second"]


def train(parameters, state, x):
    gradients = jax.grad(lambda parameters: (forward(parameters, x) ** 2).mean())(parameters)
    updates, state = OPTIMIZER.update(gradients, state, parameters)
    return optax.apply_updates(parameters, updates), state


def evaluate(parameters, x):
    return (forward(parameters, x) ** 2).mean()


def init(key):
    first, second = (jax.random.normal(each, (WIDTH, WIDTH)) for each in jax.random.split(key))
    parameters = {"first": first, "second": second}
    return parameters, OPTIMIZER.init(parameters)


def inputs(batch: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((batch, WIDTH), jnp.float32)


def programs() -> dict[str, Any]:
    return {
        "init": Program(init, jax.eval_shape(lambda: jax.random.key(0))),
        "train": Program(train, PARAMETERS, STATE, inputs(BATCH), donate_argnums=(0, 1)),
        "evaluate": Program(evaluate, PARAMETERS, inputs(4 * BATCH)),
    }


def beside(together: Together, name: str) -> dict[str, int]:
    moment = next(moment for moment in together.moments if moment.name == name)
    return {part.name: part.bytes for part in moment.beside}


def test_the_state_counts_once_and_lives_beside_what_does_not_take_it() -> None:
    together = jaxmem.analyze_together(**programs())
    assert together.state_bytes == 3 * W + 4  # parameters, two moments, Adam's count
    assert [moment.name for moment in together.moments] == ["init", "train", "evaluate"]
    assert beside(together, "init") == {}
    assert beside(together, "train") == {}
    assert beside(together, "evaluate") == {
        "optimizer first moment it does not take": W,
        "optimizer second moment it does not take": W,
        "optimizer other it does not take": 4,
    }
    for moment, program in zip(together.moments, programs().values(), strict=True):
        assert moment.program_bytes == jaxmem.analyze(program).required_bytes
    assert together.required_bytes == max(moment.required_bytes for moment in together.moments)
    assert together.verdict.fits is True
    assert from_json(to_json(together), "together.json") == together
    assert "optimizer first moment it does not take" in str(together)


def test_waiting_batches_and_what_else_lives_there() -> None:
    together = jaxmem.analyze_together(**programs(), prefetched_batches=2, resident_bytes=1000)
    assert beside(together, "init") == {"what else lives there": 1000}
    assert beside(together, "train") == {
        "batches waiting for train": 2 * TRAIN_BATCH,
        "what else lives there": 1000,
    }
    waiting = beside(together, "evaluate")
    assert waiting["batches waiting for train"] == 2 * TRAIN_BATCH
    assert waiting["batches waiting for evaluate"] == 2 * 4 * TRAIN_BATCH


def test_an_argument_that_is_dropped_unread_still_lives() -> None:
    def whole(parameters, state, x):
        return evaluate(parameters, x)

    made: dict[str, Any] = programs() | {"evaluate": Program(whole, PARAMETERS, STATE, inputs(4 * BATCH))}
    apart, handed = jaxmem.analyze_together(**programs()), jaxmem.analyze_together(**made)
    assert handed.state_bytes == apart.state_bytes
    assert beside(handed, "evaluate") == beside(apart, "evaluate")
    assert handed.moments[2].required_bytes == apart.moments[2].required_bytes


def test_more_than_there_is_does_not_fit() -> None:
    together = jaxmem.analyze_together(train=programs()["train"], resident_bytes=2**50)
    assert together.verdict.fits is False
    assert isinstance(together.verdict.headroom_bytes, int)
    assert together.verdict.headroom_bytes < 0
    assert "Does not fit" in str(together)


def test_a_card(need: Callable[[str], None]) -> None:
    need("cuda")
    together = jaxmem.analyze_together(**programs(), device="h100-sxm")
    assert together.state_bytes == 3 * W + 4
    assert beside(together, "evaluate")["optimizer first moment it does not take"] == W
    assert all(moment.is_lower_bound for moment in together.moments)
    assert "≥" in str(together)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "analyze_together needs a program"),
        ({"train": train}, r"analyze_together\(train=...\) takes a jaxmem.Program, and got function"),
        ({"train": programs()["train"], "prefetched_batches": -1}, "prefetched_batches=-1"),
        ({"train": programs()["train"], "device": "h100"}, "There is no device 'h100'"),
    ],
)
def test_bad_input(arguments, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        jaxmem.analyze_together(**arguments)
