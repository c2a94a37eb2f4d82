"""The loop of a run: lanes send events, which are recorded and shown, and are given what the supervisor decides."""

import math
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from cluster.deadlines import KILL_SECONDS, TICK_SECONDS, Clock, RunningTime, Wait
from cluster.errors import ResourcesError
from cluster.lanes import Death, Handle, Message, Pool
from cluster.supervisor import Action, Assign, Close, Kill, Source, Start, Supervisor
from jobs.train.display import RunProgress, Show
from jobs.train.recorder import Recorder
from mnist_lib.environment import SystemClock
from mnist_lib.spec import TrialSpec
from mnist_lib.training.assignment import Assignment

CLOCK = SystemClock()


class TrialSource(Source, Protocol):
    """What to train, and what becomes of it."""

    @property
    def progress(self) -> RunProgress: ...

    @property
    def is_done(self) -> bool:
        """Whether nothing is left to train."""

    def assignment(self, trial: TrialSpec, deadline: float) -> Assignment:
        """Return what a lane is given. `deadline`: the time, on the clock of the run, at which the trial should end."""

    def on(self, event: Any, attempt: int) -> None:
        """Note an event that was recorded. A death after which there is no other attempt comes as a `TrialFailure`."""


class Loop:
    """The loop of a run.

    Args:
        source: its progress also says when the last trial should end, by the clock.
        show: shows an event.
    """

    def __init__(
        self,
        pool: Pool,
        supervisor: Supervisor,
        source: TrialSource,
        recorder: Recorder,
        *,
        show: Show = lambda event, attempt: None,
        clock: Clock = CLOCK,
    ) -> None:
        self._pool = pool
        self._supervisor = supervisor
        self._source = source
        self._recorder = recorder
        self._show = show
        self._clock = clock
        self._time = RunningTime(clock)
        self._turn = 0
        self._looked_at = -math.inf
        limits = supervisor.limits
        self._wait = Wait(
            f"{supervisor.plan.lane_resources} on one node",
            timeout_seconds=limits.wait_seconds,
            log_interval=limits.log_interval_seconds,
            clock=self._time,
        )

    def run(self) -> None:
        """Train what the source gives until it is done, and end all lanes.

        Raises:
            ResourcesError: no lane was given its resources in time.
            ClusterLostError: the head of the cluster no longer answers.
            VersionsError, StoreError: as in `Recorder.record`.
        """
        supervisor = self._supervisor
        source = self._source
        pool = self._pool
        try:
            while not source.is_done:
                self._act(supervisor.tick(self._now, source, pool.head, self._seconds_left))
                for lane, message in self._messages():
                    for event in supervisor.on(lane, message, self._now):
                        attempt = supervisor.attempts(event.trial)
                        event = self._recorder.record(event)
                        source.on(event, attempt)
                        self._show(event, attempt)
        finally:
            self._act(supervisor.end())
            pool.finish_kills(KILL_SECONDS)

    @property
    def _now(self) -> float:
        return self._time.monotonic()

    @property
    def _seconds_left(self) -> float:
        return self._source.progress.deadline - self._clock.monotonic()

    def _messages(self) -> Iterator[tuple[Handle, Message | Death | None]]:
        """Wait, and yield at most one message of each lane, so that none delays the others; then what is overdue."""
        for lane in self._ready_lanes():
            # Asked before every event, since a single one may be large.
            if self._recorder.is_full or self._source.is_done:
                break
            yield lane, self._pool.take(lane)
        if self._now - self._looked_at >= TICK_SECONDS and not self._source.is_done:
            self._looked_at = self._now
            self._pool.head.check()
            self._check_wait()
            yield from self._supervisor.overdue(self._now, self._pool.head.dead_nodes, self._has_unread)

    def _has_unread(self, lane: Handle) -> bool:
        return bool(self._pool.wait([lane], 0))

    def _ready_lanes(self) -> Sequence[Handle]:
        """Wait for events of lanes. While too much waits for the storage, no event is taken, but deadlines count."""
        lanes = self._supervisor.lanes
        if self._recorder.is_full or not lanes:
            self._clock.sleep(TICK_SECONDS)
        seconds = 0 if self._recorder.is_full else TICK_SECONDS
        ready = deque(self._pool.wait(lanes, seconds) if lanes else [])
        self._time.tick()
        self._turn += 1
        ready.rotate(self._turn)  # so that no lane always comes last
        return ready

    def _check_wait(self) -> None:
        """Log the wait for the first lane, or raise ResourcesError if it takes too long."""
        reason = self._supervisor.why_waiting(self._now)
        if reason is None:
            self._wait.restart()
        elif self._wait.is_over:
            resources = self._supervisor.plan.lane_resources
            raise ResourcesError(
                f"{resources} not free within {self._wait.seconds:.0f} s ({self._pool.describe_free()})"
                "; wait longer with --wait-for-resources SECONDS, or lower --cpus-per-trial or --gpus-per-trial"
            )
        else:
            self._wait.log_if_due(lambda: reason or self._pool.describe_free())

    def _act(self, actions: Sequence[Action]) -> None:
        for action in actions:
            match action:
                case Start():
                    self._supervisor.add(self._pool.start(), self._now)
                case Assign(lane, trial, seconds):
                    self._pool.assign(lane, self._source.assignment(trial, self._clock.monotonic() + seconds))
                case Close(lane):
                    self._pool.assign(lane, None)
                case Kill(lane, worker):
                    self._pool.kill(lane, worker)
