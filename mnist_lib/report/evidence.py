"""What a report shows beyond the summary: mistakes, questioned labels, calibration, the course of the run, its search.

All of it is computed from the probabilities of the trials, the history of the run and `search.json`.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnist_lib.data.table import Labels
from mnist_lib.history import AttemptDied, DriverConnected, SearchDocument, TrialEnded
from mnist_lib.report.aggregation import Tally
from mnist_lib.results import EpochDone, EpochHistory, HistoryEntry, TrialStarted, mean_score
from mnist_lib.run_documents import Summary

DRIVER = "driver"  # its lane
CALIBRATION_BINS = 10  # each is a tenth of [0, 1]
MAX_POINTS = 1_000  # of a learning curve
MAX_PICTURES = 24  # of one kind
MAX_CONFUSED = 3  # wrongly predicted classes that are listed for a class
BEST = 10  # configurations of a search in the table
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
        error = _calibration_error(confidence, predicted == labels)
        return cls(confusion, most_confident_mistakes(probabilities, labels), error)


def _calibration_error(confidence: NDArray[np.float64], correct: NDArray[np.bool_]) -> float:
    bins = np.minimum((confidence * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    excess = np.bincount(bins, confidence - correct)  # of each bin: images * (mean probability - accuracy)
    return float(np.abs(excess).sum()) / max(1, len(correct))


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


@dataclass(frozen=True)
class Span:
    """What a process did from when to when, in seconds since the first driver's command began."""

    lane: str  # node and process, or `DRIVER`
    what: str  # the trial that it attempted, or the phase before or after training
    begin: float
    end: float
    outcome: str = ""  # of an attempt: "ok", "failed", "died", or "lost" with the driver


@dataclass(frozen=True)
class Course:
    """The course of a run, as its history tells it."""

    curves: Mapping[str, Sequence[EpochDone]]  # the epochs of each trial, or about MAX_POINTS of them
    attempts: Sequence[Span]  # in the order in which they began
    phases: Sequence[Span]  # what drivers and lanes did before trials began, and when the last driver stored the models

    @classmethod
    def of(cls, history: Iterable[HistoryEntry], summary: Summary) -> Course:
        """Read a history once. It may have any length, and may contain configurations of a search, which are ignored.

        An epoch that a later attempt repeated counts once.
        """
        trials, timing = {"", *(trial.id for trial in summary.trials)}, summary.timing
        epochs: dict[str, EpochHistory] = defaultdict(EpochHistory)
        running: dict[str, Span] = {}  # by trial; `end` is the time of its latest entry
        attempts, phases = list[Span](), list[Span]()
        origin = connected = None
        for entry in history:
            if entry.trial not in trials:
                continue
            before = entry.phases if isinstance(entry, TrialStarted | DriverConnected) else {}
            if origin is None:
                origin = entry.at - sum(before.values())
            end = now = entry.at - origin
            lane = f"{entry.node}, process {entry.pid}" if isinstance(entry, TrialStarted) else DRIVER
            for phase, seconds in reversed(before.items()):
                phases.append(Span(lane, phase, end - seconds, end))
                end -= seconds
            attempt = running.pop(entry.trial, None)
            if isinstance(entry, TrialStarted):
                if attempt is not None:
                    attempts.append(attempt)  # its driver was killed before it recorded the end
                running[entry.trial] = Span(lane, entry.trial, now, now, "lost")
            elif isinstance(entry, DriverConnected):
                connected = now
            elif attempt is not None and isinstance(entry, TrialEnded | AttemptDied):
                outcome = entry.status if isinstance(entry, TrialEnded) else "died"
                attempts.append(replace(attempt, end=now, outcome=outcome))
            elif attempt is not None:
                running[entry.trial] = replace(attempt, end=now)
            if isinstance(entry, EpochDone):
                epochs[entry.trial].add(entry)
        if connected is not None:
            end = connected + timing.wall_seconds - timing.start_seconds
            phases.append(Span(DRIVER, "store", end - timing.store_seconds, end))
        curves = {}
        for trial, own in epochs.items():
            if count := len(own):  # with the first and the last epoch
                curves[trial] = own.take(trial, sorted({1, *range(count, 0, -math.ceil(count / MAX_POINTS))}))
        return cls(curves, sorted([*attempts, *running.values()], key=lambda span: span.begin), phases)


@dataclass(frozen=True)
class TriedConfiguration:
    """A configuration that has a score."""

    number: int
    settings: Mapping[str, Any]
    scores: Mapping[int, float]  # by epoch, of the rungs that it has completed

    @property
    def epochs(self) -> int:
        return max(self.scores)

    @property
    def score(self) -> float:
        return self.scores[self.epochs]


@dataclass(frozen=True)
class ReportedSearch:
    """The configurations that have completed a rung, the best first, and the winner with fresh seeds."""

    rungs: Sequence[int]
    tried: Sequence[TriedConfiguration]
    unfinished: int  # number of configurations whose first rung was not complete when time ran out
    winner: int
    settings: Sequence[str]
    ranges: frozenset[str]  # settings that were drawn from a range
    logarithmic: frozenset[str]  # of these, the ones whose range was logarithmic
    in_search: float  # score of the winner: on validation or, with folds, out of fold
    defaults: float | None  # the same of the default settings; None if their training failed
    score_name: str  # "accuracy" or "balanced accuracy"
    folds: int | None  # number of folds; None without folds
    train: Sequence[str]  # the options of `jobs.train` for the winner's settings
    # Mean scores of the final trials; None if none succeeded. Fresh seeds are compared on the validation images of
    # the search, so only the test images show how much of its score was luck.
    with_fresh_seeds: float | None  # on validation
    on_test: float | None

    @classmethod
    def of(cls, document: SearchDocument | None, summary: Summary) -> ReportedSearch | None:
        """Return what a report shows of a search, or None if there is none, or no configuration was trained."""
        best = document.best if document else None
        if document is None or best is None:
            return None
        scores: dict[int, dict[int, float]] = {}
        rows = [(rung.epochs, number, score) for rung in document.decisions for number, score in rung.scores.items()]
        failed = {number for _, number, score in rows if score is None}
        for epochs, number, score in rows:
            if number not in failed and score is not None and score.total:
                scores.setdefault(number, {})[epochs] = score.score
        tried = [TriedConfiguration(n, document.configurations.get(n, {}), by_epoch) for n, by_epoch in scores.items()]
        return cls(
            rungs=document.rungs,
            tried=sorted(tried, key=lambda one: (-one.score, one.number)),
            unfinished=len(document.unfinished),
            settings=[*document.space],
            ranges=frozenset(name for name, given in document.space.items() if ".." in str(given)),
            logarithmic=frozenset(name for name, given in document.space.items() if str(given).endswith(":log")),
            winner=best.configuration,
            in_search=best.validation.score,
            defaults=summary.search.defaults.score if summary.search and summary.search.defaults else None,
            score_name=best.validation.score_name,
            folds=summary.search.folds if summary.search else None,
            train=summary.search.train if summary.search else (),
            with_fresh_seeds=mean_score(trial.validation_score for trial in summary.successful),
            on_test=mean_score(trial.test_score for trial in summary.successful),
        )

    @property
    def measure(self) -> str:
        """On what configurations were compared."""
        return "out-of-fold" if self.folds else "validation"

    @property
    def is_complete(self) -> bool:
        """Return whether the winner has completed the last rung."""
        return any(one.number == self.winner and one.epochs == self.rungs[-1] for one in self.tried)

    @property
    def best(self) -> Sequence[TriedConfiguration]:
        return self.tried[:BEST]
