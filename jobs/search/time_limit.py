"""When a search has to end, judged by its speed so far, so that its final trials end before the deadline."""

import math
import statistics
from collections import deque
from collections.abc import Callable

from jobs.search.findings import Findings, History, epochs_of
from jobs.search.options import SearchOptions
from mnist_lib.clock import steady_time
from mnist_lib.results import EpochDone, RungDone
from mnist_lib.run_documents import Cut

START_SECONDS = 20.0  # reserved for the lanes of the final trials, and for storing
MARGIN = 1.5  # final trials may be slower than those that were measured
MAX_MEASURED_EPOCHS = 101  # the median of the last ones counts


class TimeLimit:
    """The time limit of a search.

    Args:
        deadline: the value of `wall()` at which the final trials must have ended.
        wall: returns the time, see `steady_time`.
    """

    def __init__(
        self, options: SearchOptions, lanes: int, deadline: float = math.inf, wall: Callable[[], float] = steady_time
    ) -> None:
        self._options, self._lanes, self._deadline, self.wall = options, lanes, deadline, wall
        self._seen: dict[str, float] = {}  # time of each trial's last epoch
        self._epoch_seconds: deque[float] = deque(
            maxlen=MAX_MEASURED_EPOCHS
        )  # first epochs without, others with validation
        self._seconds_per_epoch: dict[str, float] = {}  # the mean of each trial

    def restore(self, history: History) -> None:
        """Measure the epochs of earlier drivers."""
        self._epoch_seconds.extend(epoch.seconds for epoch in epochs_of(history))

    def note(self, event: EpochDone | RungDone) -> None:
        """Measure the speed of a trial."""
        if isinstance(event, RungDone):
            self._seconds_per_epoch[event.trial] = event.seconds / event.epoch
            return
        # The first epoch of a trial also includes waits, such as for the dataset, so its own time is used.
        seen, now = self._seen.get(event.trial), self.wall()
        self._epoch_seconds.append(event.seconds if seen is None else now - seen)
        self._seen[event.trial] = now

    def forget(self, trial: str) -> None:
        """Forget when a trial was last seen, since it pauses."""
        self._seen.pop(trial, None)

    def cut(self, found: Findings) -> Cut | None:
        """Return a new cut of the search, or None if no further cut is needed."""
        if math.isinf(self._deadline) or len(self._epoch_seconds) < 2 or (found.cut and found.cut.over):
            return None
        left, begun, ladder = self._left(found), found.halving.begun, found.halving.ladder
        if left <= 0 and found.best() is not None:
            return Cut(brackets=begun, over=True)
        bracket = ladder.epochs_of(ladder.bracket) * statistics.median(self._epoch_seconds) / self._lanes
        if found.cut is None and begun < found.halving.brackets and bracket > left:
            return Cut(brackets=begun, over=False)
        return None

    def _left(self, found: Findings) -> float:
        """Return the seconds until the final trials have to begin."""
        best, rounds = found.best(), math.ceil(self._options.final_seeds / self._lanes)
        of_best = 0.0 if best is None else self._seconds_per_epoch.get(found.trial(best[0]).id, 0.0)
        epoch = max(statistics.median(self._epoch_seconds), of_best)
        finals = START_SECONDS + MARGIN * rounds * self._options.epochs * epoch
        return self._deadline - self.wall() - finals
