"""Threads that write to the storage and read checkpoints, so that slow storage delays no event and no deadline."""

import logging
import math
import threading
import time
from collections.abc import Callable, Sized
from functools import partial
from typing import NamedTuple

from cluster.deadlines import Clock, RunningTime, Wait
from jobs.console.signals import MAX_CONCURRENT_WRITES, UNINTERRUPTED
from mnist_lib.errors import StoreError
from mnist_lib.store.resumption import newest_checkpoint, store_checkpoint
from mnist_lib.store.runs import RunFolder
from mnist_lib.wording import counted

log = logging.getLogger(__name__)

POLL_SECONDS = 0.5  # between two looks at the progress of the storage
MAX_STALL_SECONDS = 600.0  # without the end of any write; a write to a bucket takes several requests
MAX_NAMED_KEYS = 5  # in one message
# Limits on the writes that wait for the storage; beyond them, lanes wait.
MAX_UNWRITTEN, MAX_UNWRITTEN_BYTES = 1_000, 256_000_000
MAX_HELD_BYTES = 256_000_000  # of checkpoints; above it, stored ones are dropped, and read again when they are needed
MAX_READS = 16  # of checkpoints that nobody has taken yet


class Write(NamedTuple):
    make: Callable[[], None]
    size: int  # bytes that it holds in memory


class WriteQueue:
    """A queue of writes that threads make. Writes with the same key are made one at a time, in order.

    It has threads of its own, since Python waits at its exit for those of a `ThreadPoolExecutor`, which could wait for
    a storage that hangs.

    After a write has failed, or none has ended for MAX_STALL_SECONDS, no more are made.
    """

    max_unwritten = MAX_UNWRITTEN

    def __init__(self, threads: int = MAX_CONCURRENT_WRITES, clock: Clock = time) -> None:
        self._changed = threading.Condition()
        self.time = RunningTime(clock)
        self._stall = Wait("the end of a write", clock=self.time)
        self._wait = Wait("the storage", clock=self.time)
        self._waiting: dict[str, dict[object, Write]] = {}  # by key and name, in order; no queue in it is empty
        self._count = self._bytes = 0
        self._in_progress: set[str] = set()
        self._error: BaseException | None = None
        self._closed = False
        self._threads = [threading.Thread(target=self._run, name="recorder", daemon=True) for _ in range(threads)]
        for thread in self._threads:
            thread.start()

    def put(self, make: Callable[[], None], key: str, *, in_place_of: str = "", size: int = 0) -> None:
        """Queue a write. It replaces the waiting write with that key and name (`in_place_of`), if there is one.

        Args:
            size: the bytes that it holds in memory, if they are many.

        Raises what an earlier write raised.
        """
        with self._changed:
            self._raise_error()
            writes, name = self._waiting.setdefault(key, {}), in_place_of or object()
            replaced = writes.get(name)
            self._count += replaced is None
            self._bytes += size - (replaced.size if replaced else 0)
            writes[name] = Write(make, size)  # in the place of the one that it replaces
            self._changed.notify()

    @property
    def is_full(self) -> bool:
        """Return whether too much is waiting for the storage.

        Raises what a write raised, and StoreError if no write has ended for MAX_STALL_SECONDS.
        """
        self._raise_error()
        full = self._count >= self.max_unwritten or self._bytes >= MAX_UNWRITTEN_BYTES
        self._check_progress(waits=full)
        return full

    def close(self) -> None:
        """Wait until every write is made. Raises as `is_full` does."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            while self._count or self._in_progress:
                self._pause()
                self._check_progress(waits=True)
        self._raise_error()

    def _pause(self) -> None:
        self._changed.wait(POLL_SECONDS)

    def _check_progress(self, *, waits: bool) -> None:
        """Raise StoreError if no write has ended for too long. `waits`: whether the run waits for the storage."""
        self.time.tick()
        if not waits:
            self._wait.restart()
        if not self._in_progress:
            self._stall.restart()
        elif self._stall.seconds > MAX_STALL_SECONDS:
            with self._changed:
                keys = [*dict.fromkeys([*sorted(self._in_progress), *self._waiting])]
                named = ", ".join(keys[:MAX_NAMED_KEYS]) + (", ..." if len(keys) > MAX_NAMED_KEYS else "")
                writes = counted(self._count + len(self._in_progress), "write")
                self._fail(
                    StoreError(
                        f"storage: expected the end of a write within {MAX_STALL_SECONDS:.0f} s, got none; not stored:"
                        f" {writes} of {named}; check the storage, then run the same command again"
                    )
                )
            self._raise_error()
        elif waits:
            self._wait.log_if_due(lambda: f"writes left: {self._count + len(self._in_progress)}")

    def _raise_error(self) -> None:
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._next_key() is not None)
                if self._next_key() is None:
                    return  # what is left belongs to keys that other threads are working on
                key, write = self._begin()
            with UNINTERRUPTED:
                self._make(key, write)

    def _next_key(self) -> str | None:
        return next((key for key in self._waiting if key not in self._in_progress), None)

    def _begin(self) -> tuple[str, Write]:
        key = self._next_key()
        assert key is not None
        writes = self._waiting.pop(key)
        write = writes.pop(next(iter(writes)))
        self._count -= 1
        self._in_progress.add(key)
        if writes:
            self._waiting[key] = writes  # behind the other keys
        return key, write

    def _make(self, key: str, write: Write) -> None:
        try:
            write.make()
        except BaseException as error:
            with self._changed:
                self._fail(error)
        finally:
            with self._changed:
                self._in_progress.remove(key)
                self._bytes -= write.size
                self._stall.restart()
                self._changed.notify_all()

    def _fail(self, error: BaseException) -> None:
        self._error = self._error or error
        self._waiting.clear()
        self._count = 0


class Checkpoints:
    """The newest checkpoint of each trial. The methods may be called from several threads.

    Args:
        writes: its threads read checkpoints, too.
    """

    def __init__(self, folder: RunFolder, writes: WriteQueue) -> None:
        self._folder, self._writes, self._lock = folder, writes, threading.Lock()
        self._held: dict[str, bytes | None] = {}  # None: too large to be held, or not read yet
        self._known: dict[str, Sized] = {}  # the known epochs of trials whose checkpoint is of an earlier driver
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
            self._writes.put(partial(self._read_now, trial), trial)
        return False

    def _read_now(self, trial: str) -> None:
        content = self._read(trial)
        with self._lock:
            if trial in self._held and content is None:
                del self._held[trial]
            elif trial in self._held and self._held[trial] is None:
                self._held[trial] = content

    def get(self, trial: str) -> bytes | None:
        """Return the newest checkpoint of a trial, or None if it has none. Read it if it is not in memory."""
        held = self._held.get(trial)
        content = self._read(trial) if held is None and trial in self._held else held
        if self._reads.pop(trial, None) and content is not None:
            self._hold_no_more_than_fits(trial, content)
        return content

    def _read(self, trial: str) -> bytes | None:
        epochs = len(self._known[trial]) if trial in self._known else math.inf
        return newest_checkpoint(self._folder, trial, epochs)

    def expect(self, trial: str, epochs: Sized | None = None) -> None:
        """Note that an earlier driver may have stored a checkpoint, which is read when it is needed.

        Args:
            epochs: those that are known, if they are needed to resume from the checkpoint.
        """
        self._held[trial] = None
        if epochs is not None:
            self._known[trial] = epochs

    def put(self, trial: str, content: bytes) -> None:
        with self._lock:
            self._held[trial] = content

    def store(self, trial: str, epoch: float, content: bytes) -> None:
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
