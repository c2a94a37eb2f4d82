"""Decides which lane trains which trial, and what becomes of a trial whose lane dies.

The supervisor is a state machine without threads, files or a clock: `on` is told what a lane has sent or why it ended,
`overdue` says which lanes to abandon, and `tick` says what to do next. Ray itself retries nothing here
(`max_retries=0`): it would count failures in its own way.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol

from cluster.deadlines import MAX_FAILED_STARTS, TICK_SECONDS, Limits, back_off
from cluster.errors import counted
from cluster.lanes import (
    MAX_UNREAD_EVENTS,
    Cause,
    Death,
    Handle,
    Lane,
    LaneEvent,
    LaneState,
    Message,
    Trial,
    TrialQueue,
    WorkerProcess,
)
from cluster.nodes import HeadWatch, LanePlan, share_of_time

log = logging.getLogger(__name__)


class Verdict(Enum):
    """What becomes of a trial whose lane dies."""

    RETRY = "tried again after a pause, as often as the limits allow"
    REQUEUE = "queued again, since the lane had not begun it"
    FAIL = "failed"
    NOTHING = "there is none"


# A lane that dies before it has a trial counts against the next trial in the queue: otherwise retries would not end.
VERDICTS = {
    # state of the lane    a bug, or time is up   any other cause
    LaneState.WAITING:    (Verdict.FAIL,          Verdict.RETRY),
    LaneState.STARTING:   (Verdict.FAIL,          Verdict.RETRY),
    LaneState.IDLE:       (Verdict.NOTHING,       Verdict.NOTHING),
    LaneState.ASSIGNED:   (Verdict.FAIL,          Verdict.REQUEUE),
    LaneState.PREPARING:  (Verdict.FAIL,          Verdict.RETRY),
    LaneState.TRAINING:   (Verdict.FAIL,          Verdict.RETRY),
    LaneState.FINISHING:  (Verdict.FAIL,          Verdict.RETRY),
    LaneState.ENDING:     (Verdict.NOTHING,       Verdict.NOTHING),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class LostAttempt:
    """An attempt at a trial ended early. There will be another attempt unless `final`."""

    trial: str
    attempt: int  # counted from 1
    death: Death
    final: bool


@dataclass(frozen=True)
class Start:
    """Start a lane, and `add` it."""


@dataclass(frozen=True)
class Assign:
    lane: Handle
    trial: Any
    seconds: float  # in which the trial should end, so that later trials get their share of the time of the run


@dataclass(frozen=True)
class Close:
    """Say that there is no further trial for a lane."""

    lane: Handle


@dataclass(frozen=True)
class Kill:
    lane: Handle
    worker: WorkerProcess | None


Action = Start | Assign | Close | Kill


class Source(Protocol):
    """What to train."""

    @property
    def expects_more(self) -> bool:
        """Whether `next_trials` may return trials later that it does not return yet; lanes then wait for them."""

    def next_trials(self, queued: int) -> Sequence[Any]:
        """Return the trials to queue next. `queued`: the number of those that wait for a lane."""

    def is_ready(self, trial: Any) -> bool:
        """Return whether a trial can be assigned to a lane now."""


class Supervisor:
    """The lanes of a run, and the trials without a lane. Times are seconds on any one clock.

    Args:
        limits: when to abandon a lane or a trial.
        plan: the resources of each lane, and the number of lanes to start with.
        max_lanes: the maximum, even as nodes join; None for one per trial.
    """

    def __init__(self, limits: Limits, plan: LanePlan, max_lanes: int | None = None) -> None:
        self.limits = limits
        self.plan = plan
        self._max_lanes = max_lanes
        self._queue = TrialQueue(limits)
        self._lanes: dict[Handle, Lane] = {}
        self._idle: dict[Handle, Lane] = {}  # those of them that have their resources and no trial
        self._actions: list[Action] = []
        self._lost_nodes: frozenset[str] = frozenset()
        self._failed_starts = 0  # lane starts that failed because of a bug, since the last successful one
        self._deaths_in_a_row = 0  # deaths of lanes since a lane last began a trial
        self._start_lanes_at = 0.0  # no lane starts before
        self._looked_at = -math.inf  # when lanes were last started

    @property
    def lanes(self) -> Collection[Handle]:
        return self._lanes.keys()

    def attempts(self, trial: str) -> int:
        """Return the number of attempts at a trial so far, including the running or last one."""
        return self._queue.attempts(trial)

    def why_waiting(self, now: float) -> str | None:
        """Return why no lane has its resources yet; "" if that is up to the cluster, and None if one has them."""
        if any(lane.state is not LaneState.WAITING for lane in self._lanes.values()):
            return None
        pause = self._start_lanes_at - now
        deaths = counted(self._deaths_in_a_row, "death")
        return f"no lane starts for another {pause:.0f} s, after {deaths} in a row" if pause > 0 else ""

    # What has happened

    def add(self, handle: Handle, now: float) -> None:
        """Note a lane that was started."""
        self._lanes[handle] = Lane(handle=handle, state_since=now)

    def on(self, handle: Handle, message: Message | Death | None, now: float) -> Sequence[LaneEvent | LostAttempt]:
        """Note what a lane has sent, or its end, and return what is to be recorded.

        Args:
            message: None while the content of its next event is on the way.
        """
        lane = self._lanes[handle]
        if message is None:
            lane.fetching_since = lane.fetching_since or now
            return ()
        if isinstance(message, Death):
            return self._on_death(lane, message, now)
        event = message.event
        if lane.heard_late is not None:
            lane.heard_late += 1
        if isinstance(event, WorkerProcess):
            lane.start(event, now)
            self._idle[handle] = lane
            return ()
        if event.trial and (lane.trial is None or event.trial != lane.trial.id):
            trial = lane.trial.id if lane.trial else "no trial"
            log.warning("a lane on %s sent an event of %s while it had %s; ignored", lane.worker, event.trial, trial)
            return ()
        if not event.final:
            lane.note(event.phase, now, message.sent_at)
            if lane.state is not LaneState.STARTING:
                self._failed_starts = self._deaths_in_a_row = 0
        elif lane.state is LaneState.STARTING:  # perhaps this lane cannot begin any trial
            lane.end_trial(now)
            self._close(lane, now)
        else:
            lane.end_trial(now)
            self._idle[handle] = lane
        return (event,)

    def _on_death(self, lane: Lane, death: Death, now: float) -> list[LostAttempt]:
        del self._lanes[lane.handle]
        self._idle.pop(lane.handle, None)
        if death.may_be_alive:
            self._actions.append(Kill(lane.handle, lane.worker))
        is_final = death.cause in (Cause.BUG, Cause.OVERTIME)
        verdict = VERDICTS[lane.state][0 if is_final else 1]
        if death.may_be_alive or verdict in (Verdict.RETRY, Verdict.REQUEUE):
            self._pause(now)
        trials = self._trials_to_blame(lane, death)
        if verdict is Verdict.REQUEUE:
            self._queue.put(trials, first=True)
            return []
        lost = []
        for trial in trials:
            number = self.attempts(trial.id)
            final = verdict is Verdict.FAIL or not self._queue.retry(trial, death.cause, now)
            lost.append(LostAttempt(trial=trial.id, attempt=number, death=death, final=final))
        return lost

    def _trials_to_blame(self, lane: Lane, death: Death) -> list[Trial]:
        """Return the trial of a lane that has died or, if it could not start, the next one; all if none can start."""
        could_start = lane.state not in (LaneState.WAITING, LaneState.STARTING)
        trials = [lane.trial] if lane.trial is not None else [] if could_start else self._queue.pop()
        if death.cause is Cause.BUG and not could_start:
            self._failed_starts += 1
            if self._failed_starts >= MAX_FAILED_STARTS:
                trials += self._queue.pop(len(self._queue))
        return trials

    def _pause(self, now: float) -> None:
        """Let no lane start for a while, since the cluster may not know yet that a node is lost."""
        if now >= self._start_lanes_at:  # lanes that die together count once
            self._deaths_in_a_row += 1
            self._start_lanes_at = now + back_off(self._deaths_in_a_row)

    # What is to be done

    def overdue(
        self, now: float, lost_nodes: Collection[str], has_unread: Callable[[Handle], bool]
    ) -> list[tuple[Handle, Death]]:
        """Return the lanes to abandon, with the reason: those on lost nodes, and those that are silent or too slow.

        Args:
            has_unread: whether a lane has sent something that `on` has not been given, such as its result. It is heard
                first, up to MAX_UNREAD_EVENTS events.
        """
        found = []
        for lane in self._lanes.values():
            death = lane.why_overdue(self.limits, now, lost_nodes)
            lane.heard_late = None if death is None else lane.heard_late or 0
            if death and (lane.heard_late == MAX_UNREAD_EVENTS or not has_unread(lane.handle)):
                found.append((lane.handle, death))
        return found

    def tick(self, now: float, source: Source, head: HeadWatch, seconds_left: float = math.inf) -> list[Action]:
        """Return what is to be done now: lanes to kill, to start, to close, and trials to assign to them.

        Args:
            seconds_left: of the time limit of the run.
        """
        trials = source.next_trials(len(self._queue))
        self._queue.put_due(now)
        self._queue.put(trials)
        self._assign_trials(now, source, head.dead_nodes, seconds_left)
        if trials or now - self._looked_at >= TICK_SECONDS:
            self._looked_at = now
            self._replace_lost(head.dead_nodes)
            if now >= self._start_lanes_at and head.answers:
                self._actions += [Start()] * self._lanes_to_start(head)
        actions, self._actions = self._actions, []
        return actions

    def end(self) -> list[Action]:
        """Return what ends all lanes at the end of a run."""
        actions, self._actions = self._actions, []
        for lane in self._lanes.values():
            # A lane without a trial ends by itself. Ray may fail to end the others once the driver has left.
            actions += [Close(lane.handle)] if lane.state is LaneState.IDLE else []
            actions.append(Kill(lane.handle, lane.worker if lane.trial else None))
        self._lanes.clear()
        return actions

    def _assign_trials(self, now: float, source: Source, lost_nodes: Collection[str], seconds_left: float) -> None:
        """Give lanes without a trial one, or close them if there will be none."""
        for lane in [*self._idle.values()]:
            if lane.worker and lane.worker.node in lost_nodes:
                continue
            working = [other for other in self._lanes.values() if other.trial is not None]
            trial = self._queue.pop_for(lane.compile_key, {other.compile_key for other in working}, source.is_ready)
            if trial is not None:
                seconds = self._share_of_time(trial, working, now, seconds_left)
                lane.assign(trial, now, now + seconds)
                del self._idle[lane.handle]
                self._actions.append(Assign(lane.handle, trial, seconds))
            elif not (self._queue or self._queue.backing_off or source.expects_more):
                self._close(lane, now)

    def _close(self, lane: Lane, now: float) -> None:
        lane.close(now)
        self._idle.pop(lane.handle, None)
        self._actions.append(Close(lane.handle))

    def _share_of_time(self, trial: Trial, working: Sequence[Lane], now: float, seconds_left: float) -> float:
        """Return in how many seconds a trial should end, so that all get the same time in proportion to their cost."""
        if not 0 < seconds_left < math.inf:
            return seconds_left
        costs = [trial.cost, *self._queue.costs]
        busy = [max(0.0, other.ends_at - now) for other in working]
        return share_of_time(seconds_left, costs, max(self.plan.lanes, len(working) + 1), busy)

    def _replace_lost(self, lost_nodes: frozenset[str]) -> None:
        """Give up lanes that wait for resources when a node is lost: they may have been placed on it just before."""
        if lost_nodes - self._lost_nodes:
            for lane in [lane for lane in self._lanes.values() if lane.state is LaneState.WAITING]:
                del self._lanes[lane.handle]
                self._actions.append(Kill(lane.handle, None))
        self._lost_nodes = lost_nodes

    def _lanes_to_start(self, head: HeadWatch) -> int:
        """Return how many more lanes there is room and work for."""
        states = [lane.state for lane in self._lanes.values() if lane.state is not LaneState.ENDING]
        wanted = len(states) - states.count(LaneState.WAITING) + len(self._queue)
        room = max(1, self.plan.count(head.live_nodes))
        return min(wanted, self._max_lanes or wanted, room) - len(states)
