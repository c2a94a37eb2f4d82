"""The protocol `Objects`: what the store needs from a disk or a bucket, and which names of objects are valid.

`create` is the one operation that decides between concurrent writers: exactly one of them succeeds. Calling `exists`
and then `replace` does not: several of them could succeed.
"""

import os
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import Protocol, TypeVar

from mnist_lib.errors import SpecError, TooLargeError

T = TypeVar("T")
R = TypeVar("R")

NAME_PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*", re.ASCII)
MAX_PART_LENGTH = 200  # some storages allow 255 bytes, and the name of a temporary file is 34 longer

# Maximum sizes of objects that are read, in bytes. A record of a version with 1,000 classes has 0.1 MB, a summary of
# 1,000 trials has 2 MB, and a document with 100,000 epochs, each with the name of its trial, has 30 to 50 MB.
MAX_RECORD_BYTES, MAX_DOCUMENT_BYTES, MAX_EPOCHS_BYTES = 1 << 20, 1 << 25, 1 << 26
MAX_FILE_BYTES = 10**9  # of a version: 250 million weights
MAX_CHECKPOINT_BYTES = 5 * MAX_FILE_BYTES  # the weights, the best ones, and up to three slots of the optimizer

FAILPOINT_VARIABLE = "MNIST_FAILPOINT"
FAILPOINT_EXIT_STATUS = 86


class Objects(Protocol):
    """Named bytes below one root. A name is one or more parts joined by "/".

    Every method raises SpecError for an invalid name, and StoreError if the storage fails.
    """

    @property
    def max_concurrent_requests(self) -> int:
        """The number of requests that are worth making at the same time."""

    def read(self, name: str, limit: int = MAX_RECORD_BYTES) -> bytes | None:
        """Return the content of an object, or None if it does not exist.

        Raises TooLargeError, without reading it, if it has more than `limit` bytes.
        """

    def exists(self, name: str) -> bool:
        """Return whether an object of that name exists."""

    def create(self, name: str, content: bytes) -> bool:
        """Write a new object atomically and durably; return False and do nothing if the name is taken.

        A bucket may also return True if the object has exactly this content, since a request may have been sent twice.
        """

    def replace(self, name: str, content: bytes) -> None:
        """Write an object atomically and durably, whether or not it exists."""

    def append(self, name: str, content: bytes) -> None:
        """Append lines to an object that only this process writes. Those after the last `flush` may be lost."""

    def add(self, name: str, content: bytes) -> None:
        """Append lines durably and at once. If several processes write, none loses what another has added.

        An incomplete last line, as a killed process or a full disk may have left it, is removed first. One that lacks
        only its end, as an editor may leave it, gets its end.
        """

    def flush(self) -> None:
        """Write appended content that is still buffered."""

    def names(self, prefix: str) -> Iterator[str]:
        """Yield the name of every object below `prefix + "/"`, sorted; below the root if `prefix` is empty."""

    def folders(self, prefix: str) -> list[str]:
        """Return the names of the folders directly below `prefix + "/"`, sorted, without looking into them."""

    def delete(self, name: str) -> None:
        """Delete an object if it exists."""

    def delete_below(self, prefix: str) -> None:
        """Delete every object below `prefix + "/"`; those that another process creates meanwhile may remain."""

    def lock(self, name: str) -> AbstractContextManager[None]:
        """Exclude other processes until the context or this process ends.

        A disk excludes the processes of this machine. A bucket excludes those of all machines, but notices late that a
        holder is dead, and a holder that was suspended for long may lose the lock without notice.

        Raises BusyError, which names the holder, if the lock is held.
        """

    def is_locked(self, name: str) -> bool:
        """Return whether a process holds a lock. In a bucket, this waits for a heartbeat of the last holder."""

    def where(self, name: str) -> str:
        """Return the path or URL of an object, for messages."""


def concurrently(objects: Objects, request: Callable[[T], R], items: Sequence[T]) -> Iterator[R]:
    """Yield the result of a request to the objects for each item, in order.

    A bucket takes tens of milliseconds for each request, so that threads save time. On a disk they only add to it.
    """
    if objects.max_concurrent_requests == 1:
        yield from map(request, items)
        return
    with ThreadPoolExecutor(objects.max_concurrent_requests) as threads:
        yield from threads.map(request, items)


def require_size(where: str, size: int, limit: int) -> None:
    """Raise TooLargeError if the object at `where` has more than `limit` bytes."""
    if size > limit:
        raise TooLargeError(f"{where}: expected at most {limit:,} bytes, got {size:,}; restore it from a copy")


def check_part(what: str, part: str, max_length: int = MAX_PART_LENGTH) -> None:
    """Raise SpecError, with a message that begins with `what`, if `part` is not valid in names on every storage."""
    if len(part) > max_length or not NAME_PART.fullmatch(part):
        raise SpecError(
            f"{what}: expected up to {max_length} letters, digits, '.', '_' or '-', beginning with a letter or digit"
            f", got {part[:max_length]!r}; choose another"
        )


def check_name(name: str) -> None:
    """Raise SpecError for a name that could lead out of the root, or name different objects on different storages."""
    for part in name.split("/"):
        check_part("name of an object", part)


def failpoint(name: str) -> None:
    """End the process here if the environment names this failpoint. For tests of what a killed process leaves."""
    if os.environ.get(FAILPOINT_VARIABLE) == name:
        os._exit(FAILPOINT_EXIT_STATUS)  # like a kill: nothing is flushed, no `finally` runs
