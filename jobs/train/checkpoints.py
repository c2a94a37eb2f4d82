"""The newest checkpoints of trials that have not ended, in memory as far as they fit."""

import threading
from functools import partial

from cluster.deadlines import Wait
from jobs.train.write_queue import WriteQueue
from mnist_lib.store.resumption import newest_checkpoint, store_checkpoint
from mnist_lib.store.runs import RunFolder

MAX_HELD_BYTES = 256_000_000  # above it, stored ones are dropped, and read again when they are needed
MAX_READS = 16  # of checkpoints that nobody has taken yet


class Checkpoints:
    """The newest checkpoint of each trial. The methods may be called from several threads.

    Args:
        writes: its threads read checkpoints, too.
        key: the key in `writes` that all checkpoints share; "" if each trial has its own.
    """

    def __init__(self, folder: RunFolder, writes: WriteQueue, key: str = "") -> None:
        self._folder, self._writes, self._key, self._lock = folder, writes, key, threading.Lock()
        self._held: dict[str, bytes | None] = {}  # None: too large to be held, or not read yet
        self._reads: dict[str, Wait] = {}  # by trial, until its checkpoint is taken

    def __contains__(self, trial: str) -> bool:
        return trial in self._held

    def is_ready(self, trial: str) -> bool:
        """Return whether `get` returns at once. If it would not, begin to read the checkpoint."""
        if self._held.get(trial, b"") is not None:
            return True
        if trial in self._reads:
            self._reads[trial].log_if_due()
        elif len(self._reads) < MAX_READS:
            self._reads[trial] = Wait(f"the checkpoint of {trial} in the storage", clock=self._writes.time)
            self._writes.put(partial(self._read_now, trial), self._key or trial)
        return False

    def _read_now(self, trial: str) -> None:
        content = newest_checkpoint(self._folder, trial)
        with self._lock:
            if trial in self._held and content is None:
                del self._held[trial]
            elif trial in self._held and self._held[trial] is None:
                self._held[trial] = content

    def get(self, trial: str) -> bytes | None:
        """Return the newest checkpoint of a trial, or None if it has none. Read it if it is not in memory."""
        held = self._held.get(trial)
        content = newest_checkpoint(self._folder, trial) if held is None and trial in self._held else held
        if self._reads.pop(trial, None) and content is not None:
            self._hold_no_more_than_fits(trial, content)
        return content

    def expect(self, trial: str) -> None:
        """Note that an earlier driver may have stored a checkpoint."""
        self._held[trial] = None

    def read(self, trial: str) -> None:
        """Read the newest checkpoint that an earlier driver has stored."""
        if content := newest_checkpoint(self._folder, trial):
            self.put(trial, content)
            self._hold_no_more_than_fits(trial, content)

    def put(self, trial: str, content: bytes) -> None:
        with self._lock:
            self._held[trial] = content

    def store(self, trial: str, epoch: int, content: bytes) -> None:
        """Store a checkpoint that `put` was given."""
        store_checkpoint(self._folder, trial, epoch, content)
        self._hold_no_more_than_fits(trial, content)

    def forget(self, trial: str) -> None:
        with self._lock:
            self._held.pop(trial, None)
            self._reads.pop(trial, None)

    def _hold_no_more_than_fits(self, trial: str, stored: bytes) -> None:
        """Forget the content of a stored checkpoint if the checkpoints in memory exceed MAX_HELD_BYTES."""
        with self._lock:
            held = sum(len(content) for content in self._held.values() if content is not None)
            if held > MAX_HELD_BYTES and self._held.get(trial) is stored:
                self._held[trial] = None
