"""What a trial tells while it runs and when it ends, and how results add up.

Counts add, ratios divide once: a mean of batch accuracies would weigh a short last batch like a full one.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mnist_lib.spec import TrialSpec

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Accuracy:
    """How many of how many were right. A monoid: `Accuracy(0, 0)` is its zero."""

    correct: int
    total: int

    def __add__(self, other: Accuracy) -> Accuracy:
        return Accuracy(self.correct + other.correct, self.total + other.total)

    @property
    def value(self) -> float:
        """In [0, 1]; NaN of nothing."""
        return self.correct / self.total if self.total else math.nan

    def interval(self) -> tuple[float, float]:
        """The 95% interval of the true accuracy, as far as these images can tell (Wilson, 1927)."""
        if not self.total:
            return (0.0, 1.0)
        z, n, p = 1.959964, self.total, self.value
        centre = (p + z * z / (2 * n)) / (1 + z * z / n)
        half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
        return (max(0.0, min(p, centre - half)), min(1.0, max(p, centre + half)))  # of none or all, rounding matters


@dataclass(frozen=True, kw_only=True)
class TrialEvent:
    """Something that a trial tells. `final` says that the trial has ended with it."""

    trial: str
    final = False


@dataclass(frozen=True, kw_only=True)
class LaneStarted(TrialEvent):
    """`trial` is the first of the lane. What it will train with is not loaded yet."""

    host: str
    versions: Mapping[str, str]  # of the packages there


@dataclass(frozen=True, kw_only=True)
class Started(TrialEvent):
    pid: int
    node: str
    devices: tuple[str, ...]  # one per replica, as TensorFlow names them
    gpus: tuple[str, ...]  # the ids that Ray granted
    notices: tuple[str, ...] = ()  # what the user asked for and did not get, with the reason
    resumed_after: int = 0  # epochs that an earlier attempt trained


@dataclass(frozen=True, kw_only=True)
class EpochDone(TrialEvent):
    epoch: int  # counted from 1
    loss: float  # mean over the images of the epoch, as they were trained on
    train: Accuracy
    validation: Accuracy | None
    seconds: float

    @property
    def images_per_second(self) -> float:
        return self.train.total / max(self.seconds, 1e-9)

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> EpochDone:
        """From `asdict`, as it came back from JSON. Raises KeyError or TypeError for another."""
        validation = Accuracy(**row["validation"]) if row["validation"] else None
        return cls(**{**row, "train": Accuracy(**row["train"]), "validation": validation})


@dataclass(frozen=True, kw_only=True)
class CheckpointTaken(TrialEvent):
    epoch: int  # after which
    content: bytes  # for another attempt at the same trial


@dataclass(frozen=True, kw_only=True)
class TrialResult(TrialEvent):
    final = True

    spec: TrialSpec
    test: Accuracy
    validation: Accuracy | None  # at the best epoch
    best_epoch: int  # whose weights these are: the best on validation, without validation the last
    history: tuple[EpochDone, ...]  # every epoch, whichever attempt trained it
    train_seconds: float  # without start-up and compilation
    images_per_second: float  # trained
    setup_seconds: float  # compiling and initialising; next to nothing for a further trial of the same shape
    replicas: int
    devices: tuple[str, ...]
    gpus: tuple[str, ...]
    node: str
    weights_sha256: str
    versions: Mapping[str, str]  # of the packages that trained it
    probabilities: NDArray[np.float32]  # [test images, classes]
    files: Mapping[str, bytes]  # the stored model, by path
    tensorboard: bytes = b""  # an event file; of a trial that ended under an earlier driver it is in the run's folder


@dataclass(frozen=True, kw_only=True)
class TrialFailure(TrialEvent):
    final = True

    code: str  # as in "E-NAN"
    message: str
    details: str = ""  # the traceback of a bug


@dataclass(frozen=True)
class SeedStatistics:
    """What the accuracies of several seeds say about the next one."""

    count: int
    mean: float
    std: float | None  # of the sample, divided by n - 1; None of a single one
    ci95: tuple[float, float] | None  # of the mean (Student's t); None of a single one


def seed_statistics(accuracies: Sequence[float]) -> SeedStatistics:
    """Mean, sample standard deviation and 95% interval of the mean of at least one accuracy in [0, 1]."""
    count, mean = len(accuracies), statistics.fmean(accuracies)
    if count == 1:
        return SeedStatistics(1, mean, None, None)
    std = statistics.stdev(accuracies)
    half = student_t_quantile(0.975, count - 1) * std / math.sqrt(count)
    return SeedStatistics(count, mean, std, (max(0.0, mean - half), min(1.0, mean + half)))


def student_t_quantile(probability: float, degrees: int) -> float:
    """The value that Student's t stays below with `probability` in [0.5, 1), by bisection of its exact distribution.

    Written out because SciPy, installed, would be imported by Keras in every worker.
    """
    low, high = 0.0, 1e6
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if _student_t_cdf(middle, degrees) < probability else (low, middle)
    return (low + high) / 2


def _student_t_cdf(t: float, degrees: int) -> float:
    # Abramowitz and Stegun 26.7.3 and 26.7.4: a finite series for whole degrees of freedom.
    theta = math.atan(t / math.sqrt(degrees))
    cos2 = math.cos(theta) ** 2
    odd = degrees % 2 == 1
    term = math.cos(theta) if odd else 1.0
    total = term if degrees > 1 else 0.0
    for k in range(3 if odd else 2, degrees - 1, 2):
        term *= cos2 * (k - 1) / k
        total += term
    within = 2 / math.pi * (theta + math.sin(theta) * total) if odd else math.sin(theta) * total
    return 0.5 + within / 2


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
