"""Which files are dumps, whose they are, and what is said of those that are none; folders of several."""

import gzip
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from dumps_of_tests import DUMPS, NAMES, PLATFORMS, TENSORFLOW, TORCH, golden, report_of
from jaxmem import analyze_dump, load
from jaxmem.cli import main
from jaxmem.dump.attributed import OF_AN_ARGUMENT
from jaxmem.dump.files import find_dump, read_dump
from jaxmem.dump.names import compiled_files, is_dump, platform_named
from jaxmem.errors import InputError, UsageError
from jaxmem.oom import explain_dump
from jaxmem.report import as_text
from jaxmem.result import DumpFolder, from_json, to_json
from jaxmem.result.json_text import Results
from jaxmem.unknown import Unknown
from jaxmem.xla import read


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
