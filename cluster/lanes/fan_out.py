"""Runs lanes of items as streaming generator tasks and yields their events as they come.

Ray itself retries nothing here (`max_retries=0`): it would run a whole lane again, and count failures in its own way.
An attempt that ends early leaves its unfinished items to the next attempt. Late events of an abandoned attempt are
ignored. Every wait has a deadline: for resources, for an event, for the head of the cluster.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import ray

from cluster.connection.address import HeadWatch
from cluster.deadlines import BACK_OFF_SECONDS, FETCH_SECONDS, TICK_SECONDS, Limits, Wait
from cluster.errors import ResourcesError
from cluster.lanes.attempt import Attempt
from cluster.lanes.deaths import Death, Kind, death_of
from cluster.lanes.lane import WorkerProcess, kill
from cluster.lanes.resources import LanePlan, describe_free_resources

T = TypeVar("T")


class Item(Protocol):
    """A piece of work. A lane does one item after the other."""

    @property
    def id(self) -> str: ...


class LaneEvent(Protocol):
    """An event of the item whose id is `trial`; its last one if `final`."""

    @property
    def trial(self) -> str: ...
    @property
    def final(self) -> bool: ...


@dataclass(frozen=True, kw_only=True)
class Died:
    """An attempt at an item ended early. There will be another attempt unless `final`."""

    item: str
    attempt: int  # counted from 1
    death: Death
    final: bool


# items -> ObjectRefGenerator of a `WorkerProcess`, then the items' events in the items' order
Start = Callable[[Sequence[Any]], Any]


class FanOut:
    """The running lanes, from `submit` to the last of `events`. Leaving the context kills what still runs.

    Args:
        start: starts one attempt at a lane.
        limits: when to abandon an attempt or an item.
        plan: the resources of each attempt.
        release: gives back what an attempt holds besides the resources of its task.
    """

    def __init__(
        self, start: Start, limits: Limits, plan: LanePlan, release: Callable[[Any], None] = lambda generator: None
    ) -> None:
        self._start, self._limits, self._plan, self._release = start, limits, plan, release
        self._deaths: dict[str, Counter[Kind]] = defaultdict(Counter)
        self._running: dict[Any, Attempt] = {}  # by generator
        self._backing_off: list[tuple[float, Sequence[Any]]] = []  # when to start them again
        self._abandoned: list[tuple[float, Attempt]] = []  # and when to kill them
        self._head = HeadWatch(limits.head_seconds)
        what = plan.lane_resources if plan.nodes > 1 else f"{plan.lane_resources} on one node"
        self._wait = Wait(what, timeout_seconds=limits.wait_seconds, log_interval=limits.log_interval_seconds)

    def __enter__(self) -> FanOut:
        return self

    def __exit__(self, *error: object) -> None:
        for generator in self._running:
            ray.cancel(generator, force=True)
            self._release(generator)
        for _, attempt in self._abandoned:
            self._kill(attempt)

    def submit(self, items: Sequence[Any]) -> None:
        """Start a lane of these items, in their order."""
        if items:
            generator = self._start(items)
            self._running[generator] = Attempt(generator=generator, items={item.id: item for item in items})

    def events(self) -> Iterator[LaneEvent | Died]:
        """Yield every event of every lane as it comes, and every death, until all items have ended.

        Raises:
            ResourcesError: no attempt was given its resources in time.
            ClusterLostError: the head of the cluster no longer answers.
        """
        self._wait.restart()  # before that the caller may have waited for something else
        while self._running or self._backing_off:
            yield from self._take_ready_events()
            self._head.check()
            self._check_wait()
            yield from self._abandon_overdue()
            self._kill_abandoned()
            self._restart()

    def attempts(self, item: str) -> int:
        """Return the number of attempts at an item so far, including the running one."""
        return self._deaths[item].total() + 1

    def _take_ready_events(self) -> Iterator[LaneEvent | Died]:
        """Yield at most one event of each lane, so that no lane delays the others."""
        if not self._running:
            time.sleep(TICK_SECONDS)
            return
        ready, _ = ray.wait([*self._running], num_returns=1, timeout=TICK_SECONDS)
        if ready:
            ready, _ = ray.wait([*self._running], num_returns=len(self._running), timeout=0)
        for generator in ready:
            yield from self._take_event(self._running[generator])

    def _take_event(self, attempt: Attempt) -> Iterator[LaneEvent | Died]:
        try:
            event = ray.get(next(attempt.generator), timeout=FETCH_SECONDS)
        except StopIteration:
            del self._running[attempt.generator]
            self._release(attempt.generator)
            if attempt.items:
                yield from self._schedule_next(attempt, Death(kind=Kind.ENDED_EARLY))
            return
        except ray.exceptions.RayError as error:
            death = death_of(error, attempt.worker)
            if death.kind is Kind.BUG:
                yield from self._fail_all(attempt, death)
            else:
                yield from self._abandon(attempt, death)  # it may be alive, with only its event lost
            return
        attempt.note_event()
        if isinstance(event, WorkerProcess):
            attempt.worker = event
            attempt.begin_next()
            return
        if event.final:
            attempt.items.pop(event.trial, None)
            attempt.begin_next()
        yield event

    def _fail_all(self, attempt: Attempt, death: Death) -> Iterator[Died]:
        """End all items of an attempt that met a bug. Expected failures of an item arrive as events instead."""
        del self._running[attempt.generator]
        self._release(attempt.generator)
        for item in attempt.items:
            yield Died(item=item, attempt=self.attempts(item), death=death, final=True)

    def _abandon(self, attempt: Attempt, death: Death) -> Iterator[Died]:
        del self._running[attempt.generator]
        ray.cancel(attempt.generator)
        self._abandoned.append((time.monotonic() + self._limits.cancel_seconds, attempt))
        if attempt.items:
            yield from self._schedule_next(attempt, death)

    def _schedule_next(self, attempt: Attempt, death: Death) -> Iterator[Died]:
        """Schedule another attempt at the unfinished items, of which the first, the running one, has died."""
        running, items = attempt.running, [*attempt.items.values()]
        final = not self._is_worth_another(running, death.kind)
        number = self.attempts(running)
        self._deaths[running][death.kind] += 1
        first, longest = BACK_OFF_SECONDS
        delay = 0.0 if final else min(longest, first * 2.0 ** (number - 1))
        self._backing_off.append((time.monotonic() + delay, items[1:] if final else items))
        yield Died(item=running, attempt=number, death=death, final=final)

    def _is_worth_another(self, item: str, kind: Kind) -> bool:
        if kind is Kind.OVERTIME:
            return False
        before = self._deaths[item]
        if kind is Kind.OUT_OF_MEMORY and before[kind] >= self._limits.max_out_of_memory:
            return False
        return before.total() < self._limits.max_failures

    def _restart(self) -> None:
        due, self._backing_off = _split_by_time(self._backing_off)
        for items in due:
            self.submit(items)

    def _abandon_overdue(self) -> Iterator[Died]:
        for attempt in [*self._running.values()]:
            death = attempt.overdue(self._limits)
            if attempt.worker and attempt.worker.node in self._head.dead_nodes:
                death = Death(kind=Kind.NODE_LOST, details=f"on {attempt.worker}")
            if death and not ray.wait([attempt.generator], timeout=0)[0]:  # an event may have come meanwhile
                yield from self._abandon(attempt, death)

    def _check_wait(self) -> None:
        if not self._running or any(attempt.worker for attempt in self._running.values()):
            self._wait.restart()
        elif self._wait.is_over:
            raise ResourcesError(
                f"{self._plan.lane_resources} not free within {self._wait.seconds:.0f} s ({describe_free_resources()})"
                "; wait longer with --wait-for-resources SECONDS, or lower --cpus-per-trial or --gpus-per-trial"
            )
        else:
            self._wait.log_if_due(describe_free_resources)

    def _kill_abandoned(self) -> None:
        due, self._abandoned = _split_by_time(self._abandoned)
        for attempt in due:
            self._kill(attempt)

    def _kill(self, attempt: Attempt) -> None:
        ray.cancel(attempt.generator, force=True)
        self._release(attempt.generator)
        if attempt.worker:
            kill(attempt.worker)


def _split_by_time(timed: Sequence[tuple[float, T]]) -> tuple[list[T], list[tuple[float, T]]]:
    """Return what is due, and the rest with its times."""
    now = time.monotonic()  # once: between two calls something could become due and be in neither list
    return [item for at, item in timed if at <= now], [(at, item) for at, item in timed if at > now]
