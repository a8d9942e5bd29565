"""Compiling for cards and TPUs that are not there: what the compiler says, what it refuses, how it dies.

Each platform's tests are skipped where its compiler is not installed, and fail instead where ``JAXMEM_REQUIRE`` names
the platform.
"""

import io
import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
import pytest
from flax import nnx
from jax.sharding import AbstractMesh, AxisType, NamedSharding, PartitionSpec

from jaxmem.capture import Capture
from jaxmem.compilers import compile_lowering
from jaxmem.devices import CudaTarget, Device, TpuTarget, catalogue, find_device, installed, load_card
from jaxmem.errors import EnvironmentFailure, UsageError
from jaxmem.lowering import Lowering, ProgramFacts
from jaxmem.units import parse_bytes
from jaxmem.unknown import Unknown
from jaxmem.xla import live_peak_bytes, read_hlo_proto

F32 = jnp.float32
CUDA_COLORS = frozenset({0, 1, 2})


@pytest.fixture
def cuda(need: Callable[[str], None]) -> None:
    need("cuda")


@pytest.fixture
def tpu(need: Callable[[str], None]) -> None:
    need("tpu")


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A temporary folder of the test's own, which must be empty when the test is over, and an environment unchanged."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    before = dict(os.environ)
    yield folder
    assert list(folder.iterdir()) == []
    # The test runner itself writes down which test is running.
    assert {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"} == {
        name: value for name, value in before.items() if name != "PYTEST_CURRENT_TEST"
    }


def of_shape(*shape: int, dtype: Any = F32) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype)


def lower(platform: str, function: Any, *arguments: Any, donate: tuple[int, ...] = (), **changes: Any) -> Lowering:
    lowered = jax.jit(function, donate_argnums=donate).trace(*arguments).lower(lowering_platforms=(platform,))
    module = lowered.compiler_ir("stablehlo")
    assert module is not None
    content = io.BytesIO()
    module.operation.write_bytecode(content)
    return Lowering(
        program=ProgramFacts(name="test"),
        stablehlo=content.getvalue(),
        arguments=(),
        outputs=(),
        platforms=(platform,),
        **changes,
    )


def live_peak(capture: Capture, colors: frozenset[int]) -> int:
    _, assignment = read_hlo_proto(capture.hlo_proto, origin="the capture")
    assert assignment is not None
    return live_peak_bytes(assignment, colors)


def main_memory_bytes(capture: Capture) -> int:
    """The allocations that the TPU compiler counts: constants travel with the code."""
    _, assignment = read_hlo_proto(capture.hlo_proto, origin="the capture")
    assert assignment is not None
    counted = [one for one in assignment.allocations if not (one.color or one.is_thread_local or one.is_constant)]
    return sum(one.size for one in counted)


def mlp_step(weights: Any, x: jax.Array) -> Any:
    def loss(weights: Any) -> jax.Array:
        hidden = x
        for weight in weights:
            hidden = jnp.tanh(hidden @ weight)
        return (hidden**2).mean()

    value, gradient = jax.value_and_grad(loss)(weights)
    return jax.tree.map(lambda w, g: w - 0.1 * g, weights, gradient), value


MLP = ([of_shape(256, 512), of_shape(512, 256)], of_shape(64, 256))


def mlp(platform: str, **changes: Any) -> Lowering:
    return lower(platform, mlp_step, *MLP, donate=(0,), **changes)


# CUDA.


@pytest.mark.usefixtures("cuda")
def test_a_card_that_is_not_there(capfd: pytest.CaptureFixture[str]) -> None:
    lowering = mlp("cuda")
    capfd.readouterr()  # JAX itself may say something as it starts
    capture = compile_lowering(lowering, None, find_device("h100-sxm"))
    assert capfd.readouterr() == ("", "")
    weights, x = 2 * 256 * 512 * 4, 64 * 256 * 4
    assert capture.statistics.argument_bytes == weights + x
    assert capture.statistics.alias_bytes == weights
    # XLA's own peak on CUDA is right, and counts all memory of the card.
    assert live_peak(capture, CUDA_COLORS) == capture.statistics.reported_peak_bytes
    assert capture.failure is None
    assert capture.device.platform == "cuda"
    assert {"jax", "jaxlib", "jax-cuda12-pjrt", "nvidia-cuda-nvcc-cu12"} <= {name for name, _ in capture.versions}


@pytest.mark.usefixtures("cuda")
def test_every_card_of_the_catalogue_is_understood() -> None:
    """XLA reads the description and generates code for it; what it plans depends on the generation."""
    lowering = mlp("cuda")
    # One card for each compute capability, and all that are derived.
    cards: dict[str, Device] = {}
    for card in catalogue():
        if isinstance(card.target, CudaTarget):
            capability = card.target.description.split("cuda_compute_capability")[1].split("}")[0]
            cards.setdefault(card.name if card.derived else capability, card)
    temporaries = {card.name: compile_lowering(lowering, None, card).statistics.temp_bytes for card in cards.values()}
    assert len(temporaries) == 16
    assert temporaries["t4"] != temporaries["h100-sxm"]


@pytest.mark.usefixtures("cuda")
def test_the_reference_network_on_an_h100() -> None:
    """VGG-16 with Adam, batch 32: parameters 138,357,544, and the live peak that XLA itself reports for this card."""
    parameters, widths = [], (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0)
    channels = 3
    for width in widths:
        if width:
            parameters.append((of_shape(3, 3, channels, width), of_shape(width)))
            channels = width
    parameters += [(of_shape(i, o), of_shape(o)) for i, o in ((25088, 4096), (4096, 4096), (4096, 1000))]
    optimizer = optax.adam(1e-3)

    def logits(parameters: Any, x: jax.Array) -> jax.Array:
        layers = iter(parameters)
        for width in widths:
            if width:
                kernel, bias = next(layers)
                dimensions = ("NHWC", "HWIO", "NHWC")
                x = jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=dimensions) + bias
                x = jax.nn.relu(x)
            else:
                x = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
        x = x.reshape(x.shape[0], -1)
        for place, (kernel, bias) in enumerate(layers):
            x = x @ kernel + bias
            x = jax.nn.relu(x) if place < 2 else x
        return x

    def step(parameters: Any, state: Any, x: jax.Array, y: jax.Array) -> Any:
        def loss(parameters: Any) -> jax.Array:
            return optax.softmax_cross_entropy_with_integer_labels(logits(parameters, x), y).mean()

        value, gradients = jax.value_and_grad(loss)(parameters)
        updates, state = optimizer.update(gradients, state, parameters)
        return optax.apply_updates(parameters, updates), state, value

    state = jax.eval_shape(optimizer.init, parameters)
    batch = of_shape(32, 224, 224, 3), of_shape(32, dtype=jnp.int32)
    lowering = lower("cuda", step, parameters, state, *batch, donate=(0, 1))
    capture = compile_lowering(lowering, None, find_device("h100-sxm"))
    assert capture.statistics.argument_bytes == 3 * 138_357_544 * 4 + 4 + 32 * (602_112 + 4)
    assert live_peak(capture, CUDA_COLORS) == 6_176_187_540
    assert capture.statistics.reported_peak_bytes == 6_176_187_540


@pytest.mark.usefixtures("cuda")
@pytest.mark.parametrize("count", [8, 256])
def test_several_cards(count: int) -> None:
    """Each of them holds its share of the batch, and a whole copy of the weights."""
    capture = compile_lowering(sharded("cuda", count), None, find_device("h100-sxm"))
    assert capture.statistics.argument_bytes == 2 * 64 * 64 * 4 + 4 * 64 * 4
    assert capture.device_count == count


def sharded(platform: str, count: int) -> Lowering:
    """Batch 4 for each device, the weights everywhere."""
    mesh = AbstractMesh((count,), ("data",), axis_types=(AxisType.Auto,))
    whole, split = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec("data"))
    weights = [jax.ShapeDtypeStruct((64, 64), F32, sharding=whole) for _ in range(2)]
    x = jax.ShapeDtypeStruct((4 * count, 64), F32, sharding=split)
    return lower(platform, mlp_step, weights, x, device_count=count)


@pytest.mark.usefixtures("cuda")
def test_a_program_without_tiles_is_compiled_without_triton() -> None:
    """XLA's default tiles do not suit a matrix product of this attention. What was done instead is on record."""
    attention = nnx.eval_shape(lambda: nnx.MultiHeadAttention(12, 768, decode=False, rngs=nnx.Rngs(0)))
    graph, state = nnx.split(attention)
    lowering = lower("cuda", lambda state, x: nnx.merge(graph, state)(x), state, of_shape(32, 197, 768))
    phases: list[str] = []
    capture = compile_lowering(lowering, None, find_device("h100-sxm"), progress=lambda phase, _: phases.append(phase))
    assert capture.compiler_options == (("xla_gpu_enable_triton_gemm", "False"),)
    assert capture.failure is None
    assert "again without Triton" in " ".join(phases)
    # Whoever decides about Triton keeps what was decided.
    wanted = replace(lowering, compiler_options=(("xla_gpu_enable_triton_gemm", "True"),))
    with pytest.raises(EnvironmentFailure, match="Couldn't find output tile sizes"):
        compile_lowering(wanted, None, find_device("h100-sxm"))


@pytest.mark.usefixtures("cuda")
def test_a_compiler_that_divides_by_zero_is_an_error_message() -> None:
    card = find_device("h100-sxm")
    assert isinstance(card.target, CudaTarget)
    broken = CudaTarget(description=card.target.description.replace("  threads_per_warp: 32\n", ""))
    with pytest.raises(EnvironmentFailure, match="ended by signal SIGFPE"):
        compile_lowering(mlp("cuda"), None, replace(card, target=broken))


@pytest.mark.usefixtures("cuda")
def test_a_description_that_is_none_is_an_error_message() -> None:
    card = replace(find_device("h100-sxm"), target=CudaTarget(description="gpu_device_info { colour: 3 }"))
    with pytest.raises(EnvironmentFailure, match="Failed to parse GpuTargetConfigProto"):
        compile_lowering(mlp("cuda"), None, card)


@pytest.mark.usefixtures("cuda")
def test_a_card_of_ones_own(tmp_path: Path) -> None:
    file = tmp_path / "card.toml"
    file.write_text(
        'name = "rtx-4080"\nkind = "NVIDIA GeForce RTX 4080"\ncompute_capability = "8.9"\nmultiprocessors = 76\n'
        'memory = "16 GiB"\nmemory_bandwidth = "716.8 GB"\nl2_cache = "64 MiB"\nclock_ghz = 2.505\nsource = "a test"\n'
    )
    capture = compile_lowering(mlp("cuda"), None, load_card(file))
    assert capture.device.name == "rtx-4080"
    assert live_peak(capture, CUDA_COLORS) == capture.statistics.reported_peak_bytes


# TPU.

CHIPS = tuple(device.name for device in catalogue() if device.platform == "tpu")


def first_of(count: int) -> tuple[Callable[[jax.Array], jax.Array], jax.ShapeDtypeStruct]:
    """A program whose memory is its argument: ``count`` times 4 KiB."""
    return (lambda x: x[0, 0, 0] * 2), of_shape(count, 8, 128)


@pytest.mark.usefixtures("tpu")
def test_a_chip_that_is_not_there(capfd: pytest.CaptureFixture[str]) -> None:
    lowering = mlp("tpu")
    capfd.readouterr()  # JAX itself may say something as it starts
    capture = compile_lowering(lowering, None, find_device("tpu-v5e"))
    assert capfd.readouterr() == ("", "")
    assert capture.statistics.argument_bytes == 2 * 256 * 512 * 4 + 64 * 256 * 4
    assert not isinstance(capture.statistics.generated_code_bytes, Unknown)
    assert capture.statistics.generated_code_bytes > 0
    assert "libtpu" in dict(capture.versions)
    # What lives on the chip itself is a memory of its own.
    assert live_peak(capture, frozenset({0})) < live_peak(capture, frozenset({0, 1}))


@pytest.mark.usefixtures("tpu")
@pytest.mark.parametrize("name", CHIPS)
def test_the_limit_of_every_chip_is_the_compilers(name: str) -> None:
    """On both sides of the limit, as near as the padding of one array lets come: its own word is ours."""
    device = find_device(name)
    assert isinstance(device.usable_bytes, int)

    def attempt(count: int) -> Capture:
        function, argument = first_of(count)
        return compile_lowering(lower("tpu", function, argument), None, device)

    count = device.usable_bytes // 4096 - 50
    below = attempt(count)
    code_bytes = below.statistics.generated_code_bytes
    assert below.failure is None
    assert isinstance(code_bytes, int)
    taken = main_memory_bytes(below) + code_bytes
    count += (device.usable_bytes - taken) // 4096
    fits, too_large = attempt(count), attempt(count + 1)
    assert fits.failure is None
    assert main_memory_bytes(fits) + code_bytes <= device.usable_bytes < main_memory_bytes(too_large) + code_bytes
    assert too_large.failure is not None
    assert "Ran out of memory" in too_large.failure


@pytest.mark.usefixtures("tpu")
def test_a_program_that_does_not_fit_leaves_a_complete_capture() -> None:
    function, argument = first_of(parse_bytes("20 GiB") // 4096)
    capture = compile_lowering(lower("tpu", function, argument), None, find_device("tpu-v5e"))
    assert capture.failure is not None
    assert capture.failure.startswith("RESOURCE_EXHAUSTED")
    assert main_memory_bytes(capture) >= 20 * 2**30
    assert capture.statistics.argument_bytes == Unknown("the program did not compile")


@pytest.mark.usefixtures("tpu")
@pytest.mark.parametrize(("name", "count"), [("tpu-v5e", 2), ("tpu-v5e", 16), ("tpu-v5p", 8), ("tpu7x", 4)])
def test_several_chips(name: str, count: int) -> None:
    capture = compile_lowering(sharded("tpu", count), None, find_device(name))
    assert capture.device_count == count
    # Rows of 64 numbers are padded to 128.
    assert capture.statistics.argument_bytes == 2 * 64 * 128 * 4 + 4 * 128 * 4


@pytest.mark.usefixtures("tpu")
def test_two_compiles_at_once() -> None:
    lowering, found = mlp("tpu"), []

    def compile_once() -> None:
        found.append(compile_lowering(lowering, None, find_device("tpu-v5e")).hlo_proto)

    threads = [threading.Thread(target=compile_once) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 2


@pytest.mark.usefixtures("tpu")
def test_a_topology_that_libtpu_refuses() -> None:
    device = find_device("tpu-v5e")
    assert isinstance(device.target, TpuTarget)
    unheard_of = replace(device, target=replace(device.target, generation="v99"))
    with pytest.raises(EnvironmentFailure, match="Invalid TPU external name"):
        compile_lowering(mlp("tpu"), None, unheard_of)
    with pytest.raises(UsageError, match="powers of two"):
        compile_lowering(sharded("tpu", 3), None, device)


# Without the compiler.


@pytest.mark.parametrize(("platform", "name"), [("cuda", "h100-sxm"), ("tpu", "tpu-v5e")])
def test_a_missing_extra_is_said_with_the_line_that_installs_it(
    platform: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(installed, "version_of", lambda package: None)
    with pytest.raises(EnvironmentFailure, match=rf'pip install "jaxmem\[{platform}\]"'):
        compile_lowering(mlp(platform), None, find_device(name))
