"""Judge attempts at trials: whether one is late, by the state of its lane, and whether another one follows it."""

from __future__ import annotations

import enum
import itertools
import math
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass

from cluster.deadlines import Limits, back_off
from cluster.lanes import Cause, Death, Lane, Trial, WorkerProcess


class LaneState(enum.Enum):
    """The state of a lane. It depends on the type of the last event, not on how many events have come."""

    WAITING = "waiting"  # waits for resources; `FanOut` ends the run if all lanes do so for too long
    STARTING = "starting"  # imports, and fetches what all trials need
    IDLE = "idle"  # has no trial; waits for the driver, so it has no deadline
    PREPARING = "preparing"  # has a trial and compiles
    TRAINING = "training"  # has a trial and sends heartbeats
    FINISHING = "finishing"  # has a trial and evaluates
    ENDING = "ending"  # has no trial and will get none


@dataclass(kw_only=True)
class Attempt:
    """A lane, and the trial that it has."""

    lane: Lane
    state_since: float  # when the state began, or its last event came
    state: LaneState = LaneState.WAITING
    worker: WorkerProcess | None = None  # None while it waits for resources
    trial: Trial | None = None
    kind: str = ""  # of its trial or, if it has none, of its last one
    deadline: float = math.inf  # when the trial should end by its own share of the time of the run
    fetching_since: float | None = None  # while the content of an event is on the way
    _trial_since: float = math.inf  # when the lane reported that it has begun the trial
    _sent_at: float = math.inf  # when the trial's last event was sent, on the lane's clock
    _longest: float = 0.0  # seconds between two events while the trial is in training

    def start(self, worker: WorkerProcess, now: float) -> None:
        self.worker = worker
        self._enter(LaneState.STARTING, now)

    def assign(self, trial: Trial, now: float, deadline: float = math.inf) -> None:
        """Note that the lane has been given a trial."""
        self.trial, self.kind, self.deadline = trial, trial.kind, deadline
        self._trial_since, self._sent_at, self._longest = math.inf, math.inf, 0.0
        self._enter(LaneState.STARTING if self.state is LaneState.STARTING else LaneState.PREPARING, now)

    def note(self, phase: str, now: float, sent_at: float) -> None:
        """Note an event. From then on, the trial is in this phase.

        Args:
            sent_at: on the lane's clock; the driver's clock would add the time that the event waited to be read.
        """
        if self.state is LaneState.ENDING:
            return  # the event was sent before the lane was asked to end
        state = LaneState(phase)
        if state is not LaneState.STARTING:
            self._trial_since = min(self._trial_since, now)
        if state is LaneState.TRAINING and self.state in (LaneState.PREPARING, LaneState.TRAINING):
            self._longest = max(self._longest, sent_at - self._sent_at)
        self._sent_at = sent_at
        self._enter(state, now)

    @property
    def has_begun(self) -> bool:
        """Return whether the lane has reported that it has begun its trial."""
        return self._trial_since < math.inf

    def end_trial(self, now: float) -> None:
        self.trial, self._trial_since = None, math.inf
        self._enter(LaneState.IDLE, now)

    def close(self, now: float) -> None:
        self._enter(LaneState.ENDING, now)

    def overdue(self, limits: Limits, now: float, lost_nodes: Collection[str] = ()) -> Death | None:
        """Return why the attempt is to be abandoned once nothing of it is unread; None while it meets its deadlines."""
        if self.worker and self.worker.node in lost_nodes:
            return Death(cause=Cause.NODE_LOST, details=f"on {self.worker}")
        if self.fetching_since is not None:
            if now - self.fetching_since > limits.fetch_seconds:
                return Death(cause=Cause.NODE_LOST, details=f"with an event on {self.worker}")
            return None
        if now - self._trial_since > limits.trial_seconds:
            return Death(cause=Cause.OVERTIME, details=f"after {limits.trial_seconds:g} s")
        silent = now - self.state_since
        if silent > self._deadline(limits):
            return Death(cause=Cause.SILENT, details=f"for {silent:.0f} s while {self.state.value}, on {self.worker}")
        return None

    def _deadline(self, limits: Limits) -> float:
        match self.state:
            case LaneState.STARTING:
                return limits.starting_seconds
            case LaneState.PREPARING:
                return limits.preparing_seconds
            case LaneState.TRAINING:
                return max(limits.training_seconds, 10 * self._longest)
            case LaneState.FINISHING:
                return limits.finishing_seconds
            case LaneState.ENDING:
                return limits.ending_seconds
        return math.inf

    def _enter(self, state: LaneState, now: float) -> None:
        self.state, self.state_since, self.fetching_since = state, now, None


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
        """Return the number of attempts at a trial so far, including the running one."""
        return self._deaths[trial].total() + 1

    def put(self, trials: Iterable[Trial]) -> None:
        """Add trials to the end of the queue."""
        self._queue.extend(trials)

    def put_first(self, trials: Sequence[Trial]) -> None:
        """Add trials to the front of the queue."""
        self._queue.extendleft(reversed(trials))

    def put_due(self, now: float) -> None:
        """Move the trials whose pause is over to the front of the queue."""
        self.put_first([trial for at, trial in self._backing_off if at <= now])
        self._backing_off = [(at, trial) for at, trial in self._backing_off if at > now]

    def pop(self, count: int = 1) -> list[Trial]:
        """Take the first trials, as many as there are, up to a number."""
        return [self._queue.popleft() for _ in range(min(count, len(self._queue)))]

    def pop_for(self, kind: str, other_kinds: Collection[str]) -> Trial:
        """Take the first trial, or a later one of the same cost that saves preparations.

        Args:
            kind: the kind of the lane's last trial, which is preferred.
            other_kinds: the kinds of the trials in other lanes; any kind that is not among them comes second.
        """

        def first(is_wanted: Callable[[Trial], bool]) -> Trial | None:
            equals = itertools.takewhile(lambda trial: trial.cost == self._queue[0].cost, self._queue)
            return next(filter(is_wanted, equals), None)

        trial = first(lambda trial: trial.kind == kind) or first(lambda trial: trial.kind not in other_kinds)
        trial = trial or self._queue[0]
        self._queue.remove(trial)
        return trial

    def retry(self, trial: Trial, cause: Cause, now: float) -> bool:
        """Queue a trial again, after a pause, because an attempt died. Return False if it gets no further attempt."""
        deaths, limits = self._deaths[trial.id], self._limits
        deaths[cause] += 1
        out_of_memory = cause is Cause.OUT_OF_MEMORY and deaths[cause] > limits.max_out_of_memory
        if cause is Cause.OVERTIME or out_of_memory or deaths.total() > limits.max_failures:
            return False
        self._backing_off.append((now + back_off(deaths.total()), trial))
        return True
