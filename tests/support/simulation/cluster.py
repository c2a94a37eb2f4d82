"""A `cluster.lanes.ports.Cluster` on a virtual clock: nodes with slots, lanes, and what can happen to them."""

import itertools
import math
from collections import deque
from collections.abc import Callable, Collection, Generator
from dataclasses import dataclass, field
from typing import Any

from cluster.connection.address import HeadWatch
from cluster.errors import ClusterLostError
from cluster.lanes.ports import Death, Kind, LaneDied, LaneEnded, Sent, WorkerProcess
from mnist_lib.assignment import Assignment
from mnist_lib.results import LaneStarted, TrialEvent
from tests.support.simulation.clock import VirtualClock
from tests.support.simulation.trials import VERSIONS, Durations, trial_script

CANCEL_SECONDS = 0.1  # until a lane that is not stopped has ended
NODE_LOST_SECONDS = 15.0  # until the head knows
MAX_UNREAD = 16


@dataclass(eq=False)
class Node:
    name: str
    slots: int
    alive: bool = True
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
    unread: deque[Sent] = field(default_factory=deque)  # events, and at the end an exception
    content_at: float = 0.0  # when the content of the first unread event arrives
    is_requested: bool = False  # whether the driver has asked for that content
    script: Generator[Any, None, None] | None = None
    has_mailbox: bool = True
    wants: str = ""  # "item" or "room" while the script waits for one
    stopped: bool = False
    is_late: bool = False  # it was due to go on while it was stopped
    ended: bool = False
    cancelled: bool = False


class SimulatedCluster:
    def __init__(self, clock: VirtualClock, durations: dict[str, Durations], head_seconds: float = 30.0) -> None:
        self.clock, self._durations = clock, durations
        self.nodes: list[Node] = []
        self.lanes: dict[SimulatedLane, None] = {}  # those that have not ended, in the order of their start
        self._waiting: deque[SimulatedLane] = deque()
        self._with_events: set[SimulatedLane] = set()
        self.events_taken = 0
        self.head_answers = True
        self.on_wait: Callable[[Collection[SimulatedLane]], None] = lambda lanes: None
        self._driver_sleeps = 0.0
        self._numbers = itertools.count()
        self._head_seconds = head_seconds
        self.connect()

    # Faults and their opposites

    def connect(self) -> None:
        """Connect a new driver; the lanes of the previous one end."""
        for lane in [*self.lanes]:
            self.kill(lane, None)
        self._waiting.clear()
        # What the driver learns from the head's answers: the nodes that have died since it connected.
        self._known_dead: frozenset[str] = frozenset()  # those that the head knows
        self._told_dead: frozenset[str] = frozenset()  # those in its last answer
        self.head = HeadWatch(self._head_seconds, ask=self._answer, clock=self.clock)

    def add_node(self, slots: int) -> Node:
        node = Node(f"node-{next(self._numbers)}", slots)
        self.nodes.append(node)
        self._place()
        return node

    def lose_node(self, node: Node, *, noticed: bool) -> None:
        """End a node with its lanes. Their ends are noticed at once, or only when the head knows."""
        node.alive = False
        for lane in self.running_on(node):
            self._end(lane, Death(kind=Kind.NODE_LOST, details=f"on {node.name}") if noticed else None)

        def know() -> None:
            self._known_dead |= {node.name}

        self.clock.after(NODE_LOST_SECONDS, know)

    def running_on(self, node: Node) -> list[SimulatedLane]:
        return [lane for lane in self.lanes if lane.node is node]

    @property
    def running(self) -> list[SimulatedLane]:
        return [lane for lane in self.lanes if lane.node is not None]

    def kill_worker(self, lane: SimulatedLane, kind: Kind = Kind.KILLED) -> None:
        self._end(lane, Death(kind=kind, details="on its node"))

    def stop_worker(self, lane: SimulatedLane, seconds: float) -> None:
        """Stop a worker, which then ignores a cancellation, and resume it later."""
        lane.stopped = True

        def go_on() -> None:
            lane.stopped = False
            if lane.cancelled:
                self._end(lane)
            elif lane.is_late:
                self._advance(lane)

        self.clock.after(seconds, go_on)

    def delay_content(self, lane: SimulatedLane, seconds: float) -> None:
        if lane.content_at > self.clock.now:
            return  # it is late already
        lane.content_at = self.clock.now + seconds
        if math.isfinite(seconds):
            self.clock.after(seconds, lambda: None)  # an action, so that a wait may end

    def lose_event(self, lane: SimulatedLane) -> None:
        """Lose the next event of a lane, which goes on."""
        if not lane.cancelled:  # otherwise nobody takes it
            lost = LaneDied(Death(kind=Kind.NODE_LOST, details="with an event"))
            lane.unread.appendleft(Sent(lost, self.clock.now))
            self._with_events.add(lane)

    def lose_mailbox(self) -> None:
        """Lose all assigned items that lanes have not taken yet; a lane notices when it wants an item."""
        for lane in [*self.lanes]:
            lane.has_mailbox = False
            self._wake(lane, "item")

    def stop_driver(self, seconds: float) -> None:
        """Stop the driver for a while. Everything else goes on; the driver notices only once it runs again."""
        self._driver_sleeps = seconds

    # The port

    def start(self) -> SimulatedLane:
        assert self.answers(), "the driver asks for a lane while the head does not answer"
        lane = SimulatedLane(next(self._numbers))
        self.lanes[lane] = None
        self._waiting.append(lane)
        self._place()
        return lane

    def assign(self, lane: SimulatedLane, payload: Any) -> None:
        lane.payloads.append(payload)
        self._wake(lane, "item")

    def close(self, lane: SimulatedLane) -> None:
        lane.closed = True
        self._wake(lane, "item")

    def wait(self, lanes: Collection[SimulatedLane], seconds: float) -> list[SimulatedLane]:
        if self._driver_sleeps:
            seconds, self._driver_sleeps = self._driver_sleeps, 0.0
            self.clock.sleep(seconds)
            return []
        self.on_wait(lanes)
        self.clock.run_until(self.clock.now + seconds, lambda: any(map(self._is_ready, self._with_events)))
        return [lane for lane in lanes if lane in self._with_events and self._is_ready(lane)]

    def take(self, lane: SimulatedLane) -> Sent | None:
        if lane.content_at > self.clock.now:
            lane.is_requested = True
            return None
        lane.is_requested = False
        sent: Sent = lane.unread.popleft()
        if not lane.unread:
            self._with_events.discard(lane)
        self.events_taken += 1
        if isinstance(sent.event, Exception):
            raise sent.event
        self._wake(lane, "room")
        return sent

    def cancel(self, lane: SimulatedLane) -> None:
        self._leave(lane)
        if not lane.stopped:
            self.clock.after(CANCEL_SECONDS, lambda: self._end(lane))

    def kill(self, lane: SimulatedLane, worker: WorkerProcess | None) -> None:
        self._leave(lane)
        self._end(lane)

    def finish_kills(self, seconds: float) -> None:
        pass

    def release(self, lane: SimulatedLane) -> None:
        pass

    def check(self) -> None:
        self.head.check()

    def lost_nodes(self) -> frozenset[str]:
        return self._told_dead

    def answers(self) -> bool:
        return not self.head.unanswered

    def capacity(self) -> int:
        return sum(node.slots for node in self.nodes if node.alive)

    def describe_free(self) -> str:
        return ", ".join(f"{node.name}: {node.free} free" for node in self.nodes)

    # What lanes do

    def _emit(self, lane: SimulatedLane, event: Any) -> None:
        lane.unread.append(Sent(event, self.clock.now))
        if not lane.cancelled:  # otherwise nobody takes it
            self._with_events.add(lane)

    def _leave(self, lane: SimulatedLane) -> None:
        lane.cancelled = True
        self._with_events.discard(lane)

    def _is_ready(self, lane: SimulatedLane) -> bool:
        return not (lane.is_requested and lane.content_at > self.clock.now)

    def _answer(self) -> list[Any]:
        if not self.head_answers:
            self.clock.sleep(4.0)
            raise ClusterLostError("no answer")
        self._told_dead = self._known_dead
        return []

    def _place(self) -> None:
        for node in self.nodes if self._waiting else ():
            while node.alive and node.free and self._waiting:
                lane = self._waiting.popleft()
                if not lane.ended:
                    node.free -= 1
                    lane.node = node
                    lane.script = self._script(lane)
                    self._advance(lane)

    def _end(self, lane: SimulatedLane, death: Death | None = None) -> None:
        if lane.ended:
            return
        lane.ended = True
        self.lanes.pop(lane, None)
        if death is not None:
            self._emit(lane, LaneDied(death))
        if lane.node is not None:
            lane.node.free += 1
            self._place()

    def _wake(self, lane: SimulatedLane, wanted: str) -> None:
        if lane.wants == wanted:
            self._advance(lane)

    def _advance(self, lane: SimulatedLane) -> None:
        """Run the script of a lane up to its next pause."""
        if lane.ended or lane.script is None:
            return
        lane.is_late = lane.stopped
        if lane.stopped:
            return
        lane.wants = ""
        try:
            pause = next(lane.script)
        except StopIteration:
            if not lane.ended:
                self._end(lane)
                self._emit(lane, LaneEnded())
            return
        if isinstance(pause, str):
            lane.wants = pause
        else:
            self.clock.after(pause, lambda: self._advance(lane))

    def _script(self, lane: SimulatedLane) -> Generator[float | str, None, None]:
        """Put the events of a lane among its unread ones; yield seconds of work, or what to wait for."""
        assert lane.node is not None
        yield 1.0
        lane.begun = True
        self._emit(lane, WorkerProcess(node=lane.node.name, host=lane.node.name, pid=lane.number))
        self._emit(lane, LaneStarted(trial="", host=lane.node.name, versions=VERSIONS))
        compiled: set[str] = set()
        while True:
            while lane.has_mailbox and not lane.payloads and not lane.closed:
                yield "item"
            if not lane.has_mailbox:
                self._end(lane, Death(kind=Kind.KILLED, details="without its mailbox"))
                return
            if not lane.payloads:
                return
            given = lane.payloads.popleft()
            durations = self._durations[given.spec.model]
            yield durations.importing if not compiled else 0.01
            yield 0.01 if given.spec.model in compiled else durations.compiling
            compiled.add(given.spec.model)
            for happening in trial_script(given, durations, lane.node.name, self.clock.monotonic):
                while len(lane.unread) >= MAX_UNREAD:
                    yield "room"
                if isinstance(happening, TrialEvent):
                    self._emit(lane, happening)
                else:
                    yield happening
