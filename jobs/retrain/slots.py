"""The slots of a schedule: when they are due by its timetable, and which of them its policy runs.

The timetable is a cron expression of five fields in a time zone, evaluated to slots in UTC. Daylight saving time is
handled as in Debian's cron. A job at a fixed local time that does not exist runs once, at the first instant after the
gap; one whose local time occurs twice runs once. If the minute or hour field begins with "*", the job follows elapsed
time instead, and so runs in both occurrences of a repeated hour.
"""

import difflib
import itertools
import sys
import zoneinfo
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Annotated

from cronsim import CronSim, CronSimError
from msgspec import Meta

from jobs.retrain.journal import Entry
from mnist_lib.clock import moment_of
from mnist_lib.errors import CronError
from mnist_lib.settings import CheckedFields, Positive, Seconds, one_of, option
from mnist_lib.wording import counted

FIELDS = {  # name of each cron field -> allowed values
    "minute": "0 to 59",
    "hour": "0 to 23",
    "day-of-month": "1 to 31, L or LW",
    "month": "1 to 12, or JAN to DEC",
    "day-of-week": "0 to 7, or SUN to SAT",
}
MAX_COUNTED = 10_000  # slots; counting them takes 50 ms

BACK_OFF_SECONDS, MAX_BACK_OFF_SECONDS = 10.0, 600.0

OVERLAP = {
    "skip": "do not run them",
    "queue": "run the newest of them afterwards",
    "replace": "stop the run and start the slot",
}


FiniteSeconds = Annotated[Seconds, Meta(le=sys.float_info.max)]


class Timetable:
    """Cron fields in a time zone. Raises CronError, which names the invalid field and what was expected."""

    def __init__(self, cron: str, zone: str = "UTC") -> None:
        fields = cron.split()
        self.cron, self.zone = " ".join(fields), zone
        try:
            self.tz = zoneinfo.ZoneInfo(zone)
        except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError) as error:  # ../x: ValueError, Europe: OSError
            near = difflib.get_close_matches(zone, zoneinfo.available_timezones(), n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise CronError(f"tz: expected a time zone such as Europe/Berlin, got {zone!r}{hint}") from error
        if len(fields) != len(FIELDS):
            raise CronError(f"cron: expected five fields ({', '.join(FIELDS)}), got {len(fields)}: {cron!r}")
        for place, (name, allowed) in enumerate(FIELDS.items()):
            alone = ["*"] * len(FIELDS)
            alone[place] = fields[place]
            if not _is_possible(" ".join(alone)):
                raise CronError(f"cron: {name}: expected {allowed}, got {fields[place]!r} in {cron!r}")
        if not _is_possible(cron):
            raise CronError(
                f"cron: day-of-month: expected a day that exists in month {fields[3]}, got {fields[2]!r} in {cron!r}"
            )
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


def _is_possible(cron: str) -> bool:
    try:
        next(CronSim(cron, datetime(2000, 1, 1, tzinfo=UTC)))
    except (CronSimError, StopIteration, ValueError):
        return False
    return True


@dataclass(frozen=True)
class Due:
    slot: datetime
    missed: int  # earlier slots that will not be run
    skip: str = ""  # why this slot is not run either; "" if it is


@dataclass(frozen=True, kw_only=True)
class Policy(CheckedFields):
    """How a schedule treats late, missed and overlapping slots. Raises SpecError for a value that is out of range."""

    GROUP = "schedule"

    starting_deadline: FiniteSeconds | None = option(
        None, "maximum delay of a slot in seconds, after which it is not run (default: no limit)"
    )
    overlap: Annotated[str, one_of(OVERLAP)] = option(
        "skip",
        f"what to do about slots due during a run: {', '.join(f'{name} ({about})' for name, about in OVERLAP.items())}",
        "WHAT",
    )
    jitter: FiniteSeconds = option(0.0, "seconds over which starts are spread, so that schedules do not start together")
    max_attempts: Positive = option(3, "maximum number of attempts per slot; only temporary errors are retried")

    def due(self, timetable: Timetable, last: Entry, now: datetime) -> Due | None:
        """Return the newest slot that is due after `last`, the newest entry of the journal, or None.

        Earlier slots are missed: one run is enough to catch up, since it trains on the data of today.
        """
        newest = timetable.latest(now)
        if newest <= last.due:
            return None
        skip = self.why_too_late(newest, now)
        if self.overlap == "skip" and _is_overlap(timetable, last, newest):
            skip = f"the run of slot {last.slot} was still in progress"
        return Due(newest, timetable.count(last.due, newest) - 1, skip)

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
