"""Leases of processes that have clocks of their own."""

from datetime import UTC, datetime, timedelta

from mnist_lib.objects.lease import Lease, LeaseTerm, lease_folder
from mnist_lib.objects.protocol import Objects

TIME_TO_LIVE = 30.0


class Clock:
    """The clock of one process; `off`: seconds by which its wall clock is wrong."""

    def __init__(self, off: float = 0.0) -> None:
        self.seconds, self.off = 0.0, off

    def now(self) -> datetime:
        return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=self.seconds + self.off)

    def monotonic(self) -> float:
        return self.seconds


def lease_of(objects: Objects, name: str, clock: Clock) -> Lease:
    term = LeaseTerm(name, f"host of {name}", "2026-01-01T00:00:00Z")
    return Lease(objects, lease_folder("nightly"), term, time_to_live=TIME_TO_LIVE, clock=clock)


def pass_time(seconds: float, *clocks: Clock) -> None:
    for clock in clocks:
        clock.seconds += seconds
