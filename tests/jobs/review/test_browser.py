"""The page in Chromium, with the keyboard alone: on a phone and on a wide screen, and while the server is killed."""

import http.server
import logging
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import Browser, Page

from mnist_lib.data.dataset import Dataset
from tests.support.bounds import wait_until
from tests.support.browser import CUT_OFF, LETTERS, LOOKS, MIN_LETTER_HEIGHT, WIDE
from tests.support.reviewing import Command, free_port, lines_of, write_digits

pytestmark = pytest.mark.slow  # starts Chromium, and the command for each test

# The picture that can be decided about, by its name, or null.
SHOWN = """() => document.querySelector("#classes button:not(:disabled)")
  && document.querySelector("#picture").complete ? document.querySelector("#name").textContent : null"""
# Notes, for each key, the milliseconds until the frame that shows the next picture.
MEASURE = """() => {
  window.times = [];
  document.addEventListener("keydown", () => {
    const begin = performance.now(), before = document.querySelector("#name").textContent;
    const look = () => {
      const now = (SHOWN)();
      if (now && now !== before) window.times.push(performance.now() - begin);
      else requestAnimationFrame(look);
    };
    requestAnimationFrame(look);
  }, true);
}"""

# Withholds the next answer to a request from the page until `window.release()`.
HOLD = """held => {
  const fetch = window.fetch;
  window.fetch = async (path, options) => {
    const response = await fetch(path, options);
    if (path === held && !window.release) await new Promise(resolve => { window.release = resolve; });
    return response;
  };
}"""
# Lets a page try to label a picture of a review, to show the review in a frame, and to load from it.
TRY_ALL = """async ({base, image}) => {
  const load = (tag, source) => new Promise(resolve => {
    const element = document.body.appendChild(document.createElement(tag));
    element.onload = () => resolve("loaded");
    element.onerror = () => resolve("refused");
    element.src = source;
  });
  const options = {credentials: "include"};
  const decision = JSON.stringify({label: "3", image, why: "random", seen: 0});
  await fetch(`${base}/decide`, {...options, method: "POST", mode: "no-cors", body: decision}).catch(() => {});
  await load("iframe", base);
  return {
    image: await load("img", `${base}/picture/${image}`),
    script: await load("script", `${base}/review.js`),
    about: await fetch(`${base}/about`, options).then(() => "loaded", () => "refused"),
  };
}"""
QUEUE = "() => queue.map(picture => picture.name)"


class Empty(http.server.BaseHTTPRequestHandler):
    """Answers with an empty page."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def command(folder: Path, new: Path, storage: Path, tmp_path: Path) -> Iterator[Command]:
    options = (f"--dataset={folder}/", f"--storage={storage}", "--model=keras@1", "--user=ada")
    command = Command(new, *options, home=tmp_path, port=free_port())
    yield command
    command.kill()


@contextmanager
def opened(browser: Browser, address: str, size: tuple[int, int] = WIDE, scheme: str = "light") -> Iterator[Page]:
    """Open the page, and check at the end that it has reported no error and asked no other server."""
    context = browser.new_context(
        viewport={"width": size[0], "height": size[1]},
        color_scheme="dark" if scheme == "dark" else "light",
        is_mobile=size != WIDE,
        has_touch=size != WIDE,
    )
    page, errors, requests = context.new_page(), list[str](), list[str]()
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(address)
    yield page
    assert errors == []
    assert [url for url in requests if not url.startswith(("http://127.0.0.1:", "data:"))] == []
    context.close()


def shown(page: Page) -> str:
    """Return the name of the picture that can be decided about now."""
    return str(page.wait_for_function(SHOWN).json_value())


def label_of(name: str) -> str:
    return Path(name).stem[-1]


def press(page: Page, key: str) -> None:
    """Press a key, and wait until another picture is shown."""
    before = shown(page)
    page.keyboard.press(key)
    page.wait_for_function(f"before => {{ const now = ({SHOWN})(); return now && now !== before; }}", arg=before)


def saved(page: Page) -> str:
    page.wait_for_function("() => /^Saved|^$/.test(document.querySelector('#saved').textContent)")
    return page.inner_text("#saved")


def test_pictures_are_reviewed_with_the_keyboard_alone(browser: Browser, command: Command, folder: Path) -> None:
    with opened(browser, command.start()) as page:
        first = shown(page)
        press(page, label_of(first))
        assert saved(page) == f"Saved: {label_of(first)}"
        press(page, "ArrowLeft")
        assert shown(page) == first
        press(page, "Delete")
        assert saved(page) == "Saved: not a digit"
        skipped = shown(page)
        press(page, "ArrowRight")
        page.keyboard.press("+")
        assert page.locator("#frame.zoomed").count() == 1
        page.keyboard.press("Escape")
        assert page.locator("#frame.zoomed").count() == 0
        page.keyboard.press("Shift+Tab")
        for _ in range(40):  # every button is reached, and Space presses the one that has the focus
            page.keyboard.press("Tab")
            if page.evaluate("document.activeElement.dataset.label") == "4":
                break
        press(page, "Space")
        saved(page)
        page.keyboard.press("Control+1")
        assert page.locator("#recent li").count() == 2
    lines = [(line.label, line.replaced, line.undone, line.by) for line in lines_of(folder)]
    assert lines == [
        (label_of(first), None, False, "ada"),
        ("none", label_of(first), True, "ada"),
        ("none", None, False, "ada"),
        ("4", None, False, "ada"),
    ]
    assert not list(folder.rglob("*skip*")), skipped
    code, stdout, stderr = command.end()
    assert (code, stderr) == (0, "")
    assert stdout == f"Reviewed 2 pictures: 1 removed, 1 added to the dataset. Labels: {folder}/labels.jsonl\n"


@pytest.mark.long
def test_the_page_is_good_on_every_screen(browser: Browser, command: Command) -> None:
    address = command.start()
    for size, scheme in LOOKS:
        with opened(browser, address, size, scheme) as page:
            for tab in ("review", "draw"):
                page.focus("[role=tab][aria-selected=true]")
                if tab == "draw":
                    page.keyboard.press("ArrowRight")
                else:
                    shown(page)
                    saved(page)
                assert page.evaluate("document.documentElement.scrollWidth") <= size[0]
                assert min(height for height, _ in page.evaluate(LETTERS)) >= MIN_LETTER_HEIGHT
                assert page.evaluate(CUT_OFF) == []
                found = Axe().run(page)
                assert found.violations_count == 0, found.generate_report()


@pytest.mark.long
def test_a_phone_shows_the_picture_and_every_class_without_scrolling(browser: Browser, command: Command) -> None:
    with opened(browser, command.start(), (390, 844)) as page:
        name = shown(page)
        for element in ("#picture", "#classes button:last-child", "#undo", "#none"):
            box = page.locator(element).bounding_box()
            assert box is not None
            assert box["y"] + box["height"] <= 844, element
        side = page.locator("#picture").bounding_box()
        assert side is not None
        assert min(side["width"], side["height"]) >= 280
        page.tap(f"#classes button[data-label='{label_of(name)}']")
        page.wait_for_function("before => document.querySelector('#name').textContent !== before", arg=name)
        assert saved(page) == f"Saved: {label_of(name)}"


@pytest.mark.long
def test_a_drawing_is_answered_while_it_is_drawn(browser: Browser, command: Command) -> None:
    with opened(browser, command.start()) as page:
        page.focus("#tab-review")
        page.keyboard.press("ArrowRight")
        page.focus("#canvas")
        for _ in range(12):
            page.keyboard.press("Shift+ArrowUp")
        page.wait_for_function("() => document.querySelectorAll('#drawn-answers li').length === 3", timeout=60_000)
        by_keyboard = page.inner_text("#drawn")
        assert by_keyboard in "0123456789"
        page.keyboard.press("Delete")
        assert page.inner_text("#drawn") == "Draw something"
        box = page.locator("#canvas").bounding_box()
        assert box is not None
        page.mouse.move(box["x"] + 100, box["y"] + 60)
        page.mouse.down()
        page.mouse.move(box["x"] + 100, box["y"] + 200, steps=10)
        page.wait_for_function("() => document.querySelectorAll('#drawn-answers li').length === 3")  # before it ends
        page.mouse.up()


@pytest.mark.long
def test_no_label_is_lost_or_stored_twice_while_the_server_is_killed_at_random_keys(
    browser: Browser, command: Command, digits: Dataset, folder: Path, tmp_path: Path
) -> None:
    new = write_digits(tmp_path / "many", digits, range(200, 320), sorted_by_class=False)
    command.arguments[0] = str(new)
    rng, decided = random.Random(0), dict[str, str]()
    kills = set(rng.sample(range(5, 95), 5))
    with opened(browser, command.start()) as page:
        for number in range(100):
            name = shown(page)
            assert name not in decided
            decided[name] = label_of(name)
            page.keyboard.press(label_of(name))
            if number in kills:
                time.sleep(rng.choice((0, 0.005, 0.02, 0.1)))  # before, while or after the label is stored
                command.kill()
                page.context.request.get(command.start())  # as another tab does that opens the new address
        saved(page)
        wait_until(lambda: page.inner_text("#saved").startswith("Saved"), "the page does not say that it is saved")
    lines = lines_of(folder)
    images = {line.image: line.label for line in lines}
    assert len(lines) == len(images) == len(decided) == 100
    stored = {path.stem: path.parent.name for path in folder.rglob("*.png") if len(path.stem) == 32}
    assert stored == images
    pixels = {np.asarray(Image.open(path)).tobytes(): path for path in folder.rglob("*.png") if len(path.stem) == 32}
    for name, label in decided.items():
        copy = pixels[np.asarray(Image.open(name)).tobytes()]
        assert (copy.parent.name, copy.read_bytes()) == (label, Path(name).read_bytes())


@pytest.mark.long
def test_a_picture_that_was_handled_while_an_answer_was_under_way_is_not_shown_again(
    browser: Browser, command: Command
) -> None:
    with opened(browser, command.start()) as page:
        decided = shown(page)
        page.evaluate(HOLD, "next")
        page.wait_for_function(
            "() => window.release"
        )  # the server has answered with pictures, among them both of these
        press(page, label_of(decided))
        skipped = shown(page)
        press(page, "ArrowRight")
        assert saved(page) == f"Saved: {label_of(decided)}"
        page.evaluate("() => window.release()")
        page.wait_for_function("() => !fetching")
        assert not {decided, skipped} & {*page.evaluate(QUEUE)}


@pytest.mark.long
def test_a_key_typed_before_an_undone_picture_is_back_labels_no_other_picture(
    browser: Browser, command: Command, folder: Path
) -> None:
    with opened(browser, command.start()) as page:
        undone = shown(page)
        press(page, label_of(undone))
        saved(page)
        page.evaluate(HOLD, "undo")
        page.keyboard.press("ArrowLeft")
        page.wait_for_function("() => window.release")
        before = page.evaluate(QUEUE)
        for key in ("3", "Delete", "ArrowRight"):
            page.keyboard.press(key)
        assert page.evaluate(QUEUE) == before
        page.evaluate("() => window.release()")
        assert shown(page) == undone
    assert [line.undone for line in lines_of(folder)] == [False, True]


@pytest.mark.long
def test_with_10_000_pictures_the_next_one_appears_within_100_ms(
    browser: Browser, command: Command, digits: Dataset, folder: Path, tmp_path: Path
) -> None:
    new, rng = tmp_path / "many", np.random.default_rng(0)
    new.mkdir()
    for number in range(10_000):
        image = digits.train.images[number % 4_000, ..., 0].copy()
        image[0, :4] = rng.integers(0, 256, 4)
        Image.fromarray(image).save(new / f"{number}-{digits.train.labels[number % 4_000]}.png")
    command.arguments[0] = str(new)
    with opened(browser, command.start()) as page:
        page.wait_for_function("() => / 9,\\d+ left|10,000 left/.test(' ' + counts.textContent)", timeout=240_000)
        page.evaluate(MEASURE.replace("SHOWN", SHOWN))
        for _ in range(200):
            press(page, label_of(shown(page)))
        milliseconds = sorted(page.evaluate("window.times"))
        saved(page)
    assert len(lines_of(folder)) == 200
    figures = "milliseconds: median %.0f, p95 %.0f, highest %.0f"
    logging.getLogger(__name__).info(figures, milliseconds[100], milliseconds[190], milliseconds[-1])
    assert milliseconds[190] < 100


@pytest.mark.long
def test_a_page_of_another_server_on_this_machine_reads_nothing_and_stores_nothing(
    browser: Browser, command: Command, folder: Path
) -> None:
    address = command.start()
    with opened(browser, address) as page:
        shown(page)
        known = {"base": address.partition("/?")[0], "image": page.evaluate("queue[0].image")}
        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Empty) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            other = page.context.new_page()  # which has the cookie, too
            other.goto(f"http://127.0.0.1:{server.server_port}")
            loaded = other.evaluate(TRY_ALL, known)
            frames = [frame.url for frame in other.frames[1:]]
            server.shutdown()
        assert loaded == {"image": "refused", "script": "refused", "about": "refused"}
        assert frames == ["chrome-error://chromewebdata/"]
    assert lines_of(folder) == []
