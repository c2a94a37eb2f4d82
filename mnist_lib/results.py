"""The events and results of trials.

Accuracies are added as counts and divided once: a mean over batches would weigh a short last batch like a full one.
"""

from __future__ import annotations

import functools
import math
import pickle
import statistics
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from mnist_lib.documents import (
    Count,
    Document,
    Interval,
    Name,
    Number,
    Rate,
    Seconds,
    Sha256,
    Share,
    Text,
    Texts,
    written,
)
from mnist_lib.spec import TrialSpec

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Balanced(Document, frozen=True):
    """The counts of an accuracy if an image counts 1 / images of its class, so that every class counts the same."""

    correct: float  # sum of these weights over the images that are predicted correctly
    total: float  # over all images; the number of classes, unless images are missing
    squares: float  # sum of the squares of the weights, from which the standard error follows

    def __add__(self, other: Balanced) -> Balanced:
        return Balanced(self.correct + other.correct, self.total + other.total, self.squares + other.squares)


class Accuracy(Document, frozen=True):
    """A number of correct predictions among a total. `Accuracy(0, 0)` is the start value of a sum.

    Either all accuracies that are compared or added have balanced counts, or none.
    """

    correct: Count
    total: Count
    balanced: Balanced | None = None  # only with --score balanced-accuracy

    def __add__(self, other: Accuracy) -> Accuracy:
        both = self.balanced + other.balanced if self.balanced and other.balanced else None
        return Accuracy(self.correct + other.correct, self.total + other.total, both or self.balanced or other.balanced)

    @property
    def value(self) -> float:
        """The share of correct predictions in [0, 1], or NaN if the total is 0."""
        return self.correct / self.total if self.total else math.nan

    @property
    def score(self) -> float:
        """What epochs, configurations and trials are compared by: the balanced accuracy if there is one."""
        if self.balanced is None or not self.balanced.total:
            return self.value
        return round(self.balanced.correct / self.balanced.total, 12)  # equal scores stay equal whatever the rounding

    @property
    def score_name(self) -> str:
        return "accuracy" if self.balanced is None else "balanced accuracy"

    def is_close_to(self, highest: Accuracy) -> bool:
        """Return whether the score is at most one standard error, sqrt(p (1 - p) / n), below the highest score p.

        With balanced counts, n is the effective number of images, (sum of weights)^2 / sum of their squares.
        """
        if self.balanced is None:
            missing = max(0, highest.correct * self.total - self.correct * highest.total)
            wrong = highest.total - highest.correct
            return missing**2 * highest.total <= highest.correct * wrong * self.total**2  # exactly
        low = max(0.0, highest.score - self.score) * self.balanced.total
        return low**2 <= highest.score * (1 - highest.score) * self.balanced.squares

    def interval(self, selected_from: int = 1) -> Interval:
        """Return the 95% confidence interval of the accuracy (Wilson, 1927), if the images are independent.

        Args:
            selected_from: the number of models of which this one was chosen by these predictions. The best of many is
                partly the luckiest, so the lower end is that of an interval which covers all of them (Bonferroni).
        """
        if not self.total:
            return 0.0, 1.0
        low = normal_quantile(1 - 0.025 / selected_from)
        high = normal_quantile(0.975)
        return wilson_interval(self.value, self.total, low, high)


def wilson_interval(mean: float, count: float, low: float, high: float) -> Interval:
    """Return Wilson's interval of a share: its limits for `count` independent answers and two normal quantiles."""

    def limit(z: float) -> float:
        deviation = z * math.sqrt(mean * (1 - mean) / count + z * z / (4 * count * count))
        return (mean + z * z / (2 * count) + deviation) / (1 + z * z / count)

    # Rounding could exclude the mean where it is 0 or 1.
    return max(0.0, min(mean, limit(-low))), min(1.0, max(mean, limit(high)))


def mean_score(scores: Iterable[float | None]) -> float | None:
    """Return the mean of the scores that are known, or None if none is."""
    known = [score for score in scores if score is not None]
    return statistics.fmean(known) if known else None


class TrialEvent(Document, frozen=True, kw_only=True):
    """An event of a trial. `final` is true for the last event.

    `phase` is what the lane does next: "starting", "preparing", "training" or "finishing". It sets the deadline of the
    next event.
    """

    trial: Text
    final = False
    phase = "training"


class HistoryEntry(TrialEvent, frozen=True, kw_only=True, tag_field="event"):
    """A line of the history of a run. Each subclass is a kind of lines, which are named by its tag."""

    at: Seconds = 0.0  # Unix time; 0 until the line is written


class LaneStarted(TrialEvent, frozen=True, kw_only=True):
    """A worker has started; it has not loaded TensorFlow or the dataset. `trial` is empty."""

    phase = "starting"

    host: str
    versions: Mapping[str, str]  # of Python and packages in the worker


class LaneReady(TrialEvent, frozen=True, kw_only=True):
    """The start of a trial in a worker that has TensorFlow and the dataset. The time limit of the trial begins."""

    phase = "preparing"


class TrialStarted(HistoryEntry, frozen=True, kw_only=True, tag="started"):
    """A trial has been compiled. Its first steps may still take longer than later ones."""

    phase = "preparing"

    pid: Count
    node: Text
    devices: tuple[Text, ...]  # one per replica, as TensorFlow names them
    gpus: tuple[Text, ...]  # ids of the GPUs that Ray granted
    notices: tuple[Text, ...] = written(())  # requests that could not be met, with the reason
    # Epochs that an earlier attempt trained, with the share of an unfinished one.
    resumed_after: Rate = written(0.0)
    # Seconds of each phase of the lane before this start, in order: "import", "data" (waiting for it), "compile".
    phases: dict[Text, Seconds] = msgspec.field(default_factory=dict)


class Heartbeat(TrialEvent, frozen=True, kw_only=True):
    """A sign, every few seconds, that a long epoch is still being trained or validated."""

    epoch: float  # epochs trained so far, with the share of the running one


class Evaluating(TrialEvent, frozen=True, kw_only=True):
    """The end of the last epoch. It is sent again every few seconds during the evaluation on the test images."""

    phase = "finishing"


class EpochDone(HistoryEntry, frozen=True, kw_only=True, tag="epoch"):
    epoch: Number  # counted from 1
    loss: float  # mean over the images, each measured in the step that trained on it
    train: Accuracy  # on the images so far, if the last epoch was ended by a deadline
    validation: Accuracy | None
    seconds: Seconds

    @property
    def images_per_second(self) -> float:
        return self.train.total / max(self.seconds, 1e-9)


class EpochPart(Document, frozen=True, kw_only=True):
    """The first chunks of an epoch that is not finished. Their totals continue exactly where they stopped."""

    chunks: Count = 0
    loss: float = 0.0  # sum over the images
    train: Accuracy = Accuracy(0, 0)
    seconds: Seconds = 0.0

    def done(self, trial: str, epoch: int) -> EpochDone:
        """Return an epoch of these chunks only."""
        loss = self.loss / self.train.total
        return EpochDone(trial=trial, epoch=epoch, loss=loss, train=self.train, validation=None, seconds=self.seconds)


EPOCH_START = EpochPart()


def add_epoch(epochs: list[EpochDone], done: EpochDone) -> None:
    """Add an epoch to those of its trial, from the first one on, without the time at which it was recorded.

    It replaces that epoch of an earlier attempt. An epoch after a gap is left out.
    """
    if done.epoch <= len(epochs) + 1:
        epochs[done.epoch - 1 : done.epoch] = [msgspec.structs.replace(done, at=0.0)]


class CheckpointTaken(TrialEvent, frozen=True, kw_only=True):
    epoch: float  # epochs trained so far, with the share of the running one
    content: bytes  # from which another attempt continues the trial

    def __reduce__(self) -> tuple[Any, ...]:
        """Let Ray send the content without copying it; the receiver sees it as a memoryview."""
        fields = msgspec.structs.asdict(self)
        return functools.partial(type(self), **{**fields, "content": pickle.PickleBuffer(self.content)}), ()


class RungDone(CheckpointTaken, frozen=True, kw_only=True):
    """The last epoch of this rung of a search is done. The next rung continues from `content`; it is empty if none."""

    final = True

    epoch: int
    validation: Accuracy  # at the epoch that would be stored if the trial ended here
    seconds: float  # of all epochs so far


class EndedTrial(Document, frozen=True, kw_only=True, tag_field="status"):
    """A trial that has ended, as the summary of a run lists it."""

    id: Name  # the name of the trial, such as `keras-s0`
    spec: TrialSpec  # how it was trained
    attempts: Count = written(1)  # number of attempts


class TrialRecord(EndedTrial, frozen=True, kw_only=True, tag="ok"):
    """What is known of a trained trial, without its arrays and files.

    The worker sends it, the run stores it, and the summary and the manifest of a version contain it.
    """

    status = "ok"

    test: Accuracy  # counts on the test images
    test_accuracy: Share  # the accuracy on them
    test_balanced_accuracy: Share | None = None  # the mean of the accuracies of the classes; older runs lack it
    test_ci95: Interval  # lower and upper limit of its 95% interval, for another test set of this size
    # Counts on the validation images at the chosen epoch; of a trial of a fold, on the images of its fold; `null`
    # without validation. With the score `balanced-accuracy`, also sums of the weights of the images (`balanced`).
    validation: Accuracy | None
    # The chosen epoch, whose weights were measured and may be stored: the latest of those close to the best on
    # validation, or the last one without validation.
    best_epoch: Number
    trained_epochs: Rate  # number of epochs, with the share of the last one; fewer than asked for if the time was up
    train_seconds: Seconds  # seconds of training, without start-up and compilation
    setup_seconds: Seconds  # seconds of compilation and initialisation; nearly 0 if the lane has compiled it before
    images_per_second: Rate  # speed of training
    cpus: Number | None = None  # CPUs of the trial, from which its number of threads follows; older runs lack it
    replicas: Number  # number of replicas
    devices: tuple[Text, ...]  # one device per replica, as TensorFlow names them
    gpus: tuple[Text, ...]  # ids of the GPUs that Ray granted
    node: Text  # the node that trained it
    # By kind of pictures that show none of the classes, how many are answered with `none of these`; empty if none were
    # made up or given, or if there are fewer than 49 test images.
    rejected: dict[Name, Accuracy] = msgspec.field(default_factory=dict)
    weights_sha256: Sha256  # SHA-256 of the weights
    # Versions of Python and packages in the worker, and what it says of its GPUs; older runs lack them.
    versions: Texts = msgspec.field(default_factory=dict)

    @property
    def validation_score(self) -> float | None:
        """The accuracy on validation that trials are compared by."""
        return self.validation.score if self.validation and self.validation.total else None

    @property
    def test_score(self) -> float:
        """The test accuracy to compare with that: the balanced one if the trial was compared by it."""
        balanced = self.test_balanced_accuracy
        return self.test_accuracy if balanced is None or self.spec.score == "accuracy" else balanced


class TrialResult(TrialEvent, frozen=True, kw_only=True):
    """The end of a trial that was trained and evaluated: its record, its arrays and its files."""

    final = True

    record: TrialRecord
    history: tuple[EpochDone, ...]  # every epoch of all attempts
    probabilities: NDArray[np.float32]  # [test images, classes]
    of_fold: NDArray[np.float32] | None = None  # [images of its fold, classes]; None for a trial without a fold
    files: Mapping[str, bytes]  # the model to store, by path
    tensorboard: bytes = b""  # an event file; empty if an earlier driver wrote it to the run's folder


class TrialFailure(TrialEvent, frozen=True, kw_only=True):
    final = True

    code: str  # the error code, such as "E-NAN"
    message: str
    details: str = ""  # the traceback, if the cause is a bug


@functools.cache
def normal_quantile(probability: float) -> float:
    """Return the quantile of the standard normal distribution at `probability`."""
    return statistics.NormalDist().inv_cdf(probability)
