"""What a report shows beside the summary, counted from the probabilities of the trials."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mnist_lib.catalog import NUM_CLASSES

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mnist_lib.results import Tally

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from mnist_lib.results import EpochDone

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


NOT_OF_AN_EPOCH = ("at", "event")


@dataclass(frozen=True, kw_only=True)
class AttemptTimes:
    """Seconds are counted from the first entry of the history."""

    trial: str
    lane: str  # the process
    begin: float
    end: float
    outcome: str  # "ok", "failed", "died", or "lost" with its driver


def learning_curves(history: Iterable[Mapping[str, Any]]) -> dict[str, list[EpochDone]]:
    """By trial, each epoch once: what a lost attempt trained was trained again, the same."""
    epochs: dict[str, dict[int, EpochDone]] = defaultdict(dict)
    for entry in history:
        if entry["event"] == "epoch":
            done = EpochDone.of({name: value for name, value in entry.items() if name not in NOT_OF_AN_EPOCH})
            epochs[done.trial][done.epoch] = done
    return {trial: [of_trial[number] for number in sorted(of_trial)] for trial, of_trial in epochs.items()}


def attempts(history: Iterable[Mapping[str, Any]]) -> list[AttemptTimes]:
    """In the order in which they began."""
    found: list[AttemptTimes] = []
    under_way: dict[str, AttemptTimes] = {}  # by trial, as far as it is known
    first: float | None = None
    for entry in history:
        first = entry["at"] if first is None else first
        trial, seconds = str(entry.get("trial")), entry["at"] - first
        known = under_way.get(trial)
        match entry["event"]:
            case "started":
                if known is not None:
                    found.append(known)  # its driver was killed, and could not tell when it ended
                lane = f"{entry['node']}, process {entry['pid']}"
                under_way[trial] = AttemptTimes(trial=trial, lane=lane, begin=seconds, end=seconds, outcome="lost")
            case "ended" | "died" as event if known is not None:
                outcome = "died" if event == "died" else entry["status"]
                found.append(replace(under_way.pop(trial), end=seconds, outcome=outcome))
            case _ if known is not None:
                under_way[trial] = replace(known, end=seconds)
    return sorted([*found, *under_way.values()], key=lambda attempt: attempt.begin)
