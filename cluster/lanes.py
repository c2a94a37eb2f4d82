"""Lanes: what the driver needs of a cluster to run them, and what it knows of each.

`Pool` is the protocol that Ray (`ray_lanes`) and simulations implement. A `Lane` says whether it is late.
A `TrialQueue` has the trials that no lane has.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol

from cluster.deadlines import MAX_SKIPPED, Limits, back_off
from cluster.nodes import HeadWatch

MAX_UNREAD_EVENTS = 16  # of a lane; then the lane waits


class Cause(Enum):
    """What ended a lane: the error code and the words for it."""

    KILLED = "E-CRASH", "worker killed"
    NODE_LOST = "E-NODE-LOST", "node lost"
    PREEMPTED = "E-NODE-LOST", "node preempted"
    OUT_OF_MEMORY = "E-OOM", "out of memory"
    SILENT = "E-SILENT", "silent"
    OVERTIME = "E-TIMEOUT", "timed out"
    ENDED_EARLY = "E-CRASH", "ended early"
    BUG = "E-BUG", "bug"

    def __init__(self, code: str, text: str) -> None:
        self.code = code
        self.text = text


@dataclass(frozen=True, kw_only=True)
class Death:
    """The end of a lane, or why the driver abandons it."""

    cause: Cause
    details: str = ""  # on which node, how much memory
    traceback: str = ""  # of a bug, in the worker

    def __str__(self) -> str:
        return f"{self.cause.text} {self.details}".rstrip()

    @property
    def may_be_alive(self) -> bool:
        """Whether the process of the lane may still run: perhaps only its event was lost."""
        return self.cause not in (Cause.ENDED_EARLY, Cause.BUG)


@dataclass(frozen=True, kw_only=True)
class WorkerProcess:
    """The process of a lane; also the lane's first event."""

    node: str  # Ray's id
    host: str
    pid: int
    started_at: float = 0.0  # Unix time; together with the pid it identifies the process

    def __str__(self) -> str:
        return self.host


class Trial(Protocol):
    """A piece of work. A lane does one trial after the other."""

    @property
    def id(self) -> str: ...
    @property
    def compile_key(self) -> str:
        """Trials with the same key share preparations, such as a compilation, in a lane."""

    @property
    def cost(self) -> float:
        """Roughly how long the trial takes, compared with other trials."""


class LaneEvent(Protocol):
    """An event of a lane. `final` marks the last event of a trial."""

    @property
    def trial(self) -> str: ...
    @property
    def final(self) -> bool: ...
    @property
    def phase(self) -> str:
        """The name of the `LaneState` that the trial is in from now on."""


@dataclass(frozen=True)
class Message:
    """An event, and when its lane sent it."""

    event: Any  # the `WorkerProcess`, then `LaneEvent`s
    sent_at: float  # seconds on the lane's clock; comparable only within the lane


Handle = Any  # of a lane: hashable; its type depends on the pool


class Pool(Protocol):
    """Lanes on a cluster. No method waits, except `wait` and `finish_kills`."""

    @property
    def head(self) -> HeadWatch:
        """What is known about the head and the nodes. While the head does not answer, `start` would block."""

    def start(self) -> Handle:
        """Ask for a lane. It begins when its resources are free, and its first event is its `WorkerProcess`."""

    def assign(self, lane: Handle, payload: Any) -> None:
        """Give a lane its next trial, or None if there are no more, so that its task returns."""

    def wait(self, lanes: Collection[Handle], seconds: float) -> Sequence[Handle]:
        """Wait until `take` may have something for one of the lanes, and return all such lanes.

        What has arrived by then is not lost if the process of the lane dies.
        """

    def take(self, lane: Handle) -> Message | Death | None:
        """Return the next event of a lane, or its end; None while the content of the event is on the way."""

    def kill(self, lane: Handle, worker: WorkerProcess | None) -> None:
        """End a lane by force, and give back what it holds.

        Args:
            worker: the lane's process, to kill it even if it is suspended.
        """

    def finish_kills(self, seconds: float) -> None:
        """Wait until the processes that `kill` was given are dead, for at most that long."""

    def describe_free(self) -> str:
        """Return what is free on each node."""


class LaneState(Enum):
    """The state of a lane. It depends on the type of the last event, not on how many events have come.

    `Limits.silence_seconds` has the deadline of each state that has one.
    """

    WAITING = "waiting"  # waits for resources; the run ends if all lanes do so for too long
    STARTING = "starting"  # imports, and fetches what all trials need; may have a trial already
    IDLE = "idle"  # has no trial; waits for the driver, so it has no deadline
    ASSIGNED = "assigned"  # was given a trial, and has not reported that it has begun it
    PREPARING = "preparing"  # compiles its trial
    TRAINING = "training"  # trains it and sends heartbeats
    FINISHING = "finishing"  # evaluates it
    ENDING = "ending"  # has no trial and will get none


@dataclass(kw_only=True)
class Lane:
    """A lane, and the trial that it has."""

    handle: Handle
    state_since: float  # when the state began, or its last event came
    state: LaneState = LaneState.WAITING
    worker: WorkerProcess | None = None  # None while it waits for resources
    trial: Trial | None = None
    compile_key: str = ""  # of its trial or, if it has none, of its last one
    ends_at: float = math.inf  # when the trial should end by its own share of the time of the run
    fetching_since: float | None = None  # while the content of an event is on the way
    heard_late: int | None = None  # events since it was found to be overdue; None while it is not
    _trial_since: float = math.inf  # when the lane reported that it has begun the trial
    _sent_at: float = math.inf  # when the trial's last event was sent, on the lane's clock
    _longest: float = 0.0  # seconds between two events while the trial is in training

    def start(self, worker: WorkerProcess, now: float) -> None:
        self.worker = worker
        self._enter(LaneState.STARTING, now)

    def assign(self, trial: Trial, now: float, ends_at: float = math.inf) -> None:
        """Note that the lane has been given a trial."""
        self.trial = trial
        self.compile_key = trial.compile_key
        self.ends_at = ends_at
        self._trial_since = math.inf
        self._sent_at = math.inf
        self._longest = 0.0
        self._enter(LaneState.STARTING if self.state is LaneState.STARTING else LaneState.ASSIGNED, now)

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

    def end_trial(self, now: float) -> None:
        self.trial = None
        self._trial_since = math.inf
        self._enter(LaneState.IDLE, now)

    def close(self, now: float) -> None:
        self._enter(LaneState.ENDING, now)

    def why_overdue(self, limits: Limits, now: float, lost_nodes: Collection[str] = ()) -> Death | None:
        """Return why the lane is to be abandoned once nothing of it is unread; None while it meets its deadlines."""
        if self.worker and self.worker.node in lost_nodes:
            return Death(cause=Cause.NODE_LOST, details=f"on {self.worker}")
        if self.fetching_since is not None:
            if now - self.fetching_since > limits.fetch_seconds:
                return Death(cause=Cause.NODE_LOST, details=f"with an event on {self.worker}")
            return None
        if now - self._trial_since > limits.trial_seconds:
            return Death(cause=Cause.OVERTIME, details=f"after {limits.trial_seconds:g} s")
        silent = now - self.state_since
        allowed = limits.silence_seconds.get(self.state.value, math.inf)
        if self.state is LaneState.TRAINING:
            allowed = max(allowed, 10 * self._longest)
        if silent > allowed:
            return Death(cause=Cause.SILENT, details=f"for {silent:.0f} s while {self.state.value}, on {self.worker}")
        return None

    def _enter(self, state: LaneState, now: float) -> None:
        self.state = state
        self.state_since = now
        self.fetching_since = None


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
