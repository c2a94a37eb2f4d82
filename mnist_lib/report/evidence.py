"""What a report shows beyond the summary: the mistakes of the stored trials, the course of the run, and its search.

It is computed from the probabilities of the trials, the history of the run and `search.json`.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnist_lib.data.dataset import Dataset
from mnist_lib.data.table import Labels
from mnist_lib.report.aggregation import Tally
from mnist_lib.results import EpochDone, HistoryEntry, TrialStarted, add_epoch, mean_score
from mnist_lib.run_documents import SearchSummary, Setting, Summary
from mnist_lib.store.history import AttemptDied, SearchDocument, TrialEnded
from mnist_lib.store.runs import RunFolder

MAX_POINTS = 1_000  # of a learning curve
MAX_PICTURES = 24  # of one kind
MAX_CONFUSED = 3  # wrongly predicted classes that are listed for a class


@dataclass(frozen=True, kw_only=True)
class ReportedRun:
    """What a report is made from."""

    folder: RunFolder  # its history, configuration and search
    summary: Summary
    tallies: Mapping[str, Tally]  # of the models with a successful trial
    dataset: Dataset
    options: tuple[Sequence[str], Sequence[str]]  # as on a command line: first those that differ from the defaults
    code: Mapping[str, Any]  # as in `environment.code_version`
    pictures: str | None = None  # URL of the folder of pictures, relative to the report, if the page can open it


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
    predicted = probabilities.argmax(axis=1)
    confidence = probabilities.max(axis=1)
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
        confusion = np.zeros((probabilities.shape[1],) * 2, np.int64)
        np.add.at(confusion, (labels, probabilities.argmax(axis=1)), 1)
        return cls(confusion, most_confident_mistakes(probabilities, labels))


@dataclass(kw_only=True)
class TrialAttempt:
    """An attempt at a trial. Its times are seconds since the command of the first driver began."""

    trial: str
    process: str  # with its node
    begin: float
    end: float  # if it was lost with its driver, the time of its last entry in the history
    outcome: str = "lost"  # or "ok", "failed", "died"


@dataclass(frozen=True)
class Course:
    """The course of a run, as its history records it."""

    curves: Mapping[str, Sequence[EpochDone]]  # the epochs of each trial, or about MAX_POINTS of them
    attempts: Sequence[TrialAttempt]  # in the order in which they began

    @classmethod
    def of(cls, history: Iterable[HistoryEntry], summary: Summary) -> Course:
        """Read a history once. It may have any length, and may contain configurations of a search, which are ignored.

        An epoch that a later attempt repeated counts once.
        """
        trials = {trial.id for trial in summary.trials}
        epochs: dict[str, list[EpochDone]] = defaultdict(list)
        running: dict[str, TrialAttempt] = {}  # by trial
        attempts = []
        origin = None
        for entry in history:
            if origin is None:
                origin = entry.at - sum(getattr(entry, "phases", {}).values())
            if entry.trial not in trials:
                continue
            now = entry.at - origin
            if isinstance(entry, TrialStarted):
                attempt = TrialAttempt(trial=entry.trial, process=process_of(entry), begin=now, end=now)
                running[entry.trial] = attempt
                attempts.append(attempt)
            elif entry.trial in running:
                running[entry.trial].end = now
            if isinstance(entry, TrialEnded | AttemptDied) and entry.trial in running:
                running.pop(entry.trial).outcome = entry.status if isinstance(entry, TrialEnded) else "died"
            if isinstance(entry, EpochDone):
                add_epoch(epochs[entry.trial], entry)
        return cls({trial: _thinned(own) for trial, own in epochs.items() if own}, attempts)


def process_of(started: TrialStarted) -> str:
    """Return the name of the process that trains a trial."""
    return f"{started.node}, process {started.pid}"


def _thinned(epochs: Sequence[EpochDone]) -> list[EpochDone]:
    """Return about MAX_POINTS of the epochs of a trial, with the first and the last one."""
    step = math.ceil(len(epochs) / MAX_POINTS)
    return [epochs[number] for number in sorted({0, *range(len(epochs) - 1, 0, -step)})]


@dataclass(frozen=True)
class TriedConfiguration:
    """A configuration that has a score, which it reached in the last rung that it has completed."""

    number: int
    settings: Mapping[str, Setting]
    epochs: int  # of that rung
    score: float


@dataclass(frozen=True, kw_only=True)
class ReportedSearch:
    """The configurations that have completed a rung, the best first, and the winner with fresh seeds."""

    space: Mapping[str, Any]  # as in `search.json`: by setting, its values or its range
    rungs: Sequence[int]  # numbers of epochs
    tried: Sequence[TriedConfiguration]
    unfinished: int  # number of configurations whose first rung was not complete when time ran out
    is_complete: bool  # whether the winner has completed the last rung
    result: SearchSummary
    # Mean scores of the final trials; None if none succeeded. Fresh seeds are compared on the validation images of
    # the search, so only the test images show how much of its score was luck.
    with_fresh_seeds: float | None  # on validation
    on_test: float | None

    @classmethod
    def of(cls, document: SearchDocument | None, summary: Summary) -> ReportedSearch | None:
        """Return what a report shows of a search; None if there was none, or if it trained no configuration."""
        if document is None or document.best is None or summary.search is None:
            return None
        scores = dict[int, tuple[int, float]]()  # by configuration: the epochs of its last rung, and its score
        failed = set[int]()
        for rung in document.decisions:
            for number, score in rung.scores.items():
                if score is None:
                    failed.add(number)
                elif score.total:
                    scores[number] = max((rung.epochs, score.score), scores.get(number, (0, 0.0)))
        tried = [
            TriedConfiguration(number, document.configurations.get(number, {}), epochs, score)
            for number, (epochs, score) in scores.items()
            if number not in failed
        ]
        winner = document.best.configuration
        return cls(
            space=document.space,
            rungs=document.rungs,
            tried=sorted(tried, key=lambda one: (-one.score, one.number)),
            unfinished=len(document.unfinished),
            is_complete=any((one.number, one.epochs) == (winner, document.rungs[-1]) for one in tried),
            result=summary.search,
            with_fresh_seeds=mean_score(trial.validation_score for trial in summary.successful),
            on_test=mean_score(trial.test_score for trial in summary.successful),
        )

    @property
    def measure(self) -> str:
        """On what configurations were compared."""
        return "out-of-fold" if self.result.folds else "validation"
