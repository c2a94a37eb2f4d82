"""The page about a run: what it says is what the summary says, whatever the run was."""

import html
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Browser

from mnist_lib.data.embedded import FOLDER
from mnist_lib.data.split import Dataset, Split
from mnist_lib.report.page import Report, ReportedRun, report
from tests.support.browser import LOOKS, assert_good, look_at
from tests.support.figures import assert_says_what_the_summary_says
from tests.support.made_run import NAUGHTY, made_run


def sklearn_digits() -> Dataset:
    with np.load(FOLDER / "sklearn-digits.npz") as arrays:
        train, test = (Split(arrays[f"{split}_images"], arrays[f"{split}_labels"]) for split in ("train", "test"))
    return Dataset.of("sklearn-digits", "1.0.0", train, test)


RUNS: dict[str, Callable[[Dataset], ReportedRun]] = {
    "six": lambda digits: made_run(digits, seeds=3),
    "a failed one": lambda digits: made_run(digits, seeds=3, failed=1),
    "a hundred": lambda digits: made_run(digits, seeds=50, failed=3),
    "one": lambda digits: made_run(digits, seeds=1, models=("keras-cnn",)),
    "none succeeded": lambda digits: made_run(digits, seeds=2, failed=4),
    "eight by eight": lambda _: made_run(sklearn_digits(), seeds=3),
}


@pytest.fixture(scope="module", params=RUNS)
def reported(request: pytest.FixtureRequest, digits: Dataset) -> tuple[ReportedRun, Report]:
    run = RUNS[request.param](digits)
    return run, report(run)


def test_each_figure_is_that_of_the_summary_and_none_of_the_core_is_left_out(
    reported: tuple[ReportedRun, Report],
) -> None:
    run, made = reported
    assert_says_what_the_summary_says(made.page.decode(), run.summary)


def test_no_figure_stands_in_the_page_that_is_not_of_the_summary_in_the_table_of_trials(digits: Dataset) -> None:
    """A percentage that was typed in, or computed another way, would be found here."""
    run = made_run(digits, seeds=3)
    table = re.search(r"<tbody>.*?</tbody>", report(run).page.decode(), re.DOTALL)
    assert table is not None
    allowed = {trial["test_accuracy"] for trial in run.summary["trials"]}
    allowed |= {trial["validation"]["correct"] / trial["validation"]["total"] for trial in run.summary["trials"]}
    assert set(re.findall(r"[\d.]+%", table[0])) == {f"{100 * value:.2f}%" for value in allowed}


def test_the_page_holds_all_that_it_shows_and_is_small(reported: tuple[ReportedRun, Report]) -> None:
    page = reported[1].page
    assert len(page) < 3_000_000
    assert not re.findall(rb"(?:src|href)=\"(?!data:|#)[^\"]*\"", page)
    assert b"<script" not in page
    assert b"url(http" not in page


def test_what_a_message_holds_is_text_and_nothing_else(digits: Dataset) -> None:
    page = report(made_run(digits, seeds=2, failed=1)).page.decode()
    assert "<script>alert" not in page
    assert html.unescape(page).count(NAUGHTY) == 5  # two promotions, a failure twice, the configuration


def test_each_plot_of_the_page_is_there_as_a_picture_too(reported: tuple[ReportedRun, Report]) -> None:
    run, made = reported
    assert all(content.startswith(b"\x89PNG") for content in made.plots.values())
    if run.tallies:
        assert {"accuracy", "learning-curves", "calibration", "time-line"} < set(made.plots)


@pytest.mark.slow
def test_the_page_is_good_on_a_telephone_and_on_a_desk_by_day_and_by_night(
    browser: Browser, reported: tuple[ReportedRun, Report], tmp_path: Path
) -> None:
    path = tmp_path / "report.html"
    path.write_bytes(reported[1].page)
    every_look = len(reported[0].summary["trials"]) == 6
    for size, scheme in LOOKS if every_look else LOOKS[1:3]:
        seen = look_at(browser, path, size, scheme)
        assert_good(seen)
        assert seen.headings[-1] == "How to reproduce it"


@pytest.mark.slow
def test_on_paper_it_is_dark_on_white_whatever_the_screen_is(browser: Browser, digits: Dataset, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_bytes(report(made_run(digits, seeds=1)).page)
    page = browser.new_page(color_scheme="dark")
    page.goto(path.as_uri())
    colours = []
    for medium in ("screen", "print"):
        page.emulate_media(media=medium, color_scheme="dark")
        colours.append(page.evaluate("getComputedStyle(document.body).color"))
    page.close()
    assert colours == ["rgb(230, 233, 237)", "rgb(31, 35, 40)"]
