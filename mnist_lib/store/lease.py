"""The right to act for a while, over machines: of those who ask, one has it; when it dies, another can take it.

    <folder>/terms/<n>.json   who took the lease as the n-th: created, never changed; n is its fencing number
    <folder>/beats/<n>.json   that it is alive: replaced now and then, and at last with the end of its term

Clocks of different machines do not decide. Whoever finds the lease taken watches the beat by a clock of its own: a
beat that stays the same for the time to live is that of a dead holder. The holder for its part gives up before that
what it could not renew. One who was suspended meanwhile learns by its number that it is too late: see `fenced`.
"""

import json
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from datetime import timedelta

from mnist_lib.clock import Clock, moment_of, text_of
from mnist_lib.errors import BusyError, ConflictError, IntegrityError, SpecError
from mnist_lib.store.log import Log
from mnist_lib.store.objects import Objects, check_part

ENDED = b"{}"  # the last beat of a term; what else there is, damaged or missing, is watched
BEATS_PER_LIFE = 3  # after two that failed the holder gives up: others notice after three


@dataclass(frozen=True)
class Term:
    """Who has the lease, for people."""

    holder: str
    host: str
    since: str  # UTC, ISO 8601


class LeaseLostError(BusyError):
    """It could not be renewed in time, or another has it by now."""


class Lease:
    """Raises StoreError, in every method, when the storage refuses.

    Args:
        folder: of the objects that the lease consists of.
        term: what others are told about this process.
        time_to_live: seconds without a beat after which another takes over.
    """

    def __init__(self, objects: Objects, folder: str, term: Term, *, time_to_live: float, clock: Clock) -> None:
        self._objects, self._folder, self._term = objects, folder, term
        self._time_to_live, self._clock = time_to_live, clock
        self._last = 0  # the newest term that was seen
        self._watched: tuple[int, bytes | None] | None = None
        self._watched_since = 0.0
        self._renewed = 0.0
        self.seconds_between_beats = time_to_live / BEATS_PER_LIFE
        self.number: int | None = None  # of the term that this process has; None without one

    def acquire(self) -> bool:
        """False while another has it. To notice that it died, ask again and again."""
        terms = terms_of(self._objects, self._folder)
        last = self._last = terms.last_of_many(known=self._last)
        asked = self._clock.monotonic()  # before the answer: this process may sleep meanwhile
        if last:
            beat = self._objects.read(self._beat(last))
            if beat != ENDED and not self._is_dead(last, beat, asked):
                return False
        if not terms.append(last + 1, asdict(self._term)):
            return False  # another was faster
        self.number, self._renewed = last + 1, asked
        self._objects.replace(self._beat(last + 1), self._alive())
        if last:
            self._objects.delete(self._beat(last))
        return True

    def renew(self) -> None:
        """Does nothing until a third of the time to live has passed.

        Raises:
            LeaseLostError: whatever is done for it has to stop at once.
        """
        assert self.number is not None
        now = self._clock.monotonic()
        if now - self._renewed < self.seconds_between_beats:
            return
        if not self.overdue():
            self._objects.replace(self._beat(self.number), self._alive())
        if self.overdue() or is_over(self._objects, self._folder, self.number):
            number, self.number = self.number, None
            raise LeaseLostError(f"{self._objects.where(self._folder)}: lease {number} is lost; another may act now")
        self._renewed = now

    def overdue(self) -> bool:
        """Whether it could not be renewed for so long that others may soon take it."""
        return self._clock.monotonic() - self._renewed >= 2 * self.seconds_between_beats

    def release(self) -> None:
        """The next one need not wait."""
        if self.number is not None:
            number, self.number = self.number, None
            self._objects.replace(self._beat(number), ENDED)

    def is_fresh(self) -> bool:
        """Whether the last who took it lives, as far as the clocks of two machines tell: the answer may be wrong."""
        last = terms_of(self._objects, self._folder).last_of_many()
        beat = self._objects.read(self._beat(last)) if last else None
        try:
            at = moment_of(json.loads(beat or b"")["at"])
        except (KeyError, TypeError, ValueError):
            return False
        return abs(self._clock.now() - at) < timedelta(seconds=2 * self.seconds_between_beats)

    def _is_dead(self, number: int, beat: bytes | None, asked: float) -> bool:
        if self._watched != (number, beat):
            self._watched, self._watched_since = (number, beat), self._clock.monotonic()
        return asked - self._watched_since > self._time_to_live

    def _alive(self) -> bytes:
        """Unlike each one before it."""
        return json.dumps({"at": text_of(self._clock.now()), "token": uuid.uuid4().hex}).encode()

    def _beat(self, number: int) -> str:
        return f"{self._folder}/beats/{number:08d}.json"


def terms_of(objects: Objects, folder: str) -> Log:
    return Log(objects, f"{folder}/terms")


def is_over(objects: Objects, folder: str, number: int) -> bool:
    """Whether somebody took the lease after the term of that number."""
    terms = terms_of(objects, folder)
    return objects.exists(terms.name(number + 1))


def holder(objects: Objects, folder: str) -> Term | None:
    """Who has the lease, or had it last; None of a new one, or where its record is damaged."""
    terms = terms_of(objects, folder)
    last = terms.last_of_many()
    try:
        return terms.read(last, Term) if last else None
    except IntegrityError:
        return None


class FencedObjects:
    """`objects`, for the holder of term `number` of the lease in `folder`.

    Raises:
        ConflictError: by every method that writes, once a later term has begun.
    """

    def __init__(self, objects: Objects, folder: str, number: int) -> None:
        self._objects, self._folder, self._number = objects, folder, number

    def read(self, name: str) -> bytes | None:
        return self._objects.read(name)

    def exists(self, name: str) -> bool:
        return self._objects.exists(name)

    def names(self, prefix: str) -> Iterator[str]:
        return self._objects.names(prefix)

    def where(self, name: str) -> str:
        return self._objects.where(name)

    def lock(self, name: str) -> AbstractContextManager[None]:
        return self._objects.lock(name)

    def create(self, name: str, content: bytes) -> bool:
        self._require_term()
        return self._objects.create(name, content)

    def replace(self, name: str, content: bytes) -> None:
        self._require_term()
        self._objects.replace(name, content)

    def append(self, name: str, content: bytes) -> None:
        self._require_term()
        self._objects.append(name, content)

    def flush(self) -> None:
        self._require_term()
        self._objects.flush()

    def delete(self, name: str) -> None:
        self._require_term()
        self._objects.delete(name)

    def delete_below(self, prefix: str) -> None:
        self._require_term()
        self._objects.delete_below(prefix)

    def delete_leftovers(self, prefix: str) -> None:
        self._require_term()
        self._objects.delete_leftovers(prefix)

    def _require_term(self) -> None:
        if is_over(self._objects, self._folder, self._number):
            raise ConflictError(
                f"{self._objects.where(self._folder)}: lease {self._number} has passed to another process, which goes"
                " on with this; see: jobs.retrain status"
            )


def fence(objects: Objects, lease: str) -> FencedObjects:
    """`lease`: a schedule and the number of a term, as in "nightly:7". Raises SpecError for another form."""
    schedule, colon, number = lease.rpartition(":")
    if not colon or not number.isascii() or not number.isdigit():
        raise SpecError(f"lease: expected a schedule and a number, as in nightly:7, got {lease!r}")
    check_part("lease", schedule)
    return FencedObjects(objects, lease_folder(schedule), int(number))


def lease_folder(schedule: str) -> str:
    return f"schedules/{schedule}/lease"
