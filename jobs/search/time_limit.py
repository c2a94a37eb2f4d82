"""The time limit of a search: what is left out so that the final trials end in time."""

import math
import statistics
from collections import deque
from collections.abc import Callable

from jobs.search.options import SearchOptions
from mnist_lib.clock import steady_time
from mnist_lib.results import EpochDone
from mnist_lib.run_documents import Cut
from mnist_lib.search.halving import Halving

START_SECONDS = 20.0  # reserved for the lanes of the final trials, and for storing
MARGIN = 1.5  # final trials may be slower than those that were measured
MIN_MEASURED_EPOCHS, MAX_COMPILATIONS = 10, 20
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
        self._begin, self._num_epochs = math.inf, 0  # of this driver: when the first one began, and how many
        self._fastest: dict[str, float] = {}  # seconds of the fastest epoch of each trial but its first one

    def restore(self, epoch: EpochDone) -> None:
        """Measure an epoch of an earlier driver."""
        self._epoch_seconds.append(epoch.seconds)

    def note(self, event: EpochDone) -> None:
        """Measure the speed of a trial."""
        # The first epoch of a trial also includes waits, such as for the dataset, so its own time is used.
        seen, now = self._seen.get(event.trial), self.wall()
        self._begin = min(self._begin, now - event.seconds)
        self._num_epochs += 1
        self._epoch_seconds.append(event.seconds if seen is None else now - seen)
        if event.epoch > 1:  # the first one may include the compilation
            self._fastest[event.trial] = min(self._epoch_seconds[-1], self._fastest.get(event.trial, math.inf))
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
        now = self.wall()
        elapsed, remaining = max(0.0, now - self._begin), self._deadline - now
        if len(self._epoch_seconds) < MIN_MEASURED_EPOCHS and elapsed < remaining:
            return None  # all of them may include a compilation, which takes as long as many epochs
        typical = statistics.median if len(self._epoch_seconds) > MAX_COMPILATIONS else min
        seconds = typical(self._epoch_seconds)
        rounds = math.ceil(self._options.final_seeds / self._lanes)
        best_trial = best()
        epoch = max(seconds, self._fastest.get(best_trial or "", 0.0))
        if self._options.folds is not None:
            epoch *= self._options.folds / (self._options.folds - 1)  # final trials are trained on all folds
        finals = START_SECONDS + MARGIN * rounds * self._options.epochs * epoch
        left = remaining - finals  # until the final trials have to begin
        if left <= 0 and best_trial is not None:
            configurations, over = earlier.configurations if earlier else None, True
        elif earlier is not None:
            return None
        else:
            seconds /= self._lanes
            if not halving.is_within_bracket:  # by now, also measured with what lies between the epochs
                seconds = max(seconds, elapsed / max(1, self._num_epochs))
            idle = (self._lanes - 1) * halving.ladder.rungs[-1]  # lanes may wait for one that trains the last survivor
            epochs = halving.epochs + int(left / seconds) - idle
            fitting = halving.ladder.fitting(epochs, halving.configurations)
            configurations, over = max(fitting, halving.num_begun + halving.is_within_bracket), False
            if configurations >= halving.next_end:
                return None
        brackets = math.ceil((configurations or halving.num_begun) / halving.ladder.bracket)
        return Cut(brackets=brackets, configurations=configurations, over=over)
