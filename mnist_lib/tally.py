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
        self._sum: NDArray[np.float64] = first.probabilities.astype("float64")  # [test images, classes]

    def add(self, result: TrialResult) -> None:
        self._accuracies.append(result.test.value)
        self._sum += result.probabilities
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
        return Accuracy(int((self._sum.argmax(axis=1) == labels).sum()), len(labels))


def _preference(result: TrialResult) -> tuple[int, int]:
    return (result.validation.correct if result.validation else 0, -result.spec.seed)
