"""Threads that write to the storage and read checkpoints, so that slow storage delays no event and no deadline."""

import logging
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

from cluster.deadlines import Clock, RunningTime, Wait
from mnist_lib.errors import StoreError
from mnist_lib.wording import counted

log = logging.getLogger(__name__)

POLL_SECONDS = 0.5  # between two checks of the progress
MAX_STALL_SECONDS = 600.0  # without a finished write; a write to a bucket takes several requests
MAX_NAMED_KEYS = 5  # in one message
MAX_CONCURRENT_WRITES = 16
# Limits on the writes that wait for the storage; beyond them, lanes wait.
MAX_UNWRITTEN = 1_000
MAX_UNWRITTEN_BYTES = 256_000_000


class Write(NamedTuple):
    make: Callable[[], None]
    size: int  # bytes that it holds in memory


class WriteQueue:
    """A queue of writes that threads make. Writes with the same key are made one at a time, in order.

    It has its own daemon threads: at exit, Python would wait for those of a `ThreadPoolExecutor`, even if the storage
    hangs.

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
            writes = self._waiting.setdefault(key, {})
            name = in_place_of or object()
            replaced = writes.get(name)
            self._count += replaced is None
            self._bytes += size - (replaced.size if replaced else 0)
            writes[name] = Write(make, size)  # in the place of the one that it replaces
            self._changed.notify()

    @property
    def is_full(self) -> bool:
        """Whether too much is waiting for the storage.

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
        while self._make_next():
            pass  # nothing here refers to a write, so that a thread that waits holds no content

    def _make_next(self) -> bool:
        """Wait for a write and make it; return False if there will be no more for this thread."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._next_key() is not None)
            if self._next_key() is None:
                return False  # what is left belongs to keys that other threads are working on
            key, write = self._begin()
        self._make(key, write)
        return True

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
