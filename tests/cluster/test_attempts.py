"""The deadlines of one attempt, at times that the test chooses."""

from types import SimpleNamespace

import pytest

from cluster.attempts import Attempt, Cause, LaneState, TrialQueue, WorkerProcess
from cluster.deadlines import Limits

LIMITS = Limits(
    starting_seconds=50,
    preparing_seconds=100,
    training_seconds=3,
    finishing_seconds=20,
    ending_seconds=5,
    fetch_seconds=7,
)
TRIAL = SimpleNamespace(id="trial", kind="kind", cost=1.0)


def begun(at: float = 0.0) -> Attempt:
    attempt = Attempt(lane=1, state_since=at)
    attempt.start(WorkerProcess(node="n", host="h", pid=1), at)
    attempt.assign(TRIAL, at)
    return attempt


def seconds_until_overdue(attempt: Attempt, since: float) -> float:
    """Return the seconds of silence, in steps of 0.5 s, after which the attempt is abandoned."""
    silent = 0.0
    while not attempt.overdue(LIMITS, since + silent):
        silent += 0.5
    return silent


def test_a_lane_that_waits_for_resources_has_no_deadline_of_its_own() -> None:
    assert Attempt(lane=1, state_since=0).overdue(LIMITS, 1e9) is None


@pytest.mark.parametrize(
    ("phase", "seconds"), [("starting", 50), ("preparing", 100), ("training", 3), ("finishing", 20)]
)
def test_each_phase_has_a_deadline_of_its_own(phase: str, seconds: float) -> None:
    attempt = begun()
    attempt.note(phase, 10, sent_at=10)
    assert seconds_until_overdue(attempt, 10) == seconds + 0.5


def test_u1_many_quick_events_do_not_shorten_the_deadline_of_the_next_item() -> None:
    attempt = begun()
    for now in (1, 2, 3, 3.1, 3.2):
        attempt.note("training", now, sent_at=now)
    attempt.end_trial(4)
    attempt.assign(TRIAL, 4)
    assert attempt.state is LaneState.PREPARING
    assert seconds_until_overdue(attempt, 4) == 100.5
    attempt.note("preparing", 90, sent_at=90)  # compiled; a checkpoint or an epoch has not come yet
    assert seconds_until_overdue(attempt, 90) == 100.5


def test_in_training_ten_times_the_longest_interval_is_allowed() -> None:
    attempt = begun()
    for now in (10, 12, 12.125, 12.25):
        attempt.note("training", now, sent_at=now)
    assert seconds_until_overdue(attempt, 12.25) == 20.5


def test_u5_how_long_an_event_waits_to_be_read_does_not_change_the_measured_intervals() -> None:
    attempt = begun()
    attempt.note("training", 0, sent_at=100)
    attempt.note("training", 30, sent_at=112)  # the storage is slow
    attempt.note("training", 30, sent_at=113)
    assert seconds_until_overdue(attempt, 30) == 120.5


def test_a_lane_without_an_item_has_no_deadline_until_it_is_told_to_end() -> None:
    attempt = begun()
    attempt.end_trial(1)
    assert attempt.overdue(LIMITS, 1e9) is None
    attempt.close(10)
    assert seconds_until_overdue(attempt, 10) == 5.5


def test_a_late_start_event_does_not_reopen_a_lane_that_was_told_to_end() -> None:
    attempt = Attempt(lane=1, state_since=0)
    attempt.start(WorkerProcess(node="n", host="h", pid=1), 0)
    attempt.close(1)
    attempt.note("starting", 2, sent_at=2)
    assert attempt.state is LaneState.ENDING


def test_w2_the_time_of_an_item_begins_when_the_lane_reports_that_it_has_begun_it() -> None:
    attempt, limits = begun(), Limits(trial_seconds=60)
    attempt.note("starting", 1, sent_at=1)
    assert attempt.overdue(limits, 800) is None
    attempt.note("preparing", 800, sent_at=800)
    assert attempt.overdue(limits, 860) is None
    death = attempt.overdue(limits, 860.5)
    assert death is not None
    assert death.cause is Cause.OVERTIME


def test_u5_an_event_whose_content_never_arrives_counts_as_a_lost_node() -> None:
    attempt = begun()
    attempt.note("training", 1, sent_at=1)
    attempt.fetching_since = 2
    assert attempt.overdue(LIMITS, 8) is None
    death = attempt.overdue(LIMITS, 9.5)
    assert death is not None
    assert death.cause is Cause.NODE_LOST


def test_a_lane_prefers_trials_of_its_kind_then_of_no_other_lane_among_those_of_equal_cost() -> None:
    queue = TrialQueue(LIMITS)
    first, *others = (
        SimpleNamespace(id=kind, kind=kind, cost=cost)
        for kind, cost in (("other lane", 2.0), ("no lane", 2.0), ("own", 2.0), ("cheap", 1.0))
    )
    queue.put([first, *others])
    taken = [queue.pop_for("own", {"other lane"}).id for _ in range(3)]
    assert taken == ["own", "no lane", "other lane"]
