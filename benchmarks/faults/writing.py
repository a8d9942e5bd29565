"""Work that is killed: each function does it in a folder; each check says what is wrong there, or nothing."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from jaxmem.assemble import read_report
from jaxmem.capture import Capture, CaptureCache, load, save
from jaxmem.result import Reports
from jaxmem.result import load as load_result

ROOT = Path(__file__).parents[2]
SEED_FILE = ROOT / "tests" / "data" / "captures" / "looped.cpu.jaxmem"
KEYS = tuple(f"{number:064x}" for number in range(6))


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """Something that writes."""

    name: str
    prepare: Callable[[Path], None]
    do: Callable[[Path], None]
    wrong: Callable[[Path], str]


def _captures() -> tuple[Capture, Capture]:
    capture = load(SEED_FILE)
    return capture, replace(capture, created="later")


def save_work() -> Work:
    old, new = _captures()

    def wrong(folder: Path) -> str:
        return "" if load(folder / "a.jaxmem") in (old, new) else "another capture"

    return Work(
        name="save a capture over an old one",
        prepare=lambda folder: save(old, folder / "a.jaxmem", force=True),
        do=lambda folder: save(new, folder / "a.jaxmem", force=True),
        wrong=wrong,
    )


def cache_work() -> Work:
    old, new = _captures()
    limit_bytes = int(2.5 * SEED_FILE.stat().st_size)

    def cache(folder: Path) -> CaptureCache:
        return CaptureCache(folder, limit_bytes=limit_bytes, warn=fail)

    def prepare(folder: Path) -> None:
        for key in KEYS:
            cache(folder).put(key, old)

    def do(folder: Path) -> None:
        for key in KEYS:
            cache(folder).put(key, new)
            cache(folder).put_request(key, key)

    def wrong(folder: Path) -> str:
        for file in (folder / "captures").glob("*.jaxmem"):
            if load(file) not in (old, new):
                return f"{file.name} is another capture"
        found = [cache(folder).get_request(key) for key in KEYS]
        return "" if all(one in (None, old, new) for one in found) else "a request led to another capture"

    return Work(
        name="put captures into a full cache, which evicts others",
        prepare=prepare,
        do=do,
        wrong=wrong,
    )


def result_work() -> Work:
    old, new = (Reports(reports=(read_report(capture),)) for capture in _captures())
    new = Reports(reports=new.reports * 2)

    def wrong(folder: Path) -> str:
        return "" if load_result(folder / "a.json") in (old, new) else "another report"

    return Work(
        name="save a report over an old one",
        prepare=lambda folder: old.save(folder / "a.json", force=True),
        do=lambda folder: new.save(folder / "a.json", force=True),
        wrong=wrong,
    )


def fail(message: str) -> None:
    raise AssertionError(message)
