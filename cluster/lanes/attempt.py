"""One attempt at a lane: its unfinished items, its process, and the time of its last event."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import Any

from cluster.deadlines import Limits
from cluster.lanes.deaths import Death, Kind
from cluster.lanes.lane import WorkerProcess

START_UP_EVENTS = 2  # of an item: the imports and compilations before them take longer than any later interval


@dataclass(kw_only=True)
class Attempt:
    generator: Any  # Ray's, of the events
    items: dict[str, Any]  # the unfinished ones by id, in order; the first is running
    worker: WorkerProcess | None = None  # None while it waits for resources
    _last_event_at: float = field(default_factory=time.monotonic)
    # Of the running item:
    _began_at: float = math.inf
    _events: int = 0
    _longest: float = 0.0  # interval between two events after the start-up, in seconds

    @property
    def running(self) -> str:
        return next(iter(self.items))

    def note_event(self) -> None:
        """Note that an event has come."""
        now = time.monotonic()
        self._events += 1
        if self._events > START_UP_EVENTS:
            self._longest = max(self._longest, now - self._last_event_at)
        self._last_event_at = now

    def begin_next(self) -> None:
        self._began_at, self._events, self._longest = time.monotonic(), 0, 0.0

    def overdue(self, limits: Limits) -> Death | None:
        """Return why the attempt is to be abandoned; None while it meets its deadlines."""
        if self.worker is None or not self.items:
            return None
        now = time.monotonic()
        if now - self._began_at > limits.item_seconds:
            return Death(kind=Kind.OVERTIME, details=f"after {limits.item_seconds:g} s")
        silent = now - self._last_event_at
        measured = max(limits.silence_seconds, 10 * self._longest)
        if silent > (measured if self._longest else limits.first_silence_seconds):
            return Death(kind=Kind.SILENT, details=f"for {silent:.0f} s, on {self.worker}")
        return None
