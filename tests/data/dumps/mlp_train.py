"""Writes mlp_train.cpu.hlo.pb.gz: the smallest training step with a backward pass, donation and a stack frame.

Run from this folder so that the dump names no folder of yours:
    JAX_PLATFORMS=cpu python -c "exec(compile(open('mlp_train.py').read(), 'mlp_train.py', 'exec'))"
"""

import gzip
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp

from jaxmem.dump.files import find_dump


def step(weights, x):
    def loss(weights):
        return jnp.sum(jnp.tanh(jnp.tanh(x @ weights["a"]) @ weights["b"]) ** 2)

    value, gradients = jax.value_and_grad(loss)(weights)
    return jax.tree.map(lambda weight, gradient: weight - 0.1 * gradient, weights, gradients), value


weights = {"a": jax.ShapeDtypeStruct((8, 16), jnp.float32), "b": jax.ShapeDtypeStruct((16, 4), jnp.float32)}
x = jax.ShapeDtypeStruct((32, 8), jnp.float32)
with tempfile.TemporaryDirectory() as folder:
    options = {"xla_dump_to": folder, "xla_dump_hlo_as_proto": True}
    jax.jit(step, donate_argnums=0).lower(weights, x).compile(compiler_options=options)
    Path("mlp_train.cpu.hlo.pb.gz").write_bytes(gzip.compress(find_dump(folder).read_bytes(), 9, mtime=0))
