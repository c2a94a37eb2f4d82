"""Supervise lanes: one queue of trials, a deadline for every state, and another attempt after a death.

A free lane takes the next trial, and a node that joins gets a lane. Ray itself retries nothing here (`max_retries=0`):
it would count failures in its own way. Late events of an abandoned attempt are ignored. This module knows the cluster
and the time only through their protocols, so that tests can simulate both.
"""

from __future__ import annotations

import itertools
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from cluster.attempts import (
    MAX_UNREAD_EVENTS,
    Attempt,
    Cause,
    Cluster,
    Death,
    Lane,
    LaneEvent,
    LaneState,
    Trial,
    TrialQueue,
    WorkerProcess,
)
from cluster.deadlines import (
    KILL_SECONDS,
    MAX_FAILED_STARTS,
    MAX_SKIPPED,
    TICK_SECONDS,
    Clock,
    Limits,
    RunningTime,
    Wait,
    back_off,
)
from cluster.errors import ResourcesError, counted
from cluster.nodes import LanePlan, share_of_time

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class LostAttempt:
    """An attempt at a trial ended early. There will be another attempt unless `final`."""

    trial: str
    attempt: int  # counted from 1
    death: Death
    final: bool


class FanOut:
    """The lanes of a run, from `submit` to the last of `events`. Leaving the context kills what still runs.

    Args:
        limits: when to abandon an attempt or a trial.
        plan: the resources of each lane, and the number of lanes to start with.
        payload: (trial, time at which it should end) -> what the lane is given; None while that is not ready.
        deadline: the time, on the clock, at which the last trial should end.
        max_lanes: the maximum, even as nodes join; None for one per trial.
        is_full: returns whether events should wait because earlier ones are not recorded yet. Deadlines keep running.
        expects_more: returns whether trials may still be submitted; then lanes without a trial wait for one.
    """

    def __init__(
        self,
        cluster: Cluster,
        limits: Limits,
        plan: LanePlan,
        payload: Callable[[Any, float], Any],
        *,
        deadline: float = math.inf,
        max_lanes: int | None = None,
        is_full: Callable[[], bool] = lambda: False,
        expects_more: Callable[[], bool] = lambda: False,
        clock: Clock = time,
    ) -> None:
        self._cluster, self._limits, self._plan, self._payload = cluster, limits, plan, payload
        self._max_lanes, self._is_full, self._expects_more, self._clock = max_lanes, is_full, expects_more, clock
        self._deadline = deadline
        self._queue, self._turns = TrialQueue(limits), itertools.count()
        self._attempts: dict[Lane, Attempt] = {}
        self._time, self._checked_at = RunningTime(clock), -math.inf
        self._lost: frozenset[str] = frozenset()
        self._failed_starts = 0  # lane starts that failed because of a bug, since the last successful one
        self._deaths_in_a_row = 0  # deaths of lanes since a lane last began a trial
        self._start_lanes_at = 0.0
        self._wait = Wait(
            f"{plan.lane_resources} on one node",
            timeout_seconds=limits.wait_seconds,
            log_interval=limits.log_interval_seconds,
            clock=self._time,
        )

    def __enter__(self) -> FanOut:
        return self

    def __exit__(self, *error: object) -> None:
        for attempt in self._attempts.values():
            # A lane without a trial ends by itself. Ray may fail to end the others once the driver has left.
            self._cluster.kill(attempt.lane, attempt.worker if attempt.trial else None)
        self._cluster.finish_kills(KILL_SECONDS)

    def submit(self, trials: Sequence[Any]) -> None:
        """Add trials to the end of the queue, give them to lanes that have none, and start lanes for the others."""
        self._queue.put(trials)
        self._supply()

    def events(self) -> Iterator[LaneEvent | LostAttempt]:
        """Yield every event of every lane as it comes, and every death, until all trials have ended.

        Raises:
            ResourcesError: no lane was given its resources in time.
            ClusterLostError: the head of the cluster no longer answers.
        """
        self._time.tick()  # until now, the caller may have waited for something else
        self._wait.restart()
        while self._is_at_work or self._expects_more():
            ready = deque(self._wait_for_events())
            ready.rotate(next(self._turns))  # so that no lane always comes last
            self._time.tick()
            while ready and not self._is_full():  # asked before every event, since a single one may be large
                yield from self._take_event(self._attempts[ready.popleft()])
            if self._now - self._checked_at < TICK_SECONDS:
                continue
            self._checked_at = self._now
            self._cluster.head.check()
            self._check_wait()
            yield from self._abandon_overdue()
            self._queue.put_due(self._now)
            self._supply()

    def attempts(self, trial: str) -> int:
        """Return the number of attempts at a trial so far, including the running one."""
        return self._queue.attempts(trial)

    @property
    def queued(self) -> int:
        """The number of trials that wait for a lane."""
        return len(self._queue)

    @property
    def _is_at_work(self) -> bool:
        has_trials = self._queue or self._queue.backing_off
        return bool(has_trials or any(attempt.trial for attempt in self._attempts.values()))

    @property
    def _now(self) -> float:
        return self._time.monotonic()

    # Lanes and their trials

    def _supply(self) -> None:
        """Give idle lanes a trial or close them, and start lanes where there is room for them."""
        attempts = self._attempts.values()
        for attempt in attempts:
            if attempt.trial is None and attempt.state not in (LaneState.WAITING, LaneState.ENDING):
                self._assign(attempt)
        active = sum(attempt.state is not LaneState.ENDING for attempt in attempts)
        wanted = active - sum(attempt.state is LaneState.WAITING for attempt in attempts) + len(self._queue)
        head = self._cluster.head
        if self._now >= self._start_lanes_at and head.answers:
            for _ in range(min(wanted, self._max_lanes or wanted, max(1, self._plan.count(head.live_nodes))) - active):
                lane = self._cluster.start()
                self._attempts[lane] = Attempt(lane=lane, state_since=self._now)

    def _assign(self, attempt: Attempt) -> None:
        if attempt.worker and attempt.worker.node in self._lost:
            return
        if self._queue:
            working = [other for other in self._attempts.values() if other.trial is not None]
            waiting: list[Any] = []
            while self._queue and len(waiting) < MAX_SKIPPED:
                trial = self._queue.pop_for(attempt.kind, {other.kind for other in working})
                deadline = self._trial_deadline(trial, working)
                payload = self._payload(trial, deadline)
                if payload is not None:
                    attempt.assign(trial, self._now, deadline)
                    self._cluster.assign(attempt.lane, payload)
                    break
                waiting.append(trial)
            self._queue.put_first(waiting)
        elif not self._queue.backing_off and not self._expects_more():
            self._close(attempt)

    def _trial_deadline(self, trial: Trial, working: Sequence[Attempt]) -> float:
        """Return when a trial should end, so that every trial gets the same time in proportion to its cost."""
        now = self._clock.monotonic()
        left = self._deadline - now
        if not 0 < left < math.inf:
            return self._deadline
        costs, busy = [trial.cost, *self._queue.costs], [max(0.0, other.deadline - now) for other in working]
        return now + share_of_time(left, costs, max(self._plan.lanes, len(working) + 1), busy)

    def _close(self, attempt: Attempt) -> None:
        attempt.close(self._now)
        self._cluster.assign(attempt.lane, None)

    # Events

    def _wait_for_events(self) -> Sequence[Lane]:
        if self._attempts and not self._is_full():
            return self._cluster.wait(self._attempts, TICK_SECONDS)
        self._clock.sleep(TICK_SECONDS)
        return self._cluster.wait(self._attempts, 0) if self._attempts else []

    def _take_event(self, attempt: Attempt) -> Iterator[LaneEvent | LostAttempt]:
        """Take at most one event, so that no lane delays the others."""
        now = self._now
        message = self._cluster.take(attempt.lane)
        if message is None:
            attempt.fetching_since = attempt.fetching_since or now
            return
        if isinstance(message, Death):
            yield from self._end_lane(attempt, message)
            return
        event = message.event
        if isinstance(event, WorkerProcess):
            attempt.start(event, now)
            self._assign(attempt)
        elif event.trial and (attempt.trial is None or event.trial != attempt.trial.id):
            trial = attempt.trial.id if attempt.trial else "no trial"
            log.warning("a lane on %s sent an event of %s while it had %s; ignored", attempt.worker, event.trial, trial)
        elif event.final:
            never_began = attempt.state is LaneState.STARTING  # perhaps this lane cannot begin any trial
            attempt.end_trial(now)
            if never_began:
                self._close(attempt)
            else:
                self._assign(attempt)  # before the event is recorded, so that the lane does not wait for that
            yield event
        else:
            attempt.note(event.phase, now, message.sent_at)
            if attempt.state is not LaneState.STARTING:
                self._failed_starts = self._deaths_in_a_row = 0
            yield event

    # Deaths

    def _end_lane(self, attempt: Attempt, death: Death) -> Iterator[LostAttempt]:
        if death.cause not in (Cause.ENDED_EARLY, Cause.BUG):
            yield from self._abandon(attempt, death)  # it may be alive, and only its event lost
            return
        del self._attempts[attempt.lane]
        if death.cause is Cause.BUG:
            yield from self._fail(attempt, death)
        elif attempt.trial is not None:
            yield from self._retry_or_fail(attempt, death)

    def _abandon(self, attempt: Attempt, death: Death) -> Iterator[LostAttempt]:
        del self._attempts[attempt.lane]
        self._cluster.kill(attempt.lane, attempt.worker)
        yield from self._retry_or_fail(attempt, death)

    def _retry_or_fail(self, attempt: Attempt, death: Death) -> Iterator[LostAttempt]:
        """Queue the trial of a dead attempt again after a pause, if it is worth another attempt.

        No lane starts during the pause either, since the cluster may not know yet that a node is lost.
        """
        if self._now >= self._start_lanes_at:  # lanes that die together count once
            self._deaths_in_a_row += 1
            self._start_lanes_at = self._now + back_off(self._deaths_in_a_row)
        for trial in self._stricken(attempt):
            if attempt.state is LaneState.PREPARING and not attempt.has_begun:  # the lane died between two trials
                self._queue.put_first([trial])
                return
            number = self.attempts(trial.id)
            final = not self._queue.retry(trial, death.cause, self._now)
            yield LostAttempt(trial=trial.id, attempt=number, death=death, final=final)

    def _fail(self, attempt: Attempt, death: Death) -> Iterator[LostAttempt]:
        """End the trial of an attempt that met a bug. Expected failures of a trial arrive as events instead.

        If no lane can start, all trials fail.
        """
        trials = self._stricken(attempt)
        if attempt.state in (LaneState.WAITING, LaneState.STARTING):
            self._failed_starts += 1
            if self._failed_starts >= MAX_FAILED_STARTS:
                trials += self._queue.pop(len(self._queue))
        for trial in trials:
            yield LostAttempt(trial=trial.id, attempt=self.attempts(trial.id), death=death, final=True)

    def _stricken(self, attempt: Attempt) -> list[Trial]:
        """Return the trial that a death counts against: the next one if the lane could not start.

        Otherwise retries would not end.
        """
        if attempt.trial is not None:
            return [attempt.trial]
        return self._queue.pop() if attempt.state in (LaneState.WAITING, LaneState.STARTING) else []

    # Deadlines

    def _abandon_overdue(self) -> Iterator[LaneEvent | LostAttempt]:
        """Abandon the attempts on lost nodes, and those that are silent or take too long, after their unread events."""
        lost = self._cluster.head.dead_nodes
        if lost - self._lost:
            for attempt in [attempt for attempt in self._attempts.values() if attempt.state is LaneState.WAITING]:
                del self._attempts[attempt.lane]  # it may have been placed on a node just as the node was lost
                self._cluster.kill(attempt.lane, None)
        self._lost = lost
        for attempt in [*self._attempts.values()]:
            if attempt.overdue(self._limits, self._now, lost):
                yield from self._abandon_if_nothing_is_unread(attempt)

    def _abandon_if_nothing_is_unread(self, attempt: Attempt) -> Iterator[LaneEvent | LostAttempt]:
        """Take what the lane has sent, such as its result, and abandon the attempt if it is still overdue."""
        for _ in range(MAX_UNREAD_EVENTS):
            if not self._cluster.wait([attempt.lane], 0):
                break
            if self._is_full():
                return
            yield from self._take_event(attempt)
            if attempt.lane not in self._attempts:
                return
        death = attempt.overdue(self._limits, self._now, self._lost)
        if death:
            yield from self._abandon(attempt, death)

    def _check_wait(self) -> None:
        if any(attempt.state is not LaneState.WAITING for attempt in self._attempts.values()):
            self._wait.restart()
        elif self._wait.is_over:
            raise ResourcesError(
                f"{self._plan.lane_resources} not free within {self._wait.seconds:.0f} s"
                f" ({self._cluster.describe_free()})"
                "; wait longer with --wait-for-resources SECONDS, or lower --cpus-per-trial or --gpus-per-trial"
            )
        else:
            self._wait.log_if_due(self._why_waiting)

    def _why_waiting(self) -> str:
        pause = self._start_lanes_at - self._now
        if pause > 0:
            return f"no lane starts for another {pause:.0f} s, after {counted(self._deaths_in_a_row, 'death')} in a row"
        return self._cluster.describe_free()
