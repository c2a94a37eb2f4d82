"""Records every event of a run in the log and the run's folder, and holds the newest checkpoints of its trials.

`Training` records trials up to their results; `jobs.search` records the rungs of its configurations.
"""

import abc
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Self

from cluster.attempts import Cluster
from cluster.deadlines import Clock, Limits
from cluster.errors import VersionsError
from cluster.fan_out import FanOut, LostAttempt
from cluster.nodes import LanePlan
from jobs.console.exit_codes import is_worth_a_retry
from jobs.train.display import RunProgress, display
from jobs.train.write_queue import Checkpoints, WriteQueue
from mnist_lib.assignment import Assignment
from mnist_lib.clock import SystemClock
from mnist_lib.environment import differing_versions, package_versions
from mnist_lib.errors import StoreError
from mnist_lib.model_file import ModelFile
from mnist_lib.report.aggregation import Tally
from mnist_lib.report.summary import trial_summary
from mnist_lib.results import (
    CheckpointTaken,
    EpochDone,
    Epochs,
    HistoryEntry,
    LaneStarted,
    Started,
    TrialFailure,
    TrialResult,
)
from mnist_lib.run_documents import AttemptDied, FailedTrial, SuccessfulTrial, TrialEnded
from mnist_lib.spec import TrialSpec, by_cost
from mnist_lib.store.resumption import read_result, store_result
from mnist_lib.store.runs import RunFolder, history_line
from mnist_lib.wording import and_balanced, counted, percent, rounded

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

log = logging.getLogger(__name__)

CLOCK = SystemClock()

# Error code -> what to do after the last attempt at a trial died with this code.
ADVICE = {
    "E-CRASH": "; find out what kills processes there (dmesg, Ray's logs), then start a run with another --run-name",
    "E-OOM": "; raise --cpus-per-trial, so that fewer trials share a node, or lower --batch-size",
    "E-NODE-LOST": "; find out why nodes are lost, then start a run with another --run-name",
    "E-SILENT": "; find out what keeps that node busy, then start a run with another --run-name",
    "E-TIMEOUT": "; raise --trial-timeout or lower --epochs",
}


class Recorder(abc.ABC):
    """Records the events of trials, from entering its context to leaving it, and gives lanes what they need.

    Args:
        progress: what is shown of the trials.
        files: the files that define models, by model.
        writes: the queue of writes; simulations use one without threads.
    """

    def __init__(
        self,
        folder: RunFolder,
        progress: RunProgress,
        files: Mapping[str, ModelFile] = MappingProxyType({}),
        writes: WriteQueue | None = None,
    ) -> None:
        self.folder, self.progress, self.files = folder, progress, files
        self.writes = writes or WriteQueue()
        self.checkpoints = Checkpoints(folder, self.writes)
        self._versions = package_versions()
        self._epochs: dict[str, float] = {}  # epochs trained up to each trial's newest checkpoint
        self._history: deque[bytes] = deque()  # lines that are not written yet
        self._appended_bytes = self._written_bytes = 0  # of lines so far
        self._history_lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        try:
            self.writes.close()
        except StoreError as failure:
            if kind is None:
                raise
            if failure is not error[0]:
                log.warning("some results could not be stored: %s", failure)

    # Lanes

    @property
    def is_over(self) -> bool:
        """Return whether to end before every trial has ended."""
        return False

    @property
    def expects_more(self) -> bool:
        """Return whether there may be trials that `next_trials` does not return yet."""
        return False

    @abc.abstractmethod
    def next_trials(self, queued: int) -> Sequence[TrialSpec]:
        """Return the trials to queue next. `queued`: the number of those that wait for a lane."""

    @abc.abstractmethod
    def assignment(self, spec: TrialSpec, ends_by: float) -> Assignment | None:
        """Return what a lane is given, or None while the checkpoint of the trial is being read."""

    def fan_out(
        self,
        cluster: Cluster,
        limits: Limits,
        plan: LanePlan,
        deadline: float = math.inf,
        max_lanes: int | None = None,
        clock: Clock = CLOCK,
    ) -> FanOut:
        """Start lanes for the first trials.

        Args:
            deadline: the value of `clock.monotonic()` at which the last trial should end.
            max_lanes: the maximum number of lanes; None for as many as fit.
        """
        self.progress.lanes, self.progress.deadline = plan.lanes, deadline
        fan_out = FanOut(
            cluster,
            limits,
            plan,
            self.assignment,
            deadline=deadline,
            max_lanes=max_lanes,
            is_full=lambda: self.writes.is_full,
            expects_more=lambda: self.expects_more,
            clock=clock,
        )
        fan_out.submit(self.next_trials(0))
        return fan_out

    def record_events(self, fan_out: FanOut, *, shown: bool = True, clock: Clock = time) -> None:
        """Record and show every event until all trials have ended."""
        with display(self.progress, shown=shown, clock=clock) as show:
            for event in fan_out.events():
                self.record(event, fan_out.attempts)
                trial = self.progress.update(event, fan_out.attempts)
                if trial is not None:
                    show(trial)
                if self.is_over:
                    break
                if trials := self.next_trials(fan_out.queued):
                    fan_out.submit(trials)

    # Events

    @abc.abstractmethod
    def end(self, outcome: TrialResult | TrialFailure, attempts: int) -> None:
        """Record the result of a trial, or that it has failed and is not tried again."""

    def record(self, event: object, attempts: Callable[[str], int]) -> None:
        """Record an event.

        Args:
            attempts: takes the id of a trial and returns the number of attempts at it so far.

        Raises:
            VersionsError: a worker has different package versions than this process.
            StoreError: an earlier event could not be stored.
        """
        match event:
            case LaneStarted():
                require_same_versions(event.host, event.versions, self._versions)
            case Started():
                for notice in event.notices:
                    log.warning("%s: %s", event.trial, notice)
                self._epochs[event.trial] = event.resumed_after
                self.append(event)
            case EpochDone():
                found = event.validation
                score = f"validation {found.score_name} {found.score:.4f}" if found else "no validation"
                log.debug("%s: epoch %d, loss %.4f, %s", event.trial, event.epoch, event.loss, score)
                self.append(event)
            case CheckpointTaken() if len(event.content):
                self.hold(event.trial, event.epoch, event.content)
            case TrialFailure():
                self.end(event, attempts(event.trial))
            case LostAttempt():
                self._record_death(event)

    def hold(self, trial: str, epoch: float, content: bytes) -> None:
        """Hold the newest checkpoint of a trial, and store it."""
        self.checkpoints.put(trial, content)
        self._epochs[trial] = epoch
        write = partial(self._store_checkpoint, trial, epoch, content)
        self.writes.put(write, trial, in_place_of="checkpoint", size=len(content))

    def append(self, entry: HistoryEntry) -> None:
        """Append an entry to the history of the run."""
        line = history_line(entry)
        self._history.append(line)
        self._appended_bytes += len(line)
        size = self._appended_bytes - self._written_bytes
        self.writes.put(self.write_history, "history", in_place_of="entries", size=size)

    def write_history(self, *, flush: bool = False) -> None:
        """Write what was appended, before something is stored that follows on it.

        Args:
            flush: whether to write also what the storage has buffered.
        """
        with self._history_lock:
            lines = [*self._history]
            if lines:
                self.folder.append_lines(b"".join(lines))
            for line in lines:  # not before: if this failed, no checkpoint may be stored that follows on lost epochs
                self._history.popleft()
                self._written_bytes += len(line)
            if flush:
                self.folder.flush()

    def _store_checkpoint(self, trial: str, epoch: float, content: bytes) -> None:
        self.write_history(flush=True)  # a trial resumes only if the epochs before its checkpoint are known
        self.checkpoints.store(trial, epoch, content)

    def _record_death(self, lost: LostAttempt) -> None:
        self.append(AttemptDied(trial=lost.trial, attempt=lost.attempt, reason=str(lost.death)))
        cause = lost.death.cause
        if lost.final:
            message = f"failed after {counted(lost.attempt, 'attempt')}: {lost.death}{ADVICE.get(cause.code, '')}"
            failure = TrialFailure(trial=lost.trial, code=cause.code, message=message, details=lost.death.traceback)
            self.end(failure, lost.attempt)
            return
        how = "starting it again"
        if lost.trial in self.checkpoints:
            epoch = self._epochs.get(lost.trial)
            how = "resuming from its checkpoint" if epoch is None else f"resuming after {counted(epoch, 'epoch')}"
        where = f" ({lost.death.details})" if lost.death.details else ""
        log.warning("attempt %d of %s died (%s); %s%s", lost.attempt, lost.trial, cause.text, how, where)


class Training(Recorder):
    """Records the training of trials up to their results. It starts with those of the run's earlier drivers."""

    def __init__(
        self,
        folder: RunFolder,
        trials: Sequence[TrialSpec],
        files: Mapping[str, ModelFile] = MappingProxyType({}),
        writes: WriteQueue | None = None,
    ) -> None:
        super().__init__(folder, RunProgress(trials), files, writes)
        self.tallies: dict[str, Tally] = {}  # of the trials on all images or, if there are none, of those of folds
        # Probabilities that the trial of a fold has for the images of its fold.
        self.of_folds: dict[TrialSpec, NDArray[np.float32]] = {}
        self._refits = any(spec.fold is None for spec in trials)
        self.rows: list[SuccessfulTrial | FailedTrial] = []
        self.unfinished: list[TrialSpec] = []
        self._specs = {spec.id: spec for spec in trials}
        self._trained: dict[str, Epochs] = {}  # of the trials that have not ended
        for spec in trials:
            ended = read_result(folder, spec) if folder.resumed else None
            if ended:
                self._add(*ended)
            else:
                self.unfinished.append(spec)
                self._trained[spec.id] = Epochs()
                if folder.resumed:
                    self.checkpoints.expect(spec.id, self._trained[spec.id])
        self.progress.restore(self.rows)
        self._waiting = by_cost(self.unfinished)
        if folder.resumed:
            for entry in folder.history():
                if isinstance(entry, EpochDone) and entry.trial in self._trained:
                    self._trained[entry.trial].add(entry)
            log.info("resuming run %s: %d of %s ended", folder.run, len(self.rows), counted(len(trials), "trial"))

    def next_trials(self, queued: int) -> Sequence[TrialSpec]:
        trials, self._waiting = self._waiting, []
        return trials

    def assignment(self, spec: TrialSpec, ends_by: float) -> Assignment | None:
        if not self.checkpoints.is_ready(spec.id):
            return None
        checkpoint, epochs = self.checkpoints.get(spec.id), self.epochs(spec.id)
        return Assignment(spec, checkpoint, self.files.get(spec.model), ends_by, epochs=epochs)

    def epochs(self, trial: str) -> Epochs:
        """Return the epochs that were trained in all attempts at a trial that has not ended."""
        return self._trained[trial]

    def record(self, event: object, attempts: Callable[[str], int]) -> None:
        super().record(event, attempts)
        match event:
            case Started() if event.resumed_after:
                log.info("%s: resumed after %s", event.trial, counted(event.resumed_after, "epoch"))
            case EpochDone():
                self._trained[event.trial].add(event)
            case TrialResult():
                self._add(event, attempts(event.trial))
                chosen, number = any(t.chosen is event for t in self.tallies.values()), attempts(event.trial)
                size = sum(map(len, event.files.values()))
                self.writes.put(lambda: self._store(event, number, with_model=chosen), event.trial, size=size)

    def _store(self, result: TrialResult, attempts: int, *, with_model: bool) -> None:
        tensorboard = f"trials/{result.trial}/tb/events.out.tfevents.{result.trial}"
        self.folder.write(tensorboard, result.tensorboard)
        self.write_history()  # before the result, since a trial with a result is not run again
        store_result(self.folder, result, attempts, with_model=with_model)

    def _add(self, result: TrialResult, attempts: int) -> None:
        spec, model = result.spec, result.spec.model
        if result.of_fold is not None:
            self.of_folds[spec] = result.of_fold
        if spec.fold is None or not self._refits:
            if model in self.tallies:
                self.tallies[model].add(result)
            else:
                self.tallies[model] = Tally(result)
        self.end(result, attempts)

    def end(self, outcome: TrialResult | TrialFailure, attempts: int) -> None:
        self.checkpoints.forget(outcome.trial)
        self._trained.pop(outcome.trial, None)
        retry = isinstance(outcome, TrialFailure) and is_worth_a_retry(outcome.code)
        row = trial_summary(self._specs[outcome.trial], outcome, attempts, retry=retry)
        self.rows.append(row)
        self.writes.put(lambda: self.folder.write_json(f"trials/{outcome.trial}/result.json", row), outcome.trial)
        self.append(TrialEnded(trial=outcome.trial, status=row.status))
        position = f"[{len(self.rows)}/{len(self._specs)}] {outcome.trial}:"
        if isinstance(outcome, TrialResult):
            trained, epochs = outcome.trained_epochs, outcome.spec.epochs
            short = f", after {rounded(trained)} of {epochs} epochs: out of time" if trained < epochs else ""
            balanced = None if outcome.spec.score == "accuracy" else outcome.test_balanced_accuracy
            log.info("%s test accuracy %s%s", position, percent(outcome.test.value) + and_balanced(balanced), short)
        else:
            log.warning("%s failed: %s %s", position, outcome.code, outcome.message)
            log.debug("%s", outcome.details)


def require_same_versions(host: str, of_worker: Mapping[str, str], of_driver: Mapping[str, str]) -> None:
    """Raise VersionsError if the package versions of a worker differ from those of the driver."""
    differing = differing_versions(of_worker, of_driver)
    if differing:
        raise VersionsError(
            f"the worker on {host} has different package versions from the driver: {differing}"
            "; install requirements/runtime.lock on every node"
        )
