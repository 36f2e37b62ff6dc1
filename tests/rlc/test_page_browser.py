"""The page in a real browser: it sorts, filters, shows what a mark says, and fits every width in light and dark."""

import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Locator, Page, sync_playwright

from rlc.reporting.figures import pictures
from rlc.reporting.findings import findings
from rlc.reporting.page import Report, render
from rlc.reporting.paper_tables import table1, table2
from rlc.reporting.study import Study
from rlc.reporting.tables import costs
from tests.rlc.test_page import everything
from tests.studies import writer

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")]
NARROW, WIDE = 390, 1920


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        # As root, as in containers, Chromium's own sandbox does not start; the page is ours.
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("page")
    study = everything(writer(folder))
    shown = [costs(study), table1(study), table2(study)]
    made = Report("small", study.runs, study, Study([]), findings(study), shown, pictures(study, Study([])))
    file = folder / "page.html"
    file.write_text(render(made, None))
    return file.as_uri()


@pytest.fixture
def page(browser: Browser, address: str) -> Iterator[Page]:
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    failures: list[str] = []
    page.on("pageerror", lambda error: failures.append(str(error)))
    page.on("request", lambda request: failures.append(request.url) if request.url != address else None)
    page.goto(address)
    yield page
    page.close()
    assert failures == []


def shown_rows(table: Locator) -> list[str]:
    return table.locator("tbody tr:visible th").all_inner_texts()


def test_a_click_sorts_and_another_turns_it_round(page: Page) -> None:
    table = page.locator("#costs")
    head = table.locator("thead th", has_text="weights KB")
    head.locator("button").click()
    assert head.get_attribute("aria-sort") == "ascending"
    assert shown_rows(table)[0].endswith(("ptdq", "prune_l2-0.50"))
    assert shown_rows(table)[-1].endswith("fp32")
    head.locator("button").focus()
    page.keyboard.press("Enter")
    assert head.get_attribute("aria-sort") == "descending"
    assert shown_rows(table)[0].endswith("fp32")


def test_a_third_click_undoes_the_order_and_dates_are_no_numbers(page: Page) -> None:
    table = page.locator("#costs")
    before = shown_rows(table)
    head = table.locator("thead th", has_text="weights KB")
    column = head.evaluate("one => one.cellIndex")
    table.evaluate(
        """(one, column) => [...one.querySelectorAll("tbody tr")].forEach((row, k) => {
          row.cells[column].firstChild.textContent = ["2026-11-27", "2026-11-26"][k % 2];
        })""",
        column,
    )
    head.locator("button").click()
    days = [text[:10] for text in table.locator(f"tbody tr td:nth-child({column + 1})").all_inner_texts()]
    assert days == sorted(days)
    head.locator("button").click()
    head.locator("button").click()
    assert head.get_attribute("aria-sort") is None
    assert shown_rows(table) == before


def test_the_filter_leaves_the_rows_with_its_words(page: Page) -> None:
    table = page.locator("#costs")
    table.locator("input").fill("hopper PT")
    assert shown_rows(table) == ["sac Hopper-v4 ptdq", "sac Hopper-v4 ptsq"]
    assert table.locator("output").inner_text() == "2 of 10 rows"
    table.locator("input").fill("")
    assert table.locator("output").inner_text() == "10 rows"


@pytest.mark.parametrize("way", ["mouse", "finger", "keyboard"])
def test_a_mark_says_what_it_is_and_leads_to_its_rows(browser: Browser, address: str, way: str) -> None:
    page = browser.new_page(viewport={"width": 1280, "height": 900}, has_touch=True)
    page.goto(address)
    mark = page.locator("#pareto-0-mark-ptdq")
    tip = page.locator("#tip")
    assert tip.is_hidden()
    mark.scroll_into_view_if_needed()
    box = mark.bounding_box()
    assert box is not None
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    if way == "mouse":
        page.mouse.move(x, y)
    elif way == "finger":
        page.touchscreen.tap(x, y)
    else:
        mark.focus()
    assert tip.is_visible()
    assert tip.inner_text().startswith("dynamic int8: keeps 99.")
    before = page.evaluate("scrollY")
    if way == "mouse":
        page.mouse.click(x, y)
    elif way == "finger":
        page.touchscreen.tap(x, y)
    else:
        page.keyboard.press("Enter")
    assert shown_rows(page.locator("#costs")) == ["ppo Ant-v4 ptdq", "sac Hopper-v4 ptdq"]
    assert page.evaluate("document.activeElement.type") == "search"
    assert tip.is_hidden()
    page.go_back()
    assert page.evaluate("scrollY") == pytest.approx(before, abs=5)
    page.close()


def test_every_large_mark_is_found_where_it_lies(page: Page) -> None:
    for mark in page.locator(".mark.large").all():
        mark.scroll_into_view_if_needed()
        box = mark.bounding_box()
        assert box is not None
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        assert page.locator("#tip").inner_text() == mark.get_attribute("aria-label")


def test_arrow_keys_go_from_mark_to_mark(page: Page) -> None:
    panel = page.locator("#pareto .panel").first
    assert panel.locator(".mark[tabindex='0']").count() == 1
    panel.locator(".mark[tabindex='0']").focus()
    said = []
    for _ in range(20):
        page.keyboard.press("ArrowLeft")
    for _ in range(panel.locator(".mark.large").count()):
        said.append(page.locator("#tip").inner_text())
        page.keyboard.press("ArrowRight")
    assert sorted(said) == sorted(panel.locator(".mark.large").evaluate_all("all => all.map(one => one.ariaLabel)"))
    assert panel.locator(".mark[tabindex='0']").count() == 1


def test_a_note_is_read_from_its_cell(page: Page) -> None:
    ref = page.locator("#table2 tbody a.ref").first
    ref.focus()
    note = page.locator("#tip").inner_text()
    assert note
    assert note in page.locator(ref.get_attribute("href") or "").inner_text()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [NARROW, 1280, WIDE])
def test_the_page_fits_and_its_first_columns_stay(browser: Browser, address: str, width: int, scheme: str) -> None:
    page = browser.new_page(
        viewport={"width": width, "height": 900}, color_scheme="dark" if scheme == "dark" else "light"
    )
    page.goto(address)
    assert page.evaluate("document.documentElement.scrollWidth") == width
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (ground == "rgb(255, 255, 255)") == (scheme == "light")
    key = page.locator("#table1 tbody th").first
    before = key.bounding_box()
    page.locator("#table1 .scroll").evaluate("one => { one.scrollLeft = 200; }")
    after = key.bounding_box()
    assert before is not None
    assert after is not None
    assert after["x"] == pytest.approx(before["x"], abs=1)
    page.close()


def test_texts_of_pictures_lie_on_no_other(page: Page) -> None:
    """Of each panel, with the fonts of this browser."""
    overlaps = page.evaluate(
        """() => [...document.querySelectorAll(".panel svg")].flatMap(svg => {
          const texts = [...svg.querySelectorAll("text")].map(one => [one.textContent, one.getBoundingClientRect()]);
          return texts.flatMap(([a, p], i) => texts.slice(i + 1).filter(([b, q]) =>
            p.left < q.right - 1 && q.left < p.right - 1 && p.top < q.bottom - 1 && q.top < p.bottom - 1
          ).map(([b]) => `${svg.getAttribute("aria-label")}: ${a} on ${b}`));
        })"""
    )
    assert overlaps == []


def test_paper_prints_whole_tables(page: Page) -> None:
    page.emulate_media(media="print")
    assert page.locator(".tools").first.is_hidden()
    assert page.locator("#costs .scroll").evaluate("one => getComputedStyle(one).overflowX") == "visible"
    assert page.locator("#costs thead button").first.evaluate("one => getComputedStyle(one).display") == "contents"
    assert page.pdf(format="A4").startswith(b"%PDF")
