"""What becomes of slots: of one clock or two machines, in simulated time."""

from datetime import UTC, datetime, timedelta

import pytest

from mnist_lib.retraining import retrainer as module
from mnist_lib.retraining.journal import Entry
from mnist_lib.retraining.policy import Policy
from tests.support.retraining.hourly import DAY, HOUR, HOURLY, done, kinds, world
from tests.support.retraining.world import Settings, World


def test_each_slot_is_run_once_when_it_is_due() -> None:
    of = world()
    of.advance(DAY + HOUR / 2)
    assert kinds(of.journal()) == {"enrolled": 1, "started": 24, "done": 24}
    assert all(entry.begun == entry.slot for entry in of.journal() if entry.kind == "done")


def test_two_daemons_of_a_schedule_are_as_one() -> None:
    of = world(machines=2)
    of.advance(DAY + HOUR / 2)
    assert kinds(of.journal()) == {"enrolled": 1, "started": 24, "done": 24}


def test_i9_after_the_clock_went_back_no_slot_runs_twice() -> None:
    of = world()
    of.advance(6.5 * HOUR)
    of.machines[0].set_clock(-2 * HOUR)
    of.advance(6 * HOUR)
    assert len(done(of)) == len(set(done(of))) == 10  # 01:00 to 06:00, then 07:00 to 10:00 by the wrong clock
    assert kinds(of.journal())["skipped"] == 2
    assert all("before the clock was set back" in e.why for e in of.journal() if e.kind == "skipped")


def test_i9_after_the_clock_went_on_by_three_days_one_run_catches_up() -> None:
    of = world()
    of.advance(1.5 * HOUR)
    of.machines[0].set_clock(3 * DAY)
    of.advance(0.25 * HOUR)
    newest = of.journal()[-1]
    assert (newest.kind, newest.missed) == ("done", 71)
    assert newest.slot == "2026-01-08T01:00:00Z"


def test_i9_down_over_five_hundred_slots_costs_as_much_as_over_five(monkeypatch: pytest.MonkeyPatch) -> None:
    def requests(hours: float) -> int:
        of = world()
        of.advance(1.5 * HOUR)
        of.machines[0].die()
        of.advance(hours * HOUR)
        of.machines[0].boot()
        of.machines[0].requests_until_fault = 10**9
        of.advance(0.3 * HOUR)
        assert kinds(of.journal()[3:]) == {"started": 1, "done": 1}
        assert of.journal()[-1].missed == hours - 1
        return int(10**9 - of.machines[0].requests_until_fault)

    monkeypatch.setattr(module, "LONGEST_SLEEP_SECONDS", 1e9)
    assert requests(500) < 1.5 * requests(5)


@pytest.mark.parametrize(("catch_up", "runs"), [("latest", 1), ("none", 0), ("all", 5)])
def test_what_was_missed_is_caught_up_with_as_was_asked_for(catch_up: str, runs: int) -> None:
    of = world(catch_up=catch_up)
    of.advance(0.5 * HOUR)
    of.machines[0].die()
    of.advance(5 * HOUR)
    of.machines[0].boot()
    of.advance(0.3 * HOUR)
    assert len(done(of)) == runs
    settled = [entry for entry in of.journal() if entry.kind in ("done", "skipped")]
    assert sum(1 + entry.missed for entry in settled) == 5  # each slot is accounted for


def test_no_more_is_caught_up_with_than_was_asked_for() -> None:
    of = world(catch_up="all", most_catch_up=3)
    of.advance(0.5 * HOUR)
    of.machines[0].die()
    of.advance(50 * HOUR)
    of.machines[0].boot()
    of.advance(0.3 * HOUR)
    assert [entry.missed for entry in of.journal() if entry.kind == "done"] == [47, 0, 0]


def test_a_slot_past_its_starting_deadline_is_not_run() -> None:
    of = world(starting_deadline=600.0)
    of.advance(0.5 * HOUR)
    of.machines[0].die()
    of.advance(HOUR)
    of.machines[0].boot()
    of.advance(0.25 * HOUR)
    assert of.journal()[-1].why == "it is 0:30:01 late, and the starting deadline is 600 s"
    of.advance(HOUR)
    assert len(done(of)) == 1


@pytest.mark.parametrize(
    ("overlap", "expected"),
    [
        ("skip", {"done": ["01:00", "04:00"], "skipped": ["03:00", "06:00"]}),
        ("queue", {"done": ["01:00", "03:00"]}),
        ("replace", {"replaced": ["01:00", "02:00", "03:00"]}),
    ],
)
def test_i10_while_a_run_goes_on_the_next_slots_wait_or_go_or_take_its_place(
    overlap: str, expected: dict[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    of = world(overlap=overlap)
    monkeypatch.setattr(of.random, "uniform", lambda low, high: 2.5 * HOUR)  # each run takes so long
    of.advance(6.9 * HOUR if overlap == "skip" else 6.2 * HOUR if overlap == "queue" else 4.5 * HOUR)
    found: dict[str, list[str]] = {}
    for entry in of.journal():
        if entry.kind not in ("enrolled", "started"):
            found.setdefault(entry.kind, []).append(entry.slot[11:16])
    assert found == expected
    assert len(of.at_work()) <= 1


def test_nothing_changed_is_a_success_without_a_run() -> None:
    made = World(Settings(cron=HOURLY, skip_unchanged=True, longest_run=60.0))
    made.machines[0].boot()
    made.advance(3.5 * HOUR)
    assert [entry.kind for entry in made.journal()] == ["enrolled", "started", "done", "unchanged", "unchanged"]
    assert made.journal()[-1].why == f"data, configuration and code are those of run {made.journal()[1].run}"
    made.fingerprint = "of other data"
    made.advance(HOUR)
    assert made.journal()[-1].kind == "done"


def test_a_start_that_is_delayed_is_not_too_late_for_that_but_one_that_was_queued_can_be() -> None:
    of = world(jitter=1800.0, starting_deadline=60.0)
    of.advance(24.9 * HOUR)
    assert len(done(of)) == 24
    late = Policy(overlap="queue", starting_deadline=60.0)
    slot = datetime(2026, 1, 5, 1, tzinfo=UTC)
    last = Entry("done", "2026-01-05T00:00:00Z", "2026-01-05T01:50:00Z", "host", begun="2026-01-05T00:00:00Z")
    due = late.due(of.timetable, last, last.due, slot + timedelta(minutes=50))
    assert due is not None
    assert due.skip == "it is 0:50:00 late, and the starting deadline is 60 s"


def test_the_start_of_a_slot_is_delayed_by_the_same_time_on_every_machine() -> None:
    policy = Policy(jitter=600.0)
    slot = datetime(2026, 1, 5, 3, tzinfo=UTC)
    delays = {policy.delay("nightly", slot + timedelta(days=day)) for day in range(100)}
    assert len(delays) == 100
    assert all(timedelta(0) <= delay < timedelta(minutes=10) for delay in delays)
    assert policy.delay("nightly", slot) == Policy(jitter=600.0).delay("nightly", slot)
