"""The items that wait for a lane, and whether an item whose attempt died gets another attempt."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Collection, Iterable, Sequence

from cluster.deadlines import Limits, back_off
from cluster.lanes.ports import Item, Kind


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
