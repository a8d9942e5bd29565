"""Files that say what the arguments of a dump are for, and names of its operations."""

from pathlib import Path

import pytest

from dumps_of_tests import DUMPS, TENSORFLOW
from jaxmem.cli import main
from jaxmem.dump.files import read_dump
from jaxmem.dump.roles import read_roles
from jaxmem.dump.tables import tables
from jaxmem.errors import InputError
from jaxmem.layer_paths import is_transposed, name_stack, operation, tells_phases
from jaxmem.roles import Role


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
