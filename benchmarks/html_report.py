"""How large an HTML report is, how long it takes to write, and how soon a browser has it ready: for the largest programs.

    python -m benchmarks.html_report big.jaxmem other.json      # saved captures or reports
    python -m benchmarks.html_report --runs 9 big.jaxmem

*Ready* is when every chart and table of the first report is drawn and answers, counted from the start of the navigation,
in a browser's process of its own, the start of that process included in its processor time.
Two numbers: by the clock, and in processor time of the page's main thread, which other programs on the machine hardly change.
*Zoom* is one step of the map: from the click to the next picture.
"""

import argparse
import os
import shutil
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.support.ui import WebDriverWait

import jaxmem
from benchmarks.records import RESULTS, Setting, in_words, table, this_setting, today, write
from jaxmem.errors import EnvironmentFailure, UsageError
from jaxmem.report import as_html
from jaxmem.report.phrases import title
from jaxmem.result import Report, Reports

FILE = RESULTS / "html_report.json"
READY_LIMIT_SECONDS, FILE_LIMIT_BYTES = 2.0, 5 * 2**20

_ARGUMENTS = "--headless=new --no-sandbox --disable-gpu --disable-dev-shm-usage --no-first-run --window-size=1280,1000"
_ZOOM = """
const done = arguments[0], from = performance.now();
document.querySelector("article:not([hidden]) [aria-label='zoom in']").click();
requestAnimationFrame(() => requestAnimationFrame(() => done((performance.now() - from) / 1000)));
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """Seconds: by the clock, and of a processor."""

    clock: float
    processor: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One program's page; times are medians."""

    program: str
    buffers: int
    positions: int
    file_bytes: int
    written: Spent
    ready: Spent
    zoom: Spent
    runs: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """What the file holds."""

    date: str
    setting: Setting
    browser: str
    load_average: float
    command: str
    rows: tuple[Row, ...]


def measure(driver: webdriver.Chrome, report: Report, folder: Path, runs: int) -> Row:
    """Write the page of one report and open it several times."""
    writing, ready, zoom, file = [], [], [], folder / "report.html"
    for _ in range(runs):
        clock, processor = time.perf_counter(), time.process_time()
        file.write_text(as_html(report), encoding="utf-8")
        writing.append(Spent(clock=time.perf_counter() - clock, processor=time.process_time() - processor))
        # A tab of its own is a process of its own, whose main thread has done nothing else.
        last = driver.current_window_handle
        driver.switch_to.new_window("tab")
        fresh = driver.current_window_handle
        driver.switch_to.window(last)
        driver.close()
        driver.switch_to.window(fresh)
        driver.execute_cdp_cmd("Performance.enable", {"timeDomain": "threadTicks"})
        driver.get(file.as_uri())
        milliseconds = WebDriverWait(driver, 300, poll_frequency=0.2).until(
            lambda it: it.execute_script("return document.documentElement.dataset.ready")
        )
        ready.append(Spent(clock=int(milliseconds) / 1000, processor=_thread_seconds(driver)))
        before = _thread_seconds(driver)
        clock_seconds = driver.execute_async_script(_ZOOM)
        zoom.append(Spent(clock=clock_seconds, processor=_thread_seconds(driver) - before))
    return Row(
        program=title(report.program, report.device),
        buffers=len(report.buffers),
        positions=report.schedule.length if report.schedule else 0,
        file_bytes=file.stat().st_size,
        written=_median(writing),
        ready=_median(ready),
        zoom=_median(zoom),
        runs=runs,
    )


def _median(spent: list[Spent]) -> Spent:
    return Spent(
        clock=round(statistics.median(one.clock for one in spent), 3),
        processor=round(statistics.median(one.processor for one in spent), 3),
    )


def _thread_seconds(driver: webdriver.Chrome) -> float:
    metrics: dict[str, Any] = driver.execute_cdp_cmd("Performance.getMetrics", {})
    return next(metric["value"] for metric in metrics["metrics"] if metric["name"] == "ThreadTime")


def _driver(profile: str) -> webdriver.Chrome:
    options = Options()
    for argument in (*_ARGUMENTS.split(), f"--user-data-dir={profile}"):
        options.add_argument(argument)
    chromium, driver_file = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver_file is None:
        raise EnvironmentFailure(
            "There is no Chromium with its driver. Install: apt-get install chromium chromium-driver"
        )
    options.binary_location = chromium
    driver = webdriver.Chrome(options=options, service=Service(driver_file))
    driver.set_page_load_timeout(300)
    driver.set_script_timeout(300)
    return driver


def page(results: Results) -> str:
    """The results as Markdown."""
    late = [row.program for row in results.rows if row.ready.clock > READY_LIMIT_SECONDS]
    slow = [row.program for row in results.rows if row.ready.processor > READY_LIMIT_SECONDS]
    large = [row.program for row in results.rows if row.file_bytes > FILE_LIMIT_BYTES]
    rows = [
        (
            row.program,
            f"{row.buffers:,}",
            f"{row.positions:,}",
            f"{row.file_bytes / 1e6:.2f}",
            f"{row.written.clock:.2f} · {row.written.processor:.2f}",
            f"{row.ready.clock:.2f} · **{row.ready.processor:.2f}**",
            f"{row.zoom.clock:.2f} · {row.zoom.processor:.2f}",
            str(row.runs),
        )
        for row in results.rows
    ]
    heads = ("program", "buffers", "positions", "file, MB", "written, s", "ready, s", "zoom, s", "runs")
    return f"""# HTML reports of large programs

{in_words(results.setting, (results.date,))} {results.browser}.
Load average as it began: {results.load_average}.

    {results.command}

Two numbers in a cell: by the clock, and in processor time (of the writing process; of the page's main thread), which other
programs on the machine hardly change. *Ready*: every chart and table is drawn and answers. *Zoom*: one step of the map, from
the click to the next picture. Medians.
Asked for: ready within {READY_LIMIT_SECONDS:g} s. Over it by the clock: {", ".join(late) or "none"}.
Over it in processor time: {", ".join(slow) or "none"}.
Asked for: at most 5 MiB, over it: {", ".join(large) or "none"}.

{table(heads, rows)}
"""


def main() -> None:
    """Measure and write both files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", metavar="FILE", type=Path)
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    load = round(os.getloadavg()[0], 1)
    with tempfile.TemporaryDirectory() as folder:
        driver = _driver(f"{folder}/profile")
        try:
            rows = []
            for file in options.files:
                loaded = jaxmem.load(file)
                if not isinstance(loaded, Report | Reports):
                    raise UsageError(f"{file} holds no report.")
                for report in loaded.reports if isinstance(loaded, Reports) else (loaded,):
                    rows.append(measure(driver, report, Path(folder), options.runs))
                    print(rows[-1], flush=True)
            browser = f"Chromium {driver.capabilities['browserVersion']}, headless"
        finally:
            driver.quit()
    results = Results(
        date=today(),
        setting=this_setting(),
        browser=browser,
        load_average=load,
        command=f"python -m benchmarks.html_report --runs {options.runs} {' '.join(file.name for file in options.files)}",
        rows=tuple(rows),
    )
    write(results, FILE, page(results))


if __name__ == "__main__":
    main()
