"""The timetable of a schedule: a cron expression of five fields in a time zone, evaluated to slots in UTC.

Daylight saving time is handled as in Debian's cron. A job at a fixed local time that does not exist runs once, at the
first instant after the gap; one whose local time occurs twice runs once. If the minute or hour field begins with "*",
the job follows elapsed time instead, and so runs in both occurrences of a repeated hour.
"""

import difflib
import itertools
import zoneinfo
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from cronsim import CronSim, CronSimError

from mnist_lib.errors import CronError

FIELDS = {  # name of each cron field -> allowed values
    "minute": "0 to 59",
    "hour": "0 to 23",
    "day-of-month": "1 to 31, L or LW",
    "month": "1 to 12, or JAN to DEC",
    "day-of-week": "0 to 7, or SUN to SAT",
}
MAX_COUNTED = 10_000  # slots; counting them takes 50 ms


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
