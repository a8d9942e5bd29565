"""Who multiplies matrices on a card that is not there: a range over both, and what XLA recorded on the card."""

from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

import jaxmem
from jaxmem.cli import main
from jaxmem.errors import InputError, UsageError
from jaxmem.report import as_text
from jaxmem.result import GemmRange, Report, Reports, from_json, to_json
from jaxmem.unknown import Unknown

CARD = "h100-sxm"
GPU = "CUDA: 9.0, Cores: 132, GPU clock: 1.98 GHz, Memory bandwidth: 3352 GB/s, L2 cache: 50 MB, DNN version: 9.8.0"
PRODUCT = """{
  tmp_0 = f32[256,4,128]{2,1,0} parameter(0)
  tmp_1 = f32[4,128,1024]{2,1,0} parameter(1)
  ROOT tmp_2 = f32[4,256,1024]{2,1,0} dot(f32[256,4,128]{2,1,0} tmp_0, f32[4,128,1024]{2,1,0} tmp_1), \
lhs_batch_dims={1}, lhs_contracting_dims={2}, rhs_batch_dims={0}, rhs_contracting_dims={1}
}"""
CONVOLUTION = (
    "(f32[8,32,32,64]{3,2,1,0}, u8[0]{0}) custom-call(f32[8,32,32,64]{3,2,1,0}, f32[64,3,3,64]{3,2,1,0}), "
    'window={size=3x3 pad=1_1x1_1}, dim_labels=b01f_o01i->b01f, custom_call_target="__cudnn$convForward", '
    'backend_config={"cudnn_conv_backend_config":{"activation_mode":"kNone","conv_result_scale":1,'
    '"leakyrelu_alpha":0,"side_input_scale":0},"device_type":"DEVICE_TYPE_INVALID","force_earliest_schedule":false,'
    '"operation_queue_id":"0","reification_cost":[]}'
)
"""`multiply`, divided into four along what is summed, and `convolve`, as the XLA of jaxlib 0.10.2 looks them up."""


@pytest.fixture(autouse=True)
def cuda(need: Callable[[str], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    need("cuda")
    monkeypatch.setenv("JAXMEM_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def of_shape(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def multiply(x: jax.Array, y: jax.Array) -> jax.Array:
    return x @ y


FACTORS = of_shape(256, 512), of_shape(512, 1024)


def analyze(**keywords: object) -> Report:
    return jaxmem.analyze(multiply, *FACTORS, device=CARD, **keywords)  # pyright: ignore[reportArgumentType]


def convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def write_results(file: str, operation: str, result: str, *, gpu: str = GPU) -> Path:
    """One result in XLA's form."""
    quoted = operation.replace('"', '\\"').replace("\n", "\\n")
    entry = f'device: "{gpu}" hlo: "{quoted}" version: 45 result {{ {result} }}'
    Path(file).write_text(f"version: 3\nresults {{ {entry} }}\n")
    return Path(file)


def results(file: str, *, workspace_bytes: int = 32 * 2**20, gpu: str = GPU) -> Path:
    """The product goes to cuBLAS, with a workspace."""
    result = f"gemm {{ algorithm: 0 autotune_workspace_size: {workspace_bytes} }}"
    return write_results(file, PRODUCT, result, gpu=gpu)


def test_a_range_over_both_backends() -> None:
    default, triton, cublas = analyze(), analyze(gemm="triton"), analyze(gemm="cublas")
    both = analyze(gemm="both")
    assert both.gemm_range is not None
    assert both.required_bytes == default.required_bytes == triton.required_bytes != cublas.required_bytes
    sizes = {one.backend: one.required_bytes for one in both.gemm_range.variants}
    assert sizes == {"triton": triton.required_bytes, "cublas": cublas.required_bytes}
    assert (both.gemm_range.least_bytes, both.gemm_range.most_bytes) == tuple(
        sorted((triton.required_bytes, cublas.required_bytes))
    )
    assert sizes[both.gemm_range.least] == both.gemm_range.least_bytes
    assert sizes[both.gemm_range.most] == both.gemm_range.most_bytes
    assert default.gemm_range is None
    saved = Reports(reports=(both,))
    assert from_json(to_json(saved), "here") == saved
    text = " ".join(as_text(both).split())
    assert "with cuBLAS's matrix products to" in text or "with Triton's matrix products to" in text


def test_a_range_of_one() -> None:
    """XLA's default tiles do not suit a matrix product of this attention."""
    attention = nnx.eval_shape(lambda: nnx.MultiHeadAttention(12, 768, decode=False, rngs=nnx.Rngs(0)))
    graph, state = nnx.split(attention)
    report = jaxmem.analyze(
        lambda state, x: nnx.merge(graph, state)(x), state, of_shape(32, 197, 768), device=CARD, gemm="both"
    )
    assert isinstance(report.gemm_range, GemmRange)
    triton, cublas = report.gemm_range.variants
    assert isinstance(triton.required_bytes, Unknown)
    assert cublas.required_bytes == report.required_bytes == report.gemm_range.least_bytes
    assert "finds no tiles" in " ".join(as_text(report).split())


def test_recorded_results_decide() -> None:
    """The recorded implementation brings its workspace, and a table of two pointers to its result and to that."""
    plain = analyze()
    large = analyze(autotune_results=results("recorded.txt"))
    assert large.required_bytes - plain.required_bytes == 32 * 2**20 + 2 * 8
    # The file is read again when its content has changed: the cache does not go by its name.
    small = analyze(autotune_results=results("recorded.txt", workspace_bytes=4 * 2**20))
    assert large.required_bytes - small.required_bytes == 28 * 2**20
    assert any("recorded autotune results" in note for note in small.notes)


def test_the_workspace_of_a_convolution_is_recorded() -> None:
    """Without the card it is planned as 0 bytes; recorded, it is an allocation of its own alignment, 256 B."""
    factors = of_shape(8, 32, 32, 64), of_shape(3, 3, 64, 64)
    plain = jaxmem.analyze(convolve, *factors, device=CARD)
    result = "algorithm { algo_id: 28 is_cudnn_frontend: true workspace_size { value: 1000000 } }"
    recorded = jaxmem.analyze(
        convolve, *factors, device=CARD, autotune_results=write_results("recorded.txt", CONVOLUTION, result)
    )
    assert recorded.required_bytes - plain.required_bytes == -(-1_000_000 // 256) * 256
    assert "where no result was recorded" in recorded.hidden.reason
    assert "where no result was recorded" not in plain.hidden.reason


def test_results_of_another_card_are_an_error() -> None:
    """XLA passes over them without a word."""
    other = results("recorded.txt", gpu=GPU.replace("Cores: 132", "Cores: 108"))
    with pytest.raises(InputError, match=r"(?s)none of the 2 operations .*Cores: 108.*h100-sxm"):
        analyze(autotune_results=other)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("hello { world", "Failed to parse"),
        ("", "Version mismatch"),
        ("version: 1\n", "Version mismatch"),
        (None, "No such file"),
    ],
)
def test_a_file_that_is_none(content: str | None, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    if content is not None:
        Path("recorded.txt").write_text(content)
    Path("program.py").write_text(
        "import jax, jaxmem\n"
        "def product():\n"
        "    return jaxmem.Program(lambda x: x @ x, jax.ShapeDtypeStruct((256, 256), 'float32'))\n"
    )
    line = f"report program.py:product -q -d {CARD} --autotune-results recorded.txt"
    assert main(line.split()) == 3
    message = capsys.readouterr().err
    assert words in message
    assert "recorded.txt" in message


def test_only_where_there_is_a_choice() -> None:
    with pytest.raises(UsageError, match="on NVIDIA GPUs"):
        jaxmem.analyze(multiply, *FACTORS, device="cpu", gemm="both")
    with pytest.raises(UsageError, match="of NVIDIA GPUs"):
        jaxmem.analyze(multiply, *FACTORS, device="cpu", autotune_results=results("recorded.txt"))
    with pytest.raises(UsageError, match="chosen twice"):
        analyze(gemm="both", compiler_options={"xla_gpu_enable_triton_gemm": "True"})
