"""From a program to its formula and its capture, as the tests of whole programs need them."""

import os
from collections.abc import Callable

import pytest

from jaxmem.capture import Capture
from jaxmem.compilers import compile_lowering
from jaxmem.devices import find_device, obstacle
from jaxmem.formula import Formula, derive_formula
from jaxmem.program import Program
from jaxmem.tracing import trace
from jaxmem.tracing.layers import layer_table

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
