"""The summary of a run."""

from typing import Any

import numpy as np
import pytest

from mnist_lib.data.dataset import NearCopies
from mnist_lib.intervals import accuracy_interval
from mnist_lib.report.summary import settings_of
from mnist_lib.results import Accuracy
from tests.support.made_run import small_result, small_summary, summary_of_results
from tests.support.store.summaries import small_summary as stored_summary
from tests.support.store.summaries import small_trial, summary_of

CORRECT, HALF = [0, 1, 2, 3], [0, 1, 0, 0]


def test_the_summary_has_the_main_figures() -> None:
    summary = small_summary(CORRECT, HALF)
    model = summary.models["keras"]
    figures = (model.trials, model.mean_test_accuracy, model.best_trial, model.version)
    assert figures == (2, 0.75, "keras-s0", 7)
    assert summary.successful[1].test == Accuracy(2, 4)
    assert summary.versions == {"numpy": "2.4.6"}  # of the workers, not of this process


def test_the_interval_says_what_varies_and_is_not_0_wide_if_all_seeds_agree() -> None:
    one, two = (small_summary(*[CORRECT] * n).models["keras"] for n in (1, 2))
    assert one.ci95_over == "another test set of this size"
    assert one.ci95 == pytest.approx(Accuracy(4, 4).interval())
    assert (two.ci95_over, two.ci95) == ("another seed and another test set of this size", one.ci95)


def test_a_group_of_reviewed_or_distinct_test_images_is_one_unit_in_their_interval() -> None:
    groups, most = np.array([5, 5, 7, 7], np.int32), np.array([True, True, True, False])
    near_copies = NearCopies(compared=4, test=np.array([3]), train=np.array([0]))
    facts: dict[str, Any] = {"reviewed": np.full(4, True), "near_copies": near_copies}
    alone = small_summary(HALF, **facts).models["keras"]
    grouped = small_summary(HALF, **facts, group_by="folder", groups=groups).models["keras"]
    assert alone.reviewed_test_ci95 == pytest.approx(Accuracy(2, 4).interval())
    assert alone.distinct_test_ci95 == pytest.approx(Accuracy(2, 3).interval())
    assert grouped.reviewed_test_ci95 == grouped.ci95 != alone.ci95
    assert grouped.distinct_test_ci95 == accuracy_interval(most[[0, 1, 3]], groups=groups[:3])


def test_the_recall_of_each_class_has_an_interval_in_which_a_group_is_one_unit() -> None:
    labels = np.repeat(np.array([0, 2], np.uint8), [80, 20])
    answers = [*[0] * 60, *[2] * 20, *[2] * 15, *[0] * 5]
    result, other = (
        small_result(0, predicted=answers, labels=labels),
        small_result(1, predicted=[0] * 100, labels=labels),
    )
    found = summary_of_results([result, other], labels=labels).models["keras"]
    assert [(row.correct, row.total) for row in found.recall[:4]] == [(60, 80), (0, 0), (15, 20), (0, 0)]
    assert found.recall[0].ci95 == Accuracy(60, 80).interval()
    assert found.recall[1].ci95 == (0.0, 1.0)
    assert found.best_trial_test_balanced_accuracy == pytest.approx((60 / 80 + 15 / 20) / 2)
    assert found.mean_test_balanced_accuracy == pytest.approx(((60 / 80 + 15 / 20) / 2 + 0.5) / 2)
    assert found.always_answers is None
    groups = (np.arange(100) // 10).astype(np.int32)
    grouped = summary_of_results([result], labels=labels, group_by="folder", groups=groups).models["keras"]
    low, high = grouped.recall[0].ci95
    assert high - low > 2 * (found.recall[0].ci95[1] - found.recall[0].ci95[0])


def test_settings_are_text_for_each_name_and_model_even_without_results() -> None:
    trials = [
        small_trial(0, learning_rate=0.01, arguments={"hidden_units": 8}),
        small_trial(0, model="scratch", id="scratch-s0"),
    ]
    settings = settings_of(summary_of(stored_summary(trials=trials)))
    assert settings["epochs"] == {"keras": "5", "scratch": "5"}
    assert settings["learning rate"] == {"keras": "0.01", "scratch": "0.001"}
    assert settings["hidden units"] == {"keras": "8", "scratch": "512"}
