"""A `cluster.lanes.Pool` on a virtual clock: nodes with slots, lanes, and what can happen to them.

It behaves as `tests/cluster` shows that Ray does: what a driver has not taken from the stream of a worker is lost
when the worker dies, large events are lost with their node, and the driver knows nodes only from the head's answers.
"""

import itertools
import math
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from cluster import nodes
from cluster.deadlines import Limits
from cluster.errors import ClusterLostError
from cluster.lanes import MAX_UNREAD_EVENTS, Cause, Death, Message, WorkerProcess
from mnist_lib.results import CheckpointTaken, RungDone, TrialEvent, TrialResult
from tests.support.simulation.clock import VirtualClock
from tests.support.simulation.lanes import Node, SimulatedLane, Watch, lane_script
from tests.support.simulation.trials import Durations

NODE_LOST_SECONDS = 15.0  # until the head knows
HEAD_SECONDS = 30.0  # after which a driver gives up
LARGE = (CheckpointTaken, RungDone, TrialResult)  # events whose content stays on the worker's node
EVENT_LOST = Death(cause=Cause.NODE_LOST, details="with an event")


class SimulatedCluster:
    """A cluster of nodes with these slots, to which a driver is connected."""

    def __init__(
        self,
        clock: VirtualClock,
        durations: Mapping[str, Durations],
        slots: Sequence[int],
        *,
        large_events: bool = False,
    ) -> None:
        self.clock, self._durations, self._large_events = clock, durations, large_events
        self._numbers = itertools.count()
        self.lanes: dict[SimulatedLane, None] = {}  # those that have not ended, in the order of their start
        self._waiting: deque[SimulatedLane] = deque()
        self._with_events: set[SimulatedLane] = set()
        self.head_answers = True
        self.watch = Watch()
        self._at_result: Callable[[SimulatedLane, TrialEvent], None] | None = None
        self.nodes: list[Node] = []
        for count in slots:
            self.add_node(count)
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
        self.head = nodes.HeadWatch(HEAD_SECONDS, ask=self._answer, clock=self.clock)
        self._known_dead = self.head.dead_nodes

    def add_node(self, slots: int) -> Node:
        node = Node(f"node-{next(self._numbers)}", slots)
        self.nodes.append(node)
        self._place()
        return node

    def lose_node(self, node: Node, *, noticed: bool, cause: Cause = Cause.NODE_LOST) -> None:
        """End a node with its lanes. Their ends are noticed at once, or only when the head knows."""
        node.alive = False
        for lane in self.running_on(node):
            lane.faults.append("its node is lost")
            self._lose_content(lane)
            self._end(lane, Death(cause=cause, details=f"on {node.name}") if noticed else None)
        self.clock.after(NODE_LOST_SECONDS, lambda: self._know_dead(node))

    def cut_off(self, node: Node, seconds: float) -> None:
        """Cut the connection to a node for a while. If the head has given it up meanwhile, its lanes end afterwards."""
        node.reachable = False
        for lane in {*self.lanes, *self._with_events}:  # also one that has ended, whose last events cannot be read now
            if lane.node is node:
                lane.faults.append("its node is cut off")
        dead = seconds > NODE_LOST_SECONDS
        if dead:
            self.clock.after(NODE_LOST_SECONDS, lambda: self._know_dead(node))

        def reconnect() -> None:
            node.reachable, node.alive = True, node.alive and not dead
            for lane in self.running_on(node):
                if dead:
                    self._lose_content(lane)
                    self._end(lane, Death(cause=Cause.NODE_LOST, details=f"on {node.name}"))
                elif lane.is_killed_later:
                    self._end(lane)
                else:
                    self._wake(lane, lane.wants)
            self._place()

        self.clock.after(seconds, reconnect)

    def _know_dead(self, node: Node) -> None:
        node.declared_dead = True
        for lane in [lane for lane in self.lanes if lane.node is node and lane.script is None]:
            lane.node = None  # Ray asks another node
            self._waiting.appendleft(lane)
        self._place()

    @property
    def running(self) -> list[SimulatedLane]:
        return [lane for lane in self.lanes if lane.script is not None]

    def running_on(self, node: Node) -> list[SimulatedLane]:
        return [lane for lane in self.running if lane.node is node]

    def kill_worker(self, lane: SimulatedLane, cause: Cause = Cause.KILLED) -> None:
        """End a lane, as a user, the kernel, or a bug in its code would."""
        lane.faults.append(cause.text)
        self._end(lane, Death(cause=cause, details="on its node"))

    def kill_after_next_result(self, seconds: float) -> None:
        """Kill the worker that sends the next final event, that long afterwards."""
        self._at_result = lambda lane, event: self.clock.after(seconds, lambda: self.kill_worker(lane))

    def repeat_next_result(self) -> None:
        """Send the next final event again, a second later."""
        self._at_result = lambda lane, event: self.clock.after(1.0, lambda: self.repeat_event(lane, event))

    def stop_worker(self, lane: SimulatedLane, seconds: float) -> None:
        """Stop a worker, and resume it later."""
        lane.stopped_at = self.clock.now
        lane.faults.append(f"stopped for {seconds} s")

        def go_on() -> None:
            lane.stopped_at = math.inf
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
        self.clock.after(seconds, lambda: None)  # an action, so that a wait may end

    def lose_event(self, lane: SimulatedLane) -> None:
        """Lose the next event of a lane, which goes on."""
        if not lane.cancelled:  # else nobody takes it
            lane.faults.append("an event is lost")
            lane.arrived.appendleft(EVENT_LOST)
            self._with_events.add(lane)

    def repeat_event(self, lane: SimulatedLane, event: TrialEvent | None = None) -> None:
        """Send an event of a lane, by default its last one, again."""
        event = event or lane.last_event
        if event is not None and not lane.ended:
            lane.faults.append("an event is sent twice")  # which shortens the intervals that the driver measures
            self._send(lane, event)

    def lose_mailbox(self) -> None:
        """Lose all assignments that lanes have not taken yet; a lane notices when it wants one."""
        for lane in [*self.lanes]:
            lane.faults.append("the mailbox is lost")
            lane.has_mailbox = False
            self._wake(lane, "trial")

    def stop_driver(self, seconds: float) -> None:
        """Stop the driver for a while. Everything else goes on; the driver notices only once it runs again."""
        self._driver_sleeps = seconds

    def answer_again(self) -> None:
        """End an outage of the head."""
        self.head_answers = True
        self._place()

    # The protocol

    def start(self) -> SimulatedLane:
        assert self.head.answers, "the driver asks for a lane while the head does not answer"
        self.watch.on_start()
        lane = SimulatedLane(next(self._numbers))
        self.lanes[lane] = None
        self._waiting.append(lane)
        self._place()
        return lane

    def assign(self, lane: SimulatedLane, payload: Any) -> None:
        self.watch.on_assign(lane)
        if payload is None:
            lane.closed = True
        else:
            lane.payloads.append(payload)
        self._wake(lane, "trial")

    def wait(self, lanes: Collection[SimulatedLane], seconds: float) -> list[SimulatedLane]:
        if self._driver_sleeps:
            sleep, self._driver_sleeps = self._driver_sleeps, 0.0
            self.clock.sleep(sleep)
        self._known_dead = self.head.dead_nodes
        self.watch.on_wait(lanes)
        self._read_streams()
        # The events of an abandoned lane go on coming, though nobody asks for them.
        self.clock.run_until(
            self.clock.now + seconds,
            lambda: any(lane in lanes and self._is_ready(lane) for lane in self._with_events),
        )
        self._read_streams()
        return [lane for lane in lanes if lane in self._with_events and self._is_ready(lane)]

    def take(self, lane: SimulatedLane) -> Message | Death | None:
        lane.is_requested = lane.content_at > self.clock.now
        if lane.is_requested:
            lane.requested_at = min(lane.requested_at, self.clock.now)
            return None
        lane.requested_at = math.inf
        message = lane.arrived.popleft()
        self._read_streams()
        if not lane.arrived and not lane.stream:
            self._with_events.discard(lane)
        if isinstance(message, Death):
            lane.failed = True
        else:
            self._wake(lane, "room")
            self.watch.on_taken(lane, message)
        return message

    def kill(self, lane: SimulatedLane, worker: WorkerProcess | None) -> None:
        # A driver that has just heard of a lost node kills the lanes that have not begun, which is no abandonment.
        is_late = self.clock.now - lane.requested_at > Limits.fetch_seconds and self.head.dead_nodes == self._known_dead
        if worker is not None or lane.failed or is_late:  # else it has not begun, as far as the driver knows
            self.watch.on_abandon(lane)
        lane.cancelled = True
        self._end_if_reachable(lane)

    def finish_kills(self, seconds: float) -> None:
        pass

    def describe_free(self) -> str:
        return ", ".join(f"{node.name}: {node.free} free" for node in self.nodes)

    # What the head and the nodes do

    def _answer(self) -> list[nodes.Node]:
        """Return all nodes. A node that has died is listed as alive until the head knows."""
        if not self.head_answers:
            self.clock.sleep(4.0)
            raise ClusterLostError("no answer")
        return [
            nodes.Node(id=node.name, host=node.name, cpus=node.slots, gpus=0, is_alive=not node.declared_dead)
            for node in self.nodes
        ]

    def _place(self) -> None:
        for node in self.nodes if self._waiting and self.head_answers else ():
            while node.reachable and not node.declared_dead and node.free and self._waiting:
                lane = self._waiting.popleft()
                if not lane.ended:
                    node.free -= 1
                    lane.node = node
                    if node.alive:  # else it waits until the head knows better
                        lane.script = lane_script(
                            lane, self._durations, self.clock, lambda: self.watch, self._send, self._end
                        )
                        self._advance(lane)

    # What lanes do

    def _send(self, lane: SimulatedLane, event: Any) -> None:
        if isinstance(event, TrialEvent):
            lane.longest = max(lane.longest, self.clock.now - lane.last_sent_at)
            lane.last_event, lane.last_sent_at = event, self.clock.now
            if event.final and self._at_result:
                action, self._at_result = self._at_result, None
                action(lane, event)
        self._put(lane, Message(event, self.clock.now))

    def _put(self, lane: SimulatedLane, message: Message | Death) -> None:
        lane.stream.append(message)
        self._with_events.add(lane)

    def _read_streams(self) -> None:
        """Take events from the streams of lanes, as far as they are reachable, and only a few of each."""
        for lane in self._with_events:
            while lane.stream and len(lane.arrived) < MAX_UNREAD_EVENTS // 2 and lane.is_reachable:
                lane.arrived.append(lane.stream.popleft())

    def _is_ready(self, lane: SimulatedLane) -> bool:
        has_events = lane.arrived or (lane.stream and lane.is_reachable)
        return bool(has_events) and not (lane.is_requested and lane.content_at > self.clock.now)

    def _lose_content(self, lane: SimulatedLane) -> None:
        """Lose the content of large events that have not been read."""
        for index, message in enumerate(lane.arrived):
            if self._large_events and isinstance(message, Message) and isinstance(message.event, LARGE):
                lane.arrived[index] = EVENT_LOST

    def _end_if_reachable(self, lane: SimulatedLane) -> None:
        if lane.script is not None and not lane.is_reachable:
            lane.is_killed_later = True
        else:
            self._end(lane)

    def _end(self, lane: SimulatedLane, death: Death | None = None) -> None:
        """End a lane. If its process has died, what it has sent is lost."""
        if lane.ended:
            return
        lane.ended = True
        self.lanes.pop(lane, None)
        if lane.node is not None and (death or not lane.node.alive):
            lane.stream.clear()
        if death:
            self._put(lane, death)
        if lane.node is not None:
            lane.node.free += 1
            self._place()

    def _wake(self, lane: SimulatedLane, wanted: str) -> None:
        if lane.wants and lane.wants == wanted and lane.is_reachable:
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
                self._put(lane, Death(cause=Cause.ENDED_EARLY))
            return
        if isinstance(pause, str):
            lane.wants = pause
        else:
            self.clock.after(pause, lambda: self._advance(lane))
