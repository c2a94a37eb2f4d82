"""Judge an attempt at an item: whether it is late, by the state of its lane, and whether another one follows it."""

from __future__ import annotations

import enum
import itertools
import math
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from cluster.deadlines import Limits, back_off
from cluster.lanes import Death, Item, Kind, Lane, WorkerProcess


class State(enum.Enum):
    """The state of a lane. It depends on the type of the last event, not on how many events have come."""

    WAITING = "waiting"  # waits for resources; `FanOut` ends the run if all lanes do so for too long
    STARTING = "starting"  # imports, and fetches what all items need
    IDLE = "idle"  # has no item; waits for the driver, so it has no deadline
    PREPARING = "preparing"  # has an item and compiles
    TRAINING = "training"  # has an item and sends heartbeats
    FINISHING = "finishing"  # has an item and evaluates
    ENDING = "ending"  # has no item and will get none


@dataclass(kw_only=True)
class Attempt:
    lane: Lane
    state_since: float  # when the state began, or its last event came
    state: State = State.WAITING
    worker: WorkerProcess | None = None  # None while it waits for resources
    item: Any = None
    kind: str = ""  # of its item or, if it has none, of its last one
    deadline: float = math.inf  # when the item should end by its own share of the time of the run
    fetching_since: float | None = None  # while the content of an event is on the way
    _item_since: float = math.inf  # when the lane reported that it has begun the item
    _sent_at: float = math.inf  # when the item's last event was sent, on the lane's clock
    _longest: float = 0.0  # seconds between two events while the item is in training

    def start(self, worker: WorkerProcess, now: float) -> None:
        self.worker = worker
        self._enter(State.STARTING, now)

    def assign(self, item: Any, now: float, deadline: float = math.inf) -> None:
        """Note that the lane has been given an item."""
        self.item, self.kind, self.deadline = item, item.kind, deadline
        self._item_since, self._sent_at, self._longest = math.inf, math.inf, 0.0
        self._enter(State.STARTING if self.state is State.STARTING else State.PREPARING, now)

    def note(self, phase: str, now: float, sent_at: float) -> None:
        """Note an event. From then on, the item is in this phase.

        Args:
            sent_at: on the lane's clock; the driver's clock would add the time that the event waited to be read.
        """
        if self.state is State.ENDING:
            return  # the event was sent before the lane was asked to end
        state = State(phase)
        if state is not State.STARTING:
            self._item_since = min(self._item_since, now)
        if state is State.TRAINING and self.state in (State.PREPARING, State.TRAINING):
            self._longest = max(self._longest, sent_at - self._sent_at)
        self._sent_at = sent_at
        self._enter(state, now)

    @property
    def has_begun(self) -> bool:
        """Return whether the lane has reported that it has begun its item."""
        return self._item_since < math.inf

    def end_item(self, now: float) -> None:
        self.item, self._item_since = None, math.inf
        self._enter(State.IDLE, now)

    def close(self, now: float) -> None:
        self._enter(State.ENDING, now)

    def overdue(self, limits: Limits, now: float, lost_nodes: Collection[str] = ()) -> Death | None:
        """Return why the attempt is to be abandoned once nothing of it is unread; None while it meets its deadlines."""
        if self.worker and self.worker.node in lost_nodes:
            return Death(kind=Kind.NODE_LOST, details=f"on {self.worker}")
        if self.fetching_since is not None:
            if now - self.fetching_since > limits.fetch_seconds:
                return Death(kind=Kind.NODE_LOST, details=f"with an event on {self.worker}")
            return None
        if now - self._item_since > limits.item_seconds:
            return Death(kind=Kind.OVERTIME, details=f"after {limits.item_seconds:g} s")
        silent = now - self.state_since
        if silent > self._deadline(limits):
            return Death(kind=Kind.SILENT, details=f"for {silent:.0f} s while {self.state.value}, on {self.worker}")
        return None

    def _deadline(self, limits: Limits) -> float:
        match self.state:
            case State.STARTING:
                return limits.starting_seconds
            case State.PREPARING:
                return limits.preparing_seconds
            case State.TRAINING:
                return max(limits.training_seconds, 10 * self._longest)
            case State.FINISHING:
                return limits.finishing_seconds
            case State.ENDING:
                return limits.ending_seconds
        return math.inf

    def _enter(self, state: State, now: float) -> None:
        self.state, self.state_since, self.fetching_since = state, now, None


class ItemQueue:
    """The items without a lane: those in the queue, and those that back off after a death.

    Args:
        limits: how often an item is tried again.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._queue: deque[Item] = deque()
        self._backing_off: list[tuple[float, Item]] = []  # when to queue them again
        self._deaths: dict[str, Counter[Kind]] = defaultdict(Counter)

    def __len__(self) -> int:
        """Return the number of items that a lane can take now."""
        return len(self._queue)

    @property
    def backing_off(self) -> int:
        return len(self._backing_off)

    @property
    def costs(self) -> list[float]:
        """The costs of all items without a lane."""
        return [item.cost for item in (*self._queue, *(item for _, item in self._backing_off))]

    def attempts(self, item: str) -> int:
        """Return the number of attempts at an item so far, including the running one."""
        return self._deaths[item].total() + 1

    def put(self, items: Iterable[Item]) -> None:
        """Add items to the end of the queue."""
        self._queue.extend(items)

    def put_first(self, items: Sequence[Item]) -> None:
        """Add items to the front of the queue."""
        self._queue.extendleft(reversed(items))

    def put_due(self, now: float) -> None:
        """Move the items whose pause is over to the front of the queue."""
        self.put_first([item for at, item in self._backing_off if at <= now])
        self._backing_off = [(at, item) for at, item in self._backing_off if at > now]

    def pop(self) -> Item | None:
        """Take the first item, if there is one."""
        return self._queue.popleft() if self._queue else None

    def pop_all(self) -> list[Item]:
        items = [*self._queue]
        self._queue.clear()
        return items

    def pop_for(self, kind: str, other_kinds: Collection[str]) -> Item:
        """Take the first item, or a later one of the same cost that saves preparations.

        Args:
            kind: the kind of the lane's last item, which is preferred.
            other_kinds: the kinds of the items in other lanes; any kind that is not among them comes second.
        """

        def first(is_wanted: Callable[[Item], bool]) -> Item | None:
            equals = itertools.takewhile(lambda item: item.cost == self._queue[0].cost, self._queue)
            return next(filter(is_wanted, equals), None)

        item = first(lambda item: item.kind == kind) or first(lambda item: item.kind not in other_kinds)
        item = item or self._queue[0]
        self._queue.remove(item)
        return item

    def retry(self, item: Item, kind: Kind, now: float) -> bool:
        """Queue an item again, after a pause, because an attempt died. Return False if it gets no further attempt."""
        number, is_worth_another = self.attempts(item.id), self._is_worth_another(item.id, kind)
        self._deaths[item.id][kind] += 1
        if is_worth_another:
            self._backing_off.append((now + back_off(number), item))
        return is_worth_another

    def _is_worth_another(self, item: str, kind: Kind) -> bool:
        if kind is Kind.OVERTIME:
            return False
        before = self._deaths[item]
        if kind is Kind.OUT_OF_MEMORY and before[kind] >= self._limits.max_out_of_memory:
            return False
        return before.total() < self._limits.max_failures
