"""Records every event of a run in the log and the run's folder, and has the newest checkpoint of each trial.

The storage has all checkpoints. The newest ones are also in memory, so that a configuration of a search that goes on,
or a trial whose lane has died, need not wait for the storage. Others are read by the threads of the queue of writes.
"""

import logging
import threading
from collections import deque
from concurrent.futures import Future
from functools import partial
from typing import Any, Self

from cluster.deadlines import Wait
from cluster.supervisor import LostAttempt
from jobs.train.write_queue import WriteQueue
from mnist_lib.environment import package_versions, require_same_versions
from mnist_lib.errors import StoreError
from mnist_lib.results import CheckpointTaken, EpochDone, HistoryEntry, LaneStarted, TrialFailure, TrialStarted
from mnist_lib.store.history import AttemptDied
from mnist_lib.store.resumption import newest_checkpoint, store_checkpoint
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
MAX_CACHED_BYTES = 256_000_000
MAX_READ_BYTES = 256_000_000  # of checkpoints that no lane has been given yet, unless a single one is larger


class Checkpoints:
    """The newest checkpoint of each trial.

    Args:
        writes: its threads read checkpoints, each after the writes of its trial.
    """

    def __init__(self, folder: RunFolder, writes: WriteQueue) -> None:
        self._folder = folder
        self._writes = writes
        self._epochs: dict[str, float] = {}  # trained up to the newest checkpoint; 0 if there is none
        self._cached: dict[str, bytes] = {}  # the oldest one first
        self._reads: dict[str, Future[bytes | None]] = {}  # until `get` returns the content
        self._largest = 0  # bytes, of the checkpoints so far
        self._wait = Wait("a checkpoint in the storage", clock=writes.time)

    def note(self, trial: str, epochs: float, content: bytes = b"") -> None:
        """Note the newest checkpoint of a trial. The caller stores it.

        Args:
            epochs: the number that was trained up to it; 0 if there is none.
            content: empty if it is in the storage already.
        """
        self._epochs[trial] = epochs
        if content:
            self._largest = max(self._largest, len(content))
            self._cached.pop(trial, None)
            self._cached[trial] = content
            while sum(map(len, self._cached.values())) > MAX_CACHED_BYTES:
                del self._cached[next(iter(self._cached))]

    def epochs(self, trial: str) -> float:
        """Return the number of epochs up to the newest checkpoint of a trial that this driver knows; 0 without one."""
        return self._epochs.get(trial, 0)

    def is_ready(self, trial: str) -> bool:
        """Return whether `get` can be called. If not, begin to read the checkpoint, unless too many wait for lanes."""
        # An earlier driver may have stored a checkpoint of any trial.
        may_have_one = self._epochs[trial] > 0 if trial in self._epochs else self._folder.resumed
        if trial in self._cached or not may_have_one:
            return True
        if trial not in self._reads and len(self._reads) < max(1, MAX_READ_BYTES // (self._largest or MAX_READ_BYTES)):
            self._wait.restart()
            self._reads[trial] = read = Future[bytes | None]()
            self._writes.put(lambda: read.set_result(newest_checkpoint(self._folder, trial)), trial)
        is_ready = trial in self._reads and self._reads[trial].done()
        if not is_ready:
            self._wait.log_if_due()
        return is_ready

    def get(self, trial: str) -> bytes | None:
        """Return the newest checkpoint of a trial for which `is_ready` was true, or None if it has none."""
        if trial not in self._reads:
            return self._cached.get(trial)
        content = self._reads.pop(trial).result()
        self._largest = max(self._largest, len(content or b""))
        return content

    def forget(self, trial: str) -> None:
        for known in (self._epochs, self._cached, self._reads):
            known.pop(trial, None)


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
        """Record and return an event of a lane or a death; return a death with no further attempt as a `TrialFailure`.

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
        """Write the entries that were appended, before anything that depends on them is stored.

        Args:
            flush: whether to write also what the storage has buffered.
        """
        with self._history_lock:
            lines = [*self._history]
            if lines:
                self.folder.append_lines(b"".join(lines))
            # Remove only written lines: otherwise, if the write fails, a checkpoint after lost epochs could be stored.
            for line in lines:
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
