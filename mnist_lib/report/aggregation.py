"""The combined results of a model's trials: which trial is stored, the statistics over seeds, and the ensemble."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnist_lib.documents import Interval
from mnist_lib.intervals import accuracy_interval
from mnist_lib.results import Accuracy, TrialResult


def deviation(accuracies: Sequence[float]) -> float | None:
    """Return the standard deviation of a sample of accuracies, with n - 1; None of a single one."""
    return statistics.stdev(accuracies) if len(accuracies) > 1 else None


class Tally:
    """The results of a model's trials. `chosen` is the one to store: the best on validation, in a tie the lowest seed.

    Without validation images, the accuracy in the last epoch of training decides, since a seed may learn nothing. Of
    trials of folds it is the first one, since each is measured on other images.

    It is never chosen by test accuracy, since the reported test accuracy would then be too high. Results that an
    earlier process has stored may lack their model, because another trial was better; if that one is lost, the best of
    those with a model is chosen.
    """

    def __init__(self, first: TrialResult) -> None:
        self.chosen = first
        self._best = (_preference(first), first.trial)
        self._tests = [first.record.test]
        # [test images, classes]; votes are the number of trials that predict a class.
        self.sum_of_probabilities: NDArray[np.float64] = first.probabilities.astype("float64")
        self.votes: NDArray[np.int32] = _votes(first.probabilities)

    def add(self, result: TrialResult) -> None:
        self._tests.append(result.record.test)
        self.sum_of_probabilities += result.probabilities
        self.votes += _votes(result.probabilities)
        self._best = max(self._best, (_preference(result), result.trial))
        if (bool(result.files), _preference(result)) > (bool(self.chosen.files), _preference(self.chosen)):
            self.chosen = result

    @property
    def best_trial(self) -> str:
        """The trial that should be stored, whether or not its model is there."""
        return self._best[1]

    @property
    def accuracies(self) -> list[float]:
        """The test accuracy of each trial. The highest one is partly chance."""
        return [test.value for test in self._tests]

    def interval(self, labels: NDArray[np.integer[Any]], groups: NDArray[np.int32] | None = None) -> Interval:
        """Return the 95% interval of the mean accuracy. labels: [test images]; groups: as in `accuracy_interval`."""
        correct = self.votes[range(len(labels)), labels]
        return accuracy_interval(correct, [test.correct for test in self._tests], groups)

    def balanced_accuracy(self, labels: NDArray[np.integer[Any]]) -> float:
        """Return the mean over the trials of the mean of the accuracies of the classes. labels: [test images]."""
        present, number, sizes = np.unique(labels, return_inverse=True, return_counts=True)
        correct = np.bincount(number, self.votes[range(len(labels)), labels], len(present))
        return float((correct / sizes).mean() / len(self._tests))

    def ensemble(self, labels: NDArray[np.integer[Any]]) -> Accuracy:
        """Return the accuracy of the mean of all trials' probabilities. labels: [test images]."""
        return Accuracy(int((self.sum_of_probabilities.argmax(axis=1) == labels).sum()), len(labels))


def _votes(probabilities: NDArray[np.float32]) -> NDArray[np.int32]:
    predictions = probabilities.argmax(axis=1)
    votes: NDArray[np.int32] = (predictions[:, None] == range(probabilities.shape[1])).astype("int32")
    return votes


def _preference(result: TrialResult) -> tuple[float, int, int]:
    spec = result.record.spec
    measured = result.record.validation or (result.history[-1].train if result.history else None)
    score = measured.score if measured is not None and spec.fold is None else 0.0
    return (score, -spec.seed, -(spec.fold or 0))
