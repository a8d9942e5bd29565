"""The documentation: examples and commands print what the pages say, the site is built, the notebook runs."""

import doctest
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from jaxmem.cli import COMMANDS, main

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = tuple(sorted(DOCS.glob("*.md")))
NOTEBOOK = DOCS / "example.ipynb"
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def blocks(page: Path, kind: str) -> tuple[str, ...]:
    """What stands between the fences of one kind."""
    return tuple(text for name, text in FENCE.findall(page.read_text(encoding="utf-8")) if name == kind)


@pytest.fixture(autouse=True, scope="module")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAXMEM_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "pycon")], ids=lambda page: page.stem)
def test_examples_print_what_the_page_says(page: Path, need: Callable[[str], None]) -> None:
    text = "\n".join(blocks(page, "pycon"))
    if "h100" in text:
        need("cuda")
    example = doctest.DocTestParser().get_doctest(text, {}, page.name, str(page), 0)
    said: list[str] = []
    results = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(example, out=said.append)
    assert results.attempted > 3
    assert not results.failed, "".join(said)


COMMAND_LINES = [
    pytest.param(block, id=f"{page.stem}-{number}")
    for page in PAGES
    for number, block in enumerate(blocks(page, "console"), start=1)
]


@pytest.mark.parametrize("block", COMMAND_LINES)
def test_commands_print_what_the_page_says(
    block: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lines under a command stand in its output in that order; dots stand for whatever is between them."""
    monkeypatch.setenv("COLUMNS", "100")
    expected: list[str] = []
    for line in reversed(block.splitlines()):
        if not line.startswith("$ "):
            expected.insert(0, line)
            continue
        program, *arguments = shlex.split(line[2:])
        if program == "jaxmem":
            assert main([*arguments, *(["-q"] if arguments[0] == "report" else [])]) == 0
            printed = capsys.readouterr().out.splitlines()
            for each in expected:
                if each != "...":
                    assert each in printed
                    printed = printed[printed.index(each) + 1 :]
        expected = []


def test_every_command_is_told_of() -> None:
    told = "\n".join(page.read_text(encoding="utf-8") for page in (*PAGES, ROOT / "README.md"))
    assert [name for name, _ in COMMANDS if f"jaxmem {name}" not in told] == []


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-q", "-f", ".mkdocs.yml", "-d", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    reference = (tmp_path / "reference.html").read_text(encoding="utf-8")
    assert "donate_argnums" in reference
    assert "fonts.googleapis" not in (tmp_path / "index.html").read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_notebook_runs(update_golden: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    kept: Any = nbformat.read(NOTEBOOK, as_version=4)
    book: Any = nbformat.from_dict(kept)
    NotebookClient(book, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    if update_golden:
        nbformat.write(book, NOTEBOOK)
        kept = book
    for cell, before in zip(book.cells, kept.cells, strict=True):
        for output, known in zip(cell.get("outputs", ()), before.get("outputs", ()), strict=True):
            assert output.output_type == known.output_type
            assert set(output.get("data", {})) == set(known.get("data", {}))
    report = book.cells[3].outputs[-1].data
    assert "Formula against compiler" in report["text/plain"]
    assert "srcdoc" in report["text/html"]
    assert book.cells[6].outputs[-1].data["text/plain"].startswith("(0, ")
    assert os.sep + "tmp" not in report["text/plain"]
