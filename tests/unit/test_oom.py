"""Out-of-memory messages, read: what each says was copied out of the files by hand."""

import io
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxmem.cli import main
from jaxmem.devices import find_device
from jaxmem.errors import InputError
from jaxmem.oom import LOOKED_FOR, explain_dump, explain_message, recognizes
from jaxmem.report import as_text
from jaxmem.result import OutOfMemory, from_json, to_json
from jaxmem.roles import Phase, Role
from jaxmem.unknown import Unknown

DATA = Path(__file__).parents[1] / "data" / "oom"
NAMES = sorted(file.name for file in DATA.glob("*.txt"))
GIB, MIB = 2**30, 2**20

# failure, program, requested, required, available, free; None where the message does not say.
SAID = {
    "cpu-run.txt": ("CPU run", None, 4503599627370496, None, None, None),
    "gpu-afprofile.txt": ("GPU run", None, 4770354232, 14.44 * GIB, None, None),
    "gpu-allocator-table.txt": ("GPU run", None, None, None, 89.77 * GIB, 8.77 * GIB),
    "gpu-concatenate.txt": ("GPU run", "concatenate", 6291456, 12 * MIB, None, None),
    "gpu-graphcast.txt": ("GPU run", None, 3206250496, None, None, None),
    "gpu-t5x.txt": ("GPU run", "train_step", 29995136128, 28.40 * GIB, None, None),
    "host-compiler.txt": ("host memory", None, None, None, None, None),
    "host-numpy.txt": ("host memory", None, 2**53, None, None, None),
    "tpu-compile-colabfold.txt": ("TPU compile", None, None, 9.08 * GIB, 7.48 * GIB, None),
    "tpu-compile-easydel.txt": (
        "TPU compile",
        "casual_language_model_train_step",
        None,
        63.80 * GIB,
        30.75 * GIB,
        None,
    ),
    "tpu-compile-flowpm.txt": ("TPU compile", None, None, 41.74 * GIB, 16 * GIB, None),
    "tpu-compile-v5e.txt": ("TPU compile", None, None, 23 * GIB, 15.75 * GIB, None),
    "tpu-run-allocatable.txt": ("TPU run", None, 10485760, None, None, 14942208),
    "tpu-run-fragmented.txt": ("TPU run", None, 31.06 * MIB, None, None, 58.64 * MIB),
    "tpu-run-gemma.txt": ("TPU run", None, 15.65 * GIB, None, None, 11.08 * GIB),
    "tpu-run-program.txt": ("TPU run", None, 3.95 * GIB, None, 8 * GIB, 1.92 * GIB),
}


def explained(name: str) -> OutOfMemory:
    return explain_message((DATA / name).read_text())


def test_every_file_is_here() -> None:
    assert sorted(SAID) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_what_a_message_says(name: str) -> None:
    failure = explained(name)
    sizes = (failure.requested_bytes, failure.required_bytes, failure.available_bytes, failure.free_bytes)
    kind, program, *wanted = SAID[name]
    assert failure.failure == kind
    assert program == (None if isinstance(failure.program, Unknown) else failure.program)
    for size, expected in zip(sizes, wanted, strict=True):
        if expected is None:
            assert size == Unknown("the message does not say")
        else:
            assert isinstance(size, int)
            assert abs(size - expected) <= 1  # two rounded sizes may differ by a byte in their difference
    assert failure.evidence in (DATA / name).read_text()
    assert failure.advice
    assert from_json(to_json(failure), name) == failure
    assert as_text(failure, width=80).startswith("Out of memory")


def test_the_buffers_of_a_gpu_message() -> None:
    first, second = explained("gpu-t5x.txt").buffers[:2]
    assert (first.bytes, first.operation, first.phase) == (96 * MIB, "dot_general", Phase.FORWARD)
    assert first.layer == "Transformer/Transformer.encode/encoder/layers_3/attention"
    assert second.source == "/data/t5x/t5x/examples/t5/layers.py:652"
    assert second.shape == "f32[128,256,768]"
    argument = explained("gpu-concatenate.txt").buffers[1]
    assert argument.role == Unknown("an argument of the program; only the program tells what for")
    assert (argument.bytes, argument.shape) == (384 * 1024, "f32[256,128,3]")


def test_padding_is_named() -> None:
    failure = explained("tpu-compile-flowpm.txt")
    assert [(buffer.bytes, buffer.padding_bytes) for buffer in failure.buffers] == [(32 * GIB, 31 * GIB)]
    assert any("31.00 GiB of it in s32[8388608,8,4]" in sentence for sentence in failure.advice)


def test_results_that_could_be_donated_are_named() -> None:
    assert any(
        "9.64 GiB are results beside the arguments" in sentence for sentence in explained("gpu-afprofile.txt").advice
    )
    assert not any("donate" in sentence for sentence in explained("gpu-t5x.txt").advice)


def test_fragmentation_is_named() -> None:
    assert "the largest is 30.56 MiB" in explained("tpu-run-fragmented.txt").advice[0]


def test_exact_sizes_are_shown_to_the_byte() -> None:
    assert "(3,206,250,496 B)" in as_text(explained("gpu-graphcast.txt"))
    assert "B)" not in as_text(explained("gpu-t5x.txt")).split("What to try")[0]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("before", ["", "step 1 loss 0.5\n", "Traceback (most recent call last):\n"])
def test_a_message_is_found_in_a_log(name: str, before: str) -> None:
    alone, inside = explained(name), explain_message(before + (DATA / name).read_text() + "\nbye\n")
    assert inside == alone


@given(st.text(st.characters(codec="utf-8"), max_size=60))
def test_other_text_is_refused(text: str) -> None:
    assert not recognizes(text)
    with pytest.raises(InputError, match="No out-of-memory message was found"):
        explain_message(text)


def test_a_size_that_is_no_size_is_no_message() -> None:
    assert not recognizes("RESOURCE_EXHAUSTED: Out of memory allocating many bytes.")
    assert recognizes("E0 Out of memory: Killed process 71 (python) total-vm:9kB, anon-rss:25165824kB, file-rss:0kB")


# --- the dump of a failed compile ------------------------------------------------------------------------------------


def test_the_dump_of_a_failed_compile() -> None:
    failure = explain_dump(DATA / "tpu-dump", find_device("tpu-v5e"))
    # Six kernels of 8192², their gradients, and maps of 131072 × 8192: as the compiler said, 23.00G of 15.75G.
    assert (failure.failure, failure.program) == ("TPU compile", "jit_step")
    assert failure.required_bytes == 24_696_062_464
    assert failure.available_bytes == find_device("tpu-v5e").usable_bytes
    arguments = 6 * 8192 * 8192 * 4 + 131072 * 8192 * 4
    parts = {part.name: part.bytes for part in failure.parts}
    assert parts["arguments"] == arguments
    assert sum(parts.values()) == failure.required_bytes
    assert [(buffer.role, buffer.layer) for buffer in failure.buffers[1:4]] == [
        (Role.SAVED_ACTIVATIONS, "layer1"),
        (Role.SAVED_ACTIVATIONS, "layer3"),
        (Role.SAVED_ACTIVATIONS, "layer4"),
    ]
    assert isinstance(failure.buffers[0].role, Unknown)
    assert all(buffer.bytes == 131072 * 8192 * 4 for buffer in failure.buffers[:4])


def test_without_a_device_nobody_knows_how_much_there_is() -> None:
    failure = explain_dump(DATA / "tpu-dump")
    assert isinstance(failure.available_bytes, Unknown)
    assert "name it with -d" in failure.available_bytes.reason
    assert failure.required_bytes == 24_696_062_464


def test_the_module_that_xla_marks_as_failed_is_taken(tmp_path: Path) -> None:
    dumped = next((DATA / "tpu-dump").glob("*.gz")).read_bytes()
    for name in ("module_0001.jit_other.cl_1", "module_0002.jit_step.cl_1"):
        (tmp_path / f"{name}.after_optimizations.hlo.pb.gz").write_bytes(dumped)
    (tmp_path / "module_0002.jit_step.cl_1.oom_intermediate_module.hlo.pb").write_bytes(b"")
    failure = explain_dump(tmp_path)
    assert "module_0002" in failure.evidence
    assert f"1 other compiled modules are in {tmp_path}." in failure.notes


def test_a_folder_without_a_dump(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="it is empty"):
        explain_dump(tmp_path)
    (tmp_path / "notes.txt").write_text("nothing")
    with pytest.raises(InputError, match=r"notes\.txt.*xla_dump_to"):
        explain_dump(tmp_path)


# --- the command -----------------------------------------------------------------------------------------------------


def test_the_command_reads_a_file_a_folder_and_a_pipe(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["oom", str(DATA / "tpu-compile-v5e.txt")]) == 0
    assert "too much by" in capsys.readouterr().out
    assert main(["oom", str(DATA / "tpu-dump"), "-d", "tpu-v5e", "--format", "json"]) == 0
    assert isinstance(from_json(capsys.readouterr().out, "stdout"), OutOfMemory)
    piped = io.TextIOWrapper(io.BytesIO((DATA / "cpu-run.txt").read_bytes() + b"\xff\xfe"))
    monkeypatch.setattr(sys, "stdin", piped)
    assert main(["oom"]) == 0
    assert "4.00 PiB" in capsys.readouterr().out


def test_the_command_refuses_what_is_none(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "log.txt").write_text("step 1 loss 0.5\n")
    assert main(["oom", str(tmp_path / "log.txt")]) == 3
    err = capsys.readouterr().err
    assert all(what in err for what in LOOKED_FOR)
    assert main(["oom", str(tmp_path / "missing.txt")]) == 3
    assert "cannot be read: No such file" in capsys.readouterr().err
    assert main(["oom", str(tmp_path), "-d", "tpu-v99"]) == 2
