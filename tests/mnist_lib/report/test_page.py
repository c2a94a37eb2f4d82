"""The report of a run: it says what the summary says, whatever the run was."""

import functools
import html
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
from msgspec import structs
from playwright.sync_api import Browser

from mnist_lib.data.dataset import Dataset
from mnist_lib.data.embedded import FOLDER
from mnist_lib.data.near_copies import near_copies
from mnist_lib.data.table import Table
from mnist_lib.documents import builtins_of
from mnist_lib.report.evidence import ReportedRun, StoredTrial
from mnist_lib.report.page import Report, report
from mnist_lib.results import Accuracy
from mnist_lib.run_documents import LabelErrors
from tests.support.browser import LOOKS, PHONE, VISIBLE_PLOTS, WIDE, assert_good, look_at
from tests.support.figures import assert_says_what_the_summary_says, text_of, trial_rows
from tests.support.made_run import NAUGHTY, made_run, with_news, with_search
from tests.support.results import with_fields

pytestmark = pytest.mark.slow  # draws plots


def sklearn_digits() -> Dataset:
    with np.load(FOLDER / "sklearn-digits.npz") as arrays:
        train, test = (Table.of(arrays[f"{split}_images"], arrays[f"{split}_labels"]) for split in ("train", "test"))
    return Dataset.of("sklearn-digits", "1.0.0", train, test)


def many_classes() -> Dataset:
    """100 classes of images in colour, 48 x 32 pixels, some with long names."""
    random, names = (
        np.random.default_rng(0),
        [f"{word} {n}" for n in range(25) for word in ("fir", "Ahorn", "桜 $x^{", NAUGHTY[:40])],
    )
    train, test = (
        Table.of(random.integers(0, 256, (n, 48, 32, 3), np.uint8), np.arange(n, dtype=np.uint8) % 100)
        for n in (500, 300)
    )
    return Dataset.of("leaves", "1a2b3c4d", train, test, names)


def with_near_copies(digits: Dataset) -> Dataset:
    """Return a folder of digits whose test split begins with darker copies of 30 training pictures."""
    train, test = digits.train.take(slice(0, 600, 5)), digits.test.take(slice(0, 100))
    copies = [(train.images[:30] * 0.7).astype(np.uint8), train.labels[:30]]
    files = [
        np.array([f"{name}/{n:05}.png".encode() for n in range(count)]) for name, count in (("a", 120), ("b", 130))
    ]
    train, test = (
        Table.of(images, labels, files=paths.view(np.uint8).reshape(len(paths), -1))
        for images, labels, paths in (
            (train.images, train.labels, files[0]),
            (*map(np.concatenate, ((copies[0], test.images), (copies[1], test.labels))), files[1]),
        )
    )
    dataset = Dataset.of("letters", "1a2b3c4d", train, test)
    return dataset.reporting(near_copies=near_copies(dataset), near_copy_files=(("b/00000.png", "a/00000.png"),))


RUNS: dict[str, Callable[[Dataset], ReportedRun]] = {
    "six": lambda digits: made_run(digits, seeds=3),
    "a failed one": lambda digits: made_run(digits, seeds=3, failed=1),
    "a hundred": lambda digits: made_run(digits, seeds=50, failed=3),
    "one": lambda digits: made_run(digits, seeds=1, models=("keras-cnn",)),
    "none succeeded": lambda digits: made_run(digits, seeds=2, failed=4),
    "eight by eight": lambda _: made_run(sklearn_digits(), seeds=3),
    "a hundred classes": lambda _: made_run(many_classes(), seeds=2),
    "changed data": lambda digits: with_news(made_run(digits, seeds=1)),
    "near-copies": lambda digits: made_run(with_near_copies(digits), seeds=2),
    "a search": lambda digits: with_search(made_run(digits, seeds=2, models=("keras",))),
}


Reported = tuple[ReportedRun, Report]


@pytest.fixture(scope="module")
def report_of(digits: Dataset) -> Callable[[str], Reported]:
    """Return a function that returns one of RUNS with its report, which it makes once."""

    @functools.cache
    def made(name: str) -> Reported:
        run = RUNS[name](digits)
        return run, report(run)

    return made


LARGE = ("a hundred", "a hundred classes", "eight by eight")


@pytest.fixture(params=[pytest.param(name, marks=pytest.mark.long if name in LARGE else ()) for name in RUNS])
def reported(request: pytest.FixtureRequest, report_of: Callable[[str], Reported]) -> Reported:
    return report_of(request.param)


def test_the_page_says_what_has_changed_in_the_data(report_of: Callable[[str], Reported]) -> None:
    page = report_of("changed data")[1].page.decode()
    text = text_of(page)
    numbers = "55 for training, 1,234 for the test"
    changes = f"1,289 images added ({numbers}), 5 images removed (5 for training), 1,289 images relabelled ({numbers})"
    assert f"Data: {changes} since run r0." in text
    assert "2 test images were corrected because a model disputed the label, which favours that model." in text
    assert re.search(
        r"75\.00% on 4 images that are new, 89\.99% on 999 images with the published labels, 96\.00%"
        r" \(90\.16% to 98\.43%\) on 100 images reviewed at random\.",
        text,
    )
    overview = text[: text.index("One line for each trial")]
    assert (
        "Unusual: 1,242 images added to class 7, where 2.5 a run are usual; check that they belong there." in overview
    )
    assert " has 75.00% on 4 new pictures, a fall from 100.00% in earlier runs." in overview
    assert text.count("Unusual: ") == overview.count("Unusual: ") == 3


def test_near_copies_are_shown_beside_what_they_resemble_with_the_accuracy_without_them(
    report_of: Callable[[str], Reported],
) -> None:
    run, made = report_of("near-copies")
    text = " ".join(re.sub("<[^>]*>", " ", made.page.decode()).split())
    assert "30 of 130 test images resemble a training image" in text
    assert "The 12 most similar pairs are shown." in text
    pairs = re.findall(r"Test: (\d) ([ab]/\d+\.png) Training: (\d) ([ab]/\d+\.png)", text)
    assert len(pairs) == 12
    assert all((label, file.replace("b/", "a/")) == (other, original) for label, file, other, original in pairs)
    keras = run.summary.models["keras"]
    answers = run.tallies["keras"].chosen.probabilities.argmax(axis=1)
    assert keras.distinct_test == Accuracy(int((answers == run.dataset.test.labels)[30:].sum()), 100)
    assert f"{keras.distinct_test_accuracy:.2%} (" in text


def test_each_figure_equals_the_summary_and_no_main_accuracy_is_missing(reported: Reported) -> None:
    run, made = reported
    assert_says_what_the_summary_says(made.page.decode(), builtins_of(run.summary))


def test_the_table_of_trials_has_no_percentage_that_is_not_in_the_summary(
    report_of: Callable[[str], Reported],
) -> None:
    """Finds a percentage that was typed in, or computed another way."""
    run, made = report_of("six")
    table = re.search(r"<tbody>.*?</tbody>", made.page.decode(), re.DOTALL)
    assert table is not None
    allowed = {trial.test_accuracy for trial in run.summary.successful}
    allowed |= {trial.validation.value for trial in run.summary.successful if trial.validation}
    assert set(re.findall(r"[\d.]+%", table[0])) == {f"{100 * value:.2f}%" for value in allowed}


def test_the_page_contains_all_that_it_shows_and_is_small(reported: Reported) -> None:
    page = reported[1].page
    assert len(page) < 3_000_000
    assert not re.findall(rb"(?:src|href)=\"(?!data:|#)[^\"]*\"", page)
    assert b"<script" not in page
    assert b"url(http" not in page


def test_no_text_of_our_own_is_escaped(reported: Reported) -> None:
    _, report = reported
    assert re.findall(r".{20}\\[xu].{20}", report.page.decode()) == []


def test_markup_in_a_message_is_shown_as_text(digits: Dataset) -> None:
    run = replace(made_run(digits, seeds=2, failed=1), options=([f"--storage={NAUGHTY}"], []))
    page = report(run).page.decode()
    assert "<script>alert" not in page
    assert html.unescape(page).count(NAUGHTY) == 5  # two promotions, a failure twice, the configuration
    assert html.unescape(page).count("--storage=<script>alert(1)</script>") == 1  # quoted as a shell needs it


def test_each_plot_of_the_page_is_also_a_picture(reported: Reported) -> None:
    run, made = reported
    assert all(content.startswith(b"\x89PNG") for content in made.plots.values())
    if run.tallies:
        assert {"accuracy", "learning-curves"} <= set(made.plots)


@pytest.mark.parametrize(("epochs", "ticks"), [(1, [1]), (8, [*range(1, 9)]), (100, [1, 20, 40, 60, 80, 100])])
def test_epochs_are_numbered_from_1(digits: Dataset, epochs: int, ticks: list[int]) -> None:
    page = report(made_run(digits, seeds=1, models=("keras",), epochs=epochs)).page.decode()
    plot = re.search(r'aria-label="plot: learning-curves".*?</svg>', page, re.DOTALL)
    assert plot is not None
    labels = re.findall(r'<g id="xtick_\d+">.*?<text[^>]*>([^<]*)</text>', plot[0], re.DOTALL)
    assert [int(label) for label in labels] == ticks * 2
    assert [row["chosen epoch"] for row in trial_rows(page).values()] == [f"{epochs} of {epochs}"]


def test_pictures_of_something_else_are_shown_by_kind_and_what_was_not_made_up_is_said(digits: Dataset) -> None:
    run = made_run(digits, seeds=1, models=("keras", "scratch"))
    assert b"Pictures of something else" not in report(run).page
    rejected = {"keras": {"noise": Accuracy(199, 200), "counter-examples": Accuracy(3, 8)}, "scratch": {}}
    for name, tally in run.tallies.items():
        record = structs.replace(tally.chosen.record, rejected=rejected[name])
        tally.chosen = structs.replace(tally.chosen, record=record)
    page = report(replace(run, dataset=replace(digits, made_up=("noise", "tiles", "two")))).page.decode()
    (table,) = re.findall(r'aria-label="Pictures of something else">(.*?)</table>', page, re.DOTALL)
    rows = [re.sub(r"<[^>]+>", " ", row).split() for row in re.findall(r"<tr>(.*?)</tr>", table, re.DOTALL)]
    assert rows == [
        ["pictures", "keras", "scratch"],
        ["noise", "100%", "-"],
        ["your", "counter-examples", "that", "are", "held", "out", "38%", "-"],
    ]
    assert "Not made up, since a class looks like it: plain and graded surfaces; blurred colours, and blobs." in page


def test_a_dataset_that_has_changed_unexpectedly_is_said_with_the_command_that_accepts_it(digits: Dataset) -> None:
    run = made_run(digits, seeds=1)
    accept = "python -m jobs.models accept digits --state 3f452b93d340 --storage results"
    objections = ("8 of 10 classes are gone (2, 3, 4, 5, 6 and 3 more)", "2,394 of 2,993 pictures are gone")
    data = structs.replace(run.summary.dataset, name="digits", objections=objections, accept=accept)
    page = html.unescape(report(replace(run, summary=structs.replace(run.summary, dataset=data))).page.decode())
    assert f"digits has changed unexpectedly: {'; '.join(objections)}. To accept the change: {accept}" in page


def test_mistakes_and_pictures_that_are_left_out_name_their_files(digits: Dataset) -> None:
    run = made_run(digits, seeds=2)
    paths = [f"seven/\u00e9 {NAUGHTY[:20]}#{n}.png" for n in range(len(digits.test))]
    files = np.array([path.encode() for path in paths]).view(np.uint8).reshape(len(paths), -1)
    notices = ("left out: a/b.png: damaged", "converted to grey, as most pictures are: 1 (a/c.png)", "left over")
    data = structs.replace(run.summary.dataset, notices=notices)
    no_files = np.zeros((len(digits.train), files.shape[1]), np.uint8)
    dataset = replace(digits, table=replace(digits.table, files=np.concatenate((no_files, files))))
    run = replace(run, summary=structs.replace(run.summary, dataset=data), dataset=dataset)
    mistake = StoredTrial.of(run.tallies["keras"].chosen.probabilities, digits.test.labels).mistakes[0]
    name = paths[mistake.image]
    page = report(run).page.decode()
    assert name in html.unescape(page)
    assert "<li>left out: a/b.png: damaged</li>" in page
    assert "<li>converted to grey, as most pictures are: 1 (a/c.png)</li>" in page
    assert "left over" not in page
    assert "<a " not in page
    page = report(replace(run, pictures="../../../my%20letters")).page.decode()
    (link,) = {link for link in re.findall(r'href="([^"]*)"', page) if link.endswith(f"%23{mistake.image}.png")}
    assert link == f"../../../my%20letters/{quote(name)}"


def test_options_that_differ_from_their_defaults_come_first_and_the_others_are_folded(
    report_of: Callable[[str], Reported], digits: Dataset
) -> None:
    page = report_of("six")[1].page.decode()
    changed, _, rest = page.partition("Changed from the defaults:")[2].partition("<details>")
    assert re.findall(r"<code>([^<]*)</code>", changed) == ["--seeds=3", "--epochs=8"]
    folded = rest.partition("</details>")[0]
    assert re.findall(r"<code>([^<]*)</code>", folded) == ["--dataset=mnist-mini", "--batch-size=128"]
    assert "<dt>optimizer</dt><dd>rmsprop (keras), sgd (scratch)</dd>" in folded
    unchanged = replace(made_run(digits, seeds=1), options=([], []))
    assert "All options have their defaults." in report(unchanged).page.decode()


def test_the_command_that_reproduces_a_model_names_its_weights_files(digits: Dataset) -> None:
    run = made_run(digits, seeds=1, models=("keras",))
    trials = [with_fields(trial, source_sha256="0" * 64, weights={"body": "0" * 64}) for trial in run.summary.trials]
    page = report(replace(run, summary=structs.replace(run.summary, trials=trials))).page.decode()
    assert re.search(r"jobs.models reproduce keras@\d+ --storage \S+ --weights body=FILE\n", page)


def test_the_command_that_reviews_labels_names_the_storage(digits: Dataset) -> None:
    run = made_run(digits, seeds=1, models=("keras",))
    summary = structs.replace(run.summary, label_errors=LabelErrors(count=1, first=()))
    page = report(replace(run, summary=summary)).page.decode()
    storage = re.search(r"jobs.models reproduce \S+ (--storage \S+)", page)
    assert storage is not None
    assert f"python -m jobs.review {storage[1]}" in page


@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n == "one" else pytest.mark.long) for n in RUNS])
def test_the_page_is_legible_and_accessible_in_every_size_and_colour_scheme_and_folded_on_a_phone(
    browser: Browser, report_of: Callable[[str], Reported], tmp_path: Path, name: str
) -> None:
    path, (_, made) = tmp_path / "report.html", report_of(name)
    path.write_bytes(made.page)
    for size, scheme in LOOKS if name == "six" else [LOOKS[[*RUNS].index(name) % len(LOOKS)]]:
        seen = look_at(browser, path, size, scheme)
        assert_good(seen)
        assert seen.headings[-1] == "Reproduce this run"
        if name == "six" and size in (PHONE, WIDE):
            assert seen.plots_at_first == (2 if size == WIDE else 0)
            assert size == WIDE or seen.height_at_first < 2 * PHONE[1]


def test_on_paper_the_page_is_dark_on_white_with_all_sections(
    browser: Browser, digits: Dataset, tmp_path: Path
) -> None:
    path = tmp_path / "report.html"
    path.write_bytes(report(made_run(digits, seeds=1)).page)
    page = browser.new_page(color_scheme="dark", viewport={"width": PHONE[0], "height": PHONE[1]})
    page.goto(path.as_uri())
    seen = []
    for medium in ("screen", "print"):
        page.emulate_media(media=medium, color_scheme="dark")
        seen.append((page.evaluate("getComputedStyle(document.body).color"), page.evaluate(VISIBLE_PLOTS)))
    page.close()
    assert seen == [("rgb(230, 233, 237)", 0), ("rgb(31, 35, 40)", 2)]


THINGS = (
    *("crescent moon", "butterfly", "red circle", "watermelon", "strawberry", "pineapple", "screwdriver"),
    *("paintbrush", "grandfather clock", "umbrella"),
)


@pytest.mark.slow
@pytest.mark.parametrize("width", [1_280, 390])
def test_the_names_of_confused_classes_are_not_broken_within_words(
    width: int, browser: Browser, digits: Dataset, tmp_path: Path
) -> None:
    run = made_run(digits, seeds=1)
    data = structs.replace(run.summary.dataset, classes=THINGS)
    run = replace(run, summary=structs.replace(run.summary, dataset=data), dataset=replace(digits, classes=THINGS))
    (tmp_path / "report.html").write_bytes(report(run).page)
    page = browser.new_page(viewport={"width": width, "height": 900})
    page.goto((tmp_path / "report.html").as_uri())
    page.evaluate("document.querySelectorAll('details').forEach(details => details.open = true)")
    lines = page.evaluate(
        """() => [...document.querySelectorAll(".matrix.named thead span, .matrix.named tbody th")].map(name => {
          const range = document.createRange();
          range.selectNodeContents(name);
          return range.getClientRects().length;
        })"""
    )
    assert len(lines) == 2 * 2 * len(THINGS)
    assert max(lines) <= 2  # "grandfather clock" may take two
    assert sum(lines) <= len(lines) + 4
    assert page.evaluate("document.documentElement.scrollWidth") <= width
