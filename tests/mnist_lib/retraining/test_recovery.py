"""What becomes of a slot when a process dies, sleeps, fails or is stopped, in simulated time."""

from collections.abc import Callable
from datetime import timedelta

import pytest

from mnist_lib.clock import moment_of
from mnist_lib.retraining.journal import Entry
from mnist_lib.retraining.policy import Policy
from tests.support.retraining.hourly import DAY, HOUR, HOURLY, done, world
from tests.support.retraining.world import TIME_TO_LIVE, Settings, World


def test_i11_when_the_holder_is_killed_another_takes_over_after_its_time_to_live(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    of = world(machines=2)
    monkeypatch.setattr(of.random, "uniform", lambda low, high: 600.0)
    of.advance(HOUR + 120)
    (running,) = of.at_work()
    holder = running.machine
    holder.die()
    killed_at = of.now
    while not of.at_work():
        of.advance(1)
    assert TIME_TO_LIVE * 2 / 3 <= of.now - killed_at <= TIME_TO_LIVE * 5 / 3
    started = of.journal()[-1]
    assert (started.kind, started.attempt, started.run) == ("started", 2, running.run)
    assert started.host != f"host{holder.number}"
    assert [entry.kind for entry in of.told] == ["started"]  # somebody is told of the recovery
    of.advance(900)
    assert len(done(of)) == 1


def test_i11_what_the_old_holder_writes_when_it_wakes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    of = world(machines=2)
    monkeypatch.setattr(of.random, "uniform", lambda low, high: 600.0)
    of.advance(HOUR + 590)  # it has nearly done
    (old,) = of.at_work()
    old.machine.sleep(300)  # meanwhile the other has taken over
    (new,) = [attempt for attempt in of.at_work() if attempt is not old]
    old.end = of.now  # it comes to its end before its daemon has looked
    outcome = old.poll()
    assert outcome is not None
    assert (outcome.exit_code, outcome.complete) == (6, False)
    assert "has passed to another process" in outcome.why
    of.advance(900)
    assert len(done(of)) == 1
    assert of.content[f"runs/{new.run}/summary.json"] == f"by {new.machine.number}".encode()


def test_a_run_that_keeps_dying_is_given_up_and_the_next_slot_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    of = world(max_attempts=3)
    monkeypatch.setattr(of.random, "uniform", lambda low, high: 600.0)
    of.advance(HOUR + 5)
    for _ in range(3):
        of.machines[0].die()
        of.machines[0].boot()
        of.advance(2 * TIME_TO_LIVE)
    failed = of.journal()[-1]
    assert (failed.kind, failed.why) == ("failed", "given up after 3 attempts, the last of which died")
    of.advance(HOUR + 600)
    assert done(of) == ["2026-01-05T02:00:00Z"]


def test_after_a_failure_every_daemon_waits_before_the_next_attempt() -> None:
    made = World(
        Settings(cron=HOURLY, failing=1.0, longest_run=10.0, policy=Policy(max_attempts=4)), machines=2, seed=3
    )
    for machine in made.machines:
        machine.boot()
    made.advance(1.5 * HOUR)
    attempts = [entry for entry in made.journal() if entry.kind != "enrolled"]
    assert [entry.kind for entry in attempts] == ["started", "interrupted"] * 3 + ["started", "failed"]
    begun = [moment_of(entry.at) for entry in attempts]
    pauses = [(later - before).total_seconds() for before, later in zip(begun[1::2], begun[2::2], strict=False)]
    assert all(pause >= least for pause, least in zip(pauses, (10, 20, 40), strict=True)), pauses


def test_what_came_due_during_an_attempt_that_failed_was_overlapped_too() -> None:
    timetable = world().timetable
    last = Entry(
        "done",
        "2026-01-05T03:00:00Z",
        "2026-01-05T04:50:00Z",
        "host",
        begun="2026-01-05T03:00:00Z",
        attempt=2,
        failures=1,
    )
    due = Policy().due(timetable, last, last.due, moment_of("2026-01-05T04:50:01Z"))
    assert due is not None
    assert due.skip == "the run of 2026-01-05T03:00:00Z was going on"
    made = World(Settings(cron=HOURLY, failing=1.0, longest_run=10.0))
    made.machines[0].boot()
    made.advance(1.2 * HOUR)
    begun = {entry.begun for entry in made.journal() if entry.attempt > 1}
    assert begun == {"2026-01-05T01:00:00Z"}  # since then it is at it


def test_with_the_clock_ahead_once_another_scheduler_still_gets_its_runs() -> None:
    """Each of its calls is a new process, which knows nothing of the clock that was set right."""
    of = world()
    of.machines[0].set_clock(4 * 365 * DAY)
    of.advance(0.9 * HOUR)
    ahead = len(done(of))
    of.machines[0].die()
    of.machines[0].set_clock(0.0)
    of.advance(HOUR / 2)
    of.machines[0].boot(enroll=of.timetable.latest(of.time()) - timedelta(seconds=1))
    of.advance(120)
    assert len(done(of)) == ahead + 1


def test_run_now_goes_on_with_a_run_that_was_stopped() -> None:
    of = world()
    machine = of.machines[0]
    assert machine.retrainer is not None
    begun = machine.retrainer.run_now()
    assert begun is not None
    machine.retrainer.stop()
    assert of.journal()[-1].kind == "interrupted"
    again = machine.retrainer.run_now()
    assert again is not None
    assert (again.slot, of.journal()[-1].attempt) == (begun.slot, 2)


@pytest.mark.parametrize("failure", [lambda of: of.machines[0].die(), lambda of: of.machines[0].set_clock(10 * DAY)])
def test_it_is_never_stuck(failure: Callable[[World], None]) -> None:
    of = world()
    of.advance(1.5 * HOUR)
    failure(of)
    of.advance(2 * HOUR)
    of.machines[0].set_clock(0.0)
    of.machines[0].boot()
    of.advance(3.5 * HOUR)
    assert [slot[11:16] for slot in done(of)[-3:]] == ["04:00", "05:00", "06:00"]
