"""The policy of a schedule: which slot is run now, and what happens to slots that were missed."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import sha256

from mnist_lib.catalog import require_known
from mnist_lib.clock import moment_of
from mnist_lib.errors import SpecError
from mnist_lib.retraining.journal import Entry
from mnist_lib.retraining.timetable import MAX_COUNTED, Timetable
from mnist_lib.wording import counted

BACK_OFF_SECONDS, MAX_BACK_OFF_SECONDS = 10.0, 600.0

OVERLAP = {
    "skip": "do not run them",
    "queue": "run the newest of them afterwards",
    "replace": "stop the run and start the slot",
}


@dataclass(frozen=True)
class Due:
    slot: datetime
    missed: int  # earlier slots that will not be run
    skip: str = ""  # why this slot is not run either; "" if it is


@dataclass(frozen=True, kw_only=True)
class Policy:
    """How a schedule treats late, missed and overlapping slots. Raises SpecError for a value that is out of range."""

    starting_deadline: float | None = None  # seconds after which a slot is too late to be started; None: no limit
    overlap: str = "skip"  # a key of `OVERLAP`: what to do about a slot that comes due during a run
    jitter: float = 0.0  # seconds over which the starts of different schedules are spread
    max_attempts: int = 3  # maximum number of attempts per slot, for failures that a retry may fix

    def __post_init__(self) -> None:
        require_known("overlap", self.overlap, OVERLAP)
        for name, minimum in (("max_attempts", 1), ("jitter", 0), ("starting_deadline", 0)):
            value = getattr(self, name)
            if value is not None and not minimum <= value < float("inf"):
                raise SpecError(f"{name}: expected a number of at least {minimum}, got {value}")

    def due(self, timetable: Timetable, last: Entry, through: datetime, now: datetime) -> Due | None:
        """Return the newest slot after `through` that is due, or None; `last` is the newest entry of the journal.

        Earlier slots are missed: one run is enough to catch up, since it trains on the data of today.
        """
        newest = timetable.latest(now)
        if newest <= through:
            return None
        skip = self.why_too_late(newest, now)
        if self.overlap == "skip" and _is_overlap(timetable, last, newest):
            skip = f"the run of slot {last.slot} was still in progress"
        return Due(newest, timetable.count(through, newest) - 1, skip)

    def why_too_late(self, slot: datetime, now: datetime) -> str:
        """Return why the slot is too late to be started; "" if it is not. A delay by jitter does not count."""
        late = (now - slot).total_seconds()
        if self.starting_deadline is not None and late > self.starting_deadline + self.jitter:
            deadline = f"the starting deadline of {self.starting_deadline:.0f} s"
            return f"{timedelta(seconds=round(late))} late, past {deadline}"
        return ""

    def delay(self, schedule: str, slot: datetime) -> timedelta:
        """Return the time from a slot to its start, which is the same on every machine."""
        share = int.from_bytes(sha256(f"{schedule} {slot.isoformat()}".encode()).digest()[:4]) / 2**32
        return timedelta(seconds=self.jitter * share)

    def back_off(self, failures: int) -> float:
        """Return the seconds until the next attempt."""
        return min(BACK_OFF_SECONDS * 2.0 ** (failures - 1), MAX_BACK_OFF_SECONDS) if failures else 0.0


def _is_overlap(timetable: Timetable, last: Entry, slot: datetime) -> bool:
    """Return whether all slots after that of `last`, up to and including `slot`, came due during its run."""
    if not last.begun or not last.due < slot <= moment_of(last.at):
        return False
    return timetable.next(last.due) >= moment_of(last.begun)


def missed_text(missed: int) -> str:
    """Return the number of missed slots as text: "71 earlier slots missed"."""
    # A count that reached its maximum can be too low.
    return f"{'at least ' if missed >= MAX_COUNTED - 1 else ''}{counted(missed, 'earlier slot')} missed"
