"""A state machine that runs one schedule. Each call of `step` takes one step and never waits.

Any number of processes may run the same schedule in one storage, and each may die at any instant:

- The name of a slot's run is made from the schedule and the slot, so a slot has at most one run.
- Journal entries are numbered, and only one process can append a number.
- Only the holder of the schedule's lease has an attempt in progress; when it dies, the next holder resumes its run.
"""

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Literal, Protocol

from jobs.retrain.journal import DataOfRun, DoneSlot, Entry, Journal, Kind, ModelResult
from jobs.retrain.slots import Due, Timetable, back_off, due_slot, missed_text
from mnist_lib.environment import Clock, as_file_name, moment_of, text_of, timestamp
from mnist_lib.errors import StoreError
from mnist_lib.objects.lease import Lease, LeaseLostError
from mnist_lib.wording import counted

POLL_SECONDS = 0.5  # while a run is in progress
MAX_SLEEP_SECONDS = 30.0  # limited because the clock may be set during a sleep
MAX_AHEAD = timedelta(hours=1)  # of the newest slot; beyond, a wrong clock has settled it
ABANDONED_EXIT_CODE = 5  # E-TRAINING in jobs/console/exit_codes.py; a test compares them

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pause:
    """The state after a step, and the seconds until the next step is useful."""

    state: Literal["idle", "waiting", "busy", "running"]  # idle: nothing is due; busy: another process has the lease
    seconds: float


STEP_AGAIN = Pause("waiting", 0.0)


@dataclass(frozen=True)
class AttemptResult:
    """The result of an attempt at a run."""

    exit_code: int
    complete: bool  # the run has a result, and all of it is stored
    retry: Literal["no", "once", "yes"] = "no"  # "once": if no earlier attempt has failed
    failed_trials: int = 0
    why: str = ""  # the cause in one line
    results: Mapping[str, ModelResult] = field(default_factory=dict)  # of a complete run, by model
    data: DataOfRun | None = None


class RunAttempt(Protocol):
    """An attempt at a run, in progress in another process."""

    def poll(self) -> AttemptResult | None:
        """Return the result; None while the attempt is in progress."""

    def stop(self) -> None:
        """End the attempt so that the next one has little to repeat; return when it has ended."""

    def kill(self) -> None:
        """End the attempt at once."""


class Work(Protocol):
    """The work to do for each slot."""

    def has_run(self, run: str) -> bool:
        """Return whether a run of that name exists."""

    def fingerprint(self) -> str | None:
        """Return a hash of everything that a result depends on, as it is now; None if it is unknown."""

    def start(self, run: str, *, last: bool) -> RunAttempt:
        """Start an attempt.

        Args:
            last: whether no other attempt follows if this one fails, so that a partial result is better than none.
        """


@dataclass
class ActiveRun:
    """An attempt in progress."""

    number: int  # of the journal entry that started it
    entry: Entry
    attempt: RunAttempt
    end: Entry | None = None  # the entry that ends the attempt, kept until it could be appended to the journal


@dataclass(kw_only=True)
class Retrainer:
    """Runs the slots of a schedule.

    Args:
        max_attempts: maximum number of attempts per slot; only temporary errors are retried.
        enroll: time at which the schedule begins if its journal is empty; earlier slots are ignored.
        notify: called with each entry that settles a slot or resumes the run of a dead process; must not block.
        skip_unchanged: do not run a slot whose fingerprint equals that of the last slot that is done.
        on_request: run one slot now, whatever the timetable says; an open slot that can be resumed takes its place.
    """

    schedule: str
    timetable: Timetable
    max_attempts: int
    journal: Journal
    lease: Lease
    work: Work
    clock: Clock
    host: str
    enroll: datetime
    notify: Callable[[Entry], None]
    skip_unchanged: bool = False
    on_request: bool = False
    last_settled: Entry | None = None  # the newest settled entry that this process has seen
    outcome: Entry | None = None  # the last that it has settled itself, of its own run if there is one
    _active: ActiveRun | None = None
    _launched: str | None = None  # the run of the newest attempt that this process started

    @property
    def is_running(self) -> bool:
        return self._active is not None

    def step(self) -> Pause:
        """Take a step. Raises StoreError if the storage fails, IntegrityError if the journal is damaged."""
        return self._step_idle() if self._active is None else self._step_running(self._active)

    def stop(self) -> None:
        """Stop the run in progress; the next process of this schedule resumes it."""
        if self._active is not None:
            run = self._active
            self._active = None
            run.attempt.stop()
            self.journal.append(run.number, self._following(run.entry, "interrupted", why="stopped on request"))
        self.lease.release()

    def _step_idle(self) -> Pause:
        now = self.clock.now()
        number, last = self.journal.last()
        if last is not None and not last.is_open:
            self.last_settled = last
        is_met = self.last_settled is not None and self.last_settled.run == self._launched
        if self.on_request and is_met:
            return self._pause_until("idle", self.timetable.next(now), now)
        if last is not None and last.is_open:
            return self._step_open(number, last)
        if last is None or last.due > now + MAX_AHEAD:
            begin = Due(self.enroll if last is None else now, 0)
            self.journal.append(number, self._entry("enrolled", begin, last))
            return STEP_AGAIN
        due = self._requested_slot(last, now) if self.on_request else due_slot(self.timetable, last, now)
        if due is None:
            return self._pause_until("idle", self.timetable.next(now), now)
        if due.skip:
            self._settle(number, self._entry("skipped", due, last, why=due.skip))
            return STEP_AGAIN
        if self.on_request and self.work.has_run(self._run_of(due.slot)):
            return Pause("waiting", 1.0)  # until the next second, whose run has another name
        if not self.lease.acquire():
            return self._busy()
        with self._lease_released_unless_running():
            self._start(number, last, due)
        return STEP_AGAIN

    def _requested_slot(self, last: Entry, now: datetime) -> Due:
        slot = now.replace(microsecond=0)
        return Due(slot, self.timetable.count(last.due, slot))

    def _start(self, number: int, last: Entry, due: Due) -> None:
        """Start the run of a slot, unless it needs none, or another process acts on it."""
        run = self._run_of(due.slot)
        before = last.last_done
        if self.work.has_run(run):
            why = "its run took place before the clock was set back"
            self._settle(number, self._entry("skipped", due, last, why=why))
            return
        fingerprint = self._fingerprint()
        is_unchanged = fingerprint is not None and before is not None and fingerprint == before.fingerprint
        if self.skip_unchanged and not self.on_request and before is not None and is_unchanged:
            why = f"data, configuration and code have not changed since run {before.run}"
            self._settle(number, self._entry("unchanged", due, last, why=why))
            return
        self._launch(number, self._entry("started", due, last, run=run, attempt=1, fingerprint=fingerprint))

    def _step_open(self, number: int, last: Entry) -> Pause:
        """Act on an open slot: its process has died, its next attempt is not due yet, or a process is working on it."""
        now = self.clock.now()
        ended = moment_of(last.at)
        is_requested = self.on_request and self._launched is None
        pause = timedelta(0) if is_requested else back_off(last.failures)
        if last.kind == "interrupted" and ended <= now < ended + pause:
            return self._pause_until("waiting", ended + pause, now)
        if not self.lease.acquire():
            return self._busy()
        with self._lease_released_unless_running():
            self._resume(number, last)
        return STEP_AGAIN

    def _resume(self, number: int, last: Entry) -> None:
        failures = last.failures + (last.kind == "started")
        if failures >= self.max_attempts:
            why = f"abandoned after {counted(last.attempt, 'attempt')}; the last attempt's process died"
            cause: dict[str, Any] = {"why": why, "failures": failures, "exit_code": ABANDONED_EXIT_CODE}
            self._settle(number, self._following(last, "failed", **cause))
            return
        # If the last attempt was broken off, a new period of work begins.
        begun = "" if last.exit_code is None else last.begun
        attempt = last.attempt + 1
        again = replace(last, kind="started", attempt=attempt, failures=failures, host=self.host, begun=begun)
        if self._launch(number, again) and last.kind == "started":
            log.warning("the process that ran slot %s died on %s; resuming its run", last.slot, last.host)
            self.notify(again)

    @contextlib.contextmanager
    def _lease_released_unless_running(self) -> Iterator[None]:
        try:
            yield
        finally:
            if self._active is None:
                self.lease.release()

    def _launch(self, number: int, entry: Entry) -> bool:
        """Start an attempt; return False if another process has appended an entry, or the lease may be lost."""
        at = timestamp(self.clock.now())
        entry = replace(entry, at=at, begun=entry.begun or at, exit_code=None, why="")
        if not self._may_act() or not self.journal.append(number, entry) or not self._may_act():
            return False
        self._launched = entry.run
        last = entry.failures + 1 >= self.max_attempts
        attempt = self.work.start(entry.run, last=last)
        self._active = ActiveRun(number + 1, entry, attempt)
        log.info("slot %s: run %s, attempt %d", entry.slot, entry.run, entry.attempt)
        return True

    def _fingerprint(self) -> str | None:
        with self.lease.renewed():  # hashing a large dataset may take longer than the lease lasts
            return self.work.fingerprint()

    def _may_act(self) -> bool:
        """Return whether the lease is held, and was renewed so recently that no other process can take it soon."""
        return self.lease.number is not None and not self.lease.overdue()

    def _step_running(self, run: ActiveRun) -> Pause:
        try:
            self.lease.renew()
        except LeaseLostError as error:
            return self._kill_attempt(run, str(error))
        except StoreError:
            if self.lease.overdue():
                return self._kill_attempt(run, "the lease could not be renewed in time")
            raise
        if run.end is None:
            result = run.attempt.poll()
            if result is None:
                return Pause("running", POLL_SECONDS)
            run.end = self._end(run.entry, result)
        # If the entry cannot be appended, the run stays active and the lease held: the next step tries again.
        self._settle(run.number, run.end)
        self._active = None
        self.lease.release()
        return STEP_AGAIN

    def _end(self, entry: Entry, result: AttemptResult) -> Entry:
        """Return the entry after an attempt that has ended by itself."""
        cause: dict[str, Any] = {name: getattr(result, name) for name in ("why", "exit_code", "failed_trials")}
        if result.complete:
            # If the run downloaded or prepared the data, their fingerprint is known only now.
            # After an objection, the next slot says so again, or finds that a person has accepted the dataset.
            is_refused = result.data is not None and result.data.objections
            known = None if is_refused else entry.fingerprint or self._fingerprint()
            done = DoneSlot(entry.slot, entry.run, known)
            return self._following(entry, "done", results=result.results, data=result.data, last_done=done, **cause)
        failures = entry.failures + 1
        may_retry = result.retry == "yes" or (result.retry == "once" and failures == 1)
        kind: Kind = "interrupted" if may_retry and failures < self.max_attempts else "failed"
        return self._following(entry, kind, failures=failures, **cause)

    def _following(self, entry: Entry, kind: Kind, **fields: Any) -> Entry:
        """Return the next entry of a slot."""
        return replace(entry, kind=kind, at=timestamp(self.clock.now()), host=self.host, **fields)

    def _settle(self, number: int, entry: Entry) -> None:
        if not self.journal.append(number, entry):
            return
        missed = f"; {missed_text(entry.missed)}" if entry.missed else ""
        log.info("slot %s: %s%s%s", entry.slot, entry.kind, f": {entry.why}" if entry.why else "", missed)
        if not entry.is_open:
            self.last_settled = entry
            if entry.run == self._launched or self.outcome is None:
                self.outcome = entry
            self.notify(entry)

    def _kill_attempt(self, run: ActiveRun, why: str) -> Pause:
        log.warning("%s; stopping run %s on this host", why, run.entry.run)
        self._active = None
        run.attempt.kill()
        return STEP_AGAIN

    def _entry(self, kind: Kind, due: Due, last: Entry | None, **fields: Any) -> Entry:
        return Entry(
            kind=kind,
            slot=text_of(due.slot),
            at=timestamp(self.clock.now()),
            host=self.host,
            missed=due.missed,
            last_done=last.last_done if last else None,
            **fields,
        )

    def _run_of(self, slot: datetime) -> str:
        return f"{self.schedule}-{as_file_name(text_of(slot))}"

    def _busy(self) -> Pause:
        return Pause("busy", min(self.lease.seconds_between_beats, MAX_SLEEP_SECONDS))

    @staticmethod
    def _pause_until(state: Literal["idle", "waiting"], moment: datetime, now: datetime) -> Pause:
        return Pause(state, min((moment - now).total_seconds(), MAX_SLEEP_SECONDS))
