"""A storage in memory, fast enough for thousands of runs a minute, and a queue of writes that take virtual time."""

import contextlib
import functools
from collections.abc import Callable, Iterator

from jobs.train.write_queue import MAX_CONCURRENT_WRITES, MAX_UNWRITTEN, POLL_SECONDS, Write, WriteQueue
from mnist_lib.objects.protocol import MAX_RECORD_BYTES, check_name
from tests.support.simulation.clock import VirtualClock


class MemoryObjects:
    """`mnist_lib.objects.protocol.Objects` in memory, as one process sees them.

    Appended content is stored at once, so `flush` does nothing. As in a bucket, all that this process has appended to
    an object is written each time, so that a process that appends to the object of another one overwrites it.

    Args:
        content: that of another process, to share it.
    """

    max_concurrent_requests = 1

    def __init__(self, content: dict[str, bytes] | None = None) -> None:
        self.content: dict[str, bytes] = {} if content is None else content
        self._appended: dict[str, bytes] = {}

    def read(self, name: str, limit: int = MAX_RECORD_BYTES) -> bytes | None:
        return self.content.get(name)

    def exists(self, name: str) -> bool:
        return name in self.content

    def create(self, name: str, content: bytes) -> bool:
        check_name(name)
        return self.content.setdefault(name, content) is content

    def replace(self, name: str, content: bytes) -> None:
        check_name(name)
        self.content[name] = content

    def append(self, name: str, content: bytes) -> None:
        self._appended[name] = self._appended.get(name, self.content.get(name, b"")) + content
        self.content[name] = self._appended[name]

    def add(self, name: str, content: bytes) -> None:
        self.content[name] = self.content.get(name, b"") + content

    def flush(self) -> None:
        pass

    def names(self, prefix: str) -> Iterator[str]:
        yield from sorted(name for name in [*self.content] if not prefix or name.startswith(f"{prefix}/"))

    def folders(self, prefix: str) -> list[str]:
        below = (name.removeprefix(f"{prefix}/").split("/") for name in self.names(prefix))
        return sorted({first for first, *others in below if others})

    def delete(self, name: str) -> None:
        self.content.pop(name, None)

    def delete_below(self, prefix: str) -> None:
        for name in [*self.names(prefix)]:
            del self.content[name]

    @contextlib.contextmanager
    def lock(self, name: str) -> Iterator[None]:
        yield

    def is_locked(self, name: str) -> bool:
        return False

    def where(self, name: str) -> str:
        return f"memory/{name}"


class SimulatedWrites(WriteQueue):
    """Makes writes that take virtual seconds, since threads would make a simulation depend on the machine.

    Args:
        seconds: how long each write takes.
        concurrent: how many are made at a time.
        most: how many may wait before events have to wait, too.
    """

    def __init__(
        self, clock: VirtualClock, seconds: float, concurrent: int = MAX_CONCURRENT_WRITES, most: int = MAX_UNWRITTEN
    ) -> None:
        super().__init__(threads=0, clock=clock)
        self._clock, self._seconds, self._concurrent, self.max_unwritten = clock, seconds, concurrent, most
        self._stalled_until = 0.0
        self._has_ended = self._is_stopped = False

    @contextlib.contextmanager
    def stopped(self) -> Iterator[None]:
        """Begin no write until the context ends, as if the process of the driver were stopped; begun ones end."""
        self._is_stopped = True
        try:
            yield
        finally:
            self._is_stopped = False
            self._begin_next()

    def end(self) -> None:
        """End the process of the driver, and with it the threads that write."""
        self._has_ended = True

    def stall(self, seconds: float) -> None:
        """Let no write that begins from now on end before that."""
        self._stalled_until = self._clock.now + seconds

    @property
    def is_behind(self) -> bool:
        """Return whether events have to wait for the storage."""
        return self._count >= self.max_unwritten

    def put(self, make: Callable[[], None], key: str, *, in_place_of: str = "", size: int = 0) -> None:
        super().put(make, key, in_place_of=in_place_of, size=size)
        self._begin_next()

    def _pause(self) -> None:
        self._clock.sleep(POLL_SECONDS)

    def _begin_next(self) -> None:
        while not self._is_stopped and self._next_key() is not None and len(self._in_progress) < self._concurrent:
            key, write = self._begin()
            seconds = max(self._seconds, self._stalled_until - self._clock.now)
            if seconds > 0:
                self._clock.after(seconds, functools.partial(self._make, key, write))
            else:
                self._make(key, write)
                self._raise_error()

    def _make(self, key: str, write: Write) -> None:
        if not self._has_ended:
            super()._make(key, write)
            self._begin_next()
