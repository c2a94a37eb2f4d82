"""The time limit of a search: what is left out so that the final trials end in time."""

import math
import statistics
from collections import deque
from collections.abc import Callable

from jobs.search.options import SearchOptions
from mnist_lib.clock import steady_time
from mnist_lib.results import EpochDone, RungDone
from mnist_lib.run_documents import Cut
from mnist_lib.search.halving import Halving

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
        # Of first epochs without validation, of others with it.
        self._epoch_seconds: deque[float] = deque(maxlen=MAX_MEASURED_EPOCHS)
        self._seconds_per_epoch: dict[str, float] = {}  # the mean of each trial

    def restore(self, epoch: EpochDone) -> None:
        """Measure an epoch of an earlier driver."""
        self._epoch_seconds.append(epoch.seconds)

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

    def cut(self, halving: Halving, earlier: Cut | None, best: Callable[[], str | None]) -> Cut | None:
        """Return a new cut of the search, or None if no further cut is needed.

        Args:
            best: returns the trial of the best configuration so far.
        """
        if math.isinf(self._deadline) or len(self._epoch_seconds) < 2 or (earlier and earlier.over):
            return None
        median, rounds = statistics.median(self._epoch_seconds), math.ceil(self._options.final_seeds / self._lanes)
        best_trial = best()
        epoch = max(median, self._seconds_per_epoch.get(best_trial or "", 0.0))
        if self._options.folds is not None:
            epoch *= self._options.folds / (self._options.folds - 1)  # final trials are trained on all folds
        finals = START_SECONDS + MARGIN * rounds * self._options.epochs * epoch
        left = self._deadline - self.wall() - finals  # until the final trials have to begin
        if left <= 0 and best_trial is not None:
            return Cut(brackets=halving.begun, over=True)
        bracket = halving.ladder.epochs_of(halving.ladder.bracket) * median / self._lanes
        if earlier is None and halving.begun < halving.brackets and bracket > left:
            return Cut(brackets=halving.begun, over=False)
        return None
