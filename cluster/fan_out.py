"""Runs lanes of items as streaming generator tasks and yields their events as they come.

Ray itself retries nothing here (`max_retries=0`): it would run a whole lane again, and would count what it lost its own
way. An attempt that died gives its unfinished items to the next one, and of a dead attempt no late event is taken.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import ray

log = logging.getLogger(__name__)


class Item(Protocol):
    """One of the things that a lane does in turn."""

    @property
    def id(self) -> str: ...


class Event(Protocol):
    """Tells of the item whose id is `trial`; it is the last to do so when `final`."""

    @property
    def trial(self) -> str: ...
    @property
    def final(self) -> bool: ...


@dataclass(frozen=True, kw_only=True)
class Lost:
    """An item that is given up: every attempt at it died, or the task itself has a bug."""

    item: str
    reason: str
    attempts: int
    traceback: str = ""  # of a bug, as the worker saw it


StartLane = Callable[[Sequence[Any]], Any]  # items -> ObjectRefGenerator of their events, in their order


class FanOut:
    """Lanes under way, from `submit` to the last of `events`; leaving the context cancels what still runs.

    Args:
        start: starts one attempt at a lane.
        max_failures: how many attempts at an item may die before it is given up with one more.
    """

    def __init__(self, start: StartLane, max_failures: int) -> None:
        self._start, self._max_failures = start, max_failures
        self._deaths: Counter[str] = Counter()
        self._running: dict[Any, dict[str, Any]] = {}  # generator -> its items that have not ended, by id, in order

    def __enter__(self) -> FanOut:
        return self

    def __exit__(self, *_: object) -> None:
        for generator in self._running:
            ray.cancel(generator, force=True)

    def submit(self, items: Sequence[Any]) -> None:
        """Starts a lane of these items, in their order."""
        if items:
            self._running[self._start(items)] = {item.id: item for item in items}

    def events(self) -> Iterator[Event | Lost]:
        """Every event of every lane as it comes, and `Lost` in place of an item's last, until all items have ended."""
        while self._running:
            ready, _ = ray.wait(list(self._running), num_returns=1)
            yield from self._take(ready[0])

    def attempts(self, item: str) -> int:
        """So far, the running one included."""
        return self._deaths[item] + 1

    def _take(self, generator: Any) -> Iterator[Event | Lost]:
        items = self._running[generator]
        try:
            event: Event = ray.get(next(generator))
        except StopIteration:
            del self._running[generator]
            yield from self._retry([*items.values()], "the task ended early")
        except ray.exceptions.RayTaskError as error:  # a bug: what an item can run into comes as an event
            del self._running[generator]
            reason = f"{type(error.cause).__name__}: {error.cause}"
            for item in items:
                yield Lost(item=item, reason=reason, attempts=self.attempts(item), traceback=str(error))
        except ray.exceptions.RayError as error:
            del self._running[generator]
            ray.cancel(generator, force=True)  # it may be alive, with only its event lost
            reason = f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"
            yield from self._retry([*items.values()], reason)
        else:
            if event.final:
                items.pop(event.trial, None)
            yield event

    def _retry(self, items: list[Any], reason: str) -> Iterator[Lost]:
        """The first of the items was running; the others had not begun."""
        if not items:
            return
        running = items[0].id
        self._deaths[running] += 1
        if self._deaths[running] > self._max_failures:
            yield Lost(item=running, reason=reason, attempts=self._deaths[running])
            items = items[1:]
        else:
            log.warning("attempt %d of %s died (%s); trying again", self._deaths[running], running, reason)
        self.submit(items)
