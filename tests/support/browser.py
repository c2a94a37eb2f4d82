"""A page as Chromium shows it: on a phone and on a wide screen, light and dark."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, sync_playwright

CHROMIUM = shutil.which("chromium")
PHONE, SMALL_PHONE, WIDE = (390, 844), (360, 740), (1280, 900)  # CSS pixels
LOOKS = [(size, scheme) for size in (PHONE, WIDE) for scheme in ("light", "dark")] + [(SMALL_PHONE, "light")]
MIN_LETTER_HEIGHT = 8.5  # CSS pixels, as drawn

# Visible texts with the height of their letters. A plot is scaled, and so are the letters in it.
LETTERS = """() => [...document.querySelectorAll("body *")]
  .filter(e => [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim()) && e.checkVisibility())
  .map(e => {
    const svg = e.closest("svg"), scale = svg ? svg.getBoundingClientRect().width / svg.viewBox.baseVal.width : 1;
    return [parseFloat(getComputedStyle(e).fontSize) * scale, e.textContent.trim().slice(0, 40)];
  })"""
# Elements that extend beyond the screen or their scrolling region, except those for screen readers only.
CUT_OFF = """() => [...document.querySelectorAll("body *")]
  .filter(e => e.checkVisibility() && !e.closest("svg, .heard, .stack thead, pre") && e.getClientRects().length)
  .filter(e => {
    const region = e.closest(".scroll") ?? document.body;
    return e.getBoundingClientRect().right > region.getBoundingClientRect().right + 1;
  })
  .map(e => e.tagName + " " + e.textContent.trim().slice(0, 40))"""
# Texts in a table that nearly touch the text on their left; shares of correct predictions need a wider gap.
COLLISIONS = """() => [...document.querySelectorAll("tr")]
  .filter(row => row.checkVisibility() && !row.closest(".stack"))
  .flatMap(row => {
    const texts = [...row.cells].filter(cell => cell.textContent.trim()).map(cell => {
      const range = document.createRange();
      range.selectNodeContents(cell);
      return [cell, range.getBoundingClientRect()];
    });
    const gap = cell => cell.matches(".correct") ? 8 : 2;
    const close = texts.slice(1).filter(([cell, box], n) => box.left < texts[n][1].right + gap(cell));
    return close.map(([cell]) => cell.textContent);
  })"""
VISIBLE_PLOTS = """() => [...document.querySelectorAll("figure.plot")].filter(e => e.checkVisibility()).length"""
# Plots that are not as wide as their column, with both widths.
NARROW_PLOTS = """() => [...document.querySelectorAll("figure.plot")].filter(e => e.checkVisibility()).map(e =>
    [e.querySelector("svg").getBoundingClientRect().width, e.getBoundingClientRect().width]
  ).filter(([plot, column]) => Math.abs(plot - column) > 1)"""


@dataclass(frozen=True)
class Seen:
    complaints: list[str]  # console messages and uncaught errors
    requests: list[str]  # URLs other than that of the page itself
    overflow: int  # pixels
    smallest: tuple[float, str]  # letter height in CSS pixels, and the text
    cut_off: list[str]
    collisions: list[str]
    narrow_plots: list[Any]
    violations: str  # report of axe-core; "" if there are none
    headings: list[str]
    # As the page opens, before anything is unfolded:
    height_at_first: int  # pixels
    plots_at_first: int


@contextmanager
def chromium() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


def look_at(browser: Browser, path: Path, size: tuple[int, int], scheme: str) -> Seen:
    """Open a page, unfold everything in it, and measure it."""
    complaints: list[str] = []
    requests: list[str] = []
    page = browser.new_page(
        viewport={"width": size[0], "height": size[1]},
        color_scheme="dark" if scheme == "dark" else "light",
        is_mobile=size != WIDE,
    )
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(path.as_uri())
    height, plots = page.evaluate("document.documentElement.scrollHeight"), page.evaluate(VISIBLE_PLOTS)
    violations = _violations(page)
    page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
    seen = Seen(
        complaints=complaints,
        requests=[url for url in requests if url != path.as_uri() and not url.startswith("data:")],
        overflow=int(page.evaluate("document.documentElement.scrollWidth")) - size[0],
        smallest=min((float(height), str(text)) for height, text in page.evaluate(LETTERS)),
        cut_off=page.evaluate(CUT_OFF),
        collisions=page.evaluate(COLLISIONS),
        narrow_plots=page.evaluate(NARROW_PLOTS),
        violations=violations or _violations(page),
        headings=page.locator("h1, h2").all_inner_texts(),
        height_at_first=int(height),
        plots_at_first=int(plots),
    )
    page.close()
    return seen


def _violations(page: Page) -> str:
    found = Axe().run(page)
    return found.generate_report() if found.violations_count else ""


def assert_good(seen: Seen) -> None:
    assert seen.complaints == []
    assert seen.requests == []
    assert seen.overflow <= 0
    assert seen.smallest[0] >= MIN_LETTER_HEIGHT, seen.smallest
    assert seen.cut_off == []
    assert seen.collisions == []
    assert seen.narrow_plots == []
    assert seen.violations == ""
