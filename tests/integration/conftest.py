"""From a program to its formula and its capture, as the tests of whole programs need them."""

import math
import os
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxmem.capture import Capture
from jaxmem.compilers import compile_lowering
from jaxmem.devices import find_device, obstacle
from jaxmem.formula import Formula, derive_formula
from jaxmem.program import Program
from jaxmem.tracing import trace
from jaxmem.tracing.layers import layer_table
from jaxmem_models import programs

OPENED = {"xla_cpu_experimental_ynn_fusion_type": ""}
"""No kind of fusion is left to the CPU backend's library: every operation is an instruction that XLA can see."""


def compile_program(program: Program) -> Capture:
    """Trace and compile for CPU in a worker, past every cache."""
    traced = trace(program)
    return compile_lowering(
        traced.lowering, layer_table(traced.closed_jaxpr, traced.arguments), find_device("cpu"), timeout=300
    )


def formula_of(program: Program) -> Formula:
    """The formula of a program, traced and never compiled."""
    traced = trace(program)
    table = layer_table(traced.closed_jaxpr, traced.arguments)
    return derive_formula(table, traced.arguments, traced.outputs, traced.facts, platform="cpu")


@pytest.fixture(scope="session")
def compiled():
    """`compile_program`: Program → Capture."""
    return compile_program


@pytest.fixture(scope="session")
def formula():
    """`formula_of`: Program → Formula."""
    return formula_of


@pytest.fixture(scope="session")
def opened():
    """The compiler options that open the library's fusions."""
    return dict(OPENED)


def network_with_random_arrays(name: str, **arguments: Any) -> Any:
    """A network in evaluation mode: kernels of the size that keeps a signal's, everything else between 0.5 and 1.5.

    Drawn by NumPy, which takes a tenth of the time of the network's own initializers; and biases that start at zero and
    statistics at one would hide that one is forgotten.
    """
    model = programs.abstract_model(name, **arguments)
    random = np.random.default_rng(1)
    state = nnx.state(model)
    for _, variable in nnx.to_flat_state(state):
        shape, dtype = variable.get_value().shape, variable.get_value().dtype
        if jnp.issubdtype(dtype, jax.dtypes.prng_key):
            array = jax.random.key(0)
        elif len(shape) > 1:
            array = jnp.asarray(random.standard_normal(shape) / math.sqrt(math.prod(shape[:-1])), dtype)
        else:
            array = jnp.asarray(random.uniform(0.5, 1.5, shape), dtype)
        variable.set_value(array)
    nnx.update(model, state)
    model.eval()
    return model


@pytest.fixture(scope="session")
def with_random_arrays():
    """`network_with_random_arrays`: a name of the zoo and its constructor's own arguments → network."""
    return network_with_random_arrays


def need_compiler(platform: str) -> None:
    """Skip, or fail where ``JAXMEM_REQUIRE`` names the platform, without its compiler."""
    if (problem := obstacle(platform)) is not None:
        if platform in os.environ.get("JAXMEM_REQUIRE", "").split(","):
            pytest.fail(problem)
        pytest.skip(problem)


@pytest.fixture(scope="session")
def need() -> Callable[[str], None]:
    """`need_compiler`: a platform's name → nothing, or the end of the test."""
    return need_compiler
