"""When an attempt is overdue."""

import time

import pytest

from cluster.lanes.attempt import Attempt
from cluster.lanes.deadlines import Limits
from cluster.lanes.lane import WorkerProcess

LIMITS = Limits(silence_seconds=3.0, first_silence_seconds=100.0)


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1_000.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def heard_after(clock: Clock, *seconds: float) -> Attempt:
    """An attempt of whose item events came in these intervals."""
    attempt = Attempt(generator=None, items={"x": None}, place=WorkerProcess(host="h", pid=1, node="n"))
    attempt.begin_next()
    for interval in seconds:
        clock.now += interval
        attempt.hear()
    return attempt


@pytest.mark.parametrize(
    ("intervals", "silent", "overdue"),
    [
        ((0.1, 30.0), 99.0, False),  # it has started; how long its epochs take is not known
        ((0.1, 30.0), 101.0, True),
        ((0.1, 30.0, 0.2), 2.9, False),  # an epoch of 0.2 s: the start-up before it is no measure
        ((0.1, 30.0, 0.2), 3.1, True),
        ((0.1, 30.0, 0.2, 0.5), 4.9, False),
        ((0.1, 30.0, 0.2, 0.5, 0.1), 5.1, True),
    ],
)
def test_silence_is_measured_by_the_longest_epoch_not_by_the_start(
    clock: Clock, intervals: tuple[float, ...], silent: float, overdue: bool
) -> None:
    attempt = heard_after(clock, *intervals)
    clock.now += silent
    assert (attempt.overdue(LIMITS) is not None) == overdue


def test_what_was_measured_of_an_item_is_not_held_against_the_next(clock: Clock) -> None:
    attempt = heard_after(clock, 0.1, 1.0, 0.2)
    attempt.begin_next()
    clock.now += 99.0
    assert attempt.overdue(LIMITS) is None
