"""Errors of real runs that ask the processor for more memory than any has."""

import jax
import jax.numpy as jnp
import pytest

import jaxmem

SIDE = 2**24  # SIDE² numbers of 4 bytes are 1 PiB


@jax.jit
def outer(x: jax.Array, y: jax.Array) -> jax.Array:
    return jnp.sort(x[:, None] * y[None, :])


def vectors() -> tuple[jax.Array, jax.Array]:
    return jnp.ones(SIDE), jnp.ones(SIDE)


def test_an_error_of_ones_own_run_is_explained_and_raised_again() -> None:
    x, y = vectors()
    with (
        pytest.raises(jax.errors.JaxRuntimeError, match="Out of memory allocating") as raised,
        jaxmem.explain_oom(outer, x, y),
    ):
        outer(x, y).block_until_ready()
    (note,) = raised.value.__notes__[-1:]
    assert note.startswith("Out of memory · outer")
    assert "an allocation on the processor, while it ran" in note
    assert f"1.00 PiB ({4 * SIDE * SIDE:,} B)" in note  # what was asked for, and what the largest buffer holds
    assert "The program alone needs" in note
    assert "outputs" in note
    assert "test_explain_oom.py" in note


def test_other_errors_and_no_error_are_left_alone() -> None:
    with jaxmem.explain_oom(outer, *vectors()):
        pass
    with pytest.raises(ValueError, match="mine") as raised, jaxmem.explain_oom(outer, *vectors()):
        raise ValueError("mine")
    assert not getattr(raised.value, "__notes__", [])


def test_an_analysis_that_fails_hides_nothing() -> None:
    x, y = vectors()
    with pytest.raises(jax.errors.JaxRuntimeError) as raised, jaxmem.explain_oom(outer, x, device="no-such-device"):
        outer(x, y).block_until_ready()
    note = raised.value.__notes__[-1]
    assert "The program itself could not be analysed: There is no device 'no-such-device'." in note
    assert "Out of memory allocating" in note
