"""The time: of the wall, which people set and which can jump, and one that only goes on."""

import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    def now(self) -> datetime:
        """In UTC, by the wall."""
        ...

    def monotonic(self) -> float:
        """Seconds, of sleep too; of two readings only the difference means something."""
        ...


class SystemClock:
    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        # Linux' monotonic clock stands still while the machine sleeps.
        return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


def text_of(moment: datetime) -> str:
    """UTC, ISO 8601, to the second."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def moment_of(text: str) -> datetime:
    """Raises ValueError for what `text_of` does not give."""
    moment = datetime.fromisoformat(text)
    if text_of(moment) != text:
        raise ValueError(f"expected a time in UTC to the second, got {text!r}")
    return moment
