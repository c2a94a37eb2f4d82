"""What a report says about a search, also about an odd one."""

from mnist_lib.data.split import Dataset
from mnist_lib.report.page import report
from mnist_lib.report.search import ReportedSearch, rungs_plot, settings_plot
from tests.support.made_run import made_run, search_document, with_search


def test_configurations_are_listed_by_their_scores_without_those_that_failed() -> None:
    trials = [{"status": "ok", "validation": {"correct": 78, "total": 100}}, {"status": "failed", "validation": None}]
    found = ReportedSearch.of(search_document(), {"trials": trials, "search": {"train": []}})
    assert found is not None
    assert [(one.number, one.epochs, one.score) for one in found.tried] == [
        *[(3, 3, 0.8), (2, 1, 0.52)],
        *[(1, 1, 0.51), (0, 1, 0.5)],
    ]
    assert (found.in_search, found.with_fresh_seeds) == (0.8, 0.78)
    assert {*found.ranges} == {*found.logarithmic} == {"learning_rate"}
    assert settings_plot(found).png.startswith(b"\x89PNG")
    assert rungs_plot(found).png.startswith(b"\x89PNG")


def test_a_search_without_scores_is_not_reported() -> None:
    assert ReportedSearch.of(search_document(decisions=[], best=None), {"trials": []}) is None


def test_a_search_that_ended_before_any_comparison_names_its_best_settings(digits: Dataset) -> None:
    early = {"decisions": [], "unfinished": {"3": {"correct": 80, "total": 100}}}
    made = report(with_search(made_run(digits, seeds=2), **early))
    page = made.page.decode()
    assert "Time ran out before the first comparison" in page
    assert "on average with fresh seeds, trained for up to 3 epochs." in page
    assert "python -m jobs.train --learning-rate=0.0001<" in page
    assert "search-rungs" not in made.plots


def test_any_name_of_a_setting_is_text_in_the_page(digits: Dataset) -> None:
    names = [r"$\frac{$", "<script>alert(1)</script>", "a" * 200, "\x1b[31m"]
    odd = {
        "space": dict.fromkeys(names, "1..2"),
        "configurations": {str(n): dict.fromkeys(names, n) for n in range(5)},
    }
    page = report(with_search(made_run(digits, seeds=2), **odd)).page.decode()
    assert "4 configurations" in page
    assert "<script>alert" not in page
    assert "\x1b" not in page


def test_the_page_shows_the_search_and_how_much_of_its_score_was_lost_with_fresh_seeds(digits: Dataset) -> None:
    made = report(with_search(made_run(digits, seeds=2)))
    page = made.page.decode()
    assert "The best one reached 80.00% in the search" in page
    assert "on average with fresh seeds" in page
    assert {"search-settings", "search-rungs"} <= made.plots.keys()
    assert "python -m jobs.search --config" in page
