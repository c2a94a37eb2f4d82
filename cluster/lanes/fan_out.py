"""Runs lanes of items as streaming generator tasks and yields their events as they come.

Ray itself retries nothing here (`max_retries=0`): it would run a whole lane again, and would count what it lost its own
way. An attempt that ends early gives its unfinished items to the next one, and of an attempt that was given up no late
event is taken. No wait is without an end: for a place, for a sign of life, for the head of the cluster.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import ray

from cluster.connection.address import HeadWatch
from cluster.errors import ResourcesError
from cluster.lanes.attempt import Attempt
from cluster.lanes.deadlines import Limits, Waiting
from cluster.lanes.deaths import Death, Kind, death_of
from cluster.lanes.lane import WorkerProcess, kill
from cluster.lanes.resources import LanePlan, what_is_free

T = TypeVar("T")

TICK_SECONDS = 0.5  # how late a deadline may be noticed
FETCH_SECONDS = 60.0  # for an event that a node holds
BACK_OFF_SECONDS = (1.0, 30.0)  # after the first death of an item, doubled with each; at most


class Item(Protocol):
    """One of the things that a lane does in turn."""

    @property
    def id(self) -> str: ...


class LaneEvent(Protocol):
    """Tells of the item whose id is `trial`; it is the last to do so when `final`."""

    @property
    def trial(self) -> str: ...
    @property
    def final(self) -> bool: ...


@dataclass(frozen=True, kw_only=True)
class Died:
    """An attempt at an item ended early. There will be another, or, when `final`, it is given up."""

    item: str
    attempt: int  # counted from 1
    death: Death
    final: bool


Start = Callable[
    [Sequence[Any]], Any
]  # items -> ObjectRefGenerator: a `WorkerProcess`, then their events, in their order


class FanOut:
    """Lanes under way, from `submit` to the last of `events`; leaving the context ends what still runs.

    Args:
        start: starts one attempt at a lane.
        limits: when to give up what.
        plan: what each attempt asks for.
        release: gives back what one has held beside its task.
    """

    def __init__(
        self, start: Start, limits: Limits, plan: LanePlan, release: Callable[[Any], None] = lambda generator: None
    ) -> None:
        self._start, self._limits, self._plan, self._release = start, limits, plan, release
        self._deaths: dict[str, Counter[Kind]] = defaultdict(Counter)
        self._running: dict[Any, Attempt] = {}  # by generator
        self._backing_off: list[tuple[float, Sequence[Any]]] = []  # when to start them again
        self._given_up: list[tuple[float, Attempt]] = []  # when to end them by force
        self._head = HeadWatch(limits.head_seconds)
        place = plan.asked if plan.nodes > 1 else f"{plan.asked} on one node"
        self._waiting = Waiting(place, at_most=limits.wait_seconds, tell_seconds=limits.tell_seconds)

    def __enter__(self) -> FanOut:
        return self

    def __exit__(self, *error: object) -> None:
        for generator in self._running:
            ray.cancel(generator, force=True)
            self._release(generator)
        for _, attempt in self._given_up:
            self._end_by_force(attempt)

    def submit(self, items: Sequence[Any]) -> None:
        """Starts a lane of these items, in their order."""
        if items:
            generator = self._start(items)
            self._running[generator] = Attempt(generator=generator, items={item.id: item for item in items})

    def events(self) -> Iterator[LaneEvent | Died]:
        """Every event of every lane as it comes, and what died, until all items have ended.

        Raises:
            ResourcesError: no attempt has got a place in time.
            ClusterLostError: the head of the cluster no longer answers.
        """
        self._waiting.restart()  # until now its caller may have waited for something else, and told of that
        while self._running or self._backing_off:
            yield from self._take_what_is_ready()
            self._head.check()
            self._check_place()
            yield from self._give_up_overdue()
            self._end_given_up()
            self._restart()

    def attempts(self, item: str) -> int:
        """So far, the running one included."""
        return self._deaths[item].total() + 1

    def _take_what_is_ready(self) -> Iterator[LaneEvent | Died]:
        """One event of each lane that has any: none of them can keep the others waiting."""
        if not self._running:
            time.sleep(TICK_SECONDS)
            return
        ready, _ = ray.wait([*self._running], num_returns=1, timeout=TICK_SECONDS)
        if ready:
            ready, _ = ray.wait([*self._running], num_returns=len(self._running), timeout=0)
        for generator in ready:
            yield from self._take(self._running[generator])

    def _take(self, attempt: Attempt) -> Iterator[LaneEvent | Died]:
        try:
            event = ray.get(next(attempt.generator), timeout=FETCH_SECONDS)
        except StopIteration:
            del self._running[attempt.generator]
            self._release(attempt.generator)
            if attempt.items:
                yield from self._follow(attempt, Death(kind=Kind.ENDED_EARLY))
            return
        except ray.exceptions.RayError as error:
            death = death_of(error, attempt.place)
            if death.kind is Kind.BUG:
                yield from self._bury(attempt, death)
            else:
                yield from self._give_up(attempt, death)  # it may be alive, with only its event lost
            return
        attempt.hear()
        if isinstance(event, WorkerProcess):
            attempt.place = event
            attempt.begin_next()
            return
        if event.final:
            attempt.items.pop(event.trial, None)
            attempt.begin_next()
        yield event

    def _bury(self, attempt: Attempt, death: Death) -> Iterator[Died]:
        """A bug ends all items: what an item can run into comes as an event."""
        del self._running[attempt.generator]
        self._release(attempt.generator)
        for item in attempt.items:
            yield Died(item=item, attempt=self.attempts(item), death=death, final=True)

    def _give_up(self, attempt: Attempt, death: Death) -> Iterator[Died]:
        del self._running[attempt.generator]
        ray.cancel(attempt.generator)
        self._given_up.append((time.monotonic() + self._limits.cancel_seconds, attempt))
        if attempt.items:
            yield from self._follow(attempt, death)

    def _follow(self, attempt: Attempt, death: Death) -> Iterator[Died]:
        """The attempt's running item has died; it and the others, which had not begun, get another attempt."""
        running, items = attempt.running, [*attempt.items.values()]
        final = not self._may_follow(running, death.kind)
        number = self.attempts(running)
        self._deaths[running][death.kind] += 1
        least, most = BACK_OFF_SECONDS
        delay = 0.0 if final else min(most, least * 2.0 ** (number - 1))
        self._backing_off.append((time.monotonic() + delay, items[1:] if final else items))
        yield Died(item=running, attempt=number, death=death, final=final)

    def _may_follow(self, item: str, kind: Kind) -> bool:
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

    def _give_up_overdue(self) -> Iterator[Died]:
        for attempt in [*self._running.values()]:
            death = attempt.overdue(self._limits)
            if attempt.place and attempt.place.node in self._head.dead_nodes:
                death = Death(kind=Kind.NODE_LOST, details=f"on {attempt.place}")
            if death and not ray.wait([attempt.generator], timeout=0)[0]:  # it may have told meanwhile
                yield from self._give_up(attempt, death)

    def _check_place(self) -> None:
        if not self._running or any(attempt.place for attempt in self._running.values()):
            self._waiting.restart()
        elif self._waiting.is_over:
            raise ResourcesError(
                f"{self._plan.asked} not free within {self._waiting.seconds:.0f} s ({what_is_free()})"
                "; wait longer with --wait-for-resources SECONDS, or lower --cpus-per-trial or --gpus-per-trial"
            )
        else:
            self._waiting.tell(what_is_free)

    def _end_given_up(self) -> None:
        due, self._given_up = _split_by_time(self._given_up)
        for attempt in due:
            self._end_by_force(attempt)

    def _end_by_force(self, attempt: Attempt) -> None:
        ray.cancel(attempt.generator, force=True)
        self._release(attempt.generator)
        if attempt.place:
            kill(attempt.place)


def _split_by_time(timed: Sequence[tuple[float, T]]) -> tuple[list[T], list[tuple[float, T]]]:
    """-> (what is due, the others with their times); by one look at the clock, or some would be neither."""
    now = time.monotonic()
    return [thing for at, thing in timed if at <= now], [(at, thing) for at, thing in timed if at > now]
