"""The newest checkpoint of each trial, for the lane that goes on with it.

The storage has all of them. The newest ones are also in memory, so that a configuration of a search that goes on, or a
trial whose lane has died, need not wait for the storage. Others are read by the threads of the queue of writes.
"""

from concurrent.futures import Future

from cluster.deadlines import Wait
from jobs.train.write_queue import WriteQueue
from mnist_lib.store.resumption import newest_checkpoint
from mnist_lib.store.runs import RunFolder

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
