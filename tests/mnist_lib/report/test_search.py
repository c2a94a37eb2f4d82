"""What a report says about a search, also about an odd one."""

from dataclasses import replace

import pytest
from msgspec import structs

from mnist_lib.data.dataset import Dataset
from mnist_lib.report.evidence import ReportedSearch
from mnist_lib.report.page import report
from mnist_lib.report.plots import settings_plot
from mnist_lib.results import Accuracy, mean_score
from tests.support.made_run import made_run, search_document, with_search


def test_configurations_are_listed_by_their_scores_without_those_that_failed(digits: Dataset) -> None:
    run = with_search(made_run(digits, seeds=2, models=("keras",)))
    found = ReportedSearch.of(run.folder.search(), run.summary)
    assert found is not None
    assert [(one.number, one.epochs, one.score) for one in found.tried] == [
        *[(3, 3, 0.8), (2, 1, 0.52)],
        *[(1, 1, 0.51), (0, 1, 0.5)],
    ]
    assert found.with_fresh_seeds == 0.96
    assert found.on_test == mean_score(trial.test_accuracy for trial in run.summary.successful)
    assert found.is_complete
    longer = ReportedSearch.of(search_document(rungs=[1, 3, 9]), run.summary)
    assert longer is not None
    assert not longer.is_complete
    assert settings_plot(found).png.startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("defaults", "text"),
    [
        (78, "The default settings reached 78.00% on the same images, so the search has gained +2.00 points."),
        (80, "No other settings are better than the default ones by more than chance, so these are the result."),
        (None, ""),
    ],
)
def test_the_page_says_what_the_search_has_gained(digits: Dataset, defaults: int | None, text: str) -> None:
    run = with_search(made_run(digits, seeds=2, models=("keras",)))
    assert run.summary.search is not None
    score = None if defaults is None else Accuracy(defaults, 100)
    search = structs.replace(run.summary.search, defaults=score)
    page = " ".join(report(replace(run, summary=structs.replace(run.summary, search=search))).page.decode().split())
    assert text in page
    assert ("efault settings" in page or "default ones" in page) == bool(text)


def test_a_search_without_scores_is_not_reported(digits: Dataset) -> None:
    run = with_search(made_run(digits, seeds=2, models=("keras",)), decisions=[], best=None)
    assert ReportedSearch.of(run.folder.search(), run.summary) is None


def test_a_search_that_ended_before_any_comparison_names_its_best_settings(digits: Dataset) -> None:
    early = {"decisions": [], "unfinished": {"3": {"correct": 80, "total": 100}}}
    made = report(with_search(made_run(digits, seeds=2, models=("keras",)), **early))
    page = " ".join(made.page.decode().split())
    assert "Time ran out before the first comparison" in page
    assert "which are compared on the same images but trained for up to 3 epochs, and" in page
    assert "partly luck" not in page
    assert "python -m jobs.train --learning-rate=0.0001<" in page
    assert "search-settings" not in made.plots


def test_the_page_says_that_configurations_were_compared_out_of_fold(digits: Dataset) -> None:
    run = with_search(made_run(digits, seeds=2, models=("keras",)))
    assert run.summary.search is not None
    search = structs.replace(run.summary.search, folds=5)
    trials = [structs.replace(trial, validation=None) for trial in run.summary.successful]
    made = report(replace(run, summary=structs.replace(run.summary, search=search, trials=trials)))
    page = " ".join(made.page.decode().split())
    test = mean_score(trial.test_accuracy for trial in run.summary.successful)
    assert "each predicted by a trial that was not trained on it (5 folds). The best one reached 80.00%" in page
    assert f"and {test:.2%} on average on the test images, trained on all of these images with fresh seeds." in page
    assert "partly luck" not in page
    assert '<th scope="col">out-of-fold</th>' in page


@pytest.mark.slow
def test_any_name_of_a_setting_is_text_in_the_page(digits: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [r"$\frac{$", "<script>alert(1)</script>", "a" * 200, "\x1b[31m"]
    run, configurations = with_search(made_run(digits, seeds=2)), {n: dict.fromkeys(names, n) for n in range(5)}
    odd = structs.replace(search_document(), space=dict.fromkeys(names, "1..2"), configurations=configurations)
    monkeypatch.setattr(run.folder, "search", lambda: odd)
    page = report(run).page.decode()
    assert "4 configurations" in page
    assert "<script>alert" not in page
    assert "\x1b" not in page


@pytest.mark.slow
def test_the_page_shows_how_much_of_the_score_of_a_search_was_lost_on_the_test_images(digits: Dataset) -> None:
    run = with_search(made_run(digits, seeds=2, models=("keras",)))
    validation = mean_score(trial.validation_score for trial in run.summary.successful)
    test = mean_score(trial.test_accuracy for trial in run.summary.successful)
    assert validation is not None
    assert test is not None
    made = report(run)
    page = " ".join(made.page.decode().split())
    assert "The best one reached 80.00% in the search" in page
    assert f"{validation:.2%} on average with fresh seeds, which are compared on the same images" in page
    assert f"and {test:.2%} on average on the test images" in page
    assert f"{100 * (test - 0.8):+.2f} points" in page
    assert "luck" in page
    assert "search-settings" in made.plots
    assert "python -m jobs.search --config" in page
