"""What happens to slots on time, missed or overlapping, on one machine or two, in simulated time."""

from datetime import UTC, datetime, timedelta

import pytest

from jobs.retrain import retrainer
from jobs.retrain.journal import Entry, Journal
from jobs.retrain.slots import Policy
from mnist_lib.clock import moment_of
from mnist_lib.errors import StoreError
from tests.support.retraining.fakes import SCHEDULE
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


def test_a_slot_past_its_starting_deadline_does_not_run() -> None:
    world = hourly_world(starting_deadline=600.0)
    world.advance(0.5 * HOUR)
    world.machines[0].die()
    world.advance(HOUR)
    world.machines[0].boot()
    world.advance(0.25 * HOUR)
    assert world.journal()[-1].why == "0:30:01 late, past the starting deadline of 600 s"
    world.advance(HOUR)
    assert len(done_slots(world)) == 1


@pytest.mark.parametrize(
    ("overlap", "expected"),
    [
        ("skip", {"done": ["01:00", "04:00"], "skipped": ["03:00", "06:00"]}),
        ("queue", {"done": ["01:00", "03:00"]}),
        ("replace", {"replaced": ["01:00", "02:00", "03:00"]}),
    ],
)
def test_i10_slots_due_during_a_run_are_skipped_queued_or_replace_it(
    overlap: str, expected: dict[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    world = hourly_world(overlap=overlap)
    monkeypatch.setattr(world.random, "uniform", lambda low, high: 2.5 * HOUR)  # the seconds of each run
    world.advance(6.9 * HOUR if overlap == "skip" else 6.2 * HOUR if overlap == "queue" else 4.5 * HOUR)
    found: dict[str, list[str]] = {}
    for entry in world.journal():
        if entry.kind not in ("enrolled", "started"):
            found.setdefault(entry.kind, []).append(entry.slot[11:16])
    assert found == expected
    assert len(world.at_work()) <= 1


def test_a_replaced_run_stays_replaced_if_its_end_cannot_be_stored_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    world = hourly_world(overlap="replace")
    monkeypatch.setattr(world.random, "uniform", lambda low, high: 1.5 * HOUR)
    append, refused = Journal.append, list[Entry]()

    def append_at_second_attempt(journal: Journal, last: int, entry: Entry) -> bool:
        if entry.kind == "replaced" and not refused:
            refused.append(entry)
            raise StoreError("the storage cannot be reached")
        return append(journal, last, entry)

    monkeypatch.setattr(Journal, "append", append_at_second_attempt)
    world.advance(2.2 * HOUR)
    replaced, started = world.journal()[-2:]
    assert [replaced] == refused
    assert (started.kind, started.slot) == ("started", "2026-01-05T02:00:00Z")


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


def test_a_slot_whose_deadline_passes_while_the_data_are_hashed_is_not_started() -> None:
    policy = Policy(starting_deadline=20.0)
    world = World(Settings(cron=HOURLY, policy=policy, hashing=60.0))
    world.machines[0].boot()
    world.advance(1.5 * HOUR)
    assert [entry.kind for entry in world.journal()] == ["enrolled", "skipped"]
    assert world.journal()[-1].why == "0:01:00 late, past the starting deadline of 20 s"


def test_a_slot_is_not_started_by_a_process_whose_lease_was_not_renewed_while_it_hashed() -> None:
    world = World(Settings(cron=HOURLY, hashing=TIME_TO_LIVE))
    world.machines[0].boot()
    world.advance(1.5 * HOUR)
    assert [entry.kind for entry in world.journal()] == ["enrolled"]


def test_the_starting_deadline_counts_time_in_the_queue_but_not_jitter() -> None:
    world = hourly_world(jitter=1800.0, starting_deadline=60.0)
    world.advance(24.9 * HOUR)
    assert len(done_slots(world)) == 24
    late = Policy(overlap="queue", starting_deadline=60.0)
    slot = datetime(2026, 1, 5, 1, tzinfo=UTC)
    last = Entry("done", "2026-01-05T00:00:00Z", "2026-01-05T01:50:00Z", "host", begun="2026-01-05T00:00:00Z")
    due = late.due(world.timetable, last, slot + timedelta(minutes=50))
    assert due is not None
    assert due.skip == "0:50:00 late, past the starting deadline of 60 s"


def test_a_slot_begins_after_its_jitter_and_a_requested_run_at_once() -> None:
    world, policy = hourly_world(jitter=1800.0), Policy(jitter=1800.0)
    world.advance(DAY)
    done = [entry for entry in world.journal() if entry.kind == "done"]
    assert len(done) >= 23
    for entry in done:
        slot, begun = moment_of(entry.slot), moment_of(entry.begun)
        assert abs(begun - slot - policy.delay(SCHEDULE, slot)) < timedelta(seconds=5)
    world.advance(HOUR - 60)
    requested = world.time()
    world.machines[0].die()
    world.machines[0].boot(on_request=True)
    world.advance(HOUR)
    assert abs(moment_of(world.journal()[-1].begun) - requested) < timedelta(seconds=2 * TIME_TO_LIVE)


def test_the_jitter_of_a_slot_is_the_same_on_every_machine() -> None:
    policy = Policy(jitter=600.0)
    slot = datetime(2026, 1, 5, 3, tzinfo=UTC)
    delays = {policy.delay("nightly", slot + timedelta(days=day)) for day in range(100)}
    assert len(delays) == 100
    assert all(timedelta(0) <= delay < timedelta(minutes=10) for delay in delays)
    assert policy.delay("nightly", slot) == Policy(jitter=600.0).delay("nightly", slot)
