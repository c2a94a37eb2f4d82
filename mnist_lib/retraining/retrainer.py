"""One schedule, carried out: a machine that takes a step whenever it is asked to, and never waits itself.

Any number of processes may do this for the same schedule in one storage, and each may die at any instant. What holds:

- The run of a slot has a name made of the schedule and the slot, and there is one run of a name.
- The journal's entries are numbered, and of two who append one number, one does.
- Only the holder of the schedule's lease has a run going; when it dies, the next one goes on with the same run.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Literal

from mnist_lib.clock import Clock, moment_of, text_of
from mnist_lib.errors import StoreError
from mnist_lib.retraining.journal import Entry, Journal
from mnist_lib.retraining.policy import Due, Policy, counted
from mnist_lib.retraining.timetable import Timetable
from mnist_lib.retraining.work import Attempt, Outcome, Work
from mnist_lib.store.lease import Lease, LeaseLostError

RUNNING_SECONDS = 0.5  # from one look at a run to the next
GIVEN_UP = 5  # as in jobs/exits.py: nothing came of the training
LONGEST_SLEEP_SECONDS = 30.0  # the clock may be set meanwhile

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pause:
    """What a step leads to, and the seconds until the next one is of use."""

    state: Literal["idle", "waiting", "busy", "running"]  # idle: nothing is due; busy: another process is at it
    seconds: float


AGAIN = Pause("waiting", 0.0)


@dataclass
class _Running:
    number: int  # of its entry
    entry: Entry
    attempt: Attempt
    since: datetime  # by the wall
    outcome: Outcome | None = None
    told: datetime | None = None  # the last slot that came due meanwhile


class Retrainer:
    """
    Args:
        enroll: a journal that is empty begins here; slots before are not this schedule's.
        tell: is called with each entry that settles a slot, and with each that goes on after a death; it does not wait.
        skip_unchanged: a slot has no run if the fingerprint is that of the last one that is done.
    """

    def __init__(
        self,
        schedule: str,
        timetable: Timetable,
        policy: Policy,
        *,
        journal: Journal,
        lease: Lease,
        work: Work,
        clock: Clock,
        host: str,
        enroll: datetime,
        tell: Callable[[Entry], None],
        skip_unchanged: bool = False,
    ) -> None:
        self._schedule, self._timetable, self._policy = schedule, timetable, policy
        self._journal, self._lease, self._work, self._clock = journal, lease, work, clock
        self._host, self._enroll, self._tell, self._skip_unchanged = host, enroll, tell, skip_unchanged
        self._running: _Running | None = None
        self._seen = clock.now()
        self._floor = enroll  # where this process began, or the clock was set back to
        self.settled: Entry | None = None  # the last that this process saw

    @property
    def is_running(self) -> bool:
        return self._running is not None

    def step(self) -> Pause:
        """
        Raises:
            StoreError: the storage refuses; the next step may do better.
            IntegrityError: the journal is damaged.
        """
        return self._look() if self._running is None else self._watch(self._running)

    def run_now(self) -> Entry | None:
        """Starts a run that is in no timetable, whose slot is this moment; or goes on with one that was cut off.

        None if another process is at this schedule.
        """
        if not self._lease.acquire():
            return None
        number, last = self._journal.last()
        if last is not None and last.is_open:
            self._resume(number, last)
            return last
        slot = self._clock.now().replace(microsecond=0)
        missed = self._timetable.count(last.due, slot) if last else 0
        return self._start(number, last, Due(slot, missed), skip_unchanged=False)

    def stop(self) -> None:
        """Ends what goes on; whoever comes next goes on with it."""
        if self._running is not None:
            running, self._running = self._running, None
            running.attempt.stop()
            self._append(running.number, self._ended(running.entry, "interrupted", why="it was asked to stop"))
        self._lease.release()

    def _look(self) -> Pause:
        now = self._clock.now()
        if now < self._seen - timedelta(seconds=1):
            log.warning("the clock went back from %s to %s: no slot runs twice", text_of(self._seen), text_of(now))
            self._floor = now
        self._seen = now
        number, last = self._journal.last()
        if last is None:
            self._append(0, Entry("enrolled", text_of(self._enroll), text_of(now), self._host))
            return AGAIN
        if last.is_open:
            return self._go_on(number, last)
        self.settled = last
        due = self._policy.due(self._timetable, last, self._through(last, now), now)
        if due is None:
            return self._until("idle", self._timetable.next(now), now)
        if due.skip:
            return self._settle(number, self._entry("skipped", due, last, why=due.skip))
        start = due.slot + self._policy.delay(self._schedule, due.slot)
        if now < start:
            return self._until("waiting", start, now)
        if not self._lease.acquire():
            return self._busy()
        self._start(number, last, due, skip_unchanged=self._skip_unchanged)
        return AGAIN

    def _start(self, number: int, last: Entry | None, due: Due, *, skip_unchanged: bool) -> Entry | None:
        """Under the lease, which is given back unless a run goes on at the end. None if another has done something."""
        try:
            entry = self._entry("started", due, last, run=self._run_of(due.slot), attempt=1)
            if self._work.was_begun(entry.run):
                why = "it has had its run, before the clock was set back"
                self._settle(number, replace(entry, kind="skipped", why=why, run="", attempt=0))
                return None
            fingerprint = self._work.fingerprint()
            before = entry.last_done or {}
            if skip_unchanged and fingerprint is not None and fingerprint == before.get("fingerprint"):
                why = f"data, configuration and code are those of run {before['run']}"
                self._settle(number, replace(entry, kind="unchanged", why=why, run="", attempt=0))
                return None
            return self._launch(number, replace(entry, fingerprint=fingerprint))
        finally:
            if self._running is None:
                self._lease.release()

    def _go_on(self, number: int, last: Entry) -> Pause:
        """With a slot that is open: its process has died, or is about to try again, or is at it right now."""
        now, pause = self._clock.now(), timedelta(seconds=self._policy.back_off(last.failures))
        again = moment_of(last.at) + pause
        if last.kind == "interrupted" and again - pause <= now < again:
            return self._until("waiting", again, now)
        return self._resume(number, last) if self._lease.acquire() else self._busy()

    def _resume(self, number: int, last: Entry) -> Pause:
        """Under the lease, as `_start`."""
        try:
            failures = last.failures + (last.kind == "started")
            now = self._clock.now()
            is_newest = self._timetable.latest(now) <= last.due
            if self._policy.overlap == "replace" and not is_newest:
                return self._settle(number, self._ended(last, "replaced", why="a newer slot was due"))
            too_late = "" if is_newest else self._policy.is_too_late(last.due, now)
            if failures >= self._policy.max_attempts or too_late:
                why = too_late or f"given up after {last.attempt} attempts, the last of which died"
                return self._settle(number, self._ended(last, "failed", why=why, failures=failures, exit_code=GIVEN_UP))
            again = replace(last, kind="started", attempt=last.attempt + 1, failures=failures, host=self._host)
            if last.exit_code is None:  # nobody was at it for a while
                again = replace(again, begun="")
            if self._launch(number, again) and last.kind == "started":
                log.warning("the process at slot %s has died on %s; going on with its run", last.slot, last.host)
                self._tell(again)
            return AGAIN
        finally:
            if self._running is None:
                self._lease.release()

    def _launch(self, number: int, entry: Entry) -> Entry | None:
        """None if another process has appended an entry since, or will: this one slept for too long."""
        at = text_of(self._clock.now())
        entry = replace(entry, at=at, begun=entry.begun or at, exit_code=None, why="")
        if self._lease.number is None or not self._append(number, entry) or self._lease.overdue():
            return None
        attempt = self._work.start(entry.run, self._lease.number)
        self._running = _Running(number + 1, entry, attempt, moment_of(at))
        log.info("slot %s: run %s, attempt %d", entry.slot, entry.run, entry.attempt)
        return entry

    def _watch(self, running: _Running) -> Pause:
        try:
            self._lease.renew()
        except LeaseLostError as error:
            return self._give_up(running, str(error))
        except StoreError:
            if self._lease.overdue():
                return self._give_up(running, "the lease could not be renewed in time")
            raise
        if running.outcome is None:
            running.outcome = running.attempt.poll()
        if running.outcome is not None:
            return self._close(running, running.outcome)
        newest = self._timetable.latest(self._clock.now())
        if newest > running.since and newest != running.told:
            running.told = newest
            log.warning(
                "slot %s is due while run %s goes on: %s", text_of(newest), running.entry.run, self._policy.overlap
            )
            if self._policy.overlap == "replace":
                running.attempt.stop()
                return self._finish(running, self._ended(running.entry, "replaced", why="a newer slot was due"))
        return Pause("running", RUNNING_SECONDS)

    def _close(self, running: _Running, outcome: Outcome) -> Pause:
        entry, failures = running.entry, running.entry.failures + 1
        if outcome.complete:
            # Data that were not there before it are by now.
            fingerprint = entry.fingerprint or self._work.fingerprint()
            done = {"slot": entry.slot, "run": entry.run, "fingerprint": fingerprint}
            closed = self._ended(entry, "done", results=outcome.results, last_done=done)
        elif outcome.again and failures < self._policy.max_attempts:
            closed = self._ended(entry, "interrupted", failures=failures)
        else:
            closed = self._ended(entry, "failed", failures=failures)
        return self._finish(running, replace(closed, why=outcome.why, exit_code=outcome.exit_code))

    def _finish(self, running: _Running, entry: Entry) -> Pause:
        """The lease is kept until the entry is written: a storage that refuses is asked again."""
        appended = self._append(running.number, entry)
        self._running = None
        if appended:
            self._announce(entry)
        self._lease.release()
        return AGAIN

    def _settle(self, number: int, entry: Entry) -> Pause:
        if self._append(number, entry):
            self._announce(entry)
        return AGAIN

    def _announce(self, entry: Entry) -> None:
        missed = f"; {counted(entry.missed)} missed before it" if entry.missed else ""
        log.info("slot %s: %s%s%s", entry.slot, entry.kind, f": {entry.why}" if entry.why else "", missed)
        if not entry.is_open:
            self.settled = entry
            self._tell(entry)

    def _give_up(self, running: _Running, why: str) -> Pause:
        log.warning("%s; run %s is stopped here", why, running.entry.run)
        self._running = None
        running.attempt.kill()
        return AGAIN

    def _append(self, number: int, entry: Entry) -> bool:
        return self._journal.append(number + 1, entry)

    def _entry(self, kind: str, due: Due, last: Entry | None, **fields: Any) -> Entry:
        return Entry(
            kind=kind,
            slot=text_of(due.slot),
            at=text_of(self._clock.now()),
            host=self._host,
            missed=due.missed,
            last_done=last.last_done if last else None,
            **fields,
        )

    def _ended(self, entry: Entry, kind: str, **fields: Any) -> Entry:
        return replace(entry, kind=kind, at=text_of(self._clock.now()), host=self._host, **fields)

    def _through(self, last: Entry, now: datetime) -> datetime:
        """Up to where the slots are settled. If that is in the future, the clock was wrong then or is wrong now."""
        return last.due if last.due <= now else min(self._floor, now)

    def _run_of(self, slot: datetime) -> str:
        return f"{self._schedule}-{slot.strftime('%Y-%m-%dT%H-%M-%SZ')}"

    def _busy(self) -> Pause:
        return Pause("busy", min(self._lease.seconds_between_beats, LONGEST_SLEEP_SECONDS))

    @staticmethod
    def _until(state: Literal["idle", "waiting"], moment: datetime, now: datetime) -> Pause:
        return Pause(state, min((moment - now).total_seconds(), LONGEST_SLEEP_SECONDS))
