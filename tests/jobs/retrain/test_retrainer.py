"""What happens to slots on time, missed or overlapping, on one machine or two, in simulated time."""

from datetime import timedelta

import pytest

from jobs.retrain import retrainer
from jobs.retrain.journal import Entry, Journal
from mnist_lib.environment import moment_of
from mnist_lib.errors import StoreError
from tests.support.retraining.hourly import DAY, HOUR, HOURLY, done_slots, hourly_world, kinds
from tests.support.retraining.world import TIME_TO_LIVE, Settings, World


def test_each_slot_runs_once_when_it_is_due() -> None:
    world = hourly_world()
    world.advance(DAY + HOUR / 2)
    assert kinds(world.journal()) == {"enrolled": 1, "started": 24, "done": 24}
    assert all(entry.begun == entry.slot for entry in world.journal() if entry.kind == "done")


def test_two_daemons_of_a_schedule_run_each_slot_once() -> None:
    world = hourly_world(machines=2)
    world.advance(DAY + HOUR / 2)
    assert kinds(world.journal()) == {"enrolled": 1, "started": 24, "done": 24}


def test_i9_no_slot_runs_twice_after_the_clock_was_set_back() -> None:
    world = hourly_world()
    world.advance(6.5 * HOUR)
    world.machines[0].set_clock(-2 * HOUR)
    world.advance(6 * HOUR)
    # 01:00 to 06:00, then 07:00 to 10:00 of the wrong clock.
    assert len(done_slots(world)) == len(set(done_slots(world))) == 10
    assert kinds(world.journal())["skipped"] == 2
    assert all("before the clock was set back" in e.why for e in world.journal() if e.kind == "skipped")


def test_i9_one_run_catches_up_after_the_clock_was_set_forward_by_three_days() -> None:
    world = hourly_world()
    world.advance(1.5 * HOUR)
    world.machines[0].set_clock(3 * DAY)
    world.advance(0.25 * HOUR)
    newest = world.journal()[-1]
    assert (newest.kind, newest.missed) == ("done", 71)
    assert newest.slot == "2026-01-08T01:00:00Z"


def test_i9_an_outage_of_500_slots_costs_as_many_requests_as_one_of_5(monkeypatch: pytest.MonkeyPatch) -> None:
    def requests(hours: float) -> int:
        world = hourly_world()
        world.advance(1.5 * HOUR)
        world.machines[0].die()
        world.advance(hours * HOUR)
        world.machines[0].boot()
        world.machines[0].requests_until_fault = 10**9
        world.advance(0.3 * HOUR)
        assert kinds(world.journal()[3:]) == {"started": 1, "done": 1}
        assert world.journal()[-1].missed == hours - 1
        return int(10**9 - world.machines[0].requests_until_fault)

    monkeypatch.setattr(retrainer, "MAX_SLEEP_SECONDS", 1e9)
    assert requests(500) < 1.5 * requests(5)


def test_one_run_catches_up_with_missed_slots() -> None:
    world = hourly_world()
    world.advance(0.5 * HOUR)
    world.machines[0].die()
    world.advance(5 * HOUR)
    world.machines[0].boot()
    world.advance(0.3 * HOUR)
    (done,) = [entry for entry in world.journal() if entry.kind == "done"]
    assert (done.slot[11:16], done.missed) == ("05:00", 4)


def test_i10_slots_due_during_a_run_are_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    world = hourly_world()
    monkeypatch.setattr(world.random, "uniform", lambda low, high: 2.5 * HOUR)  # the seconds of each run
    world.advance(6.9 * HOUR)
    ended: dict[str, list[str]] = {}
    for entry in world.journal():
        if entry.kind not in ("enrolled", "started"):
            ended.setdefault(entry.kind, []).append(entry.slot[11:16])
    assert ended == {"done": ["01:00", "04:00"], "skipped": ["03:00", "06:00"]}
    assert len(world.at_work()) <= 1


def test_the_end_of_a_run_is_stored_later_if_it_cannot_be_stored_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    world = hourly_world()
    append, refused = Journal.append, list[Entry]()

    def append_at_second_attempt(journal: Journal, last: int, entry: Entry) -> bool:
        if entry.kind == "done" and not refused:
            refused.append(entry)
            raise StoreError("the storage cannot be reached")
        return append(journal, last, entry)

    monkeypatch.setattr(Journal, "append", append_at_second_attempt)
    world.advance(1.5 * HOUR)
    assert world.journal()[-1:] == refused


def test_a_slot_is_settled_without_a_run_if_nothing_has_changed() -> None:
    world = World(Settings(cron=HOURLY, skip_unchanged=True, longest_run=60.0))
    world.machines[0].boot()
    world.advance(3.5 * HOUR)
    assert [entry.kind for entry in world.journal()] == ["enrolled", "started", "done", "unchanged", "unchanged"]
    assert (
        world.journal()[-1].why == f"data, configuration and code have not changed since run {world.journal()[1].run}"
    )
    world.fingerprint = "other data"
    world.advance(HOUR)
    assert world.journal()[-1].kind == "done"


def test_a_slot_is_not_started_by_a_process_whose_lease_was_not_renewed_while_it_hashed() -> None:
    world = World(Settings(cron=HOURLY, hashing=TIME_TO_LIVE))
    world.machines[0].boot()
    world.advance(1.5 * HOUR)
    assert [entry.kind for entry in world.journal()] == ["enrolled"]


def test_a_requested_run_begins_at_once() -> None:
    world = hourly_world()
    world.advance(1.5 * HOUR)
    requested = world.time()
    world.machines[0].die()
    world.machines[0].boot(on_request=True)
    world.advance(HOUR)
    assert abs(moment_of(world.journal()[-1].begun) - requested) < timedelta(seconds=5)
