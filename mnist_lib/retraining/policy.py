"""Which slot is to be run now, and what becomes of those that were missed."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import sha256

from mnist_lib.catalog import require_known
from mnist_lib.clock import moment_of
from mnist_lib.errors import SpecError
from mnist_lib.retraining.journal import Entry
from mnist_lib.retraining.timetable import MOST_COUNTED, Timetable

ON_TIME = timedelta(minutes=5)  # up to so late, a slot was not missed
BACK_OFF_SECONDS, LONGEST_BACK_OFF_SECONDS = 10.0, 600.0

CATCH_UP = {
    "latest": "of slots that nobody was there for, the last is run late",
    "none": "they are not run",
    "all": "each is run, in turn",
}
OVERLAP = {
    "skip": "a slot that comes due while a run is going on is not run",
    "queue": "the last of them is run after it",
    "replace": "the run is stopped for it",
}


@dataclass(frozen=True)
class Due:
    slot: datetime
    missed: int  # slots before it that will have no run
    skip: str = ""  # why this one has none either


@dataclass(frozen=True, kw_only=True)
class Policy:
    """
    Args:
        catch_up: of `CATCH_UP`.
        most_catch_up: slots that "all" runs; older ones are missed.
        starting_deadline: seconds after which a slot is too late to be run; None: never.
        overlap: of `OVERLAP`.
        jitter: seconds over which the starts of different schedules are spread.
        max_attempts: at one slot, while what ends them may be over the next time.

    Raises:
        SpecError: naming the field, the value and its range.
    """

    catch_up: str = "latest"
    most_catch_up: int = 10
    starting_deadline: float | None = None
    overlap: str = "skip"
    jitter: float = 0.0
    max_attempts: int = 3

    def __post_init__(self) -> None:
        require_known("catch_up", self.catch_up, CATCH_UP)
        require_known("overlap", self.overlap, OVERLAP)
        for name, least in (("most_catch_up", 1), ("max_attempts", 1), ("jitter", 0), ("starting_deadline", 0)):
            value = getattr(self, name)
            if value is not None and not least <= value < float("inf"):
                raise SpecError(f"{name}: expected a number from {least} on, got {value}")

    def due(self, timetable: Timetable, last: Entry, through: datetime, now: datetime) -> Due | None:
        """What is due of the slots after `through` and up to now; None if there is none.

        Args:
            last: the newest entry of the journal, which is settled.
        """
        newest = timetable.latest(now)
        if newest <= through:
            return None
        if self.catch_up == "all" and not self._is_overlap(timetable, last, newest):
            slots = [slot for slot in timetable.latest_few(now, self.most_catch_up) if slot > through]
            newest = slots[-1]
        missed = timetable.count(through, newest) - 1
        return Due(newest, missed, self._why_not(timetable, last, newest, now))

    def is_too_late(self, slot: datetime, now: datetime) -> str:
        """Why, for people; "" if it is not. A start that is delayed to spread them is not late for that."""
        late = (now - slot).total_seconds()
        if self.starting_deadline is not None and late > self.starting_deadline + self.jitter:
            told = f"the starting deadline is {self.starting_deadline:.0f} s"
            return f"it is {timedelta(seconds=round(late))} late, and {told}"
        return ""

    def delay(self, schedule: str, slot: datetime) -> timedelta:
        """From a slot to its start: the same wherever it is asked, so that none begins it sooner."""
        share = int.from_bytes(sha256(f"{schedule} {slot.isoformat()}".encode()).digest()[:4]) / 2**32
        return timedelta(seconds=self.jitter * share)

    def back_off(self, failures: int) -> float:
        """Seconds until the next attempt."""
        return min(BACK_OFF_SECONDS * 2.0 ** (failures - 1), LONGEST_BACK_OFF_SECONDS) if failures else 0.0

    def _why_not(self, timetable: Timetable, last: Entry, slot: datetime, now: datetime) -> str:
        if self._is_overlap(timetable, last, slot):
            if self.overlap == "skip":
                return f"the run of {last.slot} was going on"
        elif self.catch_up == "none" and now - slot > ON_TIME + timedelta(seconds=self.jitter):
            return "it was missed, and catch-up is none"
        return self.is_too_late(slot, now)

    def _is_overlap(self, timetable: Timetable, last: Entry, slot: datetime) -> bool:
        """Whether the slots up to this one came due during the last run, and none while nobody was there."""
        if not last.begun or not last.due < slot <= moment_of(last.at):
            return False
        return timetable.next(last.due) >= moment_of(last.begun)


def counted(missed: int) -> str:
    """For people."""
    return f"more than {MOST_COUNTED:,}" if missed >= MOST_COUNTED - 1 else f"{missed:,}"
