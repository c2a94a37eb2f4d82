"""The deadlines of one attempt, on a clock that only the test moves."""

import time

import pytest

from cluster.deadlines import Limits
from cluster.lanes.attempt import Attempt
from cluster.lanes.lane import WorkerProcess

LIMITS = Limits(silence_seconds=3.0, first_silence_seconds=100.0)


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1_000.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def attempt_with_events(clock: Clock, *intervals: float) -> Attempt:
    """Return an attempt whose item has had an event after each interval, in seconds."""
    attempt = Attempt(generator=None, items={"x": None}, worker=WorkerProcess(host="h", pid=1, node="n"))
    attempt.begin_next()
    for interval in intervals:
        clock.now += interval
        attempt.note_event()
    return attempt


@pytest.mark.parametrize(
    ("intervals", "silent", "overdue"),
    [
        ((0.1, 30.0), 99.0, False),  # the start-up is over; the length of an epoch is not known
        ((0.1, 30.0), 101.0, True),
        ((0.1, 30.0, 0.2), 2.9, False),  # an epoch of 0.2 s; the start-up before it does not count
        ((0.1, 30.0, 0.2), 3.1, True),
        ((0.1, 30.0, 0.2, 0.5), 4.9, False),
        ((0.1, 30.0, 0.2, 0.5, 0.1), 5.1, True),
    ],
)
def test_the_silence_deadline_depends_on_the_longest_epoch_but_not_on_the_start_up(
    clock: Clock, intervals: tuple[float, ...], silent: float, overdue: bool
) -> None:
    attempt = attempt_with_events(clock, *intervals)
    clock.now += silent
    assert (attempt.overdue(LIMITS) is not None) == overdue


def test_the_next_item_begins_with_the_longer_silence_deadline_of_a_start_up(clock: Clock) -> None:
    attempt = attempt_with_events(clock, 0.1, 1.0, 0.2)
    attempt.begin_next()
    clock.now += 99.0
    assert attempt.overdue(LIMITS) is None
