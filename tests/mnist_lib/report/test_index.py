"""The index of all runs."""

import html.parser
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from msgspec import structs
from playwright.sync_api import Browser

from mnist_lib.data.dataset import Dataset
from mnist_lib.report.index import MAX_RUNS, Change, Row, index
from mnist_lib.report.summary import settings_of
from mnist_lib.results import Accuracy
from mnist_lib.run_documents import Summary
from mnist_lib.store.champions.log import Champion
from mnist_lib.wording import printable
from tests.support.browser import LOOKS, PHONE, WIDE, assert_good, look_at
from tests.support.hostile import ANY_TEXT, is_harmless
from tests.support.made_run import NAUGHTY, made_run
from tests.support.results import with_fields
from tests.support.store.summaries import small_model, small_summary, summary_of

LINK = "runs/run-0/report.html"


def record(model: str, version: int, day: int, why: str = "the first", **fields: Any) -> Champion:
    """Return the record of a promotion on a day of January 2026."""
    given = {"dataset": "mnist-mini", "number": version, "kind": "promote", "run": "r", "replaced": None, **fields}
    return Champion(model=model, version=version, at=f"2026-01-{day:02}T03:00:00Z", why=why, **given)


BY_HAND = record("keras", 1, 4, "by hand", kind="rollback", total=0.05, comparisons=25)
OF_SCRATCH = record("scratch", 5, 2, dataset="mnist", test=Accuracy(88, 100))
CHANGES = [
    Change(record("keras", 1, 1, test=Accuracy(94, 100))),
    Change(record("keras", 2, 3, NAUGHTY, test=Accuracy(95, 100))),
    Change(BY_HAND, is_current=True),
    Change(OF_SCRATCH, is_current=True),
]


@pytest.fixture(scope="module")
def summary(digits: Dataset) -> Summary:
    return made_run(digits, seeds=2, failed=1).summary


def row_of(summary: Summary, link: str | None) -> Row:
    return Row(summary, link, settings_of(summary))


def rows_of(summary: Summary, count: int) -> list[Row]:
    """Return `count` rows, one for each day; only the first has a report."""
    return [
        row_of(
            structs.replace(
                summary, run=f"run-{day}", ended=f"2026-{day // 28 % 12 + 1:02}-{day % 28 + 1:02}T03:00:00Z"
            ),
            None if day else LINK,
        )
        for day in range(count)
    ]


def on(summary: Summary, dataset: str, run: str, **settings: Any) -> Row:
    trials = [with_fields(trial, **settings) for trial in summary.trials]
    about = structs.replace(summary.dataset, name=dataset)
    return row_of(structs.replace(summary, run=run, dataset=about, trials=trials), None)


def section(page: str, title: str) -> str:
    found = re.search(rf"<h2>{title}</h2>.*?(?=<h2>|$)", page, re.DOTALL)
    assert found is not None, title
    return found[0]


def columns(part: str) -> list[str]:
    return re.findall(r'<th scope="col"[^>]*>([^<]*)</th>', part)


def test_the_newest_run_comes_first_and_leads_to_its_report(summary: Summary) -> None:
    page = index(rows_of(summary, 3), CHANGES).decode()
    assert re.findall(r'<th scope="row"[^>]*><(?:a|span)[^>]*>(run-\d)', page) == ["run-2", "run-1", "run-0"]
    assert re.findall(r'href="([^"#]*)"', page) == [LINK]
    assert "<script>alert" not in page


def test_current_champions_stand_apart_from_their_history(summary: Summary) -> None:
    page = index(rows_of(summary, 3), CHANGES).decode()
    found = {
        title: re.findall(r'<th scope="row">(\w+@\d)', section(page, title))
        for title in ("Current champions", "Champion history")
    }
    assert found["Current champions"] == ["keras@1", "scratch@5"]
    assert found["Champion history"] == ["keras@1", "keras@2", "scratch@5", "keras@1"]


def test_each_dataset_is_a_line_of_the_overview_and_a_group_of_runs(
    summary: Summary,
) -> None:
    rows = [on(summary, "mnist", "a"), on(summary, "kmnist", "b"), on(summary, "mnist", "c")]
    page = index(rows, CHANGES).decode()
    overview = re.findall(r'<a href="#dataset-\d">(\w+)</a></th><td data-label="runs">(\d)', section(page, "Datasets"))
    assert overview == [("mnist", "2"), ("kmnist", "1")]
    for dataset, runs in (("mnist", ["c", "a"]), ("kmnist", ["b"])):
        group = section(page, dataset)
        assert re.findall(r"<span>(\w+)</span>", group) == runs
    assert "<h2>Datasets</h2>" not in index(rows[:1], CHANGES).decode()


def test_a_setting_is_a_column_only_where_runs_of_the_same_model_differ_in_it(summary: Summary) -> None:
    """The two models of a run have different optimizers, but each model has the same optimizer in all runs."""
    rows = [
        on(summary, "mnist", "a"),
        on(summary, "mnist", "b", epochs=20, arguments={"hidden_units": 64}),
        on(summary, "kmnist", "c"),
    ]
    page = index(rows, []).decode()
    assert columns(section(page, "mnist")) == [
        *("run", "ended (UTC)", "keras", "scratch", "trials"),
        *("epochs", "hidden units"),
    ]
    assert '<td data-label="epochs">20</td><td data-label="hidden units">64</td>' in section(page, "mnist")
    assert columns(section(page, "kmnist")) == ["run", "ended (UTC)", "keras", "scratch", "trials"]


@pytest.mark.parametrize("count", [0, 1])
def test_an_index_of_no_run_or_one_run_is_a_page_without_champions(summary: Summary, count: int) -> None:
    page = index(rows_of(summary, count), []).decode()
    assert f"<h1>{count} run" in page
    assert "No model has a champion." in section(page, "Current champions")


def test_only_the_newest_of_very_many_runs_are_listed(summary: Summary) -> None:
    page = index(rows_of(summary, MAX_RUNS + 1), []).decode()
    assert f"<h1>{MAX_RUNS + 1} runs" in page
    assert len(re.findall(r"<(?:a|span)[^>]*>run-", page)) == MAX_RUNS
    assert f"Only the newest {MAX_RUNS} runs are listed." in page


@pytest.mark.slow
@pytest.mark.long
def test_the_index_is_legible_and_accessible_in_every_size_and_colour_scheme(
    browser: Browser, summary: Summary, tmp_path: Path
) -> None:
    path = tmp_path / "index.html"
    path.write_bytes(index(rows_of(summary, 40), CHANGES))
    for size, scheme in LOOKS:
        assert_good(look_at(browser, path, size, scheme))


@pytest.mark.long
@pytest.mark.slow
def test_many_models_that_differ_in_every_setting_are_not_cut_off(
    browser: Browser, digits: Dataset, tmp_path: Path
) -> None:
    summary = made_run(digits, seeds=1, models=("keras", "keras-cnn", "scratch")).summary
    champions = {name: structs.replace(model, champion=True, version=100) for name, model in summary.models.items()}
    settings: list[dict[str, Any]] = [
        *(
            {
                "epochs": 100,
                "global_batch_size": 8192,
                "arguments": {"hidden_units": 1024},
                "validation_percent": 20,
            },
        ),
        *({"precision": "bfloat16", "schedule": "one-cycle", "learning_rate": 0.00123, "optimizer": "adam"},),
    ]
    rows = [
        on(
            structs.replace(summary, models=champions),
            "fashion-mnist",
            f"2026-11-25T0{n}-00-00Z-fashion-mnist",
            **given,
        )
        for n, given in enumerate(settings)
    ]
    path = tmp_path / "index.html"
    path.write_bytes(index(rows, CHANGES))
    for size in (PHONE, WIDE):
        assert_good(look_at(browser, path, size, "light"))


NO_BREAK = "\N{NO-BREAK SPACE}"


@pytest.mark.fuzz
@given(name=ANY_TEXT)
def test_any_name_is_text_in_the_page(name: str) -> None:
    facts = summary_of(small_summary(models={"keras": small_model()}))
    dataset = structs.replace(facts.dataset, name=name)
    made = structs.replace(facts, run=name, dataset=dataset, models={name: facts.models["keras"]})
    named = record(name, 1, 1, name, dataset=name)
    page = index([Row(made, None, {})], [Change(named, is_current=True)]).decode()
    assert is_harmless(page.replace(NO_BREAK, " "))
    found: list[str] = []
    parser = html.parser.HTMLParser()
    parser.handle_data = lambda data: found.append(data)  # type: ignore[method-assign]
    parser.feed(page)
    assert "".join(printable(name, keep=f"\n{NO_BREAK}").split()) in "".join("".join(found).split())
