"""What a report counts from probabilities, and what it reads from the history of a run."""

from collections.abc import Iterable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from numpy.typing import NDArray

from mnist_lib.history import AttemptDied, DriverConnected, TrialEnded
from mnist_lib.report.evidence import (
    MAX_PICTURES,
    Course,
    Disagreements,
    StoredTrial,
    most_confident_mistakes,
)
from mnist_lib.results import Accuracy, EpochDone, HistoryEntry, TrialResult, TrialStarted
from mnist_lib.spec import TrialSpec
from tests.support.made_run import FOUR_LABELS, small_result, small_summary, tally_of
from tests.support.simulation.trials import epoch_of

Predictions = tuple[NDArray[np.float32], NDArray[np.uint8]]
THOUSAND_LABELS = (np.arange(1_000) % 10).astype(np.uint8)


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
    assert 0 <= found.calibration_error <= 1


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


def test_a_model_that_is_as_confident_as_it_is_accurate_has_no_calibration_error() -> None:
    probabilities = np.full((10, 10), 0.2 / 9, np.float32)
    probabilities[:, 3] = 0.8
    labels = np.array([3] * 8 + [5] * 2, np.uint8)
    assert StoredTrial.of(probabilities, labels).calibration_error == pytest.approx(0, abs=1e-6)
    assert StoredTrial.of(probabilities, np.full(10, 3, np.uint8)).calibration_error == pytest.approx(0.2)


def trial(seed: int, wrong: dict[int, int], confidence: float = 0.99) -> TrialResult:
    """Return a trial on 1,000 images that predicts every label correctly, except for the images in `wrong`."""
    predicted = [wrong.get(image, int(label)) for image, label in enumerate(THOUSAND_LABELS)]
    return small_result(seed, predicted=predicted, labels=THOUSAND_LABELS, confidence=confidence)


def questioned(*trials: TrialResult) -> list[tuple[int, int, int]]:
    found = Disagreements.of({"keras": tally_of(*trials)}, THOUSAND_LABELS)
    return [(mistake.image, mistake.label, mistake.predicted) for mistake in found.questioned]


def test_a_label_is_questioned_where_all_accurate_trials_predict_the_same_other_class() -> None:
    assert questioned(trial(0, {15: 3, 40: 7}), trial(1, {15: 3, 40: 8}), trial(2, {15: 3, 60: 7})) == [(15, 5, 3)]


def test_a_label_is_not_questioned_by_a_single_trial_or_without_confidence() -> None:
    assert questioned(trial(0, {15: 3})) == []
    assert questioned(trial(0, {15: 3}, 0.85), trial(1, {15: 3}, 0.85)) == []


@pytest.mark.parametrize(("wrong_labels", "mistakes", "count"), [(15, 9, 15), (15, 10, 0), (41, 9, 41), (42, 9, 0)])
def test_wrong_labels_do_not_keep_an_accurate_model_from_questioning_them(
    wrong_labels: int, mistakes: int, count: int
) -> None:
    """The trials agree on the wrong labels, and each makes other mistakes."""
    contradicted = {image: int(THOUSAND_LABELS[image] + 1) % 10 for image in range(wrong_labels)}
    trials = []
    for seed in range(2):
        own = range(100 * (seed + 1), 100 * (seed + 1) + mistakes)
        trials.append(trial(seed, contradicted | {image: int(THOUSAND_LABELS[image] + 2) % 10 for image in own}))
    assert len(questioned(*trials)) == count


def test_a_model_that_does_not_know_a_class_questions_none_of_its_labels() -> None:
    labels = np.array([0] * 960 + [1] * 40, np.uint8)
    always_the_largest = [small_result(seed, predicted=[0] * 1000, labels=labels, confidence=0.96) for seed in range(2)]
    assert Disagreements.of({"keras": tally_of(*always_the_largest)}, labels).questioned == []


def test_an_inaccurate_model_neither_questions_a_label_nor_defends_it() -> None:
    accurate = tally_of(trial(0, {15: 3}), trial(1, {15: 3}))
    weak = tally_of(*(trial(seed, dict.fromkeys(range(60 * seed + 20, 60 * seed + 60), 9)) for seed in range(5)))
    found = Disagreements.of({"keras": accurate, "scratch": weak}, THOUSAND_LABELS)
    assert (found.trials, found.accurate_trials, found.accurate_models) == (7, 2, ["keras"])
    assert [(mistake.image, round(mistake.probability, 2)) for mistake in found.questioned] == [(15, 0.99)]


def test_the_images_that_trials_disagree_on_most_come_first_with_all_their_votes() -> None:
    predicted = [[0, 7, 2, 3], [0, 7, 2, 8], [0, 1, 2, 9]]
    tally = tally_of(*(small_result(seed, predicted=classes) for seed, classes in enumerate(predicted)))
    found = Disagreements.of({"keras": tally}, FOUR_LABELS)
    assert (found.trials, found.divided_images) == (3, 2)
    assert [(d.image, dict(d.votes)) for d in found.divided] == [(3, {3: 1, 8: 1, 9: 1}), (1, {7: 2, 1: 1})]


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
    found = [(attempt.lane, attempt.begin, attempt.end, attempt.outcome) for attempt in course_of(history).attempts]
    assert found == [
        ("a, process 1", 0, 3, "lost"),
        ("a, process 2", 60, 62, "died"),
        ("a, process 3", 64, 70, "ok"),
    ]


def test_the_time_line_begins_when_the_command_began() -> None:
    history = [
        DriverConnected(at=100, phases={"start": 1.0, "cluster": 4.0}),
        started(110, TRIAL, 1, **{"import": 5.0, "data": 0.5, "compile": 1.5}),
        TrialEnded(at=120, trial=TRIAL, status="ok"),
    ]
    found = [(span.lane, span.what, span.begin, span.end) for span in course_of(history).phases]
    assert sorted(found, key=lambda span: span[2]) == [
        ("driver", "start", 0, 1),
        ("driver", "cluster", 1, 5),
        ("a, process 1", "import", 8, 13),
        ("a, process 1", "data", 13, 13.5),
        ("a, process 1", "compile", 13.5, 15),
        ("driver", "store", 35.5, 36),
    ]
    assert [(attempt.begin, attempt.end) for attempt in course_of(history).attempts] == [(15, 25)]


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
    assert [*found.curves] == [attempt.what for attempt in found.attempts] == [TRIAL]
