"""The trials that no lane has."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Collection, Sequence

from cluster.deadlines import MAX_SKIPPED, Limits, back_off
from cluster.lanes import Cause, Trial


class TrialQueue:
    """The trials without a lane: those in the queue, and those that back off after a death.

    Args:
        limits: how often a trial is tried again.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._queue: deque[Trial] = deque()
        self._backing_off: list[tuple[float, Trial]] = []  # when to queue them again
        self._deaths: dict[str, Counter[Cause]] = defaultdict(Counter)

    def __len__(self) -> int:
        """Return the number of trials that a lane can take now."""
        return len(self._queue)

    @property
    def backing_off(self) -> int:
        return len(self._backing_off)

    @property
    def costs(self) -> list[float]:
        """The costs of all trials without a lane."""
        return [trial.cost for trial in (*self._queue, *(trial for _, trial in self._backing_off))]

    def attempts(self, trial: str) -> int:
        """Return the number of attempts at a trial so far, including the running or last one."""
        return self._deaths[trial].total() + 1

    def put(self, trials: Sequence[Trial], *, first: bool = False) -> None:
        """Add trials to the end of the queue, or to its front."""
        if first:
            self._queue.extendleft(reversed(trials))
        else:
            self._queue.extend(trials)

    def put_due(self, now: float) -> None:
        """Move the trials whose pause is over to the front of the queue."""
        self.put([trial for at, trial in self._backing_off if at <= now], first=True)
        self._backing_off = [(at, trial) for at, trial in self._backing_off if at > now]

    def pop(self, count: int = 1) -> list[Trial]:
        """Take the first trials, as many as there are, up to a number."""
        return [self._queue.popleft() for _ in range(min(count, len(self._queue)))]

    def pop_for(self, key: str, other_keys: Collection[str], is_ready: Callable[[Trial], bool]) -> Trial | None:
        """Take the first trial that is ready, or a later one of the same cost that saves preparations.

        Args:
            key: the compile key of the lane's last trial, which is preferred.
            other_keys: the keys of the trials in other lanes; any key that is not among them comes second.
            is_ready: whether a trial can begin; asked of the first MAX_SKIPPED trials.
        """
        first = next(filter(is_ready, itertools.islice(self._queue, MAX_SKIPPED)), None)
        if first is None:
            return None
        equals = [trial for trial in self._queue if trial.cost == first.cost]
        own = (trial for trial in equals if trial.compile_key == key and is_ready(trial))
        new = (trial for trial in equals if trial.compile_key not in other_keys and is_ready(trial))
        trial = next(own, None) or next(new, first)
        self._queue.remove(trial)
        return trial

    def retry(self, trial: Trial, cause: Cause, now: float) -> bool:
        """Queue a trial again, after a pause, because its lane died. Return False if it gets no further attempt."""
        deaths = self._deaths[trial.id]
        limits = self._limits
        out_of_memory = cause is Cause.OUT_OF_MEMORY and deaths[cause] >= limits.max_out_of_memory
        if out_of_memory or deaths.total() >= limits.max_failures:
            return False
        deaths[cause] += 1
        self._backing_off.append((now + back_off(deaths.total()), trial))
        return True
