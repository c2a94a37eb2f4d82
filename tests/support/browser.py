"""A page as Chromium shows it: on a telephone and on a desk, light and dark."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, sync_playwright

CHROMIUM = shutil.which("chromium")
PHONE, DESK = (360, 740), (1280, 900)  # CSS pixels
LOOKS = [(size, scheme) for size in (PHONE, DESK) for scheme in ("light", "dark")]
SMALLEST_LETTERS = 8.5  # CSS pixels, as drawn

# The words that are seen, with the height of their letters: in a picture they are scaled with it.
LETTERS = """() => [...document.querySelectorAll("body *")]
  .filter(e => [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim()) && e.getClientRects().length)
  .map(e => {
    const svg = e.closest("svg"), scale = svg ? svg.getBoundingClientRect().width / svg.viewBox.baseVal.width : 1;
    return [parseFloat(getComputedStyle(e).fontSize) * scale, e.textContent.trim().slice(0, 40)];
  })"""


@dataclass(frozen=True)
class Seen:
    complaints: list[str]  # of the console
    requests: list[str]  # beside the page itself and what it holds
    overflow: int  # pixels
    smallest: tuple[float, str]  # letters, and what they say
    violations: str  # of axe-core's rules; "" if none
    headings: list[str]


@contextmanager
def chromium() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


def look_at(browser: Browser, path: Path, size: tuple[int, int], scheme: str, picture: Path | None = None) -> Seen:
    complaints: list[str] = []
    requests: list[str] = []
    page = browser.new_page(
        viewport={"width": size[0], "height": size[1]},
        color_scheme="dark" if scheme == "dark" else "light",
        is_mobile=size == PHONE,
    )
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(path.as_uri())
    found = Axe().run(page)
    letters = [(float(height), str(words)) for height, words in page.evaluate(LETTERS)]
    seen = Seen(
        complaints=complaints,
        requests=[url for url in requests if url != path.as_uri() and not url.startswith("data:")],
        overflow=int(page.evaluate("document.documentElement.scrollWidth")) - size[0],
        smallest=min(letters),
        violations=found.generate_report() if found.violations_count else "",
        headings=page.locator("h1, h2").all_inner_texts(),
    )
    if picture is not None:
        page.screenshot(path=picture, full_page=True)
    page.close()
    return seen


def assert_good(seen: Seen) -> None:
    assert seen.complaints == []
    assert seen.requests == []
    assert seen.overflow <= 0
    assert seen.smallest[0] >= SMALLEST_LETTERS, seen.smallest
    assert seen.violations == ""
