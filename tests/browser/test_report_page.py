"""The HTML report in a real browser: it loads, says what the data says, and is worked with mouse, keyboard and phone.

The reports are the captures of `tests/golden`, read without JAX.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver import ActionChains, Chrome, Keys
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

import jaxmem
from jaxmem.report import as_html, in_notebook
from jaxmem.report.phrases import title
from jaxmem.result import BufferTable, Report, Reports
from jaxmem.roles import Role
from jaxmem.units import format_bytes

GOLDEN = Path(__file__).parents[1] / "golden"
CAPTURES = ("checkpoints.cpu", "pools.tpu-v5e")

HOSTILE = "</script><img src=x onerror=alert(1)>\"'`&\u202egnp.exe\u2028 שלום 🦊 $$x^2$$ " + "a/" * 5_000


def golden(name: str) -> Report:
    report = jaxmem.load(GOLDEN / f"{name}.jaxmem")
    assert isinstance(report, Report)
    return report


def hostile(report: Report) -> Report:
    """The report with every name replaced."""
    count = len(report.buffers)
    named = dict.fromkeys(("layer", "instruction", "opcode", "source", "rule", "dtype"), (HOSTILE,) * count)
    columns = {name: getattr(report.buffers, name) for name in BufferTable.__dataclass_fields__}
    return replace(
        report,
        program=replace(report.program, name=HOSTILE, source=HOSTILE),
        buffers=BufferTable(**{**columns, **named}),
        ledger=tuple(replace(row, layer=HOSTILE, symbol=HOSTILE, reason=HOSTILE) for row in report.ledger),
        layers=tuple(replace(row, layer=HOSTILE) for row in report.layers),
        notes=(HOSTILE,),
    )


@pytest.fixture(scope="module")
def reports() -> tuple[Report, ...]:
    return tuple(map(golden, CAPTURES))


@pytest.fixture(scope="module")
def page(browser: Chrome, reports: tuple[Report, ...], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    """Both reports and a hostile one in one file, loaded once; at the end the console must be empty."""
    file = tmp_path_factory.mktemp("page") / "report.html"
    file.write_text(as_html(Reports(reports=(*reports, hostile(reports[0])))), encoding="utf-8")
    browser.get(file.as_uri())
    until_ready(browser)
    yield browser
    assert complaints(browser) == []
    assert browser.execute_script("return performance.getEntriesByType('resource').length") == 0


def wait(browser: Chrome, condition: Callable[[Chrome], Any]) -> Any:
    return WebDriverWait(browser, 60, poll_frequency=0.05).until(condition)


def until_ready(browser: Chrome) -> None:
    wait(browser, lambda it: it.execute_script("return document.documentElement.dataset.ready"))


def complaints(browser: Chrome) -> list[str]:
    """What stands in the browser's console, but for the library's notes."""
    return [entry["message"] for entry in browser.get_log("browser") if entry["level"] not in ("INFO", "DEBUG")]


def words(role: Role) -> str:
    return role.value.replace("_", " ")


def show(page: Chrome, number: int) -> WebElement:
    """Choose a report; its article."""
    page.find_element(By.CSS_SELECTOR, f"[data-shows='{number}']").click()
    wait(page, lambda it: it.execute_script("return document.documentElement.dataset.shown") == str(number))
    return page.find_element(By.ID, f"report-{number}")


def rows(article: WebElement, kind: str) -> list[list[str]]:
    found = article.find_elements(By.CSS_SELECTOR, f"[data-table={kind}] tbody tr:not(.note)")
    return [[cell.text for cell in row.find_elements(By.CSS_SELECTOR, "td")] for row in found]


def held_at_peak(report: Report) -> int:
    """Bytes that some buffer lives in at the peak, byte ranges counted once; by hand, without the page's own sweep."""
    assert report.schedule is not None
    table, position, total = report.buffers, report.schedule.peak_position, 0
    for allocation in set(table.allocation):
        spans = sorted(
            (table.offset[i], table.offset[i] + table.bytes[i])
            for i in range(len(table))
            if table.allocation[i] == allocation and table.start[i] <= position <= table.end[i]
        )
        reached = 0
        for low, high in spans:
            total += max(0, high - max(low, reached))
            reached = max(reached, high)
    return total


@pytest.mark.parametrize("number", range(len(CAPTURES)))
def test_the_peak_is_where_the_data_says(page: Chrome, reports: tuple[Report, ...], number: int) -> None:
    article, report = show(page, number), reports[number]
    assert report.schedule is not None
    chart = article.find_element(By.CSS_SELECTOR, "[data-chart=map]")
    assert int(chart.get_attribute("data-peak") or -1) == report.schedule.peak_position
    assert int(chart.get_attribute("data-peak-bytes") or -1) == held_at_peak(report)
    assert format_bytes(report.required_bytes) in article.find_element(By.CSS_SELECTOR, ".headline").text


def test_a_program_is_chosen(page: Chrome, reports: tuple[Report, ...]) -> None:
    for number in (1, 0):
        show(page, number)
        shown = [heading.text for heading in page.find_elements(By.CSS_SELECTOR, "h1") if heading.is_displayed()]
        assert shown == [title(reports[number].program, reports[number].device)]
        pressed = [one.get_attribute("aria-pressed") for one in page.find_elements(By.CSS_SELECTOR, "[data-shows]")]
        assert [each == "true" for each in pressed] == [place == number for place in range(3)]


def test_buffers_are_searched(page: Chrome, reports: tuple[Report, ...]) -> None:
    article, report = show(page, 0), reports[0]
    assert report.schedule is not None
    section = article.find_element(By.CSS_SELECTOR, "[data-table=buffers]")
    count = section.find_element(By.CSS_SELECTOR, "output")
    assert count.text == f"{len(report.schedule.live_at_peak)} buffers"
    search = section.find_element(By.CSS_SELECTOR, "input")
    search.send_keys("parameters F32")
    roles = [report.buffers.role[i] for i in report.schedule.live_at_peak if report.buffers.dtype[i] == "f32"]
    expected = f"{roles.count(Role.PARAMETERS)} buffers"
    wait(page, lambda _: count.text == expected)
    assert {row[1] for row in rows(article, "buffers")} == {"parameters"}
    search.send_keys(Keys.CONTROL, "a", Keys.NULL, Keys.DELETE)
    wait(page, lambda _: count.text != expected)


def test_buffers_are_sorted(page: Chrome, reports: tuple[Report, ...]) -> None:
    article, table = show(page, 0), reports[0].buffers
    section = article.find_element(By.CSS_SELECTOR, "[data-table=buffers]")
    section.find_element(By.XPATH, ".//button[text()='all']").click()
    head = section.find_element(By.XPATH, ".//th[button[text()='to']]")
    head.find_element(By.TAG_NAME, "button").send_keys(Keys.ENTER)
    assert head.get_attribute("aria-sort") == "descending"
    assert [row[-1] for row in rows(article, "buffers")] == [f"{end:,}" for end in sorted(table.end, reverse=True)[:15]]
    head.find_element(By.TAG_NAME, "button").send_keys(Keys.ENTER)
    assert head.get_attribute("aria-sort") == "ascending"
    assert [row[-1] for row in rows(article, "buffers")] == [f"{end:,}" for end in sorted(table.end)[:15]]
    section.find_element(By.XPATH, ".//th/button[text()='bytes']").click()
    section.find_element(By.CSS_SELECTOR, ".more").click()
    assert len(rows(article, "buffers")) == min(115, len(table))


def test_a_row_shows_its_buffer(page: Chrome, reports: tuple[Report, ...]) -> None:
    article, table = show(page, 0), reports[0].buffers
    article.find_element(By.CSS_SELECTOR, "[data-table=buffers] .choose").send_keys(Keys.ENTER)
    largest = max(range(len(table)), key=lambda i: table.bytes[i])
    details = article.find_element(By.CSS_SELECTOR, "[data-details]").text
    assert f"({table.bytes[largest]:,} B)" in details
    for name in ("role", "layer", "operation", "padding", "source", "decided by"):
        assert name in details


# Where on the screen the box of a buffer is drawn, asked of the library.
BOX = """
const [article, buffer] = arguments;
const chart = article.querySelector("[data-chart=map]");
chart.scrollIntoView({block: "center"});
for (const root of Bokeh.index.roots) for (const view of root.child_views ?? []) {
  for (const one of view.renderer_views?.values() ?? []) {
    const column = one.model.data_source?.data?.buffer;
    if (!column || !chart.contains(root.el)) continue;
    const at = Array.from(column).indexOf(buffer), {left, right, bottom, top} = one.model.data_source.data;
    const middle = (a, b) => (a[at] + b[at]) / 2, {x, y} = view.canvas_view.el.getBoundingClientRect();
    const [sx, sy] = [view.frame.x_scale.compute(middle(left, right)), view.frame.y_scale.compute(middle(bottom, top))];
    return [x + sx, y + sy];
  }
}
"""
# What stands beside the pointer, within the library's own parts of the page.
TOOLTIPS = """
const within = (root) => [...root.querySelectorAll("*")].flatMap((one) => [
  ...(one.matches("[data-tooltip]") ? [one.textContent] : []), ...(one.shadowRoot ? within(one.shadowRoot) : []),
]);
return within(document).join("\\n");
"""


def point_at(page: Chrome, article: WebElement, buffer: int, *, click: bool = False) -> None:
    x, y = page.execute_script(BOX, article, buffer)
    move = ActionChains(page, duration=20)
    move.w3c_actions.pointer_action.move_to_location(int(x) - 30, int(y))
    move.w3c_actions.pointer_action.move_to_location(int(x), int(y))
    if click:
        move.w3c_actions.pointer_action.click()
    move.perform()


def longest_box(report: Report) -> int:
    """The buffer with the largest box: bytes × positions."""
    table = report.buffers
    return max(range(len(table)), key=lambda i: table.bytes[i] * (table.end[i] - table.start[i] + 1))


def test_the_pointer_tells_of_the_box_below_it(page: Chrome, reports: tuple[Report, ...]) -> None:
    article, buffer, table = show(page, 0), longest_box(reports[0]), reports[0].buffers
    point_at(page, article, buffer)
    said = wait(page, lambda it: it.execute_script(TOOLTIPS))
    assert f"{format_bytes(table.bytes[buffer])} · {words(table.role[buffer])}" in said


def test_a_click_tells_everything(page: Chrome, reports: tuple[Report, ...]) -> None:
    article, buffer, table = show(page, 1), longest_box(reports[1]), reports[1].buffers
    details = article.find_element(By.CSS_SELECTOR, "[data-details]")
    assert table.instruction[buffer] not in details.text
    point_at(page, article, buffer, click=True)
    wait(page, lambda _: table.instruction[buffer] in details.text)
    assert table.rule[buffer] in details.text
    assert f"offset {table.offset[buffer]:,}" in details.text


def test_the_peak_is_looked_into_by_keyboard(page: Chrome, reports: tuple[Report, ...]) -> None:
    article, report = show(page, 0), reports[0]
    crumbs = article.find_element(By.CSS_SELECTOR, ".crumbs")
    assert (
        crumbs.find_element(By.CSS_SELECTOR, "[aria-current]").text == f"required {format_bytes(report.required_bytes)}"
    )
    divided = {row.term for row in report.ledger if row.layer and row.compiled_bytes}
    size, role = max((size, spaced) for role, size in report.roles.items() if (spaced := words(role)) in divided)
    crumbs.find_element(By.CSS_SELECTOR, ".inside button").send_keys(Keys.ENTER)
    assert crumbs.find_element(By.CSS_SELECTOR, "[aria-current]").text == f"{role} {format_bytes(size)}"
    crumbs.find_element(By.CSS_SELECTOR, ".trail button").send_keys(Keys.ENTER)
    assert crumbs.find_element(By.CSS_SELECTOR, "[aria-current]").text.startswith("required")


def ground(page: Chrome) -> str:
    return page.execute_script("return getComputedStyle(document.body).backgroundColor")


def test_dark_by_switch_and_by_system(page: Chrome) -> None:
    show(page, 0)
    light = ground(page)
    page.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    )
    wait(page, lambda it: ground(it) != light)
    dark = ground(page)
    switch = page.find_element(By.ID, "theme")
    wait(page, lambda _: switch.get_attribute("aria-pressed") == "true")
    switch.send_keys(Keys.ENTER)
    assert (ground(page), switch.get_attribute("aria-pressed")) == (light, "false")
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    switch.send_keys(Keys.ENTER)
    assert ground(page) == dark
    switch.send_keys(Keys.ENTER)
    charts = page.find_elements(By.CSS_SELECTOR, "#report-0 .chart")
    wait(
        page,
        lambda _: (
            [len(chart.find_elements(By.CSS_SELECTOR, ":scope > .bk-Column, :scope > .bk-Figure")) for chart in charts]
            == [1, 1]
        ),
    )
    assert complaints(page) == []


@pytest.mark.parametrize("width", [375, 1280])
def test_the_page_itself_never_scrolls_sideways(page: Chrome, width: int) -> None:
    phone = width < 640
    page.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": phone},
    )
    try:
        for number in range(3):
            show(page, number)
            shown, whole = page.execute_script("return [innerWidth, document.documentElement.scrollWidth]")
            assert shown == width >= whole
    finally:
        page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_hostile_names_stay_text(page: Chrome) -> None:
    article = show(page, 2)
    assert page.execute_script("return document.images.length") == 0
    assert page.execute_script("return document.scripts.length") == 5
    assert "</script><img src=x onerror=alert(1)>\"'`&\\u202egnp.exe" in article.find_element(By.TAG_NAME, "h1").text
    article.find_element(By.CSS_SELECTOR, "[data-table=buffers] .choose").send_keys(Keys.ENTER)
    details = article.find_element(By.CSS_SELECTOR, "[data-details]").text
    assert "<img src=x onerror=alert(1)>" in details
    assert len(page.find_elements(By.CSS_SELECTOR, "[data-table=buffers] img")) == 0


def test_the_frame_of_a_notebook(page: Chrome, reports: tuple[Report, ...], open_page: Callable[[str], Chrome]) -> None:
    address = page.current_url
    open_page(f"<!DOCTYPE html><title>notebook</title>{in_notebook(reports[0])}")
    try:
        page.switch_to.frame(0)
        until_ready(page)
        assert page.find_element(By.TAG_NAME, "h1").text == title(reports[0].program, reports[0].device)
        page.find_element(By.ID, "theme").click()
        assert complaints(page) == []
    finally:
        page.switch_to.default_content()
        page.get(address)
        until_ready(page)
