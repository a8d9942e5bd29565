"""What the README and the documentation write as an option of jaxmem is one."""

import argparse
import re
from pathlib import Path

import pytest

from jaxmem.cli import COMMANDS

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
OF_OTHERS = {
    *("--jaxmem-update", "--jaxmem-baseline", "--quiet"),  # pytest's, from the plugin; pip's
    *("--update-golden", "--nthreads", "--nworkers"),  # of the tests; of Dask
    *("--body-file", "--edit-last", "--create-if-none"),  # of GitHub's command line
    *("--xla", "--memory-limit"),  # XLA_FLAGS
}


def written_in(text: str) -> set[str]:
    return set(re.findall(r"(?<![\w-])--[a-z]+(?:-[a-z]+)*", text))


def options_of_all_commands() -> set[str]:
    found = {"--version"}
    for _, module in COMMANDS:
        command = argparse.ArgumentParser()
        module.add_options(command)
        found |= written_in(command.format_help())
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_option_that_is_written_about_exists(page: Path) -> None:
    assert written_in(page.read_text()) - OF_OTHERS <= options_of_all_commands()
