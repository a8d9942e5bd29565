"""docs/ci.md: its files are written, its commands are run, and what it says they print is what they print."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

DOC = (Path(__file__).parents[2] / "docs" / "ci.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"<!-- ([^>]*) -->\n```\w+\n(.*?)```\n", re.DOTALL)
BLOCKS = dict(BLOCK.findall(DOC))
FILES = {title.removeprefix("file: "): text for title, text in BLOCKS.items() if title.startswith("file: ")}

# What the example's pull request changes.
OLD = '        hidden = jnp.tanh(hidden @ parameters["block"]["kernel"])\n'
NEW = "        hidden = jax.nn.softmax(hidden @ hidden.T) @ hidden\n" + OLD

GH = """\
#!/bin/sh
# Stands for GitHub's command line: keeps what it was told.
echo "$@" > gh-arguments.txt
"""


class Project:
    """A repository with the files of the page, and a shell in it that finds this environment's commands."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "project"
        for name, text in FILES.items():
            (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
            (self.folder / name).write_text(text)
        programs = folder / "bin"
        programs.mkdir()
        (programs / "gh").write_text(GH)
        (programs / "gh").chmod(0o755)
        for name, module in (("jaxmem", "jaxmem"), ("pytest", "pytest")):
            (programs / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" -m {module} "$@"\n')
            (programs / name).chmod(0o755)
        self.summary = folder / "summary.md"
        own = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_ADDOPTS": "-p jaxmem.pytest_plugin -p no:cacheprovider"}
        identity = {f"GIT_{who}_{what}": "a@b.c" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("GIT_", "PYTEST_"))},
            **own,
            **identity,
            "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
            "JAXMEM_CACHE_DIR": str(folder / "cache"),
            "GITHUB_STEP_SUMMARY": str(self.summary),
            "COLUMNS": "80",
            "PYTHONDONTWRITEBYTECODE": "1",  # what a project ignores is not what changes in it
        }

    def run(self, script: str) -> subprocess.CompletedProcess[str]:
        """A script as a step of a workflow runs it: it ends at the first command that fails."""
        command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", script]
        return subprocess.run(
            command, capture_output=True, text=True, cwd=self.folder, env=self.environment, timeout=600, check=False
        )

    def commit(self) -> str:
        """Commit everything; the commit's name."""
        done = self.run("git init -q . && git add -A && git commit -qm change && git rev-parse HEAD")
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()


@pytest.fixture
def project(tmp_path: Path, need: Callable[[str], None]) -> Project:
    need("cuda")
    if shutil.which("git") is None or shutil.which("bash") is None:
        pytest.fail("the commands of the page need git and bash")
    return Project(tmp_path)


def steps(project: Project, base: str) -> dict[str, str]:
    """The scripts of the workflow by the names of their steps, with what GitHub puts in."""
    workflow: dict[str, Any] = yaml.safe_load(FILES[".github/workflows/memory.yml"])
    found = {step["name"]: step["run"] for step in workflow["jobs"]["memory"]["steps"] if "run" in step}
    put_in = {"github.event.pull_request.base.sha": base, "github.event.pull_request.number": "7"}
    for name, script in found.items():
        for expression, value in put_in.items():
            script = script.replace(f"${{{{ {expression} }}}}", value)
        assert "${{" not in script
        found[name] = script
    return found


def words(text: str) -> list[str]:
    """The lines that tell what grew where, without the numbers of instructions."""
    lines = [re.sub(r"\.\d+\b(?! [KMG]iB)", "", " ".join(line.split())) for line in text.splitlines()]
    return [line for line in lines if line.startswith(("network", "Most of it in", "If that is meant", "pytest"))]


def test_the_commands_of_the_page(project: Project) -> None:
    assert project.run(BLOCKS["run: baseline"]).returncode == 0
    assert "memory_baseline.json" in os.listdir(project.folder)
    base = project.commit()
    network = project.folder / "network.py"
    assert network.read_text().count(OLD) == 1
    network.write_text(network.read_text().replace(OLD, NEW))
    project.commit()

    done = project.run(BLOCKS["run: test"])
    assert done.returncode == 1
    printed = words(done.stdout)
    said = words(BLOCKS["printed by: test, grown"])
    assert [line for line in said if line not in printed] == []
    assert any(line.startswith("Most of it in block") for line in said)

    scripts = steps(project, base)
    assert list(scripts) == ["Install", "Report on both sides", "Compare", "Show"]
    assert re.fullmatch(r"pip install 'jaxmem\[\w+\]'", scripts["Install"])  # the one command that needs the network
    done = project.run(scripts["Report on both sides"])
    assert done.returncode == 0, done.stderr
    assert project.run("git status --porcelain --untracked-files=no").stdout == ""
    assert NEW in network.read_text()
    assert project.run(scripts["Compare"]).returncode == 1
    assert project.run(scripts["Show"]).returncode == 0
    told = (project.folder / "gh-arguments.txt").read_text()
    assert told == "pr comment 7 --edit-last --create-if-none --body-file memory.md\n"
    summary = project.summary.read_text()
    assert summary == (project.folder / "memory.md").read_text()
    assert summary.startswith("## network · training · batch 1024 on h100-sxm\n")
    assert "Most of it in **block** (transient)" in summary


@pytest.mark.slow
def test_two_variants(project: Project) -> None:
    done = project.run(BLOCKS["run: variants"])
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    said = BLOCKS["printed by: variants"].splitlines()
    layers = [line.split()[0] for line in said if re.match(r"(pool|conv1_1)", line)]
    assert layers[:2] == ["conv1_1", "pool1"]
    assert [line for line in said if re.match(r"(constants|conv1_1|pool1) ", line) and line not in lines] == []
