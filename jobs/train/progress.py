"""The progress of each trial of a run, from its events: the data of the live table and of the progress lines."""

import enum
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cluster.fan_out import LostAttempt
from cluster.nodes import makespan
from mnist_lib.clock import steady_time
from mnist_lib.results import EpochDone, Heartbeat, Started, TrialFailure, TrialResult
from mnist_lib.run_documents import FailedTrial, SuccessfulTrial
from mnist_lib.spec import TrialSpec


class State(enum.Enum):
    """The state of a trial, in the order of the live table."""

    RUNNING = "running"
    RETRYING = "retrying"  # its worker died; another attempt follows
    FAILED = "failed"
    DONE = "done"
    WAITING = "waiting"


@dataclass
class TrialProgress:
    id: str
    model: str
    epochs: int  # to train
    validates: bool
    cost: float = 1.0
    state: State = State.WAITING
    epoch: float = 0  # trained so far, with the fraction of the current one
    loss: float | None = None
    accuracy: float | None = None  # after the last epoch, on validation images or, if there are none, training images
    test_accuracy: float | None = None  # None until the trial is done
    images_per_second: float | None = None
    attempt: int = 1
    node: str = ""
    end: int = 0  # 1 for the trial that ended first, 2 for the next; 0 for a trial that has not ended


class RunProgress:
    """The progress of all trials, in their order.

    Args:
        rows: the summary of each trial that earlier drivers of the run have finished.
        lanes: how many trials run at once.
        deadline: the value of `steady_time()` after which no further epoch is trained.
    """

    def __init__(
        self,
        trials: Sequence[TrialSpec],
        rows: Sequence[SuccessfulTrial | FailedTrial],
        lanes: int = 1,
        deadline: float = math.inf,
    ) -> None:
        self.trials = {
            spec.id: TrialProgress(spec.id, spec.model, spec.epochs, spec.validation_percent > 0, spec.cost)
            for spec in trials
        }
        self._lanes = lanes
        self.begin = time.monotonic()
        self._deadline = deadline
        self._epochs: dict[str, tuple[float, float]] = {}  # model -> number and total seconds of its epochs
        self._ended = 0
        for row in rows:
            trial = self.trials[row.id]
            if isinstance(row, SuccessfulTrial):
                trial.epoch, trial.test_accuracy = row.trained_epochs, row.test_accuracy
            trial.attempt = row.attempts
            self._end(trial, State.DONE if isinstance(row, SuccessfulTrial) else State.FAILED)

    def update(self, event: object, attempts: Callable[[str], int]) -> TrialProgress | None:
        """Apply an event; return the trial that it changed, if any."""
        match event:
            case Started():
                trial = self.trials[event.trial]
                trial.state, trial.epoch, trial.node = State.RUNNING, event.resumed_after, event.node
                trial.attempt = attempts(event.trial)
            case Heartbeat():
                trial = self.trials[event.trial]
                trial.epoch = max(trial.epoch, event.epoch)
            case EpochDone():
                trial = self.trials[event.trial]
                trial.epoch, trial.loss = event.epoch, event.loss
                trial.accuracy = (event.validation or event.train).value
                trial.images_per_second = event.images_per_second
                count, seconds = self._epochs.get(trial.model, (0.0, 0.0))
                self._epochs[trial.model] = (count + 1, seconds + event.seconds)
            case TrialResult():
                trial = self.trials[event.trial]
                trial.test_accuracy, trial.images_per_second = event.test.value, event.images_per_second
                self._end(trial, State.DONE)
            case TrialFailure():
                trial = self.trials[event.trial]
                self._end(trial, State.FAILED)
            case LostAttempt():
                trial = self.trials[event.trial]
                trial.state = State.RETRYING
                if event.final:
                    self._end(trial, State.FAILED)
            case _:
                return None
        return trial

    def count(self, state: State) -> int:
        return sum(trial.state is state for trial in self.trials.values())

    def seconds_left(self, trial: TrialProgress) -> float | None:
        """Return the expected seconds until a trial ends, from the mean duration of its model's epochs.

        If that model has no epoch yet, those of other models are scaled by cost. None until any epoch has ended.
        """
        if trial.end:
            return 0.0
        if not self._epochs:
            return None
        if trial.model in self._epochs:
            count, seconds = self._epochs[trial.model]
        else:
            costs = {other.model: other.cost / other.epochs for other in self.trials.values()}  # of one epoch, by model
            count = sum(count * costs[model] for model, (count, _) in self._epochs.items())
            seconds = sum(seconds for _, seconds in self._epochs.values()) * costs[trial.model]
        return self._until_deadline((trial.epochs - trial.epoch) * seconds / count)

    @property
    def total_seconds_left(self) -> float | None:
        """The expected seconds until the run ends; None if not known yet."""
        left = [self.seconds_left(trial) for trial in self.trials.values() if not trial.end]
        known = sorted((seconds for seconds in left if seconds is not None), reverse=True)
        lanes = max(self._lanes, self.count(State.RUNNING))
        return self._until_deadline(makespan(known, lanes)) if len(known) == len(left) else None

    def _until_deadline(self, seconds: float) -> float:
        return max(0.0, min(seconds, self._deadline - steady_time()))

    def _end(self, trial: TrialProgress, state: State) -> None:
        self._ended += 1
        trial.state, trial.end = state, self._ended
