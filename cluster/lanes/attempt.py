"""One attempt at a lane: what it still has to do, where it is, and when it was last heard of."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import Any

from cluster.lanes.deadlines import Limits
from cluster.lanes.deaths import Death, Kind
from cluster.lanes.lane import WorkerProcess

START_UP_EVENTS = 2  # of an item: imports and compilation before them take longer than anything after


@dataclass(kw_only=True)
class Attempt:
    generator: Any  # of Ray: the events
    items: dict[str, Any]  # that have not ended, by id, in order; the first is running
    place: WorkerProcess | None = None  # None while it waits for one
    _heard_at: float = field(default_factory=time.monotonic)
    # Of the running item:
    _begun_at: float = math.inf
    _events: int = 0
    _longest: float = 0.0  # interval between two events, since it has started up

    @property
    def running(self) -> str:
        return next(iter(self.items))

    def hear(self) -> None:
        """An event has come."""
        now = time.monotonic()
        self._events += 1
        if self._events > START_UP_EVENTS:
            self._longest = max(self._longest, now - self._heard_at)
        self._heard_at = now

    def begin_next(self) -> None:
        self._begun_at, self._events, self._longest = time.monotonic(), 0, 0.0

    def overdue(self, limits: Limits) -> Death | None:
        """Why it is to be given up; None while it is in time."""
        if self.place is None or not self.items:
            return None
        now = time.monotonic()
        if now - self._begun_at > limits.item_seconds:
            return Death(kind=Kind.OVERTIME, details=f"more than {limits.item_seconds:g} s")
        silent = now - self._heard_at
        measured = max(limits.silence_seconds, 10 * self._longest)
        if silent > (measured if self._longest else limits.first_silence_seconds):
            return Death(kind=Kind.SILENT, details=f"for {silent:.0f} s, on {self.place}")
        return None
