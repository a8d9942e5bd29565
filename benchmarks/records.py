"""What every measurement is kept with: the machine, the versions, the day. And the files it is kept in."""

import json
import os
import platform
import re
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from jaxmem.capture import installed_versions, this_host
from jaxmem.codec import Mismatch, decode, encode
from jaxmem.devices.library_kernels import instruction_set
from jaxmem.errors import InputError
from jaxmem.files import write_whole
from jaxmem.units import format_bytes

RESULTS = Path(__file__).parent / "results"
README = Path(__file__).parents[1] / "README.md"

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """Where something was measured.

    Attributes:
        processor: the model's name.
        cores: processors this process may use.
        memory_bytes: of the machine.
        system: the operating system.
        versions: (package, version); Python's own is among them.
        instruction_set: ``AVX2``, ``AVX-512`` or ``other``, by which the library behind XLA's compiler for processors packs
            its operands; empty in results from before it was written down.
    """

    processor: str
    cores: int
    memory_bytes: int
    system: str
    versions: tuple[tuple[str, str], ...]
    instruction_set: str = ""

    def is_like(self, other: "Setting") -> bool:
        """Whether measurements of both belong into one table, as far as both are known."""
        known = {"instruction_set": ""} if "" in (self.instruction_set, other.instruction_set) else {}
        return replace(self, **known) == replace(other, **known)


def this_setting() -> Setting:
    """The machine and the versions of this process."""
    host = this_host()
    return Setting(
        processor=host.cpu_model,
        cores=host.threads,
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        system=f"{platform.system()} {platform.machine()}",
        versions=(
            *installed_versions(("jax", "jaxlib", "flax", "optax")),
            ("python", platform.python_version()),
        ),
        instruction_set=instruction_set(frozenset(host.cpu_features)),
    )


def today() -> str:
    """The date, in UTC."""
    return datetime.now(UTC).date().isoformat()


def in_words(setting: Setting, dates: tuple[str, ...]) -> str:
    """One paragraph that stands above a table."""
    versions = ", ".join(f"{name} {version}" for name, version in setting.versions)
    processor = " with ".join(filter(None, (setting.processor, setting.instruction_set)))
    days = " to ".join(sorted({min(dates), max(dates)})) if dates else today()
    return (
        f"{days} · {processor}, {setting.cores} cores, {format_bytes(setting.memory_bytes)} of memory, "
        f"{setting.system} · {versions}."
    )


def table(header: tuple[str, ...], rows: list[tuple[str, ...]], *, left: int = 1) -> str:
    """A Markdown table whose first ``left`` columns are text and the others numbers."""
    marks = tuple("---" if column < left else "---:" for column in range(len(header)))
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (header, marks, *rows))


def in_readme(name: str) -> str | None:
    """What stands between the marks of that name in the README; None where there are none."""
    found = _between(name).search(README.read_text())
    return found[1] if found else None


def write_in_readme(name: str, content: str) -> None:
    """Replace what stands between the marks of that name in the README, if it has them."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    text = _between(name).sub(lambda _: f"{begin}\n{content}\n{end}", README.read_text())
    write_whole(README, text, force=True)


def _between(name: str) -> re.Pattern[str]:
    return re.compile(f"<!-- {name}: begin -->\n(.*?)\n<!-- {name}: end -->", re.DOTALL)


def read(kind: type[T], path: Path) -> T | None:
    """A file of results; None where there is none yet.

    Raises:
        InputError: the file is something else.
    """
    if not path.exists():
        return None
    try:
        return decode(kind, json.loads(path.read_text()))
    except (ValueError, Mismatch) as error:
        raise InputError(f"{path} holds no results of this command: {error}. Move it away to begin anew.") from None


def write_data(value: Any, path: Path) -> None:
    """Results as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(encode(value)[0], indent=1, ensure_ascii=False) + "\n", force=True)


def write(value: Any, path: Path, page: str) -> None:
    """Results as JSON, and the page that people read beside them."""
    write_data(value, path)
    write_whole(path.with_suffix(".md"), page, force=True)
