"""The time limit of a search: what is left out so that the final trials end in time.

A step of a configuration takes some time besides its epochs. With few pictures, this time is far longer than an epoch.
"""

import math
import statistics
from collections import deque
from collections.abc import Callable

from jobs.search.halving import Halving
from jobs.search.plan import SearchOptions
from mnist_lib.environment import steady_time
from mnist_lib.results import EpochDone, TrialStarted
from mnist_lib.store.history import Cut

RESERVED_SECONDS = 10.0  # for Ray before the final trials, and for storing after them
MARGIN = 1.5  # final trials, and their lanes, may be slower than those that were measured
MIN_MEASURED, MAX_MEASURED = 10, 101  # epochs or steps; the median of the last ones counts


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
        self._start_seconds = 0.0  # the longest start of a lane so far; on a busy machine, it is long
        self._seen: dict[str, float] = {}  # time of each trial's last epoch
        # Seconds of the first epoch of each step, which may include a compilation, but no validation.
        self._first_seconds = deque[float](maxlen=MAX_MEASURED)
        # Seconds of all other epochs, which include validation, unless an earlier driver has measured them.
        self._later_seconds = deque[float](maxlen=MAX_MEASURED)
        self._fastest: dict[str, float] = {}  # the shortest later epoch of each trial
        # What this driver has seen: when the first epoch began, and how many epochs and steps have ended.
        self._begin, self._num_epochs, self._num_steps = math.inf, 0, 0

    def note_start(self, started: TrialStarted) -> None:
        """Measure the start of a lane, without its wait for the dataset, which is not repeated."""
        seconds = started.phases.get("import", 0.0) + started.phases.get("compile", 0.0)
        self._start_seconds = max(self._start_seconds, seconds)

    def restore(self, epoch: EpochDone) -> None:
        """Measure an epoch of an earlier driver."""
        (self._first_seconds if epoch.epoch == 1 else self._later_seconds).append(epoch.seconds)

    def note(self, epoch: EpochDone) -> None:
        """Measure the speed of a trial."""
        # The time since the last report includes validation. Before the first epoch of a step, it would include waits,
        # such as for the dataset; so the time that the lane has measured is used there.
        seen, now = self._seen.get(epoch.trial), self.wall()
        self._begin = min(self._begin, now - epoch.seconds)
        self._num_epochs += 1
        if seen is None:
            self._first_seconds.append(epoch.seconds)
        else:
            self._later_seconds.append(now - seen)
            self._fastest[epoch.trial] = min(now - seen, self._fastest.get(epoch.trial, math.inf))
        self._seen[epoch.trial] = now

    def end_step(self, trial: str) -> None:
        """Forget when a trial was last seen, since it pauses."""
        self._num_steps += 1
        self._seen.pop(trial, None)

    def cut(self, halving: Halving, earlier: Cut | None, best: Callable[[], str | None]) -> Cut | None:
        """Return a new cut of the search, or None if no further cut is needed.

        Args:
            best: returns the trial of the best configuration so far.
        """
        if math.isinf(self._deadline) or not (self._first_seconds or self._later_seconds) or (earlier and earlier.over):
            return None
        now = self.wall()
        elapsed, remaining = max(0.0, now - self._begin), self._deadline - now
        is_early = elapsed < remaining and self._num_steps < MIN_MEASURED
        if is_early and len(self._later_seconds) < MIN_MEASURED:
            return None  # what was measured may be compilations
        epoch = statistics.median(self._later_seconds or self._first_seconds)
        best_trial, rounds = best(), math.ceil(self._options.final_seeds / self._lanes)
        final_epoch = max(epoch, self._fastest.get(best_trial or "", 0.0))
        if self._options.folds is not None:
            final_epoch *= self._options.folds / (self._options.folds - 1)  # final trials are trained on all folds
        final = self._start_seconds + rounds * self._options.epochs * final_epoch
        left = remaining - RESERVED_SECONDS - MARGIN * final
        if left <= 0 and best_trial is not None:
            return Cut(configurations=halving.configurations, over=True)
        if earlier is not None or is_early:
            return None
        # Counted in epochs: the time of a step besides its epochs; the time that is spent; and the time that is left,
        # without what the other lanes lose while they wait for the lane with the longest step.
        per_step = max(0.0, elapsed * self._lanes / epoch - self._num_epochs) / max(1, self._num_steps)
        done = halving.epochs + per_step * halving.num_steps
        budget = done + left * self._lanes / epoch - (self._lanes - 1) * halving.ladder.rungs[-1]
        fitting = halving.ladder.fitting(budget, halving.configurations, per_step)
        least, most = halving.ends
        return Cut(configurations=max(least, fitting), over=False) if max(least, fitting) < most else None
