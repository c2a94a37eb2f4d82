"""Storages in which something happens at the n-th operation or byte: an error, a kill, or another process's work."""

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from unittest import mock

from mnist_lib.errors import StoreError
from mnist_lib.objects.protocol import MAX_RECORD_BYTES, Objects


class KilledError(BaseException):
    """Simulates a kill of the process: `except Exception` does not catch it."""


READS = ("read", "exists", "names", "folders", "is_locked")


class Faulty:
    """Forwards to `objects`, but operation number `at` (from 1) fails: before it is done or, with `late`, after.

    With `late`, reads do not count: one that fails after it is done is like one that fails before.
    """

    def __init__(self, objects: Objects, at: int, error: type[BaseException], *, late: bool) -> None:
        self._objects, self._at, self._error, self._late = objects, at, error, late
        self.operations = 0
        self._one_at_a_time = threading.RLock()
        self._dead = False
        self.where, self.max_concurrent_requests = objects.where, objects.max_concurrent_requests

    @contextlib.contextmanager
    def lock(self, name: str) -> Iterator[None]:
        with self._objects.lock(name):
            yield

    def read(self, name: str, limit: int = MAX_RECORD_BYTES) -> bytes | None:
        return self._run("read", name, limit)

    def exists(self, name: str) -> bool:
        return self._run("exists", name)

    def create(self, name: str, content: bytes) -> bool:
        return self._run("create", name, content)

    def replace(self, name: str, content: bytes) -> None:
        self._run("replace", name, content)

    def append(self, name: str, content: bytes) -> None:
        self._run("append", name, content)

    def add(self, name: str, content: bytes) -> None:
        self._run("add", name, content)

    def flush(self) -> None:
        self._run("flush")

    def names(self, prefix: str) -> Iterator[str]:
        return self._run("names", prefix)

    def folders(self, prefix: str) -> list[str]:
        return self._run("folders", prefix)

    def delete(self, name: str) -> None:
        self._run("delete", name)

    def delete_below(self, prefix: str) -> None:
        self._run("delete_below", prefix)

    def is_locked(self, name: str) -> bool:
        return self._run("is_locked", name)

    def _run(self, operation: str, *arguments: object):  # type: ignore[no-untyped-def]
        with self._one_at_a_time:
            return self._run_alone(operation, *arguments)

    def _run_alone(self, operation: str, *arguments: object):  # type: ignore[no-untyped-def]
        if self._dead:
            raise KilledError("the process has ended")  # a dead process runs no `finally`
        if self._late and operation in READS:
            return getattr(self._objects, operation)(*arguments)
        self.operations += 1
        fails = self.operations == self._at
        if fails and not self._late:
            raise self._failure()
        result = getattr(self._objects, operation)(*arguments)
        if fails:
            raise self._failure()
        return result

    def _failure(self) -> BaseException:
        self._dead = self._error is KilledError
        return self._error(f"operation {self._at}")


FAULTS = [(error, late) for error in (StoreError, KilledError) for late in (False, True)]


class Interrupted(Faulty):
    """Objects that call `other` just before operation number `at`, and `each` before every operation."""

    def __init__(
        self,
        objects: Objects,
        at: int,
        other: Callable[[Objects], None],
        each: Callable[[], object] = lambda: None,
    ) -> None:
        super().__init__(objects, at=0, error=KilledError, late=False)
        self._interrupted_at, self._other, self._each = at, other, each

    def _run_alone(self, operation: str, *arguments: object):  # type: ignore[no-untyped-def]
        self._each()
        if self.operations + 1 == self._interrupted_at:
            self._other(self._objects)
        return super()._run_alone(operation, *arguments)


@contextlib.contextmanager
def writes_that_end(after: int, error: BaseException) -> Iterator[None]:
    """Let `os.write` raise an error after so many bytes. After a kill, nothing is truncated, either."""
    left, original = after, os.write

    def write(descriptor: int, content: bytes) -> int:
        nonlocal left
        if not left:
            raise error
        written = original(descriptor, content[:left])
        left -= written
        return written

    def truncate(descriptor: int, size: int) -> None:
        if not left and isinstance(error, KilledError):
            raise error
        truncated(descriptor, size)

    truncated = os.ftruncate
    with mock.patch.object(os, "write", write), mock.patch.object(os, "ftruncate", truncate):
        yield
