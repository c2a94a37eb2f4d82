"""Time that passes only when somebody waits, and what happens meanwhile."""

import heapq
import itertools
from collections.abc import Callable


class VirtualClock:
    """A `cluster.deadlines.Clock`. A sleep runs every action that becomes due during it."""

    def __init__(self) -> None:
        self.now = 0.0
        self._due: list[tuple[float, int, Callable[[], object]]] = []
        self._numbers = itertools.count()  # actions due at the same time run in the order in which they were planned

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float, /) -> None:
        self.run_until(self.now + seconds)

    def after(self, seconds: float, action: Callable[[], object]) -> None:
        """Plan an action."""
        heapq.heappush(self._due, (self.now + seconds, next(self._numbers), action))

    def run_until(self, end: float, enough: Callable[[], bool] = lambda: False) -> None:
        """Run all actions that are due until `end`, or until `enough()`."""
        while not enough() and self._due and self._due[0][0] <= end:
            self.now, _, action = heapq.heappop(self._due)
            action()
        if not enough():
            self.now = max(self.now, end)
