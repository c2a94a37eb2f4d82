"""The newest checkpoints of trials that have not ended, in memory as far as they fit."""

import threading

from mnist_lib.store.resumption import newest_checkpoint, store_checkpoint
from mnist_lib.store.runs import RunFolder

MAX_HELD_BYTES = 256_000_000  # above it, stored ones are dropped; reading them again delays events


class Checkpoints:
    """The newest checkpoint of each trial. The methods may be called from several threads."""

    def __init__(self, folder: RunFolder) -> None:
        self._folder, self._lock = folder, threading.Lock()
        self._held: dict[str, bytes | None] = {}  # None: too large to be held; it is in the storage

    def __contains__(self, trial: str) -> bool:
        return trial in self._held

    def get(self, trial: str) -> bytes | None:
        """Return the newest checkpoint of a trial, or None if it has none."""
        held = self._held.get(trial)
        return newest_checkpoint(self._folder, trial) if held is None and trial in self._held else held

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

    def _hold_no_more_than_fits(self, trial: str, stored: bytes) -> None:
        """Forget the content of a stored checkpoint if the checkpoints in memory exceed MAX_HELD_BYTES."""
        with self._lock:
            held = sum(len(content) for content in self._held.values() if content is not None)
            if held > MAX_HELD_BYTES and self._held.get(trial) is stored:
                self._held[trial] = None
