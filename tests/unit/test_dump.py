"""Dumps of any framework: which files count, whose they are, and what they say without the program.

The dumps of TensorFlow and PyTorch/XLA are real, see tests/data/README.md; those of JAX are the modules of golden captures.
"""

import gzip
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from jaxmem import analyze_dump, load
from jaxmem.assemble import read_report
from jaxmem.capture import Capture
from jaxmem.capture import load as load_capture
from jaxmem.cli import main
from jaxmem.dump.attributed import NEEDS_NAMES, NEEDS_PROGRAM, OF_AN_ARGUMENT, OVER_AN_ARGUMENT
from jaxmem.dump.files import find_dump, read_dump
from jaxmem.dump.names import compiled_files, is_dump, platform_named
from jaxmem.dump.roles import read_roles
from jaxmem.dump.tables import tables
from jaxmem.errors import InputError, UsageError
from jaxmem.layer_paths import is_transposed, name_stack, operation, tells_phases
from jaxmem.oom import explain_dump
from jaxmem.report import as_markdown, as_text
from jaxmem.result import BufferRow, DumpFolder, Report, from_json, to_json
from jaxmem.result.json_text import Results
from jaxmem.roles import Phase, Role
from jaxmem.unknown import Unknown
from jaxmem.xla import read

TESTS = Path(__file__).parents[1]
DUMPS = TESTS / "data" / "dumps"
TENSORFLOW = next((DUMPS / "tensorflow").glob("*cpu_after*"))
TORCH = next((DUMPS / "torch_xla").glob("*"))
NAMES = {
    "cpu": "module_0003.jit_step.cpu_after_optimizations.hlo.pb",
    "h100-sxm": "module_0003.jit_step.sm_9.0_gpu_after_optimizations.hlo.pb",
    "tpu-v5e": "module_0003.jit_step.cl_854318611.after_optimizations.hlo.pb",
}
PLATFORMS = {"cpu": "cpu", "h100-sxm": "cuda", "tpu-v5e": "tpu"}
GOLDEN = [(program, device) for program in ("checkpoints", "pools", "scanned_layers", "thin_maps") for device in NAMES]


def golden(program: str, device: str) -> Capture:
    return load_capture(TESTS / "golden" / f"{program}.{device}.jaxmem")


@pytest.fixture
def jax_dump(tmp_path: Path) -> Callable[[str, str], Path]:
    def write(program: str, device: str) -> Path:
        path = tmp_path / NAMES[device]
        path.write_bytes(golden(program, device).hlo_proto)
        return path

    return write


def report_of(path: Path, **options: str | Path) -> Report:
    report = analyze_dump(path, **options)  # type: ignore[arg-type]
    assert isinstance(report, Report)
    return report


def rows(report: Report) -> dict[str, BufferRow]:
    return {row.instruction: row for row in report.buffers.rows()}


# --- files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "platform"),
    [
        ("module_0003.jit_step.cpu_after_optimizations.hlo.pb", "cpu"),
        ("module_0001.SyncTensorsGraph.123.sm_8.0_gpu_after_optimizations.hlo.pb.gz", "cuda"),
        ("module_0036.a_inference_train_step_64.5.cpu_after_optimizations.hlo.pb", "cpu"),
        ("module_0002.jit_step.cl_854318611.after_optimizations.hlo.pb", "tpu"),
        ("module_0002.jit_cpu_after.hlo.pb", None),
    ],
)
def test_the_name_of_a_file_tells_whose_it_is(name: str, platform: str | None) -> None:
    assert platform_named(Path("somewhere") / name) == platform
    assert is_dump(name)


def test_what_is_a_dump(tmp_path: Path) -> None:
    assert is_dump(str(tmp_path))
    assert not is_dump(str(tmp_path / "nothing"))
    assert not is_dump("report.json")


@pytest.mark.parametrize("device", NAMES)
def test_a_renamed_dump_is_known_by_its_instructions(device: str, tmp_path: Path) -> None:
    renamed = tmp_path / "mine.hlo.pb"
    renamed.write_bytes(golden("checkpoints", device).hlo_proto)
    assert read_dump(renamed).platform == PLATFORMS[device]


def test_where_nothing_tells_the_device_does(tmp_path: Path) -> None:
    renamed = tmp_path / "mine.hlo.pb.gz"
    renamed.write_bytes(TORCH.read_bytes())
    with pytest.raises(
        InputError, match=r"Neither the name of .*mine\.hlo\.pb\.gz nor its instructions tell .* with -d"
    ):
        analyze_dump(renamed)
    assert report_of(renamed, device="cpu").device.name == "cpu"


def test_the_one_compiled_module_of_a_folder(tmp_path: Path) -> None:
    early = (DUMPS / "tensorflow" / "module_0036.train_step_64.before_optimizations.hlo.pb.gz").read_bytes()
    (tmp_path / "module_0000.jit_f.before_optimizations.hlo.pb.gz").write_bytes(early)
    with pytest.raises(InputError, match=r"was found in .*: module_0000\.jit_f\.before.*xla_dump_hlo_as_proto"):
        find_dump(tmp_path)
    # The name of a compiled module, and no buffers in it: a compile that did not end.
    (tmp_path / "module_0000.jit_f.cpu_after_optimizations.hlo.pb.gz").write_bytes(early)
    with pytest.raises(InputError, match="No compiled module"):
        find_dump(tmp_path)
    whole = tmp_path / "module_0001.jit_f.cpu_after_optimizations.hlo.pb.gz"
    whole.write_bytes(TENSORFLOW.read_bytes())
    assert find_dump(tmp_path) == whole
    assert compiled_files(tmp_path)[1] == whole
    (tmp_path / "module_0002.jit_g.cpu_after_optimizations.hlo.pb.gz").write_bytes(TENSORFLOW.read_bytes())
    with pytest.raises(InputError, match="2 compiled modules"):
        find_dump(tmp_path)
    with pytest.raises(InputError, match="is not a folder"):
        find_dump(tmp_path / "nowhere")


def test_a_large_file_reads_as_a_small_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / TENSORFLOW.name.removesuffix(".gz")
    path.write_bytes(gzip.decompress(TENSORFLOW.read_bytes()))
    expected = report_of(path)
    monkeypatch.setattr(read, "LARGE_BYTES", 1000)
    assert report_of(path) == expected
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(InputError, match="is not a usable XLA dump"):
        report_of(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it is empty"),
        (b"nonsense", "truncated or no HloProto"),
        (gzip.compress(b"nonsense"), "truncated or no HloProto"),
        (TENSORFLOW.read_bytes()[:-20], "its gzip data ends too early"),
        (gzip.decompress(TENSORFLOW.read_bytes())[:-500], "is not a usable XLA dump"),
        (gzip.compress(bytes(2000)), "unpacks to more than 1000 B"),
    ],
)
def test_a_broken_file(
    content: bytes, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if "unpacks" in message:
        monkeypatch.setattr(read, "MAXIMUM_DECOMPRESSED_BYTES", 1000)
    path = tmp_path / "module_0.jit_f.cpu_after_optimizations.hlo.pb"
    path.write_bytes(content)
    assert main(["report", str(path)]) == 3
    assert message in capsys.readouterr().err
    # Alone in its folder as well; beside others it is a row that says why.
    assert main(["report", str(tmp_path)]) == 3
    assert message in capsys.readouterr().err
    if "unpacks" not in message:
        (tmp_path / TENSORFLOW.name).write_bytes(TENSORFLOW.read_bytes())
        assert main(["report", str(tmp_path)]) == 0
        assert re.sub(r"\s+", "", message) in re.sub(r"\s+", "", capsys.readouterr().out)


def test_files_of_the_wrong_kind(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(DUMPS / "tensorflow" / "module_0036.train_step_64.before_optimizations.hlo.pb.gz")]) == 3
    assert "has no buffer assignment: it was written before XLA optimized the module." in capsys.readouterr().err
    assert main(["report", str(tmp_path / "missing.hlo.pb")]) == 3
    assert "cannot be read: No such file" in capsys.readouterr().err
    assert main(["report", str(tmp_path)]) == 3
    assert "it is empty" in capsys.readouterr().err


# --- reports ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("program", "device"), GOLDEN)
def test_with_all_roles_a_dump_says_what_its_capture_says(
    program: str, device: str, jax_dump: Callable[[str, str], Path], tmp_path: Path
) -> None:
    """The compiled side but for what is hidden and for program code, neither of which is in a dump."""
    capture = golden(program, device)
    path = jax_dump(program, device)
    given = {str(each.parameter_number): each.role for each in capture.arguments if each.parameter_number is not None}
    (tmp_path / "roles.json").write_text(json.dumps({"roles": given}))
    whole, dumped = read_report(capture), report_of(path, roles=tmp_path / "roles.json", device=device)
    assert dumped.live_peak_bytes == whole.live_peak_bytes
    assert dumped.reserved_bytes == whole.reserved_bytes - whole.roles[Role.PROGRAM_CODE]
    apart = (Role.HIDDEN, Role.PROGRAM_CODE)
    assert {role: size for role, size in dumped.roles.items() if role not in apart} == {
        role: size for role, size in whole.roles.items() if role not in apart
    }
    assert dumped.verdict.usable_bytes == whole.verdict.usable_bytes


@pytest.mark.parametrize(("program", "device"), GOLDEN)
def test_without_roles_nothing_is_claimed_that_the_program_denies(
    program: str, device: str, jax_dump: Callable[[str, str], Path]
) -> None:
    whole, dumped = read_report(golden(program, device)), report_of(jax_dump(program, device))
    assert dumped.reserved_bytes == whole.reserved_bytes - whole.roles[Role.PROGRAM_CODE]
    known = [
        (mine.role, theirs.role)
        for mine, theirs in zip(dumped.buffers.rows(), whole.buffers.rows(), strict=True)
        if mine.role is not Role.UNATTRIBUTED
    ]
    assert len(known) > 10
    wrong = [pair for pair in known if pair[0] is not pair[1]]
    # What is kept from before the first gradient is not told from what is computed again after it.
    assert [pair for pair in wrong if pair[0] is not Role.SAVED_ACTIVATIONS] == []
    assert dumped.roles[Role.UNATTRIBUTED] > 0
    assert isinstance(dumped.unexplained_bytes, Unknown)


def test_tensorflow() -> None:
    """Names of TensorFlow tell layers, and by its gradient tape the backward pass."""
    report = report_of(TENSORFLOW.parent)
    assert report.program.donated
    assert (report.device.name, report.device.platform) == ("unknown cpu device", "cpu")
    # The map of 16 × 4 × 4 × 4 numbers before and after the relu: one for the mask, one for the gradient of the kernel.
    assert report.roles[Role.SAVED_ACTIVATIONS] == 2 * 16 * 4 * 4 * 4 * 4
    found = rows(report)
    assert (found["Conv2D.1"].layer, found["Conv2D.1"].phase) == ("conv", Phase.FORWARD)
    assert (found["MatMul.2"].layer, found["MatMul.2"].phase) == ("dense", Phase.BACKWARD)
    assert (found["MatMul.2"].role, found["MatMul.2"].rule) == (Role.UNATTRIBUTED, NEEDS_PROGRAM)
    assert found["arg0.1"].rule == OF_AN_ARGUMENT
    assert found["multiply_subtract_fusion"].rule == OVER_AN_ARGUMENT
    assert "roles of 4 of 4 arguments" in " ".join(report.notes)
    assert not any("names of the operations" in note for note in report.notes)


def test_tensorflow_with_roles(tmp_path: Path) -> None:
    (tmp_path / "roles.toml").write_text('[roles]\n"0-1" = "inputs"\n"arg*" = "parameters"\n')
    report = report_of(TENSORFLOW, roles=tmp_path / "roles.toml")
    # Images and labels; kernel and weights.
    assert report.roles[Role.INPUTS] == 16 * 8 * 8 * 4 + 16 * 4
    assert report.roles[Role.PARAMETERS] == (3 * 3 * 4 + 64 * 10) * 4
    assert report.roles[Role.UNATTRIBUTED] == 0
    assert not any("arguments are not known" in note for note in report.notes)


def test_pytorch_does_not_name_its_operations(tmp_path: Path) -> None:
    report = report_of(TORCH)
    found = rows(report)
    assert (found["convolution"].role, found["convolution"].rule) == (Role.UNATTRIBUTED, NEEDS_NAMES)
    assert all(row.phase is Phase.UNKNOWN for row in found.values())
    assert any(note.startswith("The names of the operations do not tell") for note in report.notes)
    (tmp_path / "roles.json").write_text('{"roles": {"0-19": "parameters"}}')
    told = report_of(TORCH, roles=tmp_path / "roles.json")
    assert told.roles[Role.PARAMETERS] > 0
    assert told.roles[Role.GRADIENTS] == 0
    assert rows(told)["convolution"].rule == NEEDS_NAMES


@pytest.mark.parametrize("device", NAMES)
def test_every_form_survives_what_is_unknown(device: str, jax_dump: Callable[[str, str], Path]) -> None:
    report = load(jax_dump("checkpoints", device))
    text = as_text(report, detail=True)
    assert "Fit not known (the dump does not say for which device it was compiled; name it with -d)" in text.replace(
        "\n ", ""
    )
    assert "| arguments | unknown |" in as_markdown(report, detail=True)


def test_the_device_decides_the_verdict(
    jax_dump: Callable[[str, str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    path = jax_dump("pools", "h100-sxm")
    assert main(["report", str(path), "-d", "h100-sxm,rtx-4090"]) == 0
    assert capsys.readouterr().out.count("Fits:") == 2
    assert main(["report", str(path), "-d", "h100-sxm", "--resident", "79GiB"]) == 1
    assert main(["report", str(path), "--limit", "1MiB"]) == 1
    capsys.readouterr()
    assert main(["report", str(path), "-d", "cpu"]) == 2
    assert "was written by the compiler for cuda, and cpu is of the platform cpu" in capsys.readouterr().err


def test_opaque_fusions_of_unknown_threads(jax_dump: Callable[[str, str], Path]) -> None:
    report = report_of(jax_dump("checkpoints", "cpu"))
    assert (report.hidden.bytes, report.required_is_lower_bound) == (None, True)
    assert "does not say how many" in report.hidden.reason
    assert report.hidden.fusions


# --- folders ---------------------------------------------------------------------------------------------------------


def test_a_folder_is_a_list(
    jax_dump: Callable[[str, str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for device in NAMES:
        jax_dump("pools", device)
    (tmp_path / "module_0004.x.cpu_after_optimizations.hlo.pb").write_bytes(b"nonsense")
    assert main(["report", str(tmp_path), "--format", "json"]) == 0
    folder: Results = from_json(capsys.readouterr().out, "stdout")
    assert isinstance(folder, DumpFolder)
    peaks = [module.live_peak_bytes for module in folder.modules]
    known = [peak for peak in peaks if isinstance(peak, int)]
    assert known == sorted(known, reverse=True)
    assert len(known) == 3
    assert isinstance(peaks[-1], Unknown)
    for module in folder.modules[:3]:
        report = report_of(tmp_path / module.file)
        assert (report.live_peak_bytes, report.reserved_bytes) == (module.live_peak_bytes, module.reserved_bytes)
    assert from_json(to_json(folder), "here") == folder == load(tmp_path)
    assert "4 compiled modules in" in as_text(folder)
    with pytest.raises(UsageError, match="4 compiled modules, and a device or a file of roles is for one"):
        analyze_dump(tmp_path, device="cpu")


def test_out_of_memory_reads_the_same_dumps() -> None:
    failure = explain_dump(TENSORFLOW)
    assert failure.required_bytes == report_of(TENSORFLOW).reserved_bytes
    by_shape = {buffer.shape: buffer for buffer in failure.buffers}
    assert by_shape["f32[16,8,8,1]{3,2,1,0}"].role == Unknown(OF_AN_ARGUMENT)
    assert by_shape["f32[16,4,4,4]{3,2,1,0}"].operation == "Conv2D"


# --- the file of roles -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("r.toml", "roles = 3", "does not hold the table roles and nothing else. Write, in TOML:"),
        ("r.toml", '[roles]\n0 = "inputs"\n[more]', "does not hold the table roles and nothing else"),
        ("r.toml", "[roles\n", "r.toml is not TOML: "),
        ("r.json", "{", "r.json is not JSON: "),
        ("r.json", "[" * 100_000, "r.json is not JSON: "),
        ("r.json", '{"roles": {"0": "inputs", "0": "parameters"}}', "a key stands there twice"),
        ("r.toml", '[roles]\n0 = "input"', "'0' has the role 'input'. Roles of arguments: parameters, model_state,"),
        ("r.json", '{"roles": {"0": ["inputs"]}}', "'0' has the role ['inputs']."),
        ("r.toml", '[roles]\n"*" = "gradients"', "'*' has the role 'gradients'"),
        (
            "r.toml",
            '[roles]\n4 = "inputs"',
            "'4' is no argument of the program. It has: 0 arg0.1, 1 arg1.1, 2 arg2.1, 3 arg3.1.",
        ),
        ("r.toml", '[roles]\n"weights*" = "parameters"', "'weights*' is no argument"),
    ],
)
def test_a_file_of_roles_that_is_wrong(
    name: str, text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / name).write_text(text)
    assert main(["report", str(TENSORFLOW), "--roles", str(tmp_path / name)]) == 3
    assert message in capsys.readouterr().err


def test_a_file_of_roles_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read: No such file"):
        read_roles(tmp_path / "r.toml")
    (tmp_path / "r.toml").write_bytes(b"\xff")
    with pytest.raises(InputError, match="is no text: byte 0 is not UTF-8"):
        read_roles(tmp_path / "r.toml")


def test_the_first_entry_counts_and_brackets_are_no_pattern(tmp_path: Path) -> None:
    path = tmp_path / "roles.toml"
    path.write_text(
        """[roles]
"weights['a']" = "model_state"
"weights[*" = "parameters"
2 = "inputs"
"?" = "other_state"
"""
    )
    dump = read_dump(DUMPS / "mlp_train.cpu.hlo.pb.gz", "cpu")
    table = tables(dump.module, read_roles(path))
    assert [(each.path, each.role) for each in table.arguments] == [
        ("weights['a']", Role.MODEL_STATE),
        ("weights['b']", Role.PARAMETERS),
        ("x", Role.INPUTS),
    ]
    assert [(each.role, each.parameter_path) for each in table.outputs] == [
        (Role.MODEL_STATE, ""),
        (Role.PARAMETERS, "weights['b']"),
        (Role.OUTPUTS, ""),
    ]
    assert not table.unknown
    assert tables(dump.module).unknown == {0, 1, 2}


# --- names -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "stack", "transposed", "last"),
    [
        ("jit(step)/transpose(jvp(VGG))/conv1_1/mul", "transpose(jvp(VGG))/conv1_1", True, "mul"),
        ("jit(f)/conv/add;extra/x", "conv", False, "add"),
        ("gradient_tape/dense/matmul/MatMul_1", "dense", True, "MatMul_1"),
        ("gradients/dense/matmul/MatMul_1", "dense", True, "MatMul_1"),
        ("dense/matmul", "dense", False, "matmul"),
        ("Mean", "", False, "Mean"),
        ("jit(f)/(a/add:b/mul)", "", False, ""),
        ("", "", False, ""),
    ],
)
def test_names_of_operations(name: str, stack: str, transposed: bool, last: str) -> None:
    assert (name_stack(name), is_transposed(name), operation(name)) == (stack, transposed, last)


def test_names_that_tell_phases() -> None:
    assert tells_phases(["", "jit(f)/add"])
    assert tells_phases(["Mean", "gradient_tape/a/b"])
    assert not tells_phases(["aten__add.3", "", "x/y"])
