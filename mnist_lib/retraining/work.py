"""The interface between the retrainer and the work of a slot, and the attempt that is in progress."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, Protocol

from mnist_lib.clock import moment_of, text_of
from mnist_lib.retraining.journal import DataOfRun, DoneSlot, Entry, Kind, ModelResult
from mnist_lib.retraining.policy import Policy
from mnist_lib.retraining.timetable import Timetable

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class AttemptResult:
    """The result of an attempt at a run."""

    exit_code: int
    complete: bool  # the run has a result, and all of it is stored
    retry: Literal["no", "once", "yes"] = "no"  # "once": if no earlier attempt has failed
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

    def start(self, run: str, term: int, *, last: bool) -> RunAttempt:
        """Start an attempt.

        Args:
            term: fencing number; the attempt's writes are refused after a later term has begun.
            last: whether no other attempt follows if this one fails, so that a partial result is better than none.
        """


class ActiveRun:
    """An attempt in progress. `number` is the number of the journal entry that started it."""

    def __init__(self, number: int, entry: Entry, attempt: RunAttempt) -> None:
        self.number, self.entry, self.attempt = number, entry, attempt
        self._ended: Entry | None = None
        self._newest_slot = moment_of(entry.at)  # the newest slot that came due during the run

    def poll(
        self, timetable: Timetable, policy: Policy, fingerprint: Callable[[], str | None], now: datetime
    ) -> Entry | None:
        """Return the entry that ends the attempt; None while it is in progress.

        Call it again if the entry could not be appended to the journal: the result is the same.
        """
        self._ended = self._ended or self._poll(timetable, policy, fingerprint, now)
        return self._ended

    def _poll(
        self, timetable: Timetable, policy: Policy, fingerprint: Callable[[], str | None], now: datetime
    ) -> Entry | None:
        result = self.attempt.poll()
        if result is not None:
            return self._entry_of(result, policy, fingerprint, now)
        newest = timetable.latest(now)
        if newest > self._newest_slot:
            self._newest_slot = newest
            log.warning("slot %s is due during run %s: overlap is %s", text_of(newest), self.entry.run, policy.overlap)
            if policy.overlap == "replace":
                self.attempt.stop()
                return self.ended("replaced", now, why="a newer slot came due")
        return None

    def ended(self, kind: Kind, now: datetime, **fields: Any) -> Entry:
        return self.entry.followed_by(kind, now, self.entry.host, **fields)

    def _entry_of(
        self, result: AttemptResult, policy: Policy, fingerprint: Callable[[], str | None], now: datetime
    ) -> Entry:
        cause: dict[str, Any] = {"why": result.why, "exit_code": result.exit_code}
        if result.complete:
            # If the run downloaded or prepared the data, their fingerprint is known only now.
            known = self.entry.fingerprint or fingerprint()
            done = DoneSlot(self.entry.slot, self.entry.run, known)
            return self.ended("done", now, results=result.results, data=result.data, last_done=done, **cause)
        failures = self.entry.failures + 1
        retry = (result.retry == "yes" or (result.retry == "once" and failures == 1)) and failures < policy.max_attempts
        return self.ended("interrupted" if retry else "failed", now, failures=failures, **cause)
