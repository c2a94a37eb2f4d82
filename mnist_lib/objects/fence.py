"""Objects for the holder of a lease, whose writes are refused once another process has taken over; and locks.

A holder that was suspended may not know that it has lost the lease. A later term has a higher number, by which its late
writes are recognised, even if it was suspended between a check and the request that followed.
"""

import contextlib
import logging
import math
import os
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

from mnist_lib.clock import Clock, SystemClock, now_text
from mnist_lib.errors import BusyError, ConflictError, SpecError, StoreError
from mnist_lib.objects.lease import Lease, LeaseTerm, is_superseded, lease_folder, newest_term
from mnist_lib.objects.protocol import Fence, Objects, check_part

log = logging.getLogger(__name__)

LOCK_SECONDS = 15.0  # without a heartbeat before another process takes over a lock
SECONDS_BETWEEN_QUESTIONS = 1.0  # between two checks whether a lease is still held


@dataclass(frozen=True)
class TermFence:
    """The `protocol.Fence` of one term of a lease, within that of another lease if there is one."""

    objects: Objects
    folder: str
    number: int
    outer: Fence | None = None

    @property
    def lock(self) -> str:
        return f"{self.folder}/writing"

    def check(self) -> None:
        if is_superseded(self.objects, self.folder, self.number):
            raise ConflictError(
                f"{self.objects.where(self.folder)}: lease {self.number} has passed to another process, which"
                " continues this work; nothing is left to do here"
            )
        if self.outer is not None:
            self.outer.check()


class FencedObjects:
    """A wrapper of `objects` for the holder of term `number` of the lease in `folder`.

    Once a later term has begun, `create` raises ConflictError; within a second, all other methods that write do, too.
    `create` commits versions and appoints champions; the others check rarely, since each check is a request. Meanwhile,
    `replace` and `append` change nothing that a later holder has written: see `protocol.Objects`. No name is both
    created and replaced, except for the record of a run that is begun anew under its lock. A deletion may come late;
    what is deleted is not needed, or costs the repetition of a trial.
    """

    def __init__(self, objects: Objects, folder: str, number: int, clock: Clock) -> None:
        self._objects, self._folder, self._number, self._clock = objects, folder, number, clock
        self._fence = TermFence(objects, folder, number)
        self._asked_at = -math.inf
        self.read, self.lines, self.exists, self.names = objects.read, objects.lines, objects.exists, objects.names
        self.folders, self.where = objects.folders, objects.where

    @contextlib.contextmanager
    def lock(self, name: str) -> Iterator[Objects]:
        with self._objects.lock(name) as objects:
            yield FencedObjects(objects, self._folder, self._number, self._clock)

    def create(self, name: str, content: bytes) -> bool:
        self._asked_at = -math.inf
        return self._writable().create(name, content)

    def replace(self, name: str, content: bytes, fence: Fence | None = None) -> None:
        self._writable().replace(name, content, self._within(fence))

    def append(self, name: str, content: bytes, fence: Fence | None = None) -> None:
        self._writable().append(name, content, self._within(fence))

    def add(self, name: str, content: bytes) -> None:
        self._writable().add(name, content)

    def flush(self) -> None:
        self._writable().flush()

    def delete(self, name: str) -> None:
        self._writable().delete(name)

    def delete_below(self, prefix: str) -> None:
        self._writable().delete_below(prefix)

    def delete_leftovers(self, prefix: str) -> None:
        self._writable().delete_leftovers(prefix)

    def _within(self, outer: Fence | None) -> Fence:
        return self._fence if outer is None else replace(self._fence, outer=outer)

    def _writable(self) -> Objects:
        now = self._clock.monotonic()
        if now - self._asked_at > SECONDS_BETWEEN_QUESTIONS:
            self._fence.check()
            self._asked_at = now
        return self._objects


def fence(objects: Objects, lease: str, clock: Clock | None = None) -> FencedObjects:
    """Return `objects`, fenced by a lease and its term, such as "nightly:7". Raises SpecError for other text."""
    schedule, colon, number = lease.rpartition(":")
    if not colon or not number.isascii() or not number.isdigit():
        raise SpecError(f"lease: expected a schedule and a number, such as nightly:7, got {lease!r}")
    check_part("lease", schedule)
    return FencedObjects(objects, lease_folder(schedule), int(number), clock or SystemClock())


@contextlib.contextmanager
def locked(objects: Objects, folder: str, time_to_live: float = LOCK_SECONDS) -> Iterator[FencedObjects]:
    """Exclude other processes on all machines until the context ends, and provide the objects for use in it.

    If the holder has died, this waits for the time to live.

    Raises:
        BusyError: the holder is alive.
    """
    clock = SystemClock()
    term = LeaseTerm(holder=f"process {os.getpid()}", host=socket.gethostname(), since=now_text())
    lease = Lease(objects, folder, term, time_to_live=time_to_live, clock=clock)
    if not lease.acquire():
        log.info(
            "%s: waiting %.0f s for a heartbeat of %s", objects.where(folder), time_to_live, _holder(objects, folder)
        )
    while not (lease.number or lease.acquire()):
        if lease.heard:
            raise BusyError(
                f"{objects.where(folder)}: expected no lock, got one held by {_holder(objects, folder)}"
                "; wait for that process, or end it"
            )
        time.sleep(lease.seconds_between_beats / 5)
    assert lease.number is not None
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(lease.seconds_between_beats):
            with contextlib.suppress(StoreError):
                lease.beat()

    thread = threading.Thread(target=beat, name="lock", daemon=True)
    thread.start()
    try:
        yield FencedObjects(objects, folder, lease.number, clock)
    finally:
        ended.set()
        thread.join()
        with contextlib.suppress(StoreError):
            lease.release()


def _holder(objects: Objects, folder: str) -> str:
    term = newest_term(objects, folder)
    return f"{term.holder} on {term.host} since {term.since}" if term else "another process"
