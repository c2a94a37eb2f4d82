"""The slots of a schedule: when they are due by its timetable, and which of them are run.

The timetable is a cron expression of five fields in a time zone, evaluated to slots in UTC. Daylight saving time is
handled as in Debian's cron. A job at a fixed local time that does not exist runs once, at the first instant after the
gap; one whose local time occurs twice runs once. If the minute or hour field begins with "*", the job follows elapsed
time instead, and so runs in both occurrences of a repeated hour.
"""

import itertools
import zoneinfo
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cronsim import CronSim, CronSimError

from jobs.retrain.journal import Entry
from mnist_lib.environment import moment_of
from mnist_lib.errors import CronError
from mnist_lib.wording import counted

MAX_COUNTED = 10_000  # slots; counting them takes 50 ms
BACK_OFF_SECONDS = 10.0  # after the first failure; doubled for each further one
MAX_BACK_OFF_SECONDS = 600.0


class Timetable:
    """Cron fields in a time zone. Raises CronError for invalid ones, and for those that are never due."""

    def __init__(self, cron: str, zone: str = "UTC") -> None:
        self.cron = cron
        self.zone = zone
        try:
            self.tz = zoneinfo.ZoneInfo(zone)
        except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError) as error:  # ../x: ValueError, Europe: OSError
            raise CronError(f"tz: expected a time zone such as Europe/Berlin, got {zone!r}") from error
        expected = 'expected five fields (minute, hour, day-of-month, month, day-of-week), such as "0 3 * * *"'
        if len(cron.split()) != 5:  # CronSim also accepts a field for seconds
            raise CronError(f"cron: {expected}, got {len(cron.split())}: {cron!r}")
        try:
            next(CronSim(cron, datetime(2000, 1, 1, tzinfo=UTC)))
        except (CronSimError, StopIteration, ValueError) as error:  # "Bad minute", say
            raise CronError(f"cron: {expected}, got {cron!r}: {error or 'never due'}") from error
        # `latest` is called many times between two slots: this is its last answer, and the slot after it.
        self._last_answer = (datetime.max.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC))

    def next(self, after: datetime) -> datetime:
        """Return the first slot after a moment."""
        return next(self.slots_after(after))

    def latest(self, until: datetime) -> datetime:
        """Return the last slot at or before a moment."""
        slot, following = self._last_answer
        if not slot <= until < following:
            # CronSim iterates over local time, where one hour a year occurs twice: start later, skip what is too new.
            backwards = CronSim(self.cron, (until + timedelta(hours=3)).astimezone(self.tz), reverse=True)
            slot = next(slot for local in backwards if (slot := local.astimezone(UTC)) <= until)
            self._last_answer = slot, self.next(slot)
        return slot

    def count(self, after: datetime, until: datetime) -> int:
        """Return the number of slots after one moment and up to another, at most `MAX_COUNTED`."""
        slots = itertools.takewhile(lambda slot: slot <= until, self.slots_after(after))
        return sum(1 for _ in itertools.islice(slots, MAX_COUNTED))

    def slots_after(self, after: datetime) -> Iterator[datetime]:
        """Return the slots after a moment, without end."""
        slots = (slot.astimezone(UTC) for slot in CronSim(self.cron, after.astimezone(self.tz)))
        return itertools.dropwhile(lambda slot: slot <= after, slots)  # CronSim can go back where an hour occurs twice


@dataclass(frozen=True)
class Due:
    slot: datetime
    missed: int  # earlier slots that will not be run
    skip: str = ""  # why this slot is not run either; "" if it is


def due_slot(timetable: Timetable, last: Entry, now: datetime) -> Due | None:
    """Return the newest slot that is due after `last` (the newest entry of the journal), or None.

    Earlier slots are missed: one run is enough to catch up, since it trains on the data of today.
    """
    newest = timetable.latest(now)
    if newest <= last.due:
        return None
    skip = f"the run of slot {last.slot} was still in progress" if _is_overlap(timetable, last, newest) else ""
    return Due(newest, timetable.count(last.due, newest) - 1, skip)


def _is_overlap(timetable: Timetable, last: Entry, slot: datetime) -> bool:
    """Return whether all slots after that of `last`, up to and including `slot`, came due during its run."""
    if not last.begun or not last.due < slot <= moment_of(last.at):
        return False
    return timetable.next(last.due) >= moment_of(last.begun)


def back_off(failures: int) -> timedelta:
    """Return the time from the last failed attempt to the next one."""
    seconds = min(BACK_OFF_SECONDS * 2.0 ** (failures - 1), MAX_BACK_OFF_SECONDS) if failures else 0.0
    return timedelta(seconds=seconds)


def missed_text(missed: int) -> str:
    """Return the number of missed slots as text: "71 earlier slots missed"."""
    # A count that reached its maximum can be too low.
    return f"{'at least ' if missed >= MAX_COUNTED - 1 else ''}{counted(missed, 'earlier slot')} missed"
