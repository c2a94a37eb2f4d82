"""Records every event of a run in the log, the run's folder and the tallies, and holds the newest checkpoints."""

import logging
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Self

from cluster.errors import VersionsError
from cluster.fan_out import LostAttempt
from jobs.console.exit_codes import is_worth_a_retry
from jobs.train.checkpoints import Checkpoints
from jobs.train.write_queue import WriteQueue
from mnist_lib.aggregation import Tally
from mnist_lib.environment import differing_versions, package_versions
from mnist_lib.errors import IntegrityError, StoreError
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
from mnist_lib.spec import TrialSpec
from mnist_lib.store.resumption import read_result, store_result
from mnist_lib.store.runs import RunFolder, history_line
from mnist_lib.wording import counted, percent

log = logging.getLogger(__name__)

# Error code -> what to do after the last attempt at a trial died with this code.
ADVICE = {
    "E-CRASH": "; find out what kills processes there (dmesg, Ray's logs), then start a run with another --run-name",
    "E-OOM": "; raise --cpus-per-trial, so that fewer trials share a node, or lower --batch-size",
    "E-NODE-LOST": "; find out why nodes are lost, then start a run with another --run-name",
    "E-SILENT": "; find out what keeps that node busy, then start a run with another --run-name",
    "E-TIMEOUT": "; raise --trial-timeout or lower --epochs",
}


class Recorder:
    """Records the events of a run, from entering its context to leaving it.

    It starts with the results and checkpoints of the run's earlier drivers.

    Args:
        writes: the queue of writes; simulations use one without threads.
    """

    def __init__(self, folder: RunFolder, trials: Sequence[TrialSpec], writes: WriteQueue | None = None) -> None:
        self._writes = writes or WriteQueue()
        self.tallies: dict[str, Tally] = {}
        self.rows: list[SuccessfulTrial | FailedTrial] = []
        self.unfinished: list[TrialSpec] = []
        self._folder, self._versions = folder, package_versions()
        self._history: deque[bytes] = deque()  # lines that are not written yet
        self._appended_bytes = self._written_bytes = 0  # of lines so far
        self._history_lock = threading.Lock()
        self._specs = {spec.id: spec for spec in trials}
        self._checkpoints = Checkpoints(folder, self._writes)
        self._epochs: dict[str, int] = {}  # epoch of each trial's newest checkpoint
        self._restored: dict[str, tuple[int, ...]] = {}  # shape of the probabilities of each trial that has ended
        self._trained: dict[str, Epochs] = {}  # of the trials that have not ended
        for spec in trials:
            ended = read_result(folder, spec) if folder.resumed else None
            if ended:
                self._restored[spec.id] = ended[0].probabilities.shape
                self.require_shape(next(iter(self._restored.values())))
                self._add(*ended)
            else:
                self.unfinished.append(spec)
                self._trained[spec.id] = Epochs()
                if folder.resumed:
                    self._checkpoints.read(spec.id)
        if folder.resumed:
            for entry in folder.history():
                if isinstance(entry, EpochDone) and entry.trial in self._trained:
                    self._trained[entry.trial].add(entry)
            log.info("resuming run %s: %d of %s ended", folder.run, len(self.rows), counted(len(trials), "trial"))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        try:
            self._writes.close()
        except StoreError as failure:
            if kind is None:
                raise
            if failure is not error[0]:
                log.warning("some results could not be stored: %s", failure)

    @property
    def is_full(self) -> bool:
        """Return whether too many writes wait for the storage. Raises StoreError if one has failed."""
        return self._writes.is_full

    def is_ready(self, trial: str) -> bool:
        """Return whether `checkpoint` returns at once. If it would not, begin to read the checkpoint."""
        return self._checkpoints.is_ready(trial)

    def require_shape(self, expected: tuple[int, ...]) -> None:
        """Raise IntegrityError if a result of an earlier driver is of other test images or classes.

        Args:
            expected: [test images, classes], of the probabilities of every trial.
        """
        for trial, shape in self._restored.items():
            if shape != expected:
                raise IntegrityError(
                    f"{self._folder.where}/trials/{trial}/ended.json: expected probabilities {[*expected]}, got"
                    f" {[*shape]}; delete the file of the trial that is wrong, then the same command trains it again"
                )

    def checkpoint(self, trial: str) -> bytes | None:
        """Return the newest checkpoint of a trial that has not ended."""
        return self._checkpoints.get(trial)

    def epochs(self, trial: str) -> Epochs:
        """Return the epochs that were trained in all attempts at a trial that has not ended."""
        return self._trained[trial]

    def record(self, event: object, attempts: Callable[[str], int]) -> None:
        """Record an event.

        Args:
            attempts: takes the id of a trial and returns the number of attempts at it so far.

        Raises:
            VersionsError: a worker has different package versions than this process.
            StoreError: an earlier event could not be stored.
        """
        check_start(event, self._versions)
        match event:
            case Started():
                self._epochs[event.trial] = event.resumed_after
                if event.resumed_after:
                    log.info("%s: resumed after epoch %d", event.trial, event.resumed_after)
                self._append(event)
            case EpochDone():
                log.debug("%s: epoch %d, loss %.4f, %s", event.trial, event.epoch, event.loss, _validated(event))
                self._trained[event.trial].add(event)
                self._append(event)
            case CheckpointTaken():
                self._checkpoints.put(event.trial, event.content)
                self._epochs[event.trial] = event.epoch
                size = len(event.content)
                write = partial(self._store_checkpoint, event.trial, event.epoch, event.content)
                self._writes.put(write, event.trial, in_place_of="checkpoint", size=size)
            case TrialResult():
                self._add(event, attempts(event.trial))
                chosen, number = self.tallies[event.spec.model].chosen is event, attempts(event.trial)
                size = sum(map(len, event.files.values()))
                self._writes.put(lambda: self._store(event, number, with_model=chosen), event.trial, size=size)
            case TrialFailure():
                self._end(event, attempts(event.trial))
            case LostAttempt():
                self._record_death(event)

    def _append(self, entry: HistoryEntry) -> None:
        line = history_line(entry)
        self._history.append(line)
        self._appended_bytes += len(line)
        size = self._appended_bytes - self._written_bytes
        self._writes.put(self._write_history, "history", in_place_of="entries", size=size)

    def _write_history(self) -> None:
        with self._history_lock:
            lines = [*self._history]
            if lines:
                self._folder.append_lines(b"".join(lines))
            for line in lines:  # not before: if this failed, no checkpoint may be stored that follows on lost epochs
                self._history.popleft()
                self._written_bytes += len(line)

    def _store_checkpoint(self, trial: str, epoch: int, content: bytes) -> None:
        self._write_history()
        with self._history_lock:
            self._folder.flush()  # first, since a trial resumes only if the epochs before its checkpoint are known
        self._checkpoints.store(trial, epoch, content)

    def _store(self, result: TrialResult, attempts: int, *, with_model: bool) -> None:
        tensorboard = f"trials/{result.trial}/tb/events.out.tfevents.{result.trial}"
        self._folder.write(tensorboard, result.tensorboard)
        self._write_history()  # before the result, since a trial with a result is not run again
        store_result(self._folder, result, attempts, with_model=with_model)

    def _record_death(self, lost: LostAttempt) -> None:
        self._append(AttemptDied(trial=lost.trial, attempt=lost.attempt, reason=str(lost.death)))
        if lost.final:
            cause = lost.death.cause
            message = f"failed after {counted(lost.attempt, 'attempt')}: {lost.death}{ADVICE.get(cause.code, '')}"
            failure = TrialFailure(trial=lost.trial, code=cause.code, message=message, details=lost.death.traceback)
            self._end(failure, lost.attempt)
            return
        how = "starting it again"
        if lost.trial in self._checkpoints:
            epoch = self._epochs.get(lost.trial)
            how = "resuming from its checkpoint" if epoch is None else f"resuming at epoch {epoch + 1}"
        where = f" ({lost.death.details})" if lost.death.details else ""
        log.warning("attempt %d of %s died (%s); %s%s", lost.attempt, lost.trial, lost.death.cause.text, how, where)

    def _add(self, result: TrialResult, attempts: int) -> None:
        model = result.spec.model
        if model in self.tallies:
            self.tallies[model].add(result)
        else:
            self.tallies[model] = Tally(result)
        self._end(result, attempts)

    def _end(self, outcome: TrialResult | TrialFailure, attempts: int) -> None:
        self._checkpoints.forget(outcome.trial)
        self._trained.pop(outcome.trial, None)
        retry = isinstance(outcome, TrialFailure) and is_worth_a_retry(outcome.code)
        row = trial_summary(self._specs[outcome.trial], outcome, attempts, retry=retry)
        self.rows.append(row)
        self._writes.put(lambda: self._folder.write_json(f"trials/{outcome.trial}/result.json", row), outcome.trial)
        self._append(TrialEnded(trial=outcome.trial, status=row.status))
        position = f"[{len(self.rows)}/{len(self._specs)}] {outcome.trial}:"
        if isinstance(outcome, TrialResult):
            early = len(outcome.history) < outcome.spec.epochs
            short = f", after {len(outcome.history)} of {outcome.spec.epochs} epochs: out of time" if early else ""
            log.info("%s test accuracy %s%s", position, percent(outcome.test.value), short)
        else:
            log.warning("%s failed: %s %s", position, outcome.code, outcome.message)
            log.debug("%s", outcome.details)


def check_start(event: object, of_driver: Mapping[str, str]) -> None:
    """Check the versions of a lane that has started, and log the notices of a trial that has."""
    match event:
        case LaneStarted():
            require_same_versions(event.host, event.versions, of_driver)
        case Started():
            for notice in event.notices:
                log.warning("%s: %s", event.trial, notice)


def require_same_versions(host: str, of_worker: Mapping[str, str], of_driver: Mapping[str, str]) -> None:
    """Raise VersionsError if the package versions of a worker differ from those of the driver."""
    differing = differing_versions(of_worker, of_driver)
    if differing:
        raise VersionsError(
            f"the worker on {host} has different package versions from the driver: {differing}"
            "; install requirements/runtime.lock on every node"
        )


def _validated(event: EpochDone) -> str:
    return f"validation accuracy {event.validation.value:.4f}" if event.validation else "no validation"
