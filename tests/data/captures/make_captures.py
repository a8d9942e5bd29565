"""Writes looped.*.jaxmem: small captures with a loop, a branch, a donated state and a moment, for tests that need many.

Run from this folder with the compilers installed:
    JAX_PLATFORMS=cpu python -c "exec(compile(open('make_captures.py').read(), 'make_captures.py', 'exec'))"
"""

import importlib.util
from pathlib import Path

import jax
import jax.numpy as jnp

import jaxmem

golden = importlib.util.spec_from_file_location("golden_captures", Path("../../golden/make_captures.py"))
captures = importlib.util.module_from_spec(golden)
golden.loader.exec_module(captures)


def step(state, x, flag):
    weights, momentum = state

    def loss(weights):
        y, _ = jax.lax.scan(lambda y, weight: (jnp.tanh(y @ weight), None), x, weights)
        return jnp.sum(jax.lax.cond(flag > 0, lambda y: y * 2, lambda y: y @ y.T @ y, y))

    value, gradient = jax.value_and_grad(loss)(weights)
    momentum = 0.9 * momentum + gradient
    return (weights - 0.1 * momentum, momentum), value


shape = jax.ShapeDtypeStruct
weights = shape((3, 8, 8), jnp.float32)
program = jaxmem.Program(
    step, (weights, weights), shape((16, 8), jnp.float32), shape((), jnp.int32), donate_argnums=0, name="looped"
)
jax.config.update("jax_traceback_in_locations_limit", 1)
jax.config.update("jax_hlo_source_file_canonicalization_regex", captures.FOLDERS_OF_THIS_MACHINE)
for device in ("cpu", "h100-sxm"):
    captures.save(captures.capture_of(program, device), Path(f"looped.{device}.jaxmem"), force=True)
