"""What a report counts: its laws, and what history tells of attempts."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from numpy.typing import NDArray

from mnist_lib.report.evidence import MOST_PICTURES, Disputes, StoredTrial, attempts, learning_curves
from tests.mnist_lib.report.test_table import result, tally_of

Answers = tuple[NDArray[np.float32], NDArray[np.uint8]]


@st.composite
def answers(draw: st.DrawFn) -> Answers:
    images = draw(st.integers(1, 60))
    weights = draw(npst.arrays(np.float32, (images, 10), elements=st.floats(0.015625, 1, width=32)))
    labels = draw(npst.arrays(np.uint8, images, elements=st.integers(0, 9)))
    return weights / weights.sum(axis=1, keepdims=True), labels


@given(answers())
def test_each_image_is_in_one_cell_of_the_confusion_and_in_one_bin_of_the_calibration(given_answers: Answers) -> None:
    probabilities, labels = given_answers
    found = StoredTrial.of(probabilities, labels)
    correct = int((probabilities.argmax(axis=1) == labels).sum())
    assert found.confusion.sum() == sum(b.images for b in found.calibration) == len(labels)
    assert found.confusion.diagonal().sum() == correct
    assert found.confusion.sum(axis=1).tolist() == np.bincount(labels, minlength=10).tolist()
    assert sum(b.images * b.accuracy for b in found.calibration) == pytest.approx(correct)
    assert 0 <= found.calibration_error <= 1


@given(answers())
def test_mistakes_are_wrong_each_once_and_the_most_confident_come_first(given_answers: Answers) -> None:
    probabilities, labels = given_answers
    mistakes = StoredTrial.of(probabilities, labels).mistakes
    wrong = int((probabilities.argmax(axis=1) != labels).sum())
    assert StoredTrial.of(probabilities, labels).wrong == wrong
    assert len({mistake.image for mistake in mistakes}) == len(mistakes) == min(wrong, MOST_PICTURES)
    assert all(mistake.answer != mistake.label == labels[mistake.image] for mistake in mistakes)
    assert [m.probability for m in mistakes] == sorted((m.probability for m in mistakes), reverse=True)


def test_a_model_that_is_as_sure_as_it_is_right_has_no_calibration_error() -> None:
    probabilities = np.full((10, 10), 0.2 / 9, np.float32)
    probabilities[:, 3] = 0.8
    labels = np.array([3] * 8 + [5] * 2, np.uint8)
    assert StoredTrial.of(probabilities, labels).calibration_error == pytest.approx(0, abs=1e-6)


def test_a_label_that_most_trials_contradict_and_an_answer_that_is_divided_are_told_apart() -> None:
    labels = np.array([0, 1, 2, 3], np.uint8)
    told = [[0, 7, 2, 3], [0, 7, 2, 8], [0, 7, 2, 9]]  # all give 7 for the second; three answers for the last
    found = Disputes.of([tally_of(*(result(seed, predicted=given) for seed, given in enumerate(told)))], labels)
    assert (found.trials, found.images_contradicted, found.images_divided) == (3, 1, 1)
    assert [(d.image, d.label, dict(d.votes)) for d in found.contradicted] == [(1, 1, {7: 3})]
    assert [(d.image, dict(d.votes)) for d in found.divided] == [(3, {3: 1, 8: 1, 9: 1})]


def epoch(at: float, trial: str, number: int, loss: float = 1.0) -> dict[str, Any]:
    counts = {"correct": 1, "total": 2}
    row = {"trial": trial, "epoch": number, "loss": loss, "train": counts, "validation": None, "seconds": 1.0}
    return {"at": at, "event": "epoch", **row}


def started(at: float, trial: str, pid: int) -> dict[str, Any]:
    return {"at": at, "event": "started", "trial": trial, "node": "a", "pid": pid}


def test_an_attempt_that_was_lost_with_its_driver_ends_with_its_last_sign_of_life() -> None:
    history = [
        started(100, "x", 1),
        epoch(103, "x", 1),
        started(160, "x", 2),  # by the next driver
        epoch(161, "x", 2),
        {"at": 162, "event": "died", "trial": "x", "attempt": 1, "reason": "killed"},
        started(164, "x", 3),
        {"at": 170, "event": "ended", "trial": "x", "status": "ok"},
    ]
    found = [(attempt.lane, attempt.begin, attempt.end, attempt.outcome) for attempt in attempts(history)]
    assert found == [
        ("a, process 1", 0, 3, "lost"),
        ("a, process 2", 60, 62, "died"),
        ("a, process 3", 64, 70, "ok"),
    ]


def test_an_epoch_that_was_trained_twice_is_once_in_the_curve() -> None:
    history = [epoch(1, "x", 1), epoch(2, "x", 2, 0.5), started(3, "x", 2), epoch(4, "x", 2, 0.5), epoch(5, "x", 3)]
    assert [done.epoch for done in learning_curves(history)["x"]] == [1, 2, 3]
