"""What a dump says without the program."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from dumps_of_tests import GOLDEN, NAMES, TENSORFLOW, TORCH, golden, report_of, rows
from jaxmem import load
from jaxmem.assemble import read_report
from jaxmem.cli import main
from jaxmem.dump.attributed import NEEDS_NAMES, NEEDS_PROGRAM, OF_AN_ARGUMENT, OVER_AN_ARGUMENT
from jaxmem.report import as_markdown, as_text
from jaxmem.roles import Phase, Role
from jaxmem.unknown import Unknown


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
