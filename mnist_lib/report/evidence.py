"""What a report shows beyond the summary: mistakes, questioned labels, calibration, learning curves and attempts.

All of it is computed from the probabilities of the trials and the history of the run.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnist_lib.aggregation import Tally
from mnist_lib.data.split import Labels
from mnist_lib.results import EpochDone, Epochs, HistoryEntry, Started
from mnist_lib.run_documents import AttemptDied, DriverConnected, Timing, TrialEnded

DRIVER = "driver"  # its lane
CALIBRATION_BINS = 10
MAX_POINTS = 1_000  # of a learning curve
MAX_PICTURES = 24  # of one kind
MAX_CONFUSED = 3  # wrongly predicted classes that are listed for a class
# A label is questioned if all trials of accurate models predict the same other class, with a mean probability of at
# least MIN_PROBABILITY. There must be at least MIN_VOTERS such trials. A model is accurate if its mean test accuracy is
# at least MIN_ACCURACY on the images whose label its trials do not contradict in this way, since a label that they
# contradict may be wrong, and at least MIN_ACCURACY_OVERALL on all images. Less accurate models are mostly wrong where
# they contradict a label: on MNIST, models of 97.8% contradicted 31 labels, models of 99.5% only 3 of these.
MIN_VOTERS, MIN_ACCURACY, MIN_ACCURACY_OVERALL, MIN_PROBABILITY = 2, 0.99, 0.95, 0.9


@dataclass(frozen=True)
class Mistake:
    image: int  # index in the test split
    label: int
    predicted: int
    probability: float  # of the predicted class

    def text(self, classes: Sequence[str]) -> str:
        return f"label {classes[self.label]}, predicted {classes[self.predicted]} ({self.probability:.1%})"


def most_confident_mistakes(probabilities: NDArray[Any], labels: Labels, count: int = MAX_PICTURES) -> list[Mistake]:
    """Return the wrong predictions with the highest probabilities, highest first. probabilities: [images, classes]."""
    predicted, confidence = probabilities.argmax(axis=1), probabilities.max(axis=1)
    wrong = np.flatnonzero(predicted != labels)
    wrong = wrong[np.argsort(-confidence[wrong], kind="stable")][:count]
    return [Mistake(int(i), int(labels[i]), int(predicted[i]), float(confidence[i])) for i in wrong]


@dataclass(frozen=True)
class CalibrationBin:
    """The images whose predicted class has a probability in one tenth of [0, 1]."""

    images: int
    mean_probability: float
    accuracy: float


@dataclass(frozen=True)
class ClassResult:
    label: int
    images: int  # in the test split
    correct: int
    confused_with: Mapping[int, int]  # wrongly predicted class -> images; the most frequent classes only


@dataclass(frozen=True)
class StoredTrial:
    """The predictions of the stored trial of a model on the test split."""

    confusion: NDArray[np.int64]  # [label, predicted class]: images
    mistakes: Sequence[Mistake]  # the most confident first
    calibration: Sequence[CalibrationBin]  # without empty ones
    calibration_error: float  # mean distance of probability and accuracy over the images (Naeini et al., 2015)

    @property
    def wrong(self) -> int:
        """Number of images with a wrong prediction."""
        return int(self.confusion.sum() - self.confusion.diagonal().sum())

    @property
    def most_confused(self) -> int:
        """Number of images in the largest cell off the diagonal, at least 1."""
        return max(1, int((self.confusion - np.diag(self.confusion.diagonal())).max()))

    def classes_by_accuracy(self) -> list[ClassResult]:
        """Return a row for each class that has test images, the least accurate first."""
        rows = []
        for label, row in enumerate(self.confusion):
            if row.sum():
                others = np.where(np.arange(len(row)) == label, 0, row)
                most = [int(other) for other in np.argsort(-others, kind="stable")[:MAX_CONFUSED] if others[other]]
                rows.append(ClassResult(label, int(row.sum()), int(row[label]), {o: int(others[o]) for o in most}))
        return sorted(rows, key=lambda found: found.correct / found.images)

    @classmethod
    def of(cls, probabilities: NDArray[np.float32], labels: Labels) -> StoredTrial:
        """Compare the predictions of finite probabilities, [images, classes], with labels, [images]."""
        predicted, confidence = probabilities.argmax(axis=1), probabilities.max(axis=1).astype(np.float64)
        confusion = np.zeros((probabilities.shape[1],) * 2, np.int64)
        np.add.at(confusion, (labels, predicted), 1)
        calibration = _calibration(confidence, predicted == labels)
        error = sum(b.images * abs(b.mean_probability - b.accuracy) for b in calibration) / len(labels)
        return cls(confusion, most_confident_mistakes(probabilities, labels), calibration, error)


def _calibration(confidence: NDArray[np.float64], correct: NDArray[np.bool_]) -> list[CalibrationBin]:
    bins = np.minimum((confidence * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    return [
        CalibrationBin(int(inside.sum()), float(confidence[inside].mean()), float(correct[inside].mean()))
        for inside in (bins == number for number in range(CALIBRATION_BINS))
        if inside.any()
    ]


@dataclass(frozen=True)
class DividedImage:
    """A test image for which not all trials predict the same class."""

    image: int
    label: int
    votes: Mapping[int, int]  # predicted class -> trials, descending

    def text(self, classes: Sequence[str]) -> str:
        votes = ", ".join(f"{classes[label]}\N{NO-BREAK SPACE}({count})" for label, count in self.votes.items())
        return f"label {classes[self.label]}, predicted {votes}"


@dataclass(frozen=True)
class Disagreements:
    """Test images whose label is questioned, and those on which the trials of all models are divided."""

    trials: int
    accurate_models: Sequence[str]  # whose trials can question a label
    accurate_trials: int  # of these models
    questioned: Sequence[Mistake]  # the most probable first
    divided_images: int
    divided: Sequence[DividedImage]  # those whose votes are spread most evenly

    @classmethod
    def of(cls, tallies: Mapping[str, Tally], labels: Labels) -> Disagreements:
        """Compare the predictions of the tallies, at least one, with each other and with the labels, [images]."""
        accurate = [name for name, tally in tallies.items() if _is_accurate(tally, labels)]
        voters, questioned = sum(tallies[name].statistics.count for name in accurate), list[Mistake]()
        if voters >= MIN_VOTERS:
            together = [tallies[name] for name in accurate]
            probabilities = np.where(_contradicted(together, labels)[:, None], _together(together)[1], 0)
            mistakes = most_confident_mistakes(probabilities, labels, len(labels))
            questioned = [mistake for mistake in mistakes if mistake.probability]
        votes, probabilities = _together([*tallies.values()])
        trials, most = int(votes[0].sum()), votes.max(axis=1)
        divided = np.flatnonzero(most < trials)
        order = np.lexsort((probabilities.max(axis=1)[divided], most[divided]))
        shown = []
        for image in divided[order][:MAX_PICTURES]:
            classes = np.argsort(-votes[image], kind="stable")
            found = {int(predicted): int(votes[image, predicted]) for predicted in classes if votes[image, predicted]}
            shown.append(DividedImage(int(image), int(labels[image]), found))
        return cls(trials, accurate, voters, questioned, len(divided), shown)


def _is_accurate(tally: Tally, labels: Labels) -> bool:
    trials = tally.statistics.count
    others = ~_contradicted([tally], labels) if trials >= MIN_VOTERS else np.ones(len(labels), bool)
    correct = tally.votes[np.flatnonzero(others), labels[others]].sum()
    overall = tally.statistics.mean
    return bool(overall >= MIN_ACCURACY_OVERALL and correct >= MIN_ACCURACY * trials * others.sum())


def _contradicted(tallies: Sequence[Tally], labels: Labels) -> NDArray[np.bool_]:
    """Return whether all trials predict the same other class with a high probability: [images].

    The labels of a class of which the trials recognise less than half of the images are not contradicted.
    """
    votes, probabilities = _together(tallies)
    trials, images, answers = votes[0].sum(), np.arange(len(labels)), votes.argmax(axis=1)
    recognised = np.bincount(labels, votes[images, labels]) >= 0.5 * trials * np.bincount(labels)
    confident = (votes[images, answers] == trials) & (probabilities[images, answers] >= MIN_PROBABILITY)
    return np.asarray(confident & (answers != labels) & recognised[labels])


def _together(tallies: Sequence[Tally]) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
    """Return the number of trials that predict each class, and the mean of their probabilities: [images, classes]."""
    trials = sum(tally.statistics.count for tally in tallies)
    votes = np.sum([tally.votes for tally in tallies], axis=0)
    return votes, np.sum([tally.sum_of_probabilities for tally in tallies], axis=0) / trials


@dataclass(frozen=True, kw_only=True)
class AttemptTimes:
    """When and where a trial was attempted, in seconds since the first driver's command began."""

    trial: str
    lane: str  # node and process
    begin: float
    end: float
    outcome: str  # "ok", "failed", "died", or "lost" with the driver


@dataclass(frozen=True, kw_only=True)
class PhaseTimes:
    """When a process did something other than training, in the same seconds as `AttemptTimes`."""

    lane: str  # `DRIVER`, or as in `AttemptTimes`
    phase: str
    begin: float
    end: float


def learning_curves(history: Iterable[HistoryEntry]) -> dict[str, list[EpochDone]]:
    """Return the epochs of each trial, or about MAX_POINTS of them; one that a later attempt repeated counts once."""
    epochs: dict[str, Epochs] = defaultdict(Epochs)
    for entry in history:
        if isinstance(entry, EpochDone):
            epochs[entry.trial].add(entry)
    return {trial: own.take(trial, _points(len(own))) for trial, own in epochs.items() if len(own)}


def _points(epochs: int) -> list[int]:
    """Return the numbers of the epochs to draw, among them the first and the last one."""
    return sorted({1, *range(epochs, 0, -math.ceil(epochs / MAX_POINTS))})


def attempts(history: Iterable[HistoryEntry]) -> list[AttemptTimes]:
    """Return all attempts in the order in which they began."""
    found: list[AttemptTimes] = []
    running: dict[str, AttemptTimes] = {}  # by trial; `end` is the time of its latest entry
    origin = _origin(history)
    for entry in history:
        trial, seconds = entry.trial, entry.at - origin
        known = running.get(trial)
        match entry:
            case Started():
                if known is not None:
                    found.append(known)  # its driver was killed before it recorded the end
                lane = _lane(entry)
                running[trial] = AttemptTimes(trial=trial, lane=lane, begin=seconds, end=seconds, outcome="lost")
            case TrialEnded() | AttemptDied() if known is not None:
                outcome = entry.status if isinstance(entry, TrialEnded) else "died"
                found.append(replace(running.pop(trial), end=seconds, outcome=outcome))
            case _ if known is not None:
                running[trial] = replace(known, end=seconds)
    return sorted([*found, *running.values()], key=lambda attempt: attempt.begin)


def phases(history: Iterable[HistoryEntry], timing: Timing) -> list[PhaseTimes]:
    """Return what drivers and lanes did before trials began, and when the last driver stored the models."""
    found: list[PhaseTimes] = []
    origin = _origin(history)
    for entry in history:
        if isinstance(entry, Started | DriverConnected):
            lane, end = _lane(entry) if isinstance(entry, Started) else DRIVER, entry.at - origin
            for phase, seconds in reversed(entry.phases.items()):
                found.append(PhaseTimes(lane=lane, phase=phase, begin=end - seconds, end=end))
                end -= seconds
    connected = [entry.at - origin for entry in history if isinstance(entry, DriverConnected)]
    if connected and timing.store_seconds is not None:
        end = connected[-1] + timing.wall_seconds - (timing.start_seconds or 0.0)
        found.append(PhaseTimes(lane=DRIVER, phase="store", begin=end - timing.store_seconds, end=end))
    return found


def _lane(entry: Started) -> str:
    return f"{entry.node}, process {entry.pid}"


def _origin(history: Iterable[HistoryEntry]) -> float:
    """Return the Unix time at which the first driver's command began."""
    for first in history:
        return first.at - sum(first.phases.values() if isinstance(first, Started | DriverConnected) else ())
    return 0.0
