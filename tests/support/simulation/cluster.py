"""A `cluster.lanes.Cluster` on a virtual clock: nodes with slots, lanes, and what can happen to them.

It behaves as `tests/cluster` shows that Ray does: what a driver has not taken from the stream of a worker is lost
when the worker dies, large events are lost with their node, and the driver knows nodes only from the head's answers.
"""

import itertools
import math
from collections import deque
from collections.abc import Collection, Generator
from dataclasses import dataclass, field
from typing import Any

from cluster.errors import ClusterLostError
from cluster.lanes import MAX_UNREAD_EVENTS, Death, Kind, LaneDied, LaneEnded, Sent, WorkerProcess
from cluster.nodes import HeadWatch
from mnist_lib.assignment import Assignment
from mnist_lib.results import CheckpointTaken, LaneStarted, RungDone, TrialEvent, TrialResult
from tests.support.simulation.clock import VirtualClock
from tests.support.simulation.trials import VERSIONS, Durations, trial_script

CANCEL_SECONDS = 0.1  # until a lane that is not stopped has ended
NODE_LOST_SECONDS = 15.0  # until the head knows
LARGE = (CheckpointTaken, RungDone, TrialResult)  # events whose content stays on the worker's node


@dataclass(eq=False)
class Node:
    name: str
    slots: int
    alive: bool = True
    reachable: bool = True
    known: bool = False  # whether the head has reported it to the driver
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
    stream: deque[Sent] = field(default_factory=deque)  # what the driver has not taken yet; lost if the lane dies
    arrived: deque[Sent] = field(default_factory=deque)  # what the driver has taken; at the end an exception
    content_at: float = 0.0  # when the content of the first unread event arrives
    is_requested: bool = False  # whether the driver has asked for that content
    script: Generator[Any, None, None] | None = None
    has_mailbox: bool = True
    wants: str = ""  # "item" or "room" while the script waits for one
    stopped: bool = False
    is_late: bool = False  # it was due to go on while it was stopped
    ended: bool = False
    cancelled: bool = False
    failed: bool = False  # whether the driver knows that it has failed
    is_killed_later: bool = False  # a kill that did not reach its node
    faults: list[str] = field(default_factory=list)  # what has happened to it
    item: Assignment | None = None  # what it works on
    item_began_at: float = math.inf
    stopped_at: float = math.inf
    last_event: TrialEvent | None = None
    last_sent_at: float = math.inf
    longest: float = 0.0  # seconds between two events of its item


class Watch:
    """What a world observes. Each method is called just before the event that it is named after takes effect."""

    def on_wait(self, lanes: Collection[SimulatedLane]) -> None: ...
    def on_sleep(self) -> None: ...
    def on_start(self) -> None: ...
    def on_begin(self, lane: SimulatedLane, given: Assignment) -> None: ...
    def on_taken(self, lane: SimulatedLane, sent: Sent) -> None: ...
    def on_abandon(self, lane: SimulatedLane) -> None: ...


class SimulatedCluster:
    def __init__(
        self,
        clock: VirtualClock,
        durations: dict[str, Durations],
        head_seconds: float = 30.0,
        *,
        large_events: bool = False,
        lanes_before_answer: int = 1,
    ) -> None:
        self.clock, self._durations = clock, durations
        self.nodes: list[Node] = []
        self.lanes: dict[SimulatedLane, None] = {}  # those that have not ended, in the order of their start
        self._waiting: deque[SimulatedLane] = deque()
        self._with_events: set[SimulatedLane] = set()
        self.events_taken = 0
        self.head_answers = True
        self.watch = Watch()
        self._driver_sleeps = 0.0
        self._numbers = itertools.count()
        self._head_seconds, self._large_events = head_seconds, large_events
        self._lanes_before_answer = lanes_before_answer
        self._seconds_to_final_death: float | None = None
        self._repeats_result = False
        self.connect()

    # Faults and their opposites

    def connect(self) -> None:
        """Connect a new driver; the lanes of the previous one end."""
        for lane in [*self.lanes]:
            lane.cancelled = True
            self._end(lane)
        self._waiting.clear()
        self._with_events.clear()
        self._driver_sleeps = 0.0
        # What the driver learns from the head's answers: the nodes that have died since it connected.
        self._known_dead: frozenset[str] = frozenset()  # those that the head knows
        self._reported_dead: frozenset[str] = frozenset()  # those in its last answer
        self._reported_slots: int | None = None
        for node in self.nodes:
            node.known = False
        self.head = HeadWatch(self._head_seconds, ask=self._answer, clock=self.clock)
        self._reported_slots = None  # `HeadWatch` has asked, and ignores the answer

    def add_node(self, slots: int) -> Node:
        node = Node(f"node-{next(self._numbers)}", slots)
        self.nodes.append(node)
        self._place()
        return node

    def lose_node(self, node: Node, *, noticed: bool, kind: Kind = Kind.NODE_LOST) -> None:
        """End a node with its lanes. Their ends are noticed at once, or only when the head knows."""
        node.alive = False
        for lane in self.running_on(node):
            lane.faults.append("its node is lost")
            self._lose_content(lane)
            self._end(lane, Death(kind=kind, details=f"on {node.name}") if noticed else None)
        self.clock.after(NODE_LOST_SECONDS, lambda: self._know_dead(node))

    def cut_off(self, node: Node, seconds: float) -> None:
        """Cut the connection to a node for a while. If the head has given it up meanwhile, its lanes end afterwards."""
        node.reachable = False
        for lane in self.running_on(node):
            lane.faults.append("its node is cut off")
        dead = seconds > NODE_LOST_SECONDS
        if dead:
            self.clock.after(NODE_LOST_SECONDS, lambda: self._know_dead(node))

        def reconnect() -> None:
            node.reachable = True
            if dead:
                node.alive = False
            for lane in self.running_on(node):
                if dead:
                    self._lose_content(lane)
                    self._end(lane, Death(kind=Kind.NODE_LOST, details=f"on {node.name}"))
                elif lane.is_killed_later:
                    self._end(lane)
                else:
                    self._wake(lane, lane.wants)
            self._place()

        self.clock.after(seconds, reconnect)

    def _know_dead(self, node: Node) -> None:
        node.declared_dead = True
        self._known_dead |= {node.name}
        for lane in [lane for lane in self.lanes if lane.node is node and lane.script is None]:
            lane.node = None  # Ray asks another node
            self._waiting.appendleft(lane)
        self._place()

    def running_on(self, node: Node) -> list[SimulatedLane]:
        return [lane for lane in self.lanes if lane.node is node and lane.script is not None]

    @property
    def running(self) -> list[SimulatedLane]:
        return [lane for lane in self.lanes if lane.script is not None]

    def kill_worker(self, lane: SimulatedLane, kind: Kind = Kind.KILLED) -> None:
        """End a lane, as a user, the kernel, or a bug in its code would."""
        lane.faults.append(kind.text)
        self._end(lane, Death(kind=kind, details="on its node"))

    def kill_after_next_result(self, seconds: float) -> None:
        """Kill the worker that sends the next final event, that long afterwards."""
        self._seconds_to_final_death = seconds

    def stop_worker(self, lane: SimulatedLane, seconds: float) -> None:
        """Stop a worker, which then ignores a cancellation, and resume it later."""
        lane.stopped, lane.stopped_at = True, self.clock.now
        lane.faults.append(f"stopped for {seconds} s")

        def go_on() -> None:
            lane.stopped, lane.stopped_at = False, math.inf
            if lane.cancelled:
                self._end(lane)
            elif lane.is_late:
                self._advance(lane)

        self.clock.after(seconds, go_on)

    def delay_content(self, lane: SimulatedLane, seconds: float) -> None:
        if lane.content_at > self.clock.now:
            return  # it is late already
        lane.faults.append(f"its next event takes {seconds} s")
        lane.content_at = self.clock.now + seconds
        if math.isfinite(seconds):
            self.clock.after(seconds, lambda: None)  # an action, so that a wait may end

    def lose_event(self, lane: SimulatedLane) -> None:
        """Lose the next event of a lane, which goes on."""
        if not lane.cancelled:  # else nobody takes it
            lane.faults.append("an event is lost")
            lost = LaneDied(Death(kind=Kind.NODE_LOST, details="with an event"))
            lane.arrived.appendleft(Sent(lost, self.clock.now))
            self._with_events.add(lane)

    def repeat_event(self, lane: SimulatedLane, event: TrialEvent | None = None) -> None:
        """Send an event of a lane, by default its last one, again."""
        event = event or lane.last_event
        if event is not None and not lane.ended:
            lane.faults.append("an event is sent twice")  # which shortens the intervals that the driver measures
            self._emit(lane, event)

    def repeat_next_result(self) -> None:
        """Send the next final event again, a second later."""
        self._repeats_result = True

    def lose_mailbox(self) -> None:
        """Lose all assigned items that lanes have not taken yet; a lane notices when it wants an item."""
        for lane in [*self.lanes]:
            lane.faults.append("the mailbox is lost")
            lane.has_mailbox = False
            self._wake(lane, "item")

    def stop_driver(self, seconds: float) -> None:
        """Stop the driver for a while. Everything else goes on; the driver notices only once it runs again."""
        self._driver_sleeps = seconds

    # The port

    def start(self) -> SimulatedLane:
        assert self.answers(), "the driver asks for a lane while the head does not answer"
        self.watch.on_start()
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
            sleep, self._driver_sleeps = self._driver_sleeps, 0.0
            self.clock.sleep(sleep)
            self.watch.on_sleep()
        else:
            self.watch.on_wait(lanes)
        self._read_streams()
        # The events of an abandoned lane go on coming, though nobody asks for them.
        self.clock.run_until(
            self.clock.now + seconds,
            lambda: any(lane in lanes and self._is_ready(lane) for lane in self._with_events),
        )
        self._read_streams()
        return [lane for lane in lanes if lane in self._with_events and self._is_ready(lane)]

    def take(self, lane: SimulatedLane) -> Sent | None:
        if lane.content_at > self.clock.now:
            lane.is_requested = True
            return None
        lane.is_requested = False
        sent = lane.arrived.popleft()
        self._read_streams()
        if not lane.arrived and not lane.stream:
            self._with_events.discard(lane)
        self.events_taken += 1
        if isinstance(sent.event, Exception):
            lane.failed = True
            raise sent.event
        self._wake(lane, "room")
        self.watch.on_taken(lane, sent)
        return sent

    def cancel(self, lane: SimulatedLane) -> None:
        self.watch.on_abandon(lane)
        lane.cancelled = True
        if not lane.stopped:
            self.clock.after(CANCEL_SECONDS, lambda: self._end_if_reachable(lane))

    def kill(self, lane: SimulatedLane, worker: WorkerProcess | None) -> None:
        lane.cancelled = True
        self._end_if_reachable(lane)

    def finish_kills(self, seconds: float) -> None:
        pass

    def release(self, lane: SimulatedLane) -> None:
        pass

    def check(self) -> None:
        self.head.check()

    def lost_nodes(self) -> frozenset[str]:
        return self._reported_dead

    def answers(self) -> bool:
        return not self.head.unanswered

    def capacity(self) -> int:
        return self._lanes_before_answer if self._reported_slots is None else self._reported_slots

    def describe_free(self) -> str:
        return ", ".join(f"{node.name}: {node.free} free" for node in self.nodes)

    # What lanes do

    def _emit(self, lane: SimulatedLane, event: Any) -> None:
        if isinstance(event, TrialEvent):
            lane.longest = max(lane.longest, self.clock.now - lane.last_sent_at)
            lane.last_event, lane.last_sent_at = event, self.clock.now
            if event.final and self._repeats_result:
                self._repeats_result = False
                self.clock.after(1.0, lambda: self.repeat_event(lane, event))
            if event.final and self._seconds_to_final_death is not None:
                seconds, self._seconds_to_final_death = self._seconds_to_final_death, None
                lane.faults.append("it dies after its result")
                self.clock.after(seconds, lambda: self._end(lane, Death(kind=Kind.KILLED, details="on its node")))
        lane.stream.append(Sent(event, self.clock.now))
        self._with_events.add(lane)

    def _read_streams(self) -> None:
        """Take events from the streams of lanes, as far as they are reachable, and only a few of each."""
        for lane in self._with_events:
            while lane.stream and len(lane.arrived) < MAX_UNREAD_EVENTS // 2 and self._is_reachable(lane):
                lane.arrived.append(lane.stream.popleft())

    def _is_reachable(self, lane: SimulatedLane) -> bool:
        return lane.node is None or lane.node.reachable

    def _is_ready(self, lane: SimulatedLane) -> bool:
        if not lane.arrived and not (lane.stream and self._is_reachable(lane)):
            return False
        return not (lane.is_requested and lane.content_at > self.clock.now)

    def _lose_content(self, lane: SimulatedLane) -> None:
        """Lose the content of large events that have not been read."""
        for index, sent in enumerate(lane.arrived):
            if self._large_events and isinstance(sent.event, LARGE):
                lost = LaneDied(Death(kind=Kind.NODE_LOST, details="with an event"))
                lane.arrived[index] = Sent(lost, sent.at)

    def _answer(self) -> list[Any]:
        if not self.head_answers:
            self.clock.sleep(4.0)
            raise ClusterLostError("no answer")
        self._reported_dead = self._known_dead
        listed = [node for node in self.nodes if self._is_listed(node)]
        self._reported_slots = sum(node.slots for node in listed)
        for node in listed:
            node.known = True
        return []

    def _is_listed(self, node: Node) -> bool:
        """Return whether the head lists the node: also for seconds after its death."""
        return not node.declared_dead and (node.alive or node.known)

    def _place(self) -> None:
        for node in self.nodes if self._waiting and self.head_answers else ():
            usable = node.reachable and self._is_listed(node)
            while usable and node.free and self._waiting:
                lane = self._waiting.popleft()
                if not lane.ended:
                    node.free -= 1
                    lane.node = node
                    if node.alive:  # else it waits until the head knows better
                        lane.script = self._script(lane)
                        self._advance(lane)

    def answer_again(self) -> None:
        """End an outage of the head."""
        self.head_answers = True
        self._place()

    def _end_if_reachable(self, lane: SimulatedLane) -> None:
        if lane.script is not None and not self._is_reachable(lane):
            lane.is_killed_later = True
        else:
            self._end(lane)

    def _end(self, lane: SimulatedLane, death: Death | None = None) -> None:
        if lane.ended:
            return
        lane.ended = True
        self.lanes.pop(lane, None)
        if death is not None:
            lane.stream.clear()
            self._emit(lane, LaneDied(death))
        elif lane.node is not None and not lane.node.alive:
            lane.stream.clear()
        if lane.node is not None:
            lane.node.free += 1
            self._place()

    def _wake(self, lane: SimulatedLane, wanted: str) -> None:
        if lane.wants and lane.wants == wanted and self._is_reachable(lane):
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
            lane.item, lane.item_began_at, lane.last_sent_at, lane.longest = given, self.clock.now, math.inf, 0.0
            self.watch.on_begin(lane, given)
            is_compiled = given.spec.model in compiled
            compiled.add(given.spec.model)
            now = self.clock.monotonic
            for happening in trial_script(given, durations, lane.node.name, now, is_compiled=is_compiled):
                while len(lane.stream) >= MAX_UNREAD_EVENTS // 2:
                    yield "room"
                if isinstance(happening, TrialEvent):
                    self._emit(lane, happening)
                else:
                    yield happening
            lane.item, lane.item_began_at = None, math.inf
