"""When a schedule is due: cron's five fields in a time zone -> slots, which are moments in UTC.

At a change of the clocks it is as in Debian's cron. A job at a fixed time that the change leaves out runs once, at the
first instant after; one whose time comes twice runs once. Where the minute or the hour begins with a star, whatever
time there is counts: twice in the hour that comes twice.
"""

import difflib
import itertools
import zoneinfo
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from cronsim import CronSim, CronSimError

from mnist_lib.errors import CronError

FIELDS = {  # of cron: name -> what it may be
    "minute": "0 to 59",
    "hour": "0 to 23",
    "day-of-month": "1 to 31, L or LW",
    "month": "1 to 12, or JAN to DEC",
    "day-of-week": "0 to 7, or SUN to SAT",
}
MOST_COUNTED = 10_000  # slots, in 50 ms


class Timetable:
    """
    Args:
        cron: minute, hour, day of the month, month, day of the week.
        zone: as in "Europe/Berlin".

    Raises:
        CronError: naming the field and what is wrong with it.
    """

    def __init__(self, cron: str, zone: str = "UTC") -> None:
        fields = cron.split()
        self.cron, self.zone = " ".join(fields), zone
        try:
            self.tz = zoneinfo.ZoneInfo(zone)
        except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError) as error:  # of an absolute path, of a folder
            near = difflib.get_close_matches(zone, zoneinfo.available_timezones(), n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise CronError(f"tz: expected a time zone, as in Europe/Berlin, got {zone!r}{hint}") from error
        if len(fields) != len(FIELDS):
            raise CronError(f"cron: expected five fields ({', '.join(FIELDS)}), got {len(fields)}: {cron!r}")
        for place, (name, allowed) in enumerate(FIELDS.items()):
            alone = ["*"] * len(FIELDS)
            alone[place] = fields[place]
            if not _is_possible(" ".join(alone)):
                raise CronError(f"cron: {name}: expected {allowed}, got {fields[place]!r} in {cron!r}")
        if not _is_possible(cron):
            day, month = fields[2], fields[3]
            raise CronError(
                f"cron: day-of-month: expected a day that month {month} has, got {day!r} in {cron!r}"
            )  # The question is asked many times between two slots.
        self._asked_last = (datetime.max.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC))

    def next(self, after: datetime) -> datetime:
        """The first slot after a moment."""
        return next(self._from(after))

    def latest(self, until: datetime) -> datetime:
        """The last slot up to a moment, that one included."""
        slot, following = self._asked_last
        if not slot <= until < following:
            slot = self.latest_few(until, 1)[0]
            self._asked_last = slot, self.next(slot)
        return slot

    def latest_few(self, until: datetime, count: int) -> list[datetime]:
        """The last slots up to a moment, the newest first."""
        # It goes by local time, which comes twice for an hour of each year: so from later on, without what is too new.
        backwards = CronSim(self.cron, (until + timedelta(hours=3)).astimezone(self.tz), reverse=True)
        slots = (slot.astimezone(UTC) for slot in backwards)
        return list(itertools.islice(itertools.dropwhile(lambda slot: slot > until, slots), count))

    def count(self, after: datetime, until: datetime) -> int:
        """Slots between two moments, without the first and with the last; more than `MOST_COUNTED` are not counted."""
        slots = itertools.takewhile(lambda slot: slot <= until, self._from(after))
        return sum(1 for _ in itertools.islice(slots, MOST_COUNTED))

    def _from(self, after: datetime) -> Iterator[datetime]:
        slots = (slot.astimezone(UTC) for slot in CronSim(self.cron, after.astimezone(self.tz)))
        return itertools.dropwhile(lambda slot: slot <= after, slots)  # in the hour that comes twice, it can be


def _is_possible(cron: str) -> bool:
    try:
        next(CronSim(cron, datetime(2000, 1, 1, tzinfo=UTC)))
    except (CronSimError, StopIteration, ValueError):
        return False
    return True
