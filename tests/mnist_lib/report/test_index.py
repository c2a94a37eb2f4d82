"""The index over all runs."""

import re
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser

from mnist_lib.data.split import Dataset
from mnist_lib.report.index import MOST_RUNS_SHOWN, Change, Row, index, row_of
from tests.support.browser import LOOKS, assert_good, look_at
from tests.support.made_run import NAUGHTY, made_run


@pytest.fixture(scope="module")
def summary(digits: Dataset) -> dict[str, Any]:
    return dict(made_run(digits, seeds=2, failed=1).summary)


def rows_of(summary: dict[str, Any], count: int) -> list[Row]:
    """The first with a report."""
    return [
        row_of(
            {**summary, "run": f"run-{day}", "ended": f"2026-{day // 28 % 12 + 1:02}-{day % 28 + 1:02}T03:00:00Z"},
            None if day else "runs/run-0/report.html",
        )
        for day in range(count)
    ]


CHANGES = [
    Change("keras", 1, "2026-01-01T03:00:00Z", "promote", "the first", 0.94),
    Change("keras", 2, "2026-01-03T03:00:00Z", "promote", NAUGHTY, 0.95),
    Change("keras", 1, "2026-01-04T03:00:00Z", "rollback", "by hand", None),
]


def test_the_newest_run_comes_first_and_leads_to_its_report(summary: dict[str, Any]) -> None:
    page = index(rows_of(summary, 3), CHANGES).decode()
    assert re.findall(r'<th scope="row">(?:<a[^>]*>)?(run-\d)', page) == ["run-2", "run-1", "run-0"]
    assert re.findall(r'href="([^"#]*)"', page) == ["runs/run-0/report.html"]
    assert re.findall(r'<th scope="row">(keras@\d)', page) == ["keras@1", "keras@2", "keras@1"]
    assert "<script>alert" not in page


@pytest.mark.parametrize("count", [0, 1])
def test_few_runs_have_an_index_too(summary: dict[str, Any], count: int) -> None:
    page = index(rows_of(summary, count), []).decode()
    assert f"<h1>{count} run" in page
    assert "There is none yet." in page


def test_a_run_of_an_older_program_is_listed_without_its_time(summary: dict[str, Any]) -> None:
    older = {name: value for name, value in summary.items() if name != "ended"}
    assert "2026-11-25T03-00-00Z-made" in index([row_of(older, None)], []).decode()


@pytest.mark.parametrize("missing", ["run", "models", "trials", "dataset"])
def test_what_is_no_summary_is_no_row(summary: dict[str, Any], missing: str) -> None:
    with pytest.raises(KeyError):
        row_of({name: value for name, value in summary.items() if name != missing}, None)


def test_of_very_many_runs_the_newest_are_shown(summary: dict[str, Any]) -> None:
    page = index(rows_of(summary, MOST_RUNS_SHOWN + 1), []).decode()
    assert f"<h1>{MOST_RUNS_SHOWN + 1} runs" in page
    assert page.count('<th scope="row">run-') == MOST_RUNS_SHOWN


@pytest.mark.slow
def test_the_index_is_good_on_a_telephone_and_on_a_desk_by_day_and_by_night(
    browser: Browser, summary: dict[str, Any], tmp_path: Path
) -> None:
    path = tmp_path / "index.html"
    path.write_bytes(index(rows_of(summary, 40), CHANGES))
    for size, scheme in LOOKS:
        assert_good(look_at(browser, path, size, scheme))
