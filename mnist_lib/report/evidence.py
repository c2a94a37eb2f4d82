"""What a report shows beside the summary, counted from the probabilities of the trials."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mnist_lib.catalog import NUM_CLASSES

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mnist_lib.tally import Tally

CALIBRATION_BINS = 10
MOST_PICTURES = 24  # of one kind


@dataclass(frozen=True)
class Mistake:
    image: int  # its index in the test split
    label: int
    answer: int
    probability: float  # of the answer


@dataclass(frozen=True)
class CalibrationBin:
    """The images whose answer has a probability in one tenth of [0, 1]."""

    images: int
    mean_probability: float
    accuracy: float


@dataclass(frozen=True)
class StoredTrial:
    """The trial of a model that is stored, on the test split."""

    confusion: NDArray[np.int64]  # [label, answer]: images
    mistakes: Sequence[Mistake]  # the most confident first
    calibration: Sequence[CalibrationBin]  # without empty ones
    calibration_error: float  # mean distance of probability and accuracy over the images (Naeini et al., 2015)

    @property
    def wrong(self) -> int:
        """Images."""
        return int(self.confusion.sum() - self.confusion.diagonal().sum())

    @property
    def most_confused(self) -> int:
        """Images in the largest cell of the confusion that is not right; at least 1."""
        return max(1, int((self.confusion - np.diag(self.confusion.diagonal())).max()))

    @classmethod
    def of(cls, probabilities: NDArray[np.float32], labels: NDArray[np.uint8]) -> StoredTrial:
        """
        Args:
            probabilities: [images, classes], finite.
            labels: [images]
        """
        answers, confidence = probabilities.argmax(axis=1), probabilities.max(axis=1).astype(np.float64)
        confusion = np.zeros((NUM_CLASSES, NUM_CLASSES), np.int64)
        np.add.at(confusion, (labels, answers), 1)
        wrong = np.flatnonzero(answers != labels)
        wrong = wrong[np.argsort(-confidence[wrong], kind="stable")][:MOST_PICTURES]
        mistakes = [Mistake(int(i), int(labels[i]), int(answers[i]), float(confidence[i])) for i in wrong]
        calibration = _calibration(confidence, answers == labels)
        error = sum(b.images * abs(b.mean_probability - b.accuracy) for b in calibration) / len(labels)
        return cls(confusion, mistakes, calibration, error)


@dataclass(frozen=True)
class Dispute:
    """An image on which trials disagree, with its label or with each other."""

    image: int
    label: int
    votes: Mapping[int, int]  # answer -> trials, the most first

    def __str__(self) -> str:
        answers = ", ".join(f"{answer} ({count})" for answer, count in self.votes.items())
        return f"label {self.label}, read as {answers}"


@dataclass(frozen=True)
class Disputes:
    """Over the trials of all models."""

    trials: int
    images_contradicted: int  # on which most trials give one and the same other digit
    contradicted: Sequence[Dispute]  # the clearest of them: their labels may be wrong
    images_divided: int  # on which not all trials give the same answer
    divided: Sequence[Dispute]  # those whose answers are spread most evenly

    @classmethod
    def of(cls, tallies: Sequence[Tally], labels: NDArray[np.uint8]) -> Disputes:
        votes = np.sum([tally.votes for tally in tallies], axis=0)  # [images, classes]
        certainty = np.sum([tally.sum_of_probabilities for tally in tallies], axis=0).max(axis=1)
        trials, most, answers = int(votes[0].sum()), votes.max(axis=1), votes.argmax(axis=1)
        contradicted = np.flatnonzero((answers != labels) & (2 * most > trials))
        contradicted = contradicted[np.lexsort((-certainty[contradicted], -most[contradicted]))]
        divided = np.flatnonzero(most < trials)
        divided = divided[np.lexsort((certainty[divided], most[divided]))]

        def told(images: NDArray[np.intp]) -> list[Dispute]:
            found = []
            for image in images[:MOST_PICTURES]:
                order = np.argsort(-votes[image], kind="stable")
                answers = {int(answer): int(votes[image, answer]) for answer in order if votes[image, answer]}
                found.append(Dispute(int(image), int(labels[image]), answers))
            return found

        return cls(trials, len(contradicted), told(contradicted), len(divided), told(divided))


def _calibration(confidence: NDArray[np.float64], correct: NDArray[np.bool_]) -> list[CalibrationBin]:
    bins = np.minimum((confidence * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    return [
        CalibrationBin(int(own.sum()), float(confidence[own].mean()), float(correct[own].mean()))
        for own in (bins == number for number in range(CALIBRATION_BINS))
        if own.any()
    ]
