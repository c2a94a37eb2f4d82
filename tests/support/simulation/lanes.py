"""The parts of a simulated cluster: its nodes, its lanes and what they do, and what a world observes of them."""

import math
from collections import deque
from collections.abc import Callable, Collection, Generator, Mapping
from dataclasses import dataclass, field
from typing import Any

from cluster.lanes import MAX_UNREAD_EVENTS, Cause, Death, Message, WorkerProcess
from mnist_lib.results import LaneStarted, TrialEvent
from mnist_lib.training.assignment import Assignment
from tests.support.simulation.clock import VirtualClock
from tests.support.simulation.trials import VERSIONS, Durations, trial_script


@dataclass(eq=False)
class Node:
    name: str
    slots: int
    alive: bool = True
    reachable: bool = True
    declared_dead: bool = False  # by the head
    free: int = field(init=False)

    def __post_init__(self) -> None:
        self.free = self.slots


@dataclass(eq=False)
class SimulatedLane:
    number: int
    node: Node | None = None  # None while it waits for a slot
    payloads: deque[Assignment] = field(default_factory=deque)
    closed: bool = False
    begun: bool = False  # its first event is on the way
    stream: deque[Message | Death] = field(default_factory=deque)  # not taken by the driver yet; lost if the lane dies
    arrived: deque[Message | Death] = field(default_factory=deque)  # taken by the driver
    content_at: float = 0.0  # when the content of the first unread event arrives
    is_requested: bool = False  # whether the driver has asked for that content
    requested_at: float = math.inf  # since when it has waited for that content
    script: Generator[Any, None, None] | None = None
    has_mailbox: bool = True
    wants: str = ""  # "trial" or "room" while the script waits for one
    stopped_at: float = math.inf  # infinite while it is not stopped
    is_late: bool = False  # it was due to go on while it was stopped
    ended: bool = False
    cancelled: bool = False
    failed: bool = False  # whether the driver knows that it has failed
    is_killed_later: bool = False  # a kill that did not reach its node
    faults: list[str] = field(default_factory=list)  # what has happened to it
    assignment: Assignment | None = None  # what it works on
    trial_began_at: float = math.inf
    last_event: TrialEvent | None = None
    last_sent_at: float = math.inf
    longest: float = 0.0  # seconds between two events of its trial

    @property
    def stopped(self) -> bool:
        return self.stopped_at < math.inf

    @property
    def is_reachable(self) -> bool:
        return self.node is None or self.node.reachable


class Watch:
    """What a world observes. Each method is called just before the event that it is named after takes effect."""

    def on_wait(self, lanes: Collection[SimulatedLane]) -> None: ...
    def on_start(self) -> None: ...
    def on_assign(self, lane: SimulatedLane) -> None: ...
    def on_begin(self, lane: SimulatedLane, assignment: Assignment) -> None: ...
    def on_taken(self, lane: SimulatedLane, message: Message) -> None: ...
    def on_abandon(self, lane: SimulatedLane) -> None: ...
    def on_trial_ended(self, lane: SimulatedLane) -> None: ...


def lane_script(
    lane: SimulatedLane,
    durations: Mapping[str, Durations],
    clock: VirtualClock,
    watch: Callable[[], Watch],
    send: Callable[[SimulatedLane, Any], None],
    end: Callable[[SimulatedLane, Death], None],
) -> Generator[float | str, None, None]:
    """Send the events of a lane; yield seconds of work, or what to wait for.

    Args:
        watch: returns the current watch, which the next driver replaces.
    """
    assert lane.node is not None
    yield 1.0
    lane.begun = True
    send(lane, WorkerProcess(node=lane.node.name, host=lane.node.name, pid=lane.number))
    send(lane, LaneStarted(trial="", host=lane.node.name, versions=VERSIONS))
    compiled: set[str] = set()
    while True:
        while lane.has_mailbox and not lane.payloads and not lane.closed:
            yield "trial"
        if not lane.has_mailbox:
            end(lane, Death(cause=Cause.KILLED, details="without its mailbox"))
            return
        if not lane.payloads:
            return
        assignment = lane.payloads.popleft()
        model = assignment.spec.model
        yield 0.01 if compiled else durations[model].importing
        lane.assignment = assignment
        lane.trial_began_at = clock.now
        lane.last_sent_at = math.inf
        lane.longest = 0.0
        watch().on_begin(lane, assignment)
        steps = trial_script(
            assignment, durations[model], lane.node.name, clock.monotonic, is_compiled=model in compiled
        )
        for step in steps:
            while len(lane.stream) >= MAX_UNREAD_EVENTS // 2:
                yield "room"
            if isinstance(step, TrialEvent):
                send(lane, step)
            else:
                yield step
        compiled.add(model)
        watch().on_trial_ended(lane)
        lane.assignment = None
        lane.trial_began_at = math.inf
