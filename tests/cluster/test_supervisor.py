"""What the supervisor decides, without a cluster, a clock or a loop."""

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest

from cluster.deadlines import Limits
from cluster.lanes import MAX_UNREAD_EVENTS, Cause, Death, LaneState, Message, WorkerProcess
from cluster.nodes import LanePlan, Node
from cluster.supervisor import VERDICTS, Assign, Close, Kill, LostAttempt, Start, Supervisor, Verdict

NODES = [Node(id="n", host="h", cpus=2, gpus=0)]


class Head:
    answers, live_nodes, dead_nodes = True, NODES, frozenset[str]()


class Source:
    expects_more = False

    def __init__(self, *names: str) -> None:
        self._waiting = [SimpleNamespace(id=name, compile_key="key", cost=1.0) for name in names]

    def next_trials(self, queued: int) -> list[Any]:
        trials, self._waiting = self._waiting, []
        return trials

    def is_ready(self, trial: Any) -> bool:
        return True


@dataclass
class Event:
    trial: str
    phase: str = "training"
    final: bool = False


class Driver:
    """A supervisor of one lane, to which a test says what happens."""

    def __init__(self, *trials: str, limits: Limits | None = None) -> None:
        self.source, self.now = Source(*trials), 0.0
        self.supervisor = Supervisor(limits or Limits(), LanePlan(lanes=1, cpus=2, gpus=0))
        assert self.tick() == [Start()]
        self.supervisor.add("lane", self.now)

    def tick(self, seconds: float = 1.0) -> list[Any]:
        self.now += seconds
        return self.supervisor.tick(self.now, self.source, Head())  # type: ignore[arg-type]

    def send(self, event: Any) -> None:
        self.supervisor.on("lane", Message(event, self.now), self.now)

    def reach(self, state: LaneState) -> None:
        """Bring the lane into a state, with the trial "a" where it has one."""
        phases = {"preparing": ["preparing"], "training": ["preparing", "training"]}
        phases["finishing"] = [*phases["training"], "finishing"]
        if state is LaneState.WAITING:
            return
        self.send(WorkerProcess(node="n", host="h", pid=1))
        if state is LaneState.STARTING:
            return
        assert [action.trial.id for action in self.tick()] == ["a"]
        for phase in phases.get(state.value, ["preparing"]):
            self.send(Event("a", phase))
        if state in (LaneState.IDLE, LaneState.ASSIGNED, LaneState.ENDING):
            self.send(Event("a", final=True))
        if state in (LaneState.ASSIGNED, LaneState.ENDING):
            self.tick()

    def die(self, cause: Cause) -> list[LostAttempt]:
        return [*self.supervisor.on("lane", Death(cause=cause), self.now)]  # type: ignore[list-item]


@pytest.mark.parametrize("state", LaneState)
@pytest.mark.parametrize("cause", Cause)
def test_the_table_says_what_becomes_of_a_trial_whose_lane_dies(state: LaneState, cause: Cause) -> None:
    driver = Driver("a") if state is LaneState.ENDING else Driver("a", "b", "c")
    driver.reach(state)
    lost = driver.die(cause)
    verdict = VERDICTS[state][0 if cause in (Cause.BUG, Cause.OVERTIME) else 1]
    victim = "b" if state is LaneState.ASSIGNED else "a"
    if verdict in (Verdict.FAIL, Verdict.RETRY):
        assert [(one.trial, one.attempt, one.final) for one in lost] == [(victim, 1, verdict is Verdict.FAIL)]
    else:
        assert lost == []
    assert driver.supervisor.attempts(victim) == (2 if verdict is Verdict.RETRY else 1)
    actions = driver.tick(seconds=31.0)  # after every pause
    assert (Kill in map(type, actions)) == (cause not in (Cause.BUG, Cause.ENDED_EARLY))
    starts = sum(isinstance(action, Start) for action in actions)
    assert starts == (state is not LaneState.ENDING)  # for the same trial or for the next one


def test_a_lane_is_not_abandoned_before_what_it_has_sent_is_read_but_not_for_ever() -> None:
    driver = Driver("a")
    driver.reach(LaneState.TRAINING)
    late = driver.now + 1e6
    assert driver.supervisor.overdue(late, (), lambda lane: True) == []
    ((lane, death),) = driver.supervisor.overdue(late, (), lambda lane: False)
    assert (lane, death.cause) == ("lane", Cause.SILENT)
    limits = Limits(trial_seconds=60)
    busy = Driver("a", limits=limits)
    busy.reach(LaneState.TRAINING)
    for _ in range(2 * MAX_UNREAD_EVENTS):  # before it is overdue
        busy.send(Event("a"))
    busy.now += 100
    for _ in range(MAX_UNREAD_EVENTS):
        assert busy.supervisor.overdue(busy.now, (), lambda lane: True) == []
        busy.send(Event("a"))
    ((_, death),) = busy.supervisor.overdue(busy.now, (), lambda lane: True)
    assert death.cause is Cause.OVERTIME


def test_a_lane_without_a_further_trial_is_closed_and_the_end_of_a_run_kills_the_others() -> None:
    driver = Driver("a")
    driver.reach(LaneState.IDLE)
    assert driver.tick() == [Close("lane")]
    assert driver.supervisor.end() == [Kill("lane", None)]
    training = Driver("a")
    training.reach(LaneState.TRAINING)
    (kill,) = training.supervisor.end()
    assert isinstance(kill, Kill)
    assert kill.worker is not None


def test_a_kill_that_was_decided_last_is_not_lost_with_the_run() -> None:
    driver = Driver("a", limits=Limits(max_failures=0))
    driver.reach(LaneState.TRAINING)
    (lost,) = driver.die(Cause.SILENT)
    assert lost.final
    assert [type(action) for action in driver.supervisor.end()] == [Kill]


def test_three_lanes_in_a_row_that_cannot_start_because_of_a_bug_fail_all_trials() -> None:
    driver = Driver("a", "b", "c", "d", "e")
    failed = []
    for _ in range(3):
        driver.send(WorkerProcess(node="n", host="h", pid=1))
        failed += [one.trial for one in driver.die(Cause.BUG)]
        if len(failed) < 5:
            assert Start() in driver.tick()
            driver.supervisor.add("lane", driver.now)
    assert failed == ["a", "b", "c", "d", "e"]


def test_a_trial_gets_its_share_of_the_time_that_is_left() -> None:
    driver = Driver("a", "b", "c", "d")
    driver.send(WorkerProcess(node="n", host="h", pid=1))
    (assign,) = driver.supervisor.tick(driver.now, driver.source, Head(), seconds_left=100.0)  # type: ignore[arg-type]
    assert isinstance(assign, Assign)
    assert assign.seconds == pytest.approx(25.0, abs=0.1)
