"""Records every event of a run in the log and the run's folder."""

import logging
import threading
from collections import deque
from functools import partial
from typing import Any, Self

from cluster.supervisor import LostAttempt
from jobs.train.checkpoints import Checkpoints
from jobs.train.write_queue import WriteQueue
from mnist_lib.environment import package_versions, require_same_versions
from mnist_lib.errors import StoreError
from mnist_lib.results import CheckpointTaken, EpochDone, HistoryEntry, LaneStarted, TrialFailure, TrialStarted
from mnist_lib.store.history import AttemptDied
from mnist_lib.store.resumption import store_checkpoint
from mnist_lib.store.runs import RunFolder, history_line
from mnist_lib.wording import counted

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
    """Records the events of trials, from entering its context to leaving it.

    Args:
        writes: the queue of writes; simulations use one without threads.
    """

    def __init__(self, folder: RunFolder, writes: WriteQueue | None = None) -> None:
        self.folder = folder
        self.writes = writes or WriteQueue()
        self.checkpoints = Checkpoints(folder, self.writes)
        self._versions = package_versions()
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

    @property
    def is_full(self) -> bool:
        """Whether too much waits for the storage. Raises StoreError if an earlier event could not be stored."""
        return self.writes.is_full

    def record(self, event: Any) -> Any:
        """Record an event of a lane or a death, and return it; a death without another attempt as a `TrialFailure`.

        Raises:
            VersionsError: a worker has different package versions than this process.
            StoreError: an earlier event could not be stored.
        """
        match event:
            case LaneStarted():
                require_same_versions(event.host, event.versions, self._versions)
            case TrialStarted():
                for notice in event.notices:
                    log.warning("%s: %s", event.trial, notice)
                self.checkpoints.note(event.trial, event.resumed_after)
                self.append(event)
            case EpochDone():
                found = event.validation
                score = f"validation {found.score_name} {found.score:.4f}" if found else "no validation"
                log.debug("%s: epoch %d, loss %.4f, %s", event.trial, event.epoch, event.loss, score)
                self.append(event)
            case CheckpointTaken() if len(event.content):
                self.checkpoints.note(event.trial, event.epoch, event.content)
                write = partial(self._store_checkpoint, event)
                self.writes.put(write, event.trial, in_place_of="checkpoint", size=len(event.content))
            case LostAttempt():
                self.append(AttemptDied(trial=event.trial, attempt=event.attempt, reason=str(event.death)))
                if event.final:
                    return _failure(event)
                self._log_death(event)
        return event

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

    def _store_checkpoint(self, taken: CheckpointTaken) -> None:
        self.write_history(flush=True)  # a trial resumes only if the epochs before its checkpoint are known
        store_checkpoint(self.folder, taken.trial, taken.epoch, taken.content)

    def _log_death(self, lost: LostAttempt) -> None:
        epochs = self.checkpoints.epochs(lost.trial)
        how = f"resuming after {counted(epochs, 'epoch')}" if epochs else "trying it again"
        where = f" ({lost.death.details})" if lost.death.details else ""
        log.warning("attempt %d of %s died (%s); %s%s", lost.attempt, lost.trial, lost.death.cause.text, how, where)


def _failure(lost: LostAttempt) -> TrialFailure:
    """Return the failure of a trial whose last attempt has died."""
    code = lost.death.cause.code
    message = f"failed after {counted(lost.attempt, 'attempt')}: {lost.death}{ADVICE.get(code, '')}"
    return TrialFailure(trial=lost.trial, code=code, message=message, details=lost.death.traceback)
