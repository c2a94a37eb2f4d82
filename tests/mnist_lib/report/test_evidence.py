"""What a report counts from probabilities, and what it reads from the history of a run."""

from collections.abc import Iterable

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from numpy.typing import NDArray

from mnist_lib.report.evidence import (
    MAX_PICTURES,
    Course,
    StoredTrial,
    most_confident_mistakes,
)
from mnist_lib.results import Accuracy, EpochDone, HistoryEntry, TrialStarted
from mnist_lib.spec import TrialSpec
from mnist_lib.store.history import AttemptDied, DriverConnected, TrialEnded
from tests.support.made_run import FOUR_LABELS, small_summary
from tests.support.simulation.trials import epoch_of

Predictions = tuple[NDArray[np.float32], NDArray[np.uint8]]


@st.composite
def predictions(draw: st.DrawFn) -> Predictions:
    images = draw(st.integers(1, 60))
    weights = draw(npst.arrays(np.float32, (images, 10), elements=st.floats(0.015625, 1, width=32)))
    labels = draw(npst.arrays(np.uint8, images, elements=st.integers(0, 9)))
    return weights / weights.sum(axis=1, keepdims=True), labels


@given(predictions())
def test_each_image_is_in_one_cell_of_the_confusion(given: Predictions) -> None:
    probabilities, labels = given
    found = StoredTrial.of(probabilities, labels)
    correct = int((probabilities.argmax(axis=1) == labels).sum())
    assert found.confusion.sum() == len(labels)
    assert found.confusion.diagonal().sum() == correct
    assert found.confusion.sum(axis=1).tolist() == np.bincount(labels, minlength=10).tolist()


@given(predictions())
def test_no_mistake_is_listed_twice_and_the_most_confident_come_first(given: Predictions) -> None:
    probabilities, labels = given
    mistakes = StoredTrial.of(probabilities, labels).mistakes
    wrong = int((probabilities.argmax(axis=1) != labels).sum())
    assert StoredTrial.of(probabilities, labels).wrong == wrong
    assert len({mistake.image for mistake in mistakes}) == len(mistakes) == min(wrong, MAX_PICTURES)
    assert all(mistake.predicted != mistake.label == labels[mistake.image] for mistake in mistakes)
    assert [m.probability for m in mistakes] == sorted((m.probability for m in mistakes), reverse=True)
    assert most_confident_mistakes(probabilities, labels, 3) == list(mistakes[:3])


TRIAL = "keras-s0"


def course_of(history: Iterable[HistoryEntry]) -> Course:
    return Course.of(history, small_summary(FOUR_LABELS.tolist()))


def epoch(at: float, trial: str, number: int, loss: float = 1.0) -> EpochDone:
    train = Accuracy(1, 2)
    return EpochDone(at=at, trial=trial, epoch=number, loss=loss, train=train, validation=None, seconds=1.0)


def started(at: float, trial: str, pid: int, **phases: float) -> TrialStarted:
    return TrialStarted(at=at, trial=trial, node="a", pid=pid, devices=(), gpus=(), phases=phases)


def test_an_attempt_that_was_lost_with_its_driver_ends_with_its_last_sign_of_life() -> None:
    history = [
        started(100, TRIAL, 1),
        epoch(103, TRIAL, 1),
        started(160, TRIAL, 2),  # by the next driver
        epoch(161, TRIAL, 2),
        AttemptDied(at=162, trial=TRIAL, attempt=1, reason="killed"),
        started(164, TRIAL, 3),
        TrialEnded(at=170, trial=TRIAL, status="ok"),
    ]
    found = [(attempt.process, attempt.begin, attempt.end, attempt.outcome) for attempt in course_of(history).attempts]
    assert found == [
        ("a, process 1", 0, 3, "lost"),
        ("a, process 2", 60, 62, "died"),
        ("a, process 3", 64, 70, "ok"),
    ]


def test_the_times_of_attempts_begin_when_the_command_began() -> None:
    history = [
        DriverConnected(at=100, phases={"start": 1.0, "cluster": 4.0}),
        started(110, TRIAL, 1, **{"import": 5.0, "data": 0.5, "compile": 1.5}),
        TrialEnded(at=120, trial=TRIAL, status="ok"),
    ]
    assert [(attempt.begin, attempt.end) for attempt in course_of(history).attempts] == [(15, 25)]


def test_an_attempt_ends_once_although_the_next_driver_records_the_end_again() -> None:
    history = [
        started(100, TRIAL, 1),
        TrialEnded(at=120, trial=TRIAL, status="ok"),
        TrialEnded(at=500, trial=TRIAL, status="ok"),
    ]
    assert [(attempt.end, attempt.outcome) for attempt in course_of(history).attempts] == [(20, "ok")]


def test_an_epoch_that_was_trained_twice_appears_once_in_the_curve() -> None:
    history = [
        epoch(1, TRIAL, 1),
        epoch(2, TRIAL, 2, 0.5),
        started(3, TRIAL, 2),
        epoch(4, TRIAL, 2, 0.5),
        epoch(5, TRIAL, 3),
    ]
    assert [done.epoch for done in course_of(history).curves[TRIAL]] == [1, 2, 3]


def test_w7_a_learning_curve_has_a_bounded_number_of_points_with_the_first_and_the_last() -> None:
    spec = TrialSpec.of("keras", epochs=100_000)
    history = (epoch_of(spec, epoch) for epoch in range(1, 50_001))
    (curve,) = course_of(history).curves.values()
    assert 900 <= len(curve) <= 1_001
    assert (curve[0].epoch, curve[-1].epoch, curve[-1].loss) == (1, 50_000, 1 / 50_000)


def test_the_configurations_of_a_search_are_not_part_of_the_course_of_its_run() -> None:
    history = [started(0, "keras-c1", 1), epoch(1, "keras-c1", 1), started(2, TRIAL, 1), epoch(3, TRIAL, 1)]
    found = course_of(history)
    assert [*found.curves] == [attempt.trial for attempt in found.attempts] == [TRIAL]
