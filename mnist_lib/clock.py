"""The current time, and how times are written: UTC to the second, as in 2026-11-26T03:00:00Z."""

import contextlib
import functools
import re
import time
from datetime import UTC, datetime
from typing import Protocol

from mnist_lib.errors import ClockError

YEARS = range(2000, 2200)  # of the times in stored documents
MIN_YEAR_NOW = 2020  # a clock that shows an earlier one was reset, as on a machine that starts without a network
MOMENT = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z")


class Clock(Protocol):
    def now(self) -> datetime:
        """Return the wall clock's time in UTC. It jumps when somebody sets the clock."""

    def monotonic(self) -> float:
        """Return seconds since an arbitrary instant, including time the machine was suspended."""


class SystemClock:
    sleep = staticmethod(time.sleep)

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return steady_time()


def steady_time() -> float:
    """Return the Unix time, read from the wall clock once in each process, plus the seconds since then.

    Time limits run on it: when somebody sets the wall clock, `time.time()` jumps, but this does not.
    """
    return _unix_time_of_boot() + _seconds_since_boot()


def _seconds_since_boot() -> float:
    # Linux's monotonic clock stops while the machine is suspended; CLOCK_BOOTTIME does not.
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


@functools.cache
def _unix_time_of_boot() -> float:
    return time.time() - _seconds_since_boot()


def text_of(moment: datetime) -> str:
    """Return an aware time as ISO 8601 in UTC, truncated to seconds: "2026-11-26T03:00:00Z"."""
    return moment.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="seconds") + "Z"


def timestamp(now: datetime) -> str:
    """Return the current time as `text_of` writes it, to be stored. Raises ClockError if no command could read it."""
    if not MIN_YEAR_NOW <= now.astimezone(UTC).year < YEARS.stop:
        expected = f"a year from {MIN_YEAR_NOW} to {YEARS.stop - 1}"
        raise ClockError(f"clock of this machine: expected {expected}, got {text_of(now)}; set the clock")
    return text_of(now)


def now_text() -> str:
    """Return the current time, as `timestamp`."""
    return timestamp(SystemClock().now())


def as_file_name(text: str) -> str:
    """Return the text of a time without colons, for names of files and runs: "2026-11-26T03-00-00Z"."""
    return text.replace(":", "-")


def moment_of(text: str) -> datetime:
    """Parse a time that `text_of` wrote. Raises ValueError for any other form."""
    if MOMENT.fullmatch(text):
        with contextlib.suppress(ValueError):  # there is no such day, say
            return datetime.fromisoformat(text)
    raise ValueError(f"expected a UTC time such as 2026-11-26T03:00:00Z, got {text[:40]!r}")
