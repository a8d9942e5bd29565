"""Compiling in a worker: the same result as JAX itself, and nothing left behind when it goes wrong."""

import io
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from jaxmem.compilers import compile_lowering, process
from jaxmem.compilers.worker import _has_buffer_assignment, _varint
from jaxmem.devices import find_device
from jaxmem.errors import EnvironmentFailure, UsageError
from jaxmem.lowering import Lowering, ProgramFacts
from jaxmem.unknown import Unknown

CPU = find_device("cpu")
F32, BF16 = jnp.float32, jnp.bfloat16


def array(*shape: int, dtype: Any = F32) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype)


def bytecode(lowered: jax.stages.Lowered) -> bytes:
    module = lowered.compiler_ir("stablehlo")
    assert module is not None
    content = io.BytesIO()
    module.operation.write_bytecode(content)
    return content.getvalue()


def make_lowering(lowered: jax.stages.Lowered, **changes: Any) -> Lowering:
    return Lowering(program=ProgramFacts(name="test"), stablehlo=bytecode(lowered), arguments=(), outputs=(), **changes)


def mlp_step(weights: Any, x: jax.Array, unused: jax.Array) -> Any:
    def loss(weights: Any) -> jax.Array:
        hidden = x
        for weight in weights:
            hidden = jnp.tanh(hidden @ weight)
        return (hidden**2).mean()

    value, gradient = jax.value_and_grad(loss)(weights)
    return jax.tree.map(lambda w, g: w - 0.1 * g, weights, gradient), value


def scan_step(weights: jax.Array, x: jax.Array) -> Any:
    def loss(weights: jax.Array) -> jax.Array:
        final, _ = jax.lax.scan(lambda carry, weight: (jnp.tanh(carry @ weight), None), x, weights)
        return final.sum()

    return weights - jax.grad(loss)(weights)


def embed(table: jax.Array, tokens: jax.Array) -> jax.Array:
    return table[tokens].astype(F32).sum(axis=1)


def solve(a: jax.Array) -> Any:
    return jnp.linalg.eigh(a @ a.T)


def talk(x: jax.Array) -> jax.Array:
    jax.debug.print("{}", x.sum())
    return x * 2


PROGRAMS: dict[str, Callable[[], jax.stages.Lowered]] = {
    "donated, with a dropped argument": lambda: jax.jit(mlp_step, donate_argnums=0).lower(
        [array(32, 64), array(64, 32)], array(16, 32), array(7, 7)
    ),
    "not donated": lambda: jax.jit(mlp_step).lower([array(32, 64)], array(16, 32), array(7, 7)),
    "scan": lambda: jax.jit(scan_step, donate_argnums=0).lower(array(4, 48, 48), array(8, 48)),
    "integers and bfloat16": lambda: jax.jit(embed).lower(array(1000, 32, dtype=BF16), array(4, 9, dtype=jnp.int32)),
    "linear algebra library": lambda: jax.jit(solve).lower(array(24, 24)),
    "callback": lambda: jax.jit(talk).lower(array(24, 24)),
    "constants": lambda: jax.jit(lambda x: x + jnp.arange(4096.0)).lower(array(4096)),
}


def buffer_assignment(proto: bytes) -> bytes:
    """Field 3 of an HloProto, as it stands."""
    position = 0
    while position < len(proto):
        tag, position = _varint(proto, position)
        length, position = _varint(proto, position)
        if tag >> 3 == 3:
            return proto[position : position + length]
        position += length
    raise AssertionError("no buffer assignment")


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A temporary folder of the test's own, which must be empty when the test is over."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_worker_gives_what_jax_itself_gives(
    name: str, tmp_path: Path, temporary: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    lowered = PROGRAMS[name]()
    capfd.readouterr()
    capture = compile_lowering(make_lowering(lowered), None, CPU)
    assert capfd.readouterr() == ("", "")
    direct = lowered.compile(compiler_options={"xla_dump_to": str(tmp_path), "xla_dump_hlo_as_proto": True})
    (dump,) = tmp_path.glob("*after_optimizations.hlo.pb")
    assert buffer_assignment(capture.hlo_proto) == buffer_assignment(dump.read_bytes())

    executable: Any = direct.runtime_executable()
    reported = executable.get_compiled_memory_stats()
    statistics = capture.statistics
    assert statistics.argument_bytes == reported.argument_size_in_bytes
    assert statistics.output_bytes == reported.output_size_in_bytes
    assert statistics.alias_bytes == reported.alias_size_in_bytes
    assert statistics.temp_bytes == reported.temp_size_in_bytes
    assert statistics.generated_code_bytes == reported.generated_code_size_in_bytes
    assert statistics.reported_peak_bytes == reported.peak_memory_in_bytes
    assert statistics.host_temp_bytes == reported.host_temp_size_in_bytes
    cost: Any = direct.cost_analysis()
    assert capture.cost.flops == cost.get("flops", Unknown("not reported by this backend"))

    assert capture.failure is None
    assert capture.stablehlo == bytecode(lowered)
    assert capture.compile_seconds > 0
    assert capture.worker_start_seconds > 0
    assert dict(capture.versions)["jax"] == jax.__version__


def test_donation_and_the_dropped_argument_show(temporary: Path) -> None:
    """Two donated float32 weights of 8 KiB come back in their own buffers; the 7 x 7 argument is not there."""
    capture = compile_lowering(make_lowering(PROGRAMS["donated, with a dropped argument"]()), None, CPU)
    assert capture.statistics.alias_bytes == 2 * 32 * 64 * 4
    assert capture.statistics.argument_bytes == 2 * 32 * 64 * 4 + 16 * 32 * 4


def test_compiler_options_and_configuration_reach_the_compiler(temporary: Path) -> None:
    lowered = PROGRAMS["scan"]()
    options = (
        ("memory_fitting_level", "19"),
        ("xla_disable_hlo_passes", "fusion"),
        ("xla_dump_hlo_as_text", "True"),
    )
    capture = compile_lowering(make_lowering(lowered, compiler_options=options), None, CPU)
    direct_options: Any = {"memory_fitting_level": 19, "xla_disable_hlo_passes": "fusion"}
    reported: Any = lowered.compile(compiler_options=direct_options).memory_analysis()
    default: Any = lowered.compile().memory_analysis()
    assert capture.statistics.temp_bytes == reported.temp_size_in_bytes != default.temp_size_in_bytes
    assert capture.compiler_options == options
    compile_lowering(make_lowering(lowered, configuration=(("jax_memory_fitting_level", "O1"),)), None, CPU)
    with pytest.raises(EnvironmentFailure, match="nonsense"):
        compile_lowering(make_lowering(lowered, configuration=(("jax_memory_fitting_level", "nonsense"),)), None, CPU)


def test_settings_of_the_environment_do_not_leak_in(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAX_MEMORY_FITTING_LEVEL", "nonsense")
    monkeypatch.setenv("JAX_PLATFORMS", "tpu")
    assert compile_lowering(make_lowering(PROGRAMS["scan"]()), None, CPU).failure is None


def test_modules_of_the_current_folder_are_not_imported(
    temporary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "jax.py").write_text("raise SystemExit('the wrong jax')")
    monkeypatch.chdir(tmp_path)
    assert compile_lowering(make_lowering(PROGRAMS["scan"]()), None, CPU).failure is None


def test_progress_tells_the_phases_in_order(temporary: Path) -> None:
    said: list[tuple[str, float]] = []
    compile_lowering(make_lowering(PROGRAMS["callback"]()), None, CPU, progress=lambda *call: said.append(call))
    assert [phase for phase, _ in said] == [
        "starting the compiler",
        "compiling for cpu",
        "collecting what the compiler left",
    ]
    assert [seconds for _, seconds in said] == sorted(seconds for _, seconds in said)


def test_an_unknown_option_is_a_usage_error(temporary: Path) -> None:
    lowering = make_lowering(PROGRAMS["scan"](), compiler_options=(("xla_nonsense", "1"),))
    with pytest.raises(UsageError, match="No such compile option: 'xla_nonsense'"):
        compile_lowering(lowering, None, CPU)
    lowering = make_lowering(PROGRAMS["scan"](), compiler_options=(("xla_cpu_multi_thread_eigen", "maybe"),))
    with pytest.raises(UsageError, match="true and false are written True and False"):
        compile_lowering(lowering, None, CPU)
    lowering = make_lowering(PROGRAMS["scan"](), compiler_options=(("optimization_level", "high"),))
    with pytest.raises(UsageError, match="optimization_level is a whole number, found 'high'"):
        compile_lowering(lowering, None, CPU)


def test_another_platform_is_refused_before_anything_starts(temporary: Path) -> None:
    with pytest.raises(UsageError, match=r"was lowered for cpu and cannot be compiled for tpu-v5e \(tpu\)"):
        compile_lowering(make_lowering(PROGRAMS["scan"]()), None, find_device("tpu-v5e"))
    with pytest.raises(UsageError, match="was lowered for tpu and cannot be compiled for cpu"):
        compile_lowering(make_lowering(PROGRAMS["scan"](), platforms=("tpu",)), None, CPU)


def test_a_module_that_is_none_fails_in_the_compilers_words(temporary: Path) -> None:
    lowering = Lowering(program=ProgramFacts(name="x"), stablehlo=b"nonsense", arguments=(), outputs=())
    with pytest.raises(EnvironmentFailure) as caught:
        compile_lowering(lowering, None, CPU)
    assert "Unable to parse module" in str(caught.value)
    assert "Traceback" not in str(caught.value)


def test_a_flag_that_xla_refuses_ends_in_its_own_words(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XLA_FLAGS", "--xla_no_such_flag=1")
    with pytest.raises(EnvironmentFailure) as caught:
        compile_lowering(make_lowering(PROGRAMS["scan"]()), None, CPU)
    assert "xla_no_such_flag" in str(caught.value)


def test_a_dump_that_the_environment_forbids_is_explained(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XLA_FLAGS", "--xla_dump_hlo_module_re=nothing_like_it")
    with pytest.raises(EnvironmentFailure, match="no module with a buffer assignment"):
        compile_lowering(make_lowering(PROGRAMS["scan"]()), None, CPU)


def workers_of(folder: Path) -> list[int]:
    """Processes whose command line names the folder."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if str(folder).encode() in command and b"jaxmem.compilers.worker" in command:
                found.append(int(entry.name))
    return found


def wait_until(condition: Callable[[], object], seconds: float = 20) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.02)
    return False


def slow_lowering() -> Lowering:
    """Many different convolutions: some ten seconds of compiling."""

    def convolutions(x: jax.Array) -> jax.Array:
        for size in range(3, 180):
            kernel = jnp.sin(x[:, :3, :3].sum() + jnp.arange(9 * size, dtype=F32)).reshape(size, 1, 3, 3)
            x = x + jax.lax.conv(x[:, None], kernel, (1, 1), "SAME").sum(axis=1)
        return x

    return make_lowering(jax.jit(convolutions).lower(array(2, 40, 40)))


def test_a_timeout_stops_the_worker(temporary: Path) -> None:
    started = time.monotonic()
    with pytest.raises(EnvironmentFailure, match=r"did not finish within 0\.5 seconds and was stopped"):
        compile_lowering(make_lowering(PROGRAMS["scan"]()), None, CPU, timeout=0.5)
    assert time.monotonic() - started < 5
    assert workers_of(temporary) == []


@pytest.mark.parametrize(
    ("number", "message"),
    [(signal.SIGKILL, "ended by signal SIGKILL. If nobody did that by hand, the machine ran out of memory"),
     (signal.SIGSEGV, "ended by signal SIGSEGV. That is a crash of the compiler itself")],
)  # fmt: skip
def test_a_killed_worker_is_explained(temporary: Path, number: int, message: str) -> None:
    def kill() -> None:
        if wait_until(lambda: workers_of(temporary)):
            for worker in workers_of(temporary):
                os.kill(worker, number)

    killer = threading.Thread(target=kill)
    killer.start()
    with pytest.raises(EnvironmentFailure) as caught:
        compile_lowering(slow_lowering(), None, CPU)
    killer.join()
    assert message in str(caught.value)
    assert workers_of(temporary) == []


def test_an_error_in_the_callers_progress_stops_the_worker(temporary: Path) -> None:
    def fail(phase: str, seconds: float) -> None:
        if phase.startswith("compiling"):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        compile_lowering(slow_lowering(), None, CPU, progress=fail)
    assert workers_of(temporary) == []


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, -15), (signal.SIGKILL, -9)])
def test_a_caller_that_is_interrupted_or_killed_leaves_nothing(
    temporary: Path, tmp_path: Path, number: int, status: int
) -> None:
    """Ctrl-C goes through Python; after SIGTERM and SIGKILL the worker notices by itself and cleans up."""
    (tmp_path / "module.mlirbc").write_bytes(slow_lowering().stablehlo)
    (tmp_path / "caller.py").write_text(
        textwrap.dedent(
            """
            import pathlib, sys
            from jaxmem.compilers import compile_lowering
            from jaxmem.devices import find_device
            from jaxmem.lowering import Lowering, ProgramFacts
            module = pathlib.Path(sys.argv[1]).read_bytes()
            lowering = Lowering(program=ProgramFacts(name="slow"), stablehlo=module, arguments=(), outputs=())
            try:
                compile_lowering(lowering, None, find_device("cpu"), progress=lambda *call: print(*call, flush=True))
            except KeyboardInterrupt:
                sys.exit(130)
            """
        )
    )
    environment = os.environ | {"TMPDIR": str(temporary), "PYTHONPATH": str(Path(process.__file__).parents[2])}
    caller = subprocess.Popen(
        [sys.executable, str(tmp_path / "caller.py"), str(tmp_path / "module.mlirbc")],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert caller.stdout is not None
    with caller.stdout:
        for line in caller.stdout:
            if line.startswith("compiling"):
                break
        assert workers_of(temporary)
        caller.send_signal(number)
        assert caller.wait(20) == status
    assert wait_until(lambda: not workers_of(temporary) and not list(temporary.iterdir()))


def test_no_room_for_temporary_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    with pytest.raises(EnvironmentFailure, match="No temporary folder for the compiler"):
        compile_lowering(make_lowering(PROGRAMS["scan"]()), None, CPU)


@pytest.mark.parametrize(
    ("proto", "expected"),
    [
        (b"", False),
        (b"\x0a\x02ab", False),
        (b"\x0a\x02ab\x1a\x01c", True),
        (b"\x1a\x00", False),
        (b"\x08\x01\x1a\x01c", False),
        (b"\x0a\xac\x02" + bytes(300) + b"\x1a\x01c", True),
    ],
)
def test_the_dump_with_a_buffer_assignment_is_told_from_others(proto: bytes, expected: bool) -> None:
    assert _has_buffer_assignment(proto) is expected
