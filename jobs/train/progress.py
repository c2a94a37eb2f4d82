"""How far each trial of a run is, as its events tell: what the live table and the plain lines show."""

import enum
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cluster.lanes.fan_out import Died
from mnist_lib.results import EpochDone, Started, TrialFailure, TrialResult
from mnist_lib.spec import TrialSpec


class State(enum.Enum):
    """Those to look at first come first."""

    RUNNING = "running"
    DIED = "died, again"  # another attempt is to come
    FAILED = "failed"
    DONE = "done"
    WAITING = "waiting"


@dataclass
class TrialProgress:
    id: str
    model: str
    epochs: int  # to train
    state: State = State.WAITING
    epoch: int = 0  # trained so far
    loss: float | None = None
    accuracy: float | None = None  # on validation, without validation in training
    test_accuracy: float | None = None  # once it has ended
    images_per_second: float | None = None
    attempt: int = 1
    node: str = ""
    ended: int = 0  # as the how many-th of the run


@dataclass(frozen=True)
class _Epochs:
    """How many were timed, and how long they took together."""

    count: int = 0
    seconds: float = 0.0

    def __add__(self, other: "_Epochs") -> "_Epochs":
        return _Epochs(self.count + other.count, self.seconds + other.seconds)


class RunProgress:
    """Of all trials, in their order.

    Args:
        rows: of those that earlier drivers of the run have ended (`trial_row`).
        until: the Unix time at which it ends in any case.
    """

    def __init__(self, trials: Sequence[TrialSpec], rows: Sequence[Mapping[str, Any]], until: float = math.inf) -> None:
        self.trials = {spec.id: TrialProgress(spec.id, spec.model, spec.epochs) for spec in trials}
        self._until = until
        self._epochs: dict[str, _Epochs] = {}  # by model
        self._count_ended = 0
        self.begin = time.monotonic()
        for row in rows:
            trial = self.trials[row["id"]]
            trial.state = State.DONE if row["status"] == "ok" else State.FAILED
            trial.epoch, trial.test_accuracy = row.get("trained_epochs", 0), row.get("test_accuracy")
            trial.attempt = row["attempts"]
            self._ended(trial)

    def take(self, event: object, attempts: Callable[[str], int]) -> TrialProgress | None:
        """-> the trial that it changed."""
        match event:
            case Started():
                trial = self.trials[event.trial]
                trial.state, trial.epoch, trial.node = State.RUNNING, event.resumed_after, event.node
                trial.attempt = attempts(event.trial)
            case EpochDone():
                trial = self.trials[event.trial]
                trial.epoch, trial.loss = event.epoch, event.loss
                trial.accuracy = (event.validation or event.train).value
                trial.images_per_second = event.images_per_second
                self._epochs[trial.model] = self._epochs.get(trial.model, _Epochs()) + _Epochs(1, event.seconds)
            case TrialResult():
                trial = self.trials[event.trial]
                trial.state, trial.test_accuracy = State.DONE, event.test.value
                trial.images_per_second = event.images_per_second
                self._ended(trial)
            case TrialFailure():
                trial = self.trials[event.trial]
                trial.state = State.FAILED
                self._ended(trial)
            case Died():
                trial = self.trials[event.item]
                trial.state = State.FAILED if event.final else State.DIED
                if event.final:
                    self._ended(trial)
            case _:
                return None
        return trial

    def count(self, *states: State) -> int:
        return sum(trial.state in states for trial in self.trials.values())

    def seconds_left(self, trial: TrialProgress) -> float | None:
        """Of its training, by the epochs of its model so far, or else of the others; None while there is none."""
        if trial.ended:
            return 0.0
        epochs = self._epochs.get(trial.model) or sum([*self._epochs.values()], _Epochs())
        return self._in_time((trial.epochs - trial.epoch) * epochs.seconds / epochs.count) if epochs.count else None

    @property
    def total_seconds_left(self) -> float | None:
        """With as many at once as there are now; None while that is not known."""
        left = [self.seconds_left(trial) for trial in self.trials.values()]
        known = [seconds for seconds in left if seconds is not None]
        running = self.count(State.RUNNING)
        return self._in_time(sum(known) / running) if running and len(known) == len(left) else None

    def _in_time(self, seconds: float) -> float:
        return max(0.0, min(seconds, self._until - time.time()))

    def _ended(self, trial: TrialProgress) -> None:
        self._count_ended += 1
        trial.ended = self._count_ended
