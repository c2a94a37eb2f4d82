"""A lease: the right to act, held by one process at a time across machines. When the holder dies, another takes over.

    <folder>/terms/<n>.json   the holder in term n; created once, and never changed
    <folder>/beats/<n>.json   the heartbeat of that term, replaced regularly

Clocks of different machines are not compared. A process that wants the lease watches the heartbeat by its own clock: if
it does not change for the time to live, the holder is dead. A holder that cannot renew gives up before that. One that
was suspended notices a later term with its next heartbeat. Until then it may write, so what must happen once has to be
decided by the creation of an object.
"""

import contextlib
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NoReturn

from mnist_lib.documents import Moment, Text
from mnist_lib.environment import Clock, SystemClock, now_text
from mnist_lib.errors import BusyError, IntegrityError, StoreError
from mnist_lib.objects.protocol import Objects
from mnist_lib.objects.records import RecordLog

log = logging.getLogger(__name__)

ENDED = b"{}"  # the heartbeat of a released lease; any other content, even damaged, is watched for changes
QUESTIONS_PER_BEAT = 4  # how often a thread asks whether a heartbeat is due, so that none is late
BEATS_PER_LIFE = 3  # the holder gives up after two missed beats; others take over after three
LOCK_SECONDS = 15.0  # without a heartbeat before another process takes over a lock


@dataclass(frozen=True)
class LeaseTerm:
    """The holder of a lease in one term, as shown to people."""

    holder: Text
    host: Text
    since: Moment  # UTC, ISO 8601


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
        self._objects = objects
        self._folder = folder
        self._terms = RecordLog(objects, f"{folder}/terms")
        self._term = term
        self._time_to_live = time_to_live
        self._clock = clock
        self._last = 0  # the newest term seen
        self._watched: tuple[int, bytes | None] | None = None  # a term and its heartbeat
        self._watched_since = 0.0
        self._renewed = 0.0
        self.seconds_between_beats = time_to_live / BEATS_PER_LIFE
        self.number: int | None = None  # of the term that this process holds, or None
        self.heard = False  # whether another holder has sent a heartbeat since the first call of `acquire`

    def acquire(self) -> bool:
        """Take the lease, or return False if another process holds it. Only repeated calls notice a dead holder."""
        asked = self._clock.monotonic()  # taken before the request, which may last long if this process is suspended
        if not self.is_free():
            return False
        last = self._last
        if not self._terms.append(last + 1, self._term):
            return False  # another process was faster
        self.number = last + 1
        self._renewed = asked
        self._objects.replace(self._beat(last + 1), _new_beat())
        if last:
            self._objects.delete(self._beat(last))
        return True

    def is_free(self) -> bool:
        """Return whether no process holds the lease. Only repeated calls notice a dead holder."""
        last = self._last = self._terms.probe_last(known=self._last)
        asked = self._clock.monotonic()
        if not last:
            return True
        beat = self._objects.read(self._beat(last))
        return beat == ENDED or self._is_dead(last, beat, asked)

    def renew(self) -> None:
        """Write a heartbeat, if a third of the time to live has passed since the last one.

        Raises LeaseLostError if another process may act now: everything done under the lease must stop.
        """
        now = self._clock.monotonic()
        if now - self._renewed < self.seconds_between_beats:
            return
        if self.overdue():
            self._lose()
        self.beat()
        if self.overdue():  # the requests took long
            self._lose()
        self._renewed = now

    def beat(self) -> None:
        """Write a heartbeat even if it is late. Raises LeaseLostError if another process has taken over."""
        assert self.number is not None
        self._objects.replace(self._beat(self.number), _new_beat())
        if self._objects.exists(self._terms.name(self.number + 1)):
            self._lose()

    def _lose(self) -> NoReturn:
        self.number = None
        raise LeaseLostError(
            f"{self._objects.where(self._folder)}: expected to hold this lease, got one that another process may"
            " hold; this process ends, and the other one continues its work"
        )

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
            number = self.number
            self.number = None
            self._objects.replace(self._beat(number), ENDED)

    def _is_dead(self, number: int, beat: bytes | None, asked: float) -> bool:
        if self._watched != (number, beat):
            self.heard = self._watched is not None
            self._watched, self._watched_since = (number, beat), self._clock.monotonic()
        return asked - self._watched_since > self._time_to_live

    def _beat(self, number: int) -> str:
        return f"{self._folder}/beats/{number:08d}.json"


def lease_folder(schedule: str) -> str:
    """Return the folder of the lease of a retraining schedule."""
    return f"schedules/{schedule}/lease"


def newest_term(objects: Objects, folder: str) -> LeaseTerm | None:
    """Return who holds or last held the lease, or None if nobody has, or if the record is damaged."""
    terms = RecordLog(objects, f"{folder}/terms")
    last = terms.probe_last()
    try:
        return terms.read(last, LeaseTerm) if last else None
    except IntegrityError:
        return None


def _new_beat() -> bytes:
    """Return a heartbeat that differs from all before it."""
    return uuid.uuid4().hex.encode()


@contextlib.contextmanager
def locked(objects: Objects, folder: str, time_to_live: float = LOCK_SECONDS) -> Iterator[None]:
    """Exclude other processes on all machines until the context ends or the lease is lost.

    If the holder has died, this waits for the time to live.

    Raises:
        BusyError: the holder is alive.
    """
    lease = _lease_of_lock(objects, folder, time_to_live)
    if not lease.acquire():
        where = objects.where(folder)
        holder = _holder(objects, folder)
        log.info("%s: waiting %.0f s for a heartbeat of %s", where, time_to_live, holder)
        while not lease.acquire():
            if lease.heard:
                raise BusyError(
                    f"{where}: expected no lock, got one held by {holder}; wait for that process, or end it"
                )
            time.sleep(lease.seconds_between_beats / 5)
    try:
        with _repeated(lease.beat, lease.seconds_between_beats):
            yield
    finally:
        with contextlib.suppress(StoreError):
            lease.release()


def is_held(objects: Objects, folder: str, time_to_live: float = LOCK_SECONDS) -> bool:
    """Return whether the holder of a lock is alive. This waits for a heartbeat, at most for the time to live."""
    lease = _lease_of_lock(objects, folder, time_to_live)
    while not (is_free := lease.is_free()) and not lease.heard:
        time.sleep(lease.seconds_between_beats / 5)
    return not is_free


def _lease_of_lock(objects: Objects, folder: str, time_to_live: float) -> Lease:
    term = LeaseTerm(holder=f"process {os.getpid()}", host=socket.gethostname(), since=now_text())
    return Lease(objects, folder, term, time_to_live=time_to_live, clock=SystemClock())


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
