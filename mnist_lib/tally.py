"""Results of the trials of one model, added up as they come, so that memory does not grow with their number."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mnist_lib.result import Accuracy, SeedStatistics, TrialResult, seed_statistics

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Tally:
    """Begins with the first result.

    `chosen` is the trial to store: the best on validation, of equals the one of the lowest seed. Never by its test
    accuracy, which would make the figure that is reported a selected one.
    """

    def __init__(self, first: TrialResult) -> None:
        self.chosen = first
        self._accuracies = [first.test.value]
        self.sum_of_probabilities: NDArray[np.float64] = first.probabilities.astype("float64")  # [test images, classes]
        self.votes: NDArray[np.int32] = _votes(first.probabilities)  # [test images, classes]: trials that answer so

    def add(self, result: TrialResult) -> None:
        self._accuracies.append(result.test.value)
        self.sum_of_probabilities += result.probabilities
        self.votes += _votes(result.probabilities)
        if _preference(result) > _preference(self.chosen):
            self.chosen = result

    @property
    def statistics(self) -> SeedStatistics:
        return seed_statistics(self._accuracies)

    @property
    def highest(self) -> float:
        """The best test accuracy of any trial; luck is part of it."""
        return max(self._accuracies)

    def ensemble(self, labels: NDArray[np.uint8]) -> Accuracy:
        """Of the mean of all trials' probabilities, on the test labels."""
        return Accuracy(int((self.sum_of_probabilities.argmax(axis=1) == labels).sum()), len(labels))


def _votes(probabilities: NDArray[np.float32]) -> NDArray[np.int32]:
    answers = probabilities.argmax(axis=1)
    votes: NDArray[np.int32] = (answers[:, None] == range(probabilities.shape[1])).astype("int32")
    return votes


def _preference(result: TrialResult) -> tuple[int, int]:
    return (result.validation.correct if result.validation else 0, -result.spec.seed)
