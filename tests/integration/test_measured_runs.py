"""Programs really run on this machine's processor, whose need is known by hand."""

from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

import jaxmem
from jaxmem.analysis.captures import finished, prepare
from jaxmem.capture import Capture
from jaxmem.compilers.process import job_folder
from jaxmem.devices import cpu_device
from jaxmem.errors import EnvironmentFailure, UsageError
from jaxmem.measure import Counted, measure_capture
from jaxmem.measure.data import DUMP, EXECUTABLE, MODULE
from jaxmem.measure.run import Processes

MIB = 2**20
pytestmark = pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="needs Linux's /proc/self/clear_refs"
)


def megabytes(count: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((count, MIB // 4), jnp.float32)


def captured(function, *arguments, **keywords) -> Capture:
    return finished(prepare(jaxmem.Program(function, *arguments, **keywords), cpu_device(), None))


def sorted_and_kept(array, key, labels, unused):
    """A sorted copy (64 MiB) is the only large result; the key and the labels are small, the last is dropped."""
    noise = jax.random.uniform(key, (4,))
    return jnp.sort(array, axis=0), noise[labels]


def test_arguments_and_growth_are_counted() -> None:
    report = jaxmem.analyze(
        sorted_and_kept,
        megabytes(64),
        jax.eval_shape(lambda: jax.random.key(0)),
        jax.ShapeDtypeStruct((8,), jnp.int32),
        jax.ShapeDtypeStruct((5,), jnp.bfloat16),
        measure=True,
        use_cache=False,
    )
    assert report.measured is not None
    assert isinstance(report.measured.bytes, int)
    assert report.required_bytes >= 128 * MIB
    # Threads, and code that is touched for the first time, come on top.
    assert report.required_bytes - MIB < report.measured.bytes < report.required_bytes + 24 * MIB
    assert isinstance(report.measured.error_percent, float)


def test_what_one_process_compiles_another_runs() -> None:
    """As on a GPU, where trying kernels must not count: the program is donated its argument and adds one in place."""
    capture = captured(lambda array: array + 1, megabytes(64), donate_argnums=0)
    with job_folder() as folder:
        (folder / DUMP).mkdir()
        (folder / MODULE).write_bytes(capture.stablehlo)
        processes = Processes(folder=folder, capture=capture, progress=lambda phase, seconds: None, timeout=300)
        compiled = processes.run("compiling", runs=False, variables={})
        assert compiled.counted is None
        assert compiled.dump is not None
        assert (folder / DUMP / compiled.dump).read_bytes()
        assert (folder / EXECUTABLE).exists()
        (folder / MODULE).write_bytes(captured(lambda array: array, megabytes(1)).stablehlo)  # nobody compiles this
        ran = processes.run("running", runs=True, variables={})
    assert isinstance(ran.counted, Counted)
    assert 64 * MIB <= ran.counted.argument_bytes < 68 * MIB
    assert ran.counted.step_bytes < 24 * MIB


def test_a_run_that_takes_too_long_is_stopped() -> None:
    capture = captured(lambda x: jax.lax.while_loop(lambda x: x < 1, lambda x: x * 0.5, x), jnp.float32(3))
    with pytest.raises(EnvironmentFailure, match=r"did not finish within 0.5 seconds.*may never end"):
        measure_capture(capture, timeout=0.5)


def test_functions_of_python_are_refused() -> None:
    def says(x):
        jax.debug.callback(print, x)
        return x

    with pytest.raises(UsageError, match="calls back"):
        jaxmem.analyze(says, jnp.float32(1), measure=True, use_cache=False)
