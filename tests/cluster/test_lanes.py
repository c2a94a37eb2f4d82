"""The deadlines of one lane, at times that the test chooses."""

from types import SimpleNamespace

import pytest

from cluster.deadlines import Limits
from cluster.lanes import Cause, Lane, LaneState, TrialQueue, WorkerProcess

SILENCE = {"starting": 50, "assigned": 80, "preparing": 100, "training": 3, "finishing": 20, "ending": 5}
LIMITS = Limits(silence_seconds=SILENCE, fetch_seconds=7)
TRIAL = SimpleNamespace(id="trial", compile_key="key", cost=1.0)


def begun(at: float = 0.0) -> Lane:
    lane = Lane(handle=1, state_since=at)
    lane.start(WorkerProcess(node="n", host="h", pid=1), at)
    lane.assign(TRIAL, at)
    return lane


def seconds_until_overdue(lane: Lane, since: float) -> float:
    """Return the seconds of silence, in steps of 0.5 s, after which the lane is abandoned."""
    silent = 0.0
    while not lane.why_overdue(LIMITS, since + silent):
        silent += 0.5
    return silent


def test_a_lane_that_waits_for_resources_has_no_deadline_of_its_own() -> None:
    assert Lane(handle=1, state_since=0).why_overdue(LIMITS, 1e9) is None


@pytest.mark.parametrize(
    ("phase", "seconds"), [("starting", 50), ("preparing", 100), ("training", 3), ("finishing", 20)]
)
def test_each_phase_has_a_deadline_of_its_own(phase: str, seconds: float) -> None:
    lane = begun()
    lane.note(phase, 10, sent_at=10)
    assert seconds_until_overdue(lane, 10) == seconds + 0.5


def test_u1_many_quick_events_do_not_shorten_the_deadline_of_the_next_item() -> None:
    lane = begun()
    for now in (1, 2, 3, 3.1, 3.2):
        lane.note("training", now, sent_at=now)
    lane.end_trial(4)
    lane.assign(TRIAL, 4)
    assert lane.state is LaneState.ASSIGNED
    assert seconds_until_overdue(lane, 4) == 80.5
    lane.note("preparing", 90, sent_at=90)  # compiled; a checkpoint or an epoch has not come yet
    assert seconds_until_overdue(lane, 90) == 100.5


def test_in_training_ten_times_the_longest_interval_is_allowed() -> None:
    lane = begun()
    for now in (10, 12, 12.125, 12.25):
        lane.note("training", now, sent_at=now)
    assert seconds_until_overdue(lane, 12.25) == 20.5


def test_u5_how_long_an_event_waits_to_be_read_does_not_change_the_measured_intervals() -> None:
    lane = begun()
    lane.note("training", 0, sent_at=100)
    lane.note("training", 30, sent_at=112)  # the storage is slow
    lane.note("training", 30, sent_at=113)
    assert seconds_until_overdue(lane, 30) == 120.5


def test_a_lane_without_an_item_has_no_deadline_until_it_is_told_to_end() -> None:
    lane = begun()
    lane.end_trial(1)
    assert lane.why_overdue(LIMITS, 1e9) is None
    lane.close(10)
    assert seconds_until_overdue(lane, 10) == 5.5


def test_a_late_start_event_does_not_reopen_a_lane_that_was_told_to_end() -> None:
    lane = Lane(handle=1, state_since=0)
    lane.start(WorkerProcess(node="n", host="h", pid=1), 0)
    lane.close(1)
    lane.note("starting", 2, sent_at=2)
    assert lane.state is LaneState.ENDING


def test_w2_the_time_of_an_item_begins_when_the_lane_reports_that_it_has_begun_it() -> None:
    lane, limits = begun(), Limits(trial_seconds=60)
    lane.note("starting", 1, sent_at=1)
    assert lane.why_overdue(limits, 800) is None
    lane.note("preparing", 800, sent_at=800)
    assert lane.why_overdue(limits, 860) is None
    death = lane.why_overdue(limits, 860.5)
    assert death is not None
    assert death.cause is Cause.OVERTIME


def test_u5_an_event_whose_content_never_arrives_counts_as_a_lost_node() -> None:
    lane = begun()
    lane.note("training", 1, sent_at=1)
    lane.fetching_since = 2
    assert lane.why_overdue(LIMITS, 8) is None
    death = lane.why_overdue(LIMITS, 9.5)
    assert death is not None
    assert death.cause is Cause.NODE_LOST


def test_a_lane_prefers_trials_of_its_kind_then_of_no_other_lane_among_those_of_equal_cost() -> None:
    queue = TrialQueue(LIMITS)
    first, *others = (
        SimpleNamespace(id=key, compile_key=key, cost=cost)
        for key, cost in (("other lane", 2.0), ("no lane", 2.0), ("own", 2.0), ("cheap", 1.0))
    )
    queue.put([first, *others])
    taken = [trial.id for _ in range(3) if (trial := queue.pop_for("own", {"other lane"}, lambda trial: True))]
    assert taken == ["own", "no lane", "other lane"]


def test_a_trial_that_is_not_ready_does_not_delay_those_behind_it() -> None:
    queue = TrialQueue(LIMITS)
    first, second = (
        SimpleNamespace(id=name, compile_key="key", cost=cost) for name, cost in (("first", 2.0), ("second", 1.0))
    )
    queue.put([first, second])
    assert queue.pop_for("key", (), lambda trial: trial is second) is second
    assert queue.pop_for("key", (), lambda trial: trial is second) is None
    assert queue.pop_for("key", (), lambda trial: True) is first
