"""The import law: which room of jaxmem knows which. Read from the sources, so that a lazy import counts too."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from jaxmem.capture.cache import READERS

ROOT = Path(__file__).parents[2]

JAX = frozenset({"jax", "jaxlib", "flax", "optax", "equinox", "haiku"})
PICKLE = frozenset({"pickle", "cloudpickle", "dill", "marshal", "shelve"})

WORDS = frozenset({"units", "errors", "roles", "unknown"})
"""The vocabulary: it knows only itself."""

NEVER: dict[str, frozenset[str]] = {
    "": JAX | {"rich", "google"},
    "__main__": JAX,
    "files": JAX,
    "late_names": JAX,
    "lowering": JAX | {"tracing", "compilers", "xla", "report"},
    "layer_table": JAX | {"tracing", "compilers", "xla", "report"},
    "layer_paths": JAX | {"tracing", "xla", "attribution", "formula"},
    "codec": JAX | PICKLE,
    "program": frozenset({"compilers", "xla", "report"}),
    "tracing": frozenset({"compilers", "xla", "report"}),
    "devices": JAX,
    "capture": JAX | PICKLE,
    "compilers": PICKLE | {"xla", "report", "program", "tracing"},
    "xla": JAX,
    "hidden": JAX | {"report", "formula"},
    "profile": JAX | {"report"},
    "attribution": JAX | {"formula", "jaxmem_models"},
    "formula": JAX | {"xla", "attribution", "compilers", "profile"},
    "reconcile": JAX | {"compilers", "report"},
    "result": JAX | {"xla", "tracing", "compilers", "attribution", "formula", "rich"},
    "assemble": JAX | {"tracing", "compilers", "report", "rich", "cli"},
    "need": JAX | {"tracing", "compilers", "report", "attribution", "formula"},
    "together": JAX | {"tracing", "compilers", "report", "formula", "attribution", "cli"},
    "measure": PICKLE | {"tracing", "program", "report", "attribution", "formula", "xla", "oom", "difference", "cli"},
    "oom": JAX | {"tracing", "compilers", "report", "formula", "measure", "difference", "cli"},
    "difference": JAX
    | {"tracing", "compilers", "xla", "profile", "attribution", "formula", "report", "measure", "oom", "cli"},
    "pytest_plugin": JAX | {"rich", "tracing", "compilers", "xla", "profile", "attribution", "formula", "cli"},
    "dump": JAX | {"tracing", "compilers", "report", "formula", "program", "cli"},
    "planner": JAX | {"tracing", "compilers", "xla", "report", "program", "cli"},
    "verdict": JAX | {"xla", "attribution", "report"},
    "pause": JAX | {"tracing", "compilers", "xla", "report"},
    "source_lines": JAX | {"tracing", "compilers", "xla", "report"},
    "quiet": frozenset({"tracing", "compilers", "xla", "report"}),
    "analysis": frozenset({"rich", "cli"}),
    "report": JAX | {"compilers", "xla", "tracing", "attribution", "formula", "bokeh"},
    "cli": JAX | {"xla", "attribution"},
}
"""What each room never imports: rooms of jaxmem, and packages outside."""

WITHOUT_JAX = (
    *("cli", "capture", "devices", "result", "report", "difference", "pytest_plugin"),
    *("xla", "dump", "profile", "attribution", "formula", "reconcile", "assemble", "need", "planner"),
)
NEVER_EVEN_INDIRECTLY: dict[str, frozenset[str]] = dict.fromkeys(WITHOUT_JAX, JAX) | {"pytest_plugin": JAX | {"rich"}}
"""What a room does not bring along either, through what its modules import when they are imported."""

RENDERERS = ("jaxmem.report.terminal", "jaxmem.report.html", "jaxmem.report.markdown")


@dataclass(frozen=True, slots=True)
class Import:
    """``module`` imports ``target``; ``at_once``: when the module itself is imported, not later inside a function."""

    module: str
    target: str
    line: int
    at_once: bool

    @property
    def room(self) -> str:
        return _room(self.module)

    @property
    def target_room(self) -> str:
        """A room of jaxmem, or the name of the package outside."""
        return _room(self.target) if self.target.split(".")[0] == "jaxmem" else self.target.split(".")[0]


def _room(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else ""


def _renderer(module: str) -> str:
    """The renderer that a module is, or belongs to; empty for none."""
    return next((each for each in RENDERERS if f"{module}.".startswith(f"{each}.")), "")


def modules(package: Path) -> dict[str, Path]:
    """Every module of the package by its dotted name."""
    found = {}
    for path in sorted(package.rglob("*.py")):
        parts = (package.name, *path.relative_to(package).with_suffix("").parts)
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports_of(module: str, path: Path, known: frozenset[str]) -> Iterator[Import]:
    """The imports of one module; a name taken from a package is the submodule of that name where there is one."""
    package = module.split(".") if path.stem == "__init__" else module.split(".")[:-1]

    def visit(node: ast.AST, at_once: bool) -> Iterator[Import]:
        if isinstance(node, ast.Import):
            yield from (Import(module, alias.name, node.lineno, at_once) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                inner = f"{source}.{alias.name}"
                yield Import(module, inner if inner in known else source, node.lineno, at_once)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for child in node.body:
                yield from visit(child, False)
            for child in node.orelse:
                yield from visit(child, at_once)
        else:
            inside = at_once and not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            for child in ast.iter_child_nodes(node):
                yield from visit(child, inside)

    yield from visit(ast.parse(path.read_text(encoding="utf-8")), True)


def all_imports(package: Path) -> tuple[Import, ...]:
    found = modules(package)
    known = frozenset(found)
    return tuple(each for module, path in found.items() for each in imports_of(module, path, known))


def violations(package: Path) -> list[str]:
    """Every broken law, as a sentence."""
    imports = all_imports(package)
    broken = []
    for each in imports:
        if each.room in WORDS:
            forbidden = each.target.startswith("jaxmem") and each.target_room not in WORDS
        else:
            forbidden = each.target_room in NEVER.get(each.room, frozenset()) and each.target_room != each.room
        if forbidden:
            broken.append(f"{each.module}:{each.line} imports {each.target}")
        if _renderer(each.module) and _renderer(each.target) not in ("", _renderer(each.module)):
            broken.append(f"{each.module}:{each.line} imports another renderer, {each.target}")
    for module in modules(package):
        for package_outside in NEVER_EVEN_INDIRECTLY.get(_room(module), frozenset()):
            path = _way_to(module, package_outside, imports)
            if len(path) > 2:
                broken.append(f"{' → '.join(path)}")
    return broken


def _way_to(module: str, package_outside: str, imports: tuple[Import, ...]) -> tuple[str, ...]:
    """How importing the module ends up importing the package; empty if it does not."""
    paths: dict[str, tuple[str, ...]] = {module: (module,)}
    waiting = [module]
    while waiting:
        current = waiting.pop(0)
        for each in imports:
            # Importing a.b.c runs a and a.b first.
            if not each.at_once or each.module != current:
                continue
            if each.target.split(".")[0] == package_outside:
                return (*paths[current], each.target)
            parts = each.target.split(".")
            for length in range(1, len(parts) + 1):
                parent = ".".join(parts[:length])
                if parent not in paths and parts[0] == "jaxmem":
                    paths[parent] = (*paths[current], parent)
                    waiting.append(parent)
    return ()


def test_what_makes_captures_knows_none_of_their_readers() -> None:
    """The cache's keys leave the readers' sources out."""
    wiring = {"", "__main__", "analysis", *READERS}
    wrong = [each for each in all_imports(ROOT / "jaxmem") if each.room not in wiring and each.target_room in READERS]
    assert not wrong


def test_one_place_tells_the_formula_of_the_machine() -> None:
    """Who derives it elsewhere may forget the threads, and say another number than the report."""
    callers = {
        module
        for module, path in modules(ROOT / "jaxmem").items()
        if _room(module) != "formula" and "derive_formula" in path.read_text(encoding="utf-8")
    }
    assert callers == {"jaxmem.assemble.formula"}


def test_nobody_breaks_the_law() -> None:
    assert violations(ROOT / "jaxmem") == []


def test_every_room_has_its_law() -> None:
    rooms = {_room(module) for module in modules(ROOT / "jaxmem")}
    assert sorted(rooms - set(NEVER) - WORDS) == [], "a new room: say in NEVER what it does not know"


def test_the_zoo_does_not_know_jaxmem() -> None:
    imports = [each for name, path in modules(ROOT / "models").items() for each in imports_of(name, path, frozenset())]
    assert len(imports) > 10
    assert [each for each in imports if each.target.split(".")[0] == "jaxmem"] == []


@pytest.mark.parametrize(
    ("file", "source", "message"),
    [
        ("xla/read.py", "import jax\n", "jaxmem.xla.read:1 imports jax"),
        ("xla/read.py", "from jax import numpy\n", "jaxmem.xla.read:1 imports jax"),
        (
            "formula/rules.py",
            "def f():\n    from jaxmem.xla import read\n",
            "jaxmem.formula.rules:2 imports jaxmem.xla.read",
        ),
        ("formula/rules.py", "from ..xla import read\n", "jaxmem.formula.rules:1 imports jaxmem.xla.read"),
        ("formula/rules.py", "from jaxmem import xla\n", "jaxmem.formula.rules:1 imports jaxmem.xla"),
        ("units.py", "from jaxmem import xla\n", "jaxmem.units:1 imports jaxmem.xla"),
        ("capture.py", "import pickle\n", "jaxmem.capture:1 imports pickle"),
        ("analysis.py", "if True:\n    import rich.table\n", "jaxmem.analysis:2 imports rich.table"),
        (
            "report/terminal.py",
            "from jaxmem.report import html\n",
            "jaxmem.report.terminal:1 imports another renderer, jaxmem.report.html",
        ),
        (
            "report/html/page.py",
            "from jaxmem.report import terminal\n",
            "jaxmem.report.html.page:1 imports another renderer, jaxmem.report.terminal",
        ),
        ("profile.py", "from jaxmem.tracing import layers\n", "jaxmem.profile → jaxmem.tracing.layers → jax"),
        (
            "cli/report.py",
            "import jaxmem.program\n",
            "jaxmem.cli.report → jaxmem.program → jaxmem.tracing.layers → jax",
        ),
    ],
)
def test_the_check_sees_a_planted_violation(tmp_path: Path, file: str, source: str, message: str) -> None:
    house = {
        "__init__.py": "",
        "xla/__init__.py": "",
        "xla/read.py": "from jaxmem.units import format_bytes\n",
        "formula/__init__.py": "",
        "report/__init__.py": "",
        "report/html/__init__.py": "",
        "report/terminal.py": "",
        "tracing/__init__.py": "",
        "tracing/layers.py": "import jax\n",
        "program.py": "from jaxmem.tracing.layers import x\n",
        "units.py": "from jaxmem.errors import UsageError\n",
        "errors.py": "",
        "cli/__init__.py": "def late():\n    import jaxmem.program\n",
    }
    package = tmp_path / "jaxmem"
    for name, text in house.items():
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text(text)
    assert violations(package) == []
    (package / file).write_text(source)
    assert message in violations(package)
