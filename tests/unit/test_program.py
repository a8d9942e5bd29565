"""Programs and targets, without JAX."""

import re
import subprocess
import sys
import textwrap
import types

import pytest

from jaxmem.errors import InputError, UsageError
from jaxmem.program import Program, resolve_program
from jaxmem.roles import Role

MODULE = """
    import enum
    from typing import Literal
    from jaxmem import program as p

    class Size(enum.Enum):
        SMALL = "small"

    def run(x): return x

    fixed = p.Program(run, 1)

    def make(batch_size: int = 4, *, rate: float = 0.5, wide: bool = False, tag="a", size: Size = Size.SMALL,
             kind: Literal["train", "infer"] = "train", limit: int | None = 3):
        return p.Program(run, batch_size, rate, wide, tag, size, kind, limit, batch_size=batch_size)

    def needs(depth: int): return p.Program(run, depth)

    def spread(mesh, width: int = 2): return p.Program(run, mesh, width)

    def spreads_if_asked(mesh=None): return p.Program(run, mesh)

    def anything(**settings): return p.Program(run, settings)

    def nothing(): return 42

    def breaks(): return helper()

    def helper(): raise ValueError("no data")

    value = 3

    class Holder:
        inner = fixed
"""


@pytest.fixture
def target(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(textwrap.dedent(MODULE))
    yield lambda attribute: f"{path}:{attribute}"
    sys.modules.pop("mine", None)
    sys.path[:] = [entry for entry in sys.path if entry != str(tmp_path)]


def test_importing_programs_does_not_import_jax():
    code = "import sys, jaxmem.program; assert not {'jax', 'numpy', 'flax'} & set(sys.modules), 'heavy import'"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_program_keeps_what_it_is_given():
    program = Program(print, 1, donate_argnums=0, donate_argnames="a", roles={"x": "inputs"}, batch_size=3, extra=2)
    assert (program.args, dict(program.kwargs), program.donate_argnums, program.donate_argnames) == (
        (1,),
        {"extra": 2},
        (0,),
        ("a",),
    )
    assert program.roles == (("x", Role.INPUTS),)
    assert (program.name, program.batch_size) == ("print", 3)
    with pytest.raises(AttributeError):
        program.name = "other"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"optimizer": object()}, "describes the program in words"),
        ({"batch_size": 0}, "at least one example"),
        ({"batch_size": "3"}, "whole number"),
        ({"roles": {"x": "gradient"}}, "Did you mean gradients"),
    ],
)
def test_program_refuses(arguments, message):
    with pytest.raises(UsageError, match=message):
        Program(print, **arguments)


def test_program_needs_a_function():
    with pytest.raises(UsageError, match=r"needs a function first, and got 3 \(int\)"):
        Program(3)


def test_settings_are_read_by_type(target):
    settings = {
        "batch_size": "8",
        "rate": "1e-3",
        "wide": "yes",
        "tag": "7",
        "size": "SMALL",
        "kind": "infer",
        "limit": "none",
    }
    program = resolve_program(target("make"), settings)
    batch, rate, wide, tag, size, kind, limit = program.args
    assert (batch, rate, wide, tag, size.name, kind, limit) == (8, 1e-3, True, "7", "SMALL", "infer", None)
    assert program.batch_size == 8


def test_attributes_of_every_kind(target):
    assert resolve_program(target("fixed"), {}).args == (1,)
    assert resolve_program(target("Holder.inner"), {}).args == (1,)
    assert resolve_program(target("anything"), {"free": "text"}).args == ({"free": "text"},)


@pytest.mark.parametrize(
    ("attribute", "settings", "error", "message"),
    [
        (
            "make",
            {"bach_size": "3"},
            UsageError,
            "no setting 'bach_size'. Did you mean batch_size or size\\? It takes: batch_size, rate",
        ),
        ("make", {"batch_size": "many"}, UsageError, "batch_size='many' is not of type int"),
        ("make", {"kind": "both"}, UsageError, "kind='both' is not of type"),
        ("make", {"wide": "maybe"}, UsageError, "wide='maybe' is not of type bool"),
        ("needs", {}, UsageError, "needs depth. Give a value with --set depth=..."),
        ("fixed", {"a": "1"}, UsageError, "takes no settings"),
        ("mak", {}, InputError, "has no attribute 'mak'. Did you mean make"),
        ("Holder.innr", {}, InputError, "mine.py:Holder has no attribute 'innr'. Did you mean inner"),
        ("nothing", {}, InputError, "returned 42 \\(int\\), not a jaxmem.Program"),
        ("value", {}, InputError, "is 3 \\(int\\), neither a jaxmem.Program nor a function"),
    ],
)
def test_bad_targets(target, attribute, settings, error, message):
    with pytest.raises(error, match=message):
        resolve_program(target(attribute), settings)


def test_a_callable_with_a_mesh_is_handed_it(target):
    mesh = types.SimpleNamespace(size=8)
    assert resolve_program(target("spread"), {"width": "3"}, mesh).args == (mesh, 3)
    assert resolve_program(target("spreads_if_asked"), {}, mesh).args == (mesh,)
    assert resolve_program(target("spreads_if_asked"), {}).args == (None,)


@pytest.mark.parametrize(
    ("attribute", "settings", "devices", "message"),
    [
        ("spread", {}, None, "spread needs a mesh. Say over how many devices: --devices 8, or --mesh data=8."),
        ("spread", {"mesh": "data=8"}, None, "a mesh is not set as text. Say --devices 8, or --mesh data=8."),
        ("make", {}, 8, "make has no argument `mesh` and cannot be spread over 8 devices."),
        ("fixed", {}, 8, "fixed is a Program, made for the devices that it was made for"),
    ],
)
def test_meshes_that_do_not_fit(target, attribute, settings, devices, message):
    mesh = types.SimpleNamespace(size=devices) if devices else None
    with pytest.raises(UsageError, match=re.escape(message)):
        resolve_program(target(attribute), settings, mesh)


def test_error_of_the_users_function_shows_its_frames_only(target):
    with pytest.raises(InputError) as caught:
        resolve_program(target("breaks"), {})
    message = str(caught.value)
    assert "in breaks" in message
    assert "in helper" in message
    assert message.endswith("ValueError: no data")
    assert "jaxmem/program/" not in message


@pytest.mark.parametrize("text", ["make", "mine.py", ":make", "mine:"])
def test_not_a_target(text):
    with pytest.raises(UsageError, match="names no program"):
        resolve_program(text, {})


def test_missing_files_and_modules(tmp_path):
    (tmp_path / "train.py").write_text("")
    with pytest.raises(InputError, match=r"There is no file .*trian.py. Did you mean .*train.py"):
        resolve_program(f"{tmp_path}/trian.py:make", {})
    with pytest.raises(InputError, match=r"There is no module 'absent_module.inner'"):
        resolve_program("absent_module.inner:make", {})
    with pytest.raises(
        InputError, match=r"There is no module 'json.decodr'. Python finds no 'json.decodr'.*Did you mean json.decoder"
    ):
        resolve_program("json.decodr:make", {})


@pytest.mark.parametrize(
    ("source", "end"),
    [
        ("import absent_dependency", "ModuleNotFoundError: No module named 'absent_dependency'"),
        ("def f(:\n    pass", "SyntaxError: invalid syntax"),
        ("raise SystemExit('usage')", "SystemExit: usage"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
    ],
)
def test_import_that_raises(tmp_path, source, end):
    path = tmp_path / "raising.py"
    path.write_text(source)
    with pytest.raises(InputError) as caught:
        resolve_program(f"{path}:make", {})
    message = str(caught.value)
    assert message.startswith(f"Importing {path} failed.")
    assert message.endswith(end)
    assert "raising.py" in message.removeprefix(f"Importing {path} failed.")
    assert "jaxmem/program/" not in message
    assert "raising" not in sys.modules


def test_a_file_named_like_a_loaded_module_does_not_replace_it(tmp_path):
    import json

    path = tmp_path / "json.py"
    path.write_text("from jaxmem.program import Program\nmake = Program(print)")
    assert resolve_program(f"{path}:make", {}).name == "print"
    assert sys.modules["json"] is json
