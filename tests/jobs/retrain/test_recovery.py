"""What happens to a slot when a process dies, sleeps, fails or is stopped, in simulated time."""

from collections.abc import Callable
from datetime import timedelta
from typing import Literal

import pytest

from jobs.retrain.journal import Entry
from jobs.retrain.retrainer import AttemptResult
from jobs.retrain.slots import due_slot
from mnist_lib.environment import moment_of
from tests.support.retraining.fakes import FakeAttempt
from tests.support.retraining.hourly import DAY, HOUR, HOURLY, done_slots, hourly_world
from tests.support.retraining.world import TIME_TO_LIVE, Machine, Settings, World


def test_i11_when_the_holder_is_killed_another_takes_over_after_its_time_to_live(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = hourly_world(machines=2)
    monkeypatch.setattr(world.random, "uniform", lambda low, high: 600.0)
    world.advance(HOUR + 120)
    (running,) = world.at_work()
    holder = running.machine
    holder.die()
    killed_at = world.now
    while not world.at_work():
        world.advance(1)
    assert TIME_TO_LIVE * 2 / 3 <= world.now - killed_at <= TIME_TO_LIVE * 5 / 3
    started = world.journal()[-1]
    assert (started.kind, started.attempt, started.run) == ("started", 2, running.run)
    assert started.host != f"host{holder.number}"
    assert [entry.kind for entry in world.notified] == ["started"]  # a notice is sent for the recovery
    world.advance(900)
    assert len(done_slots(world)) == 1


@pytest.mark.parametrize("first", ["old", "new"])
def test_p10_i11_of_an_old_holder_that_wakes_up_and_the_new_one_the_first_completes_the_slot(
    first: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = hourly_world(machines=2)
    monkeypatch.setattr(world.random, "uniform", lambda low, high: 600.0)
    world.advance(HOUR + 590)  # it is nearly done
    (old,) = world.at_work()
    old.machine.sleep(300)  # meanwhile the other machine takes over
    (new,) = [attempt for attempt in world.at_work() if attempt is not old]
    attempts = {"old": old, "new": new}
    assert old.run == new.run
    for attempt in (attempts[first], old, new):
        attempt.end = world.now  # it ends before its daemon takes a step
        result = attempt.poll()
        assert result is not None
        assert result.complete
        assert world.content[f"runs/{new.run}/summary.json"] == f"by {attempts[first].machine.number}".encode()
    world.advance(900)
    assert len(done_slots(world)) == 1


def test_a_run_that_keeps_dying_is_abandoned_and_the_next_slot_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    world = hourly_world(max_attempts=3)
    monkeypatch.setattr(world.random, "uniform", lambda low, high: 600.0)
    world.advance(HOUR + 5)
    for _ in range(3):
        world.machines[0].die()
        world.machines[0].boot()
        world.advance(2 * TIME_TO_LIVE)
    failed = world.journal()[-1]
    assert (failed.kind, failed.why) == ("failed", "abandoned after 3 attempts; the last attempt's process died")
    world.advance(HOUR + 600)
    assert done_slots(world) == ["2026-01-05T02:00:00Z"]


def test_after_a_failure_every_daemon_backs_off_before_the_next_attempt() -> None:
    world = World(Settings(cron=HOURLY, failing=1.0, longest_run=10.0, max_attempts=4), machines=2, seed=3)
    for machine in world.machines:
        machine.boot()
    world.advance(1.5 * HOUR)
    attempts = [entry for entry in world.journal() if entry.kind != "enrolled"]
    assert [entry.kind for entry in attempts] == ["started", "interrupted"] * 3 + ["started", "failed"]
    begun = [moment_of(entry.at) for entry in attempts]
    pauses = [(later - before).total_seconds() for before, later in zip(begun[1::2], begun[2::2], strict=False)]
    assert all(pause >= minimum for pause, minimum in zip(pauses, (10, 20, 40), strict=True)), pauses


@pytest.mark.parametrize(("retry", "attempts"), [("no", 1), ("once", 2), ("yes", 4)])
def test_a_failed_attempt_is_retried_as_its_result_says(
    retry: Literal["no", "once", "yes"], attempts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeAttempt, "end_result", lambda self: AttemptResult(5, complete=False, retry=retry))
    world = hourly_world(max_attempts=4)
    world.advance(1.5 * HOUR)
    failed = world.journal()[-1]
    assert (failed.kind, failed.attempt, failed.exit_code) == ("failed", attempts, 5)
    assert world.are_last == [number == 4 for number in range(1, attempts + 1)]


def test_a_slot_due_during_a_failed_attempt_overlaps_its_run() -> None:
    timetable = hourly_world().timetable
    last = Entry(
        "done",
        "2026-01-05T03:00:00Z",
        "2026-01-05T04:50:00Z",
        "host",
        begun="2026-01-05T03:00:00Z",
        attempt=2,
        failures=1,
    )
    due = due_slot(timetable, last, moment_of("2026-01-05T04:50:01Z"))
    assert due is not None
    assert due.skip == "the run of slot 2026-01-05T03:00:00Z was still in progress"
    world = World(Settings(cron=HOURLY, failing=1.0, longest_run=10.0))
    world.machines[0].boot()
    world.advance(1.2 * HOUR)
    begun = {entry.begun for entry in world.journal() if entry.attempt > 1}
    assert begun == {"2026-01-05T01:00:00Z"}


def test_cron_can_start_runs_after_a_clock_that_was_ahead_is_corrected() -> None:
    """Each is started by a new process. The first one begins the schedule anew, the second runs its slot."""
    world = hourly_world()
    world.machines[0].set_clock(4 * 365 * DAY)
    world.advance(0.9 * HOUR)
    ahead = len(done_slots(world))
    world.machines[0].die()
    world.machines[0].set_clock(0.0)
    world.advance(HOUR / 2)
    for _ in range(2):
        world.machines[0].boot(enroll=world.timetable.latest(world.time()) - timedelta(seconds=1))
        world.advance(120)
        world.machines[0].die()
        world.advance(HOUR)
    assert len(done_slots(world)) == ahead + 1


@pytest.mark.parametrize("end", [Machine.terminate, Machine.die])
@pytest.mark.parametrize("max_attempts", [1, 3])
def test_w8_a_requested_run_trains_once_after_the_end_of_a_daemon(
    end: Callable[[Machine], None], max_attempts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = hourly_world(max_attempts=max_attempts)
    machine = world.machines[0]
    monkeypatch.setattr(world.random, "uniform", lambda low, high: 600.0)
    while not world.at_work():
        world.advance(30)
    before = len(world.are_last)
    end(machine)
    world.advance(2 * HOUR)
    requested = world.time()
    machine.boot(on_request=True)
    world.advance(DAY)
    settled = [entry for entry in world.journal() if not entry.is_open and moment_of(entry.at) >= requested]
    assert [entry.kind for entry in settled if entry.kind != "failed"] == ["done"]
    assert settled[-1].kind == "done"
    assert len(world.are_last) == before + 1
    assert machine.retrainer is not None
    assert machine.retrainer.last_settled == settled[-1]
    assert moment_of(settled[-1].at) < requested + timedelta(seconds=600 + 2 * TIME_TO_LIVE)


def test_w8_a_requested_run_follows_a_slot_whose_attempts_are_used_up(monkeypatch: pytest.MonkeyPatch) -> None:
    world = hourly_world(max_attempts=1)
    monkeypatch.setattr(world.random, "uniform", lambda low, high: 600.0)
    world.advance(HOUR + 60)
    world.machines[0].die()
    world.machines[0].boot(on_request=True)
    world.advance(0.5 * HOUR)
    old, new = [entry for entry in world.journal() if not entry.is_open][1:]
    assert (old.kind, old.slot, old.exit_code) == ("failed", "2026-01-05T01:00:00Z", 5)
    assert (new.kind, new.missed) == ("done", 0)
    assert new.slot > old.slot


def test_w8_a_requested_run_that_fails_is_retried_and_reported_as_failed() -> None:
    world = World(Settings(cron=HOURLY, failing=1.0, longest_run=10.0, max_attempts=3), seed=3)
    machine = world.machines[0]
    machine.boot(on_request=True)
    world.advance(DAY)
    assert [entry.kind for entry in world.journal()] == [
        "enrolled",
        *["started", "interrupted"] * 2,
        "started",
        "failed",
    ]
    assert machine.retrainer is not None
    assert machine.retrainer.last_settled == world.journal()[-1]


def test_w8_a_requested_run_resumes_one_that_was_stopped_without_its_back_off(monkeypatch: pytest.MonkeyPatch) -> None:
    result = AttemptResult(4, complete=False, retry="yes")
    monkeypatch.setattr(FakeAttempt, "end_result", lambda self: result)
    world = hourly_world(max_attempts=9, longest_run=10.0)
    world.advance(HOUR + 400)
    interrupted = world.journal()[-1]
    assert (interrupted.kind, interrupted.failures) == ("interrupted", 6)  # the next attempt is due in 320 s
    world.machines[0].terminate()
    world.machines[0].boot(on_request=True)
    world.advance(5)
    again = world.journal()[-1]
    assert (again.kind, again.slot, again.attempt) == ("started", interrupted.slot, interrupted.attempt + 1)


@pytest.mark.parametrize(
    "failure", [lambda world: world.machines[0].die(), lambda world: world.machines[0].set_clock(10 * DAY)]
)
def test_the_schedule_goes_on_after_any_failure(failure: Callable[[World], None]) -> None:
    world = hourly_world()
    world.advance(1.5 * HOUR)
    failure(world)
    world.advance(2 * HOUR)
    world.machines[0].set_clock(0.0)
    world.machines[0].boot()
    world.advance(3.5 * HOUR)
    assert [slot[11:16] for slot in done_slots(world)[-3:]] == ["04:00", "05:00", "06:00"]
