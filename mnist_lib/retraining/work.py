"""What there is to do for a slot, and how an attempt at it ends: the side that a retrainer does not know."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

from mnist_lib.clock import moment_of, text_of
from mnist_lib.retraining.journal import Entry
from mnist_lib.retraining.policy import Policy
from mnist_lib.retraining.timetable import Timetable

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class AttemptResult:
    """How an attempt at a run ended.

    Args:
        complete: there is a result, and all of it is stored.
        again: what ended it may be over the next time.
    """

    exit_code: int
    complete: bool
    again: bool = False
    why: str = ""
    results: Mapping[str, Any] = field(default_factory=dict)


class RunAttempt(Protocol):
    """At a run, going on elsewhere."""

    def poll(self) -> AttemptResult | None:
        """None while it goes on."""
        ...

    def stop(self) -> None:
        """When it returns, the attempt goes on no more; another one loses little."""
        ...

    def kill(self) -> None:
        """At once."""
        ...


class Work(Protocol):
    """What there is to do for each slot."""

    def was_begun(self, run: str) -> bool:
        """Whether there is a run of that name."""
        ...

    def fingerprint(self) -> str | None:
        """Of all that a result depends on, as it is now; None where that cannot be told."""
        ...

    def start(self, run: str, term: int) -> RunAttempt:
        """`term`: the fencing number; what the attempt writes under it is refused once there is a higher one."""
        ...


class ActiveRun:
    """
    Args:
        number: of the entry in the journal that began it.
    """

    def __init__(self, number: int, entry: Entry, attempt: RunAttempt) -> None:
        self.number, self.entry, self.attempt = number, entry, attempt
        self._outcome: AttemptResult | None = None
        self._told = moment_of(entry.at)  # the last slot that came due meanwhile

    def look(self, timetable: Timetable, policy: Policy, work: Work, now: datetime) -> Entry | None:
        """The entry that ends it; None while it goes on. The same again, if that could not be written."""
        self._outcome = self._outcome or self.attempt.poll()
        if self._outcome is not None:
            return self._closed(self._outcome, policy, work, now)
        newest = timetable.latest(now)
        if newest > self._told:
            self._told = newest
            log.warning("slot %s is due while run %s goes on: %s", text_of(newest), self.entry.run, policy.overlap)
            if policy.overlap == "replace":
                self.attempt.stop()
                return self.ended("replaced", now, why="a newer slot was due")
        return None

    def ended(self, kind: str, now: datetime, **fields: Any) -> Entry:
        return self.entry.followed(kind, now, self.entry.host, **fields)

    def _closed(self, outcome: AttemptResult, policy: Policy, work: Work, now: datetime) -> Entry:
        told: dict[str, Any] = {"why": outcome.why, "exit_code": outcome.exit_code}
        if outcome.complete:
            # Data that were not there before it are by now.
            fingerprint = self.entry.fingerprint or work.fingerprint()
            done = {"slot": self.entry.slot, "run": self.entry.run, "fingerprint": fingerprint}
            return self.ended("done", now, results=outcome.results, last_done=done, **told)
        failures = self.entry.failures + 1
        again = outcome.again and failures < policy.max_attempts
        return self.ended("interrupted" if again else "failed", now, failures=failures, **told)
