"""One schedule, carried out: a machine that takes a step whenever it is asked to, and never waits itself.

Any number of processes may do this for the same schedule in one storage, and each may die at any instant. What holds:

- The run of a slot has a name made of the schedule and the slot, and there is one run of a name.
- The journal's entries are numbered, and of two who append one number, one does.
- Only the holder of the schedule's lease has a run going; when it dies, the next one goes on with the same run.
"""

import contextlib
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Literal

from mnist_lib.clock import Clock, moment_of, text_of
from mnist_lib.errors import StoreError
from mnist_lib.retraining.journal import Entry, Journal
from mnist_lib.retraining.policy import Due, Policy, counted
from mnist_lib.retraining.timetable import Timetable
from mnist_lib.retraining.work import ActiveRun, Work
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
        self._running: ActiveRun | None = None
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
        with self._kept_for_a_run():
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
            run, self._running = self._running, None
            run.attempt.stop()
            self._journal.append(run.number, run.ended("interrupted", self._clock.now(), why="it was asked to stop"))
        self._lease.release()

    def _look(self) -> Pause:
        now = self._clock.now()
        if now < self._seen - timedelta(seconds=1):
            log.warning("the clock went back from %s to %s: no slot runs twice", text_of(self._seen), text_of(now))
            self._floor = now
        self._seen = now
        number, last = self._journal.last()
        if last is None:
            self._journal.append(0, Entry("enrolled", text_of(self._enroll), text_of(now), self._host))
            return AGAIN
        if last.is_open:
            return self._go_on(number, last)
        self.settled = last
        due = self._policy.due(self._timetable, last, self._through(last, now), now)
        if due is None:
            return self._until("idle", self._timetable.next(now), now)
        if due.skip:
            self._settle(number, self._entry("skipped", due, last, why=due.skip))
            return AGAIN
        start = due.slot + self._policy.delay(self._schedule, due.slot)
        if now < start:
            return self._until("waiting", start, now)
        if not self._lease.acquire():
            return self._busy()
        with self._kept_for_a_run():
            self._start(number, last, due, skip_unchanged=self._skip_unchanged)
        return AGAIN

    def _start(self, number: int, last: Entry | None, due: Due, *, skip_unchanged: bool) -> Entry | None:
        """None if there is nothing to be started, or another process has done something since."""
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

    def _go_on(self, number: int, last: Entry) -> Pause:
        """With a slot that is open: its process has died, or is about to try again, or is at it right now."""
        now, pause = self._clock.now(), timedelta(seconds=self._policy.back_off(last.failures))
        again = moment_of(last.at) + pause
        if last.kind == "interrupted" and again - pause <= now < again:
            return self._until("waiting", again, now)
        if not self._lease.acquire():
            return self._busy()
        with self._kept_for_a_run():
            self._resume(number, last)
        return AGAIN

    def _resume(self, number: int, last: Entry) -> None:
        failures = last.failures + (last.kind == "started")
        now = self._clock.now()
        is_newest = self._timetable.latest(now) <= last.due
        too_late = "" if is_newest else self._policy.is_too_late(last.due, now)
        if self._policy.overlap == "replace" and not is_newest:
            self._settle(number, last.followed("replaced", now, self._host, why="a newer slot was due"))
        elif failures >= self._policy.max_attempts or too_late:
            why = too_late or f"given up after {last.attempt} attempts, the last of which died"
            failed = last.followed("failed", now, self._host, why=why, failures=failures, exit_code=GIVEN_UP)
            self._settle(number, failed)
        else:
            again = replace(last, kind="started", attempt=last.attempt + 1, failures=failures, host=self._host)
            if last.exit_code is None:  # nobody was at it for a while
                again = replace(again, begun="")
            if self._launch(number, again) and last.kind == "started":
                log.warning("the process at slot %s has died on %s; going on with its run", last.slot, last.host)
                self._tell(again)

    @contextlib.contextmanager
    def _kept_for_a_run(self) -> Iterator[None]:
        """The lease is given back at the end, unless a run goes on."""
        try:
            yield
        finally:
            if self._running is None:
                self._lease.release()

    def _launch(self, number: int, entry: Entry) -> Entry | None:
        """None if another process has appended an entry since, or will: this one slept for too long."""
        at = text_of(self._clock.now())
        entry = replace(entry, at=at, begun=entry.begun or at, exit_code=None, why="")
        if self._lease.number is None or not self._journal.append(number, entry) or self._lease.overdue():
            return None
        self._running = ActiveRun(number + 1, entry, self._work.start(entry.run, self._lease.number))
        log.info("slot %s: run %s, attempt %d", entry.slot, entry.run, entry.attempt)
        return entry

    def _watch(self, run: ActiveRun) -> Pause:
        try:
            self._lease.renew()
        except LeaseLostError as error:
            return self._give_up(run, str(error))
        except StoreError:
            if self._lease.overdue():
                return self._give_up(run, "the lease could not be renewed in time")
            raise
        ended = run.look(self._timetable, self._policy, self._work, self._clock.now())
        if ended is None:
            return Pause("running", RUNNING_SECONDS)
        # The lease is kept until that is written: a storage that refuses is asked again.
        self._settle(run.number, ended)
        self._running = None
        self._lease.release()
        return AGAIN

    def _settle(self, number: int, entry: Entry) -> None:
        if not self._journal.append(number, entry):
            return
        missed = f"; {counted(entry.missed)} missed before it" if entry.missed else ""
        log.info("slot %s: %s%s%s", entry.slot, entry.kind, f": {entry.why}" if entry.why else "", missed)
        if not entry.is_open:
            self.settled = entry
            self._tell(entry)

    def _give_up(self, run: ActiveRun, why: str) -> Pause:
        log.warning("%s; run %s is stopped here", why, run.entry.run)
        self._running = None
        run.attempt.kill()
        return AGAIN

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
