"""A lease: the right to act, held by one process at a time across machines. When the holder dies, another takes over.

    <folder>/terms/<n>.json   the holder in term n; never changed; n is the fencing number
    <folder>/beats/<n>.json   the heartbeat of that term, replaced regularly

Clocks of different machines are not compared. A process that wants the lease watches the heartbeat by its own clock: if
it does not change for the time to live, the holder is dead. A holder that cannot renew gives up before that. One that
was suspended may not know that it has lost the lease: `fence` refuses its writes, since a later term has a higher
number, even if it was suspended between a check and the request that followed.
"""

import contextlib
import json
import logging
import math
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import timedelta

from mnist_lib.clock import Clock, SystemClock, moment_of, now_text, text_of
from mnist_lib.documents import Moment, Text, decode
from mnist_lib.errors import BusyError, ConflictError, IntegrityError, SpecError, StoreError
from mnist_lib.objects.protocol import Fence, Objects, check_part
from mnist_lib.objects.records import RecordLog

log = logging.getLogger(__name__)

ENDED = b"{}"  # the heartbeat of a released lease; any other content, even damaged, is watched for changes
QUESTIONS_PER_BEAT = 4  # how often a thread asks whether a heartbeat is due, so that none is late
BEATS_PER_LIFE = 3  # the holder gives up after two missed beats; others take over after three
LOCK_SECONDS = 15.0  # without a heartbeat before another process takes over a lock
SECONDS_BETWEEN_QUESTIONS = 1.0  # between two checks whether a lease is still held


@dataclass(frozen=True)
class LeaseTerm:
    """The holder of a lease in one term, as shown to people."""

    holder: Text
    host: Text
    since: Moment  # UTC, ISO 8601


@dataclass(frozen=True)
class Heartbeat:
    at: Moment
    token: Text  # differs from that of every other heartbeat


class LeaseLostError(BusyError):
    """The lease was not renewed in time, or another process holds it."""


class Lease:
    """A lease as seen by one process. Every method raises StoreError if the storage fails.

    Args:
        folder: prefix of the objects that the lease consists of.
        term: describes this process as the holder, for people.
        time_to_live: seconds without a heartbeat before another process takes over.
    """

    def __init__(self, objects: Objects, folder: str, term: LeaseTerm, *, time_to_live: float, clock: Clock) -> None:
        self._objects, self._folder, self._term = objects, folder, term
        self._time_to_live, self._clock = time_to_live, clock
        self._last = 0  # the newest term seen
        self._watched: tuple[int, bytes | None] | None = None  # a term and its heartbeat
        self._watched_since = 0.0
        self._renewed = 0.0
        self.seconds_between_beats = time_to_live / BEATS_PER_LIFE
        self.number: int | None = None  # of the term that this process holds, or None
        self.heard = False  # whether another holder has sent a heartbeat since the first call of `acquire`

    def acquire(self) -> bool:
        """Take the lease, or return False if another process holds it. Only repeated calls notice a dead holder."""
        terms = _terms(self._objects, self._folder)
        last = self._last = terms.probe_last(known=self._last)
        asked = self._clock.monotonic()  # taken before the request, which may last long if this process is suspended
        if last:
            beat = self._objects.read(self._beat(last))
            if beat != ENDED and not self._is_dead(last, beat, asked):
                return False
        if not terms.append(last + 1, self._term):
            return False  # another process was faster
        self.number, self._renewed = last + 1, asked
        self._objects.replace(self._beat(last + 1), self._new_beat())
        if last:
            self._objects.delete(self._beat(last))
        return True

    def renew(self) -> None:
        """Write a heartbeat, if a third of the time to live has passed since the last one.

        Raises LeaseLostError if another process may act now: everything done under the lease must stop.
        """
        assert self.number is not None
        now = self._clock.monotonic()
        if now - self._renewed < self.seconds_between_beats:
            return
        if not self.overdue():
            self._objects.replace(self._beat(self.number), self._new_beat())
        if self.overdue() or is_superseded(self._objects, self._folder, self.number):
            number, self.number = self.number, None
            raise LeaseLostError(f"{self._objects.where(self._folder)}: lost lease {number}; another process may act")
        self._renewed = now

    def beat(self) -> None:
        """Write a heartbeat even if it is late. Another process may hold the lease by now; see `FencedObjects`."""
        assert self.number is not None
        self._objects.replace(self._beat(self.number), self._new_beat())

    @contextlib.contextmanager
    def renewed(self) -> Iterator[None]:
        """Renew the lease in a thread until the context ends, for work that makes no steps of its own.

        Afterwards `number` is None, or `overdue()` is true, if that failed.
        """
        with _repeated(self.renew, self.seconds_between_beats / QUESTIONS_PER_BEAT):
            yield

    def overdue(self) -> bool:
        """Return whether the last renewal is so long ago that another process may soon take over."""
        return self._clock.monotonic() - self._renewed >= 2 * self.seconds_between_beats

    def release(self) -> None:
        """End the term, so that the next holder need not wait."""
        if self.number is not None:
            number, self.number = self.number, None
            self._objects.replace(self._beat(number), ENDED)

    def is_fresh(self) -> bool:
        """Return whether the newest holder seems alive. This compares clocks of two machines; it may be wrong."""
        last = _terms(self._objects, self._folder).probe_last()
        beat = self._objects.read(self._beat(last)) if last else None
        try:
            at = moment_of(decode(beat or b"", Heartbeat, self._beat(last)).at)
        except IntegrityError:
            return False
        return abs(self._clock.now() - at) < timedelta(seconds=2 * self.seconds_between_beats)

    def _is_dead(self, number: int, beat: bytes | None, asked: float) -> bool:
        if self._watched != (number, beat):
            self.heard = self._watched is not None
            self._watched, self._watched_since = (number, beat), self._clock.monotonic()
        return asked - self._watched_since > self._time_to_live

    def _new_beat(self) -> bytes:
        """Return a heartbeat that differs from all before it."""
        return json.dumps({"at": text_of(self._clock.now()), "token": uuid.uuid4().hex}).encode()

    def _beat(self, number: int) -> str:
        return f"{self._folder}/beats/{number:08d}.json"


def lease_folder(schedule: str) -> str:
    """Return the folder of the lease of a retraining schedule."""
    return f"schedules/{schedule}/lease"


def newest_term(objects: Objects, folder: str) -> LeaseTerm | None:
    """Return who holds or last held the lease, or None if nobody has, or if the record is damaged."""
    terms = _terms(objects, folder)
    last = terms.probe_last()
    try:
        return terms.read(last, LeaseTerm) if last else None
    except IntegrityError:
        return None


def is_superseded(objects: Objects, folder: str, number: int) -> bool:
    """Return whether a term after that number has begun."""
    return objects.exists(_terms(objects, folder).name(number + 1))


def _terms(objects: Objects, folder: str) -> RecordLog:
    return RecordLog(objects, f"{folder}/terms")


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
        self.max_concurrent_requests = objects.max_concurrent_requests

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
    try:
        with _repeated(lease.beat, lease.seconds_between_beats):
            yield FencedObjects(objects, folder, lease.number, clock)
    finally:
        with contextlib.suppress(StoreError):
            lease.release()


@contextlib.contextmanager
def _repeated(act: Callable[[], None], seconds: float) -> Iterator[None]:
    """Call a function again and again in a thread until the context ends, or the lease is lost."""
    ended = threading.Event()

    def repeat() -> None:
        with contextlib.suppress(LeaseLostError):
            while not ended.wait(seconds):
                with contextlib.suppress(StoreError):
                    act()

    thread = threading.Thread(target=repeat, name="lease", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _holder(objects: Objects, folder: str) -> str:
    term = newest_term(objects, folder)
    return f"{term.holder} on {term.host} since {term.since}" if term else "another process"
