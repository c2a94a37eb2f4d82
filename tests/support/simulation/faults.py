"""The faults of a simulated world: what may happen to its nodes, lanes, drivers and storage, and when."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from cluster.lanes import Cause
from mnist_lib.errors import StoreError
from tests.support.simulation.cluster import NODE_LOST_SECONDS, SimulatedCluster
from tests.support.simulation.lanes import Node, SimulatedLane
from tests.support.store.faulty import KilledError

if TYPE_CHECKING:
    from tests.support.simulation.world import World


@dataclass(kw_only=True)
class StorageFaults:
    """How the storage of a world fails, and how slow it is."""

    operations: list[int]  # the number of the operation that fails, for each of the first drivers; 0 if none does
    error: type[BaseException]
    late: bool  # whether the operation has taken effect
    pace: tuple[float, int, int]  # as for `SimulatedWrites`


class Faults:
    """The faults of a world, which its seed draws."""

    def __init__(self, world: World) -> None:
        self._world = world

    def plan(self) -> StorageFaults:
        """Plan faults of everything but the storage on the clock of the world, and return those of the storage."""
        world = self._world
        draw = world.random
        common = [self._kill, self._stop, self._lose_node, self._add_node, self._delay, self._lose_event]
        rare = [self._lose_mailbox, self._cut_off, self._preempt, self._raise, self._repeat, self._die_after_result]
        for _ in range(draw.choice([0, 1, 3, 8])):
            fault = draw.choice([*common, *rare])
            world.clock.after(draw.choice([1.0, 10.0, 100.0, 1_000.0]) * draw.random(), fault)
        for _ in range(draw.choice([0, 0, 1, 2])):
            world.clock.after(300 * draw.random(), self._pause_driver)
        if draw.random() < 0.3:
            world.clock.after(300 * draw.random(), self._head_outage)
        if draw.random() < 0.2:
            world.clock.after(300 * draw.random(), self._stall_storage)
        storage = StorageFaults(
            operations=[draw.choice([0, 0, draw.randint(1, 60)]), draw.choice([0, 0, draw.randint(1, 30)])],
            error=draw.choice([StoreError, KilledError]),
            late=draw.random() < 0.5,
            pace=(draw.choice([0.0, 0.0, 0.2, 5.0, 30.0]), draw.randint(1, 3), draw.choice([2, 10, 100])),
        )
        if not any(storage.operations) and draw.random() < 0.1:
            world.clock.after(200 * draw.random(), world.take_over)
        return storage

    def _victim(self) -> SimulatedLane | None:
        running = [lane for lane in self._world.cluster.running if lane.node is not None and lane.node.reachable]
        return self._world.random.choice(running) if running else None

    def _kill(self) -> None:
        if lane := self._victim():
            cause = self._world.random.choice([Cause.KILLED, Cause.OUT_OF_MEMORY])
            self._world.fault(f"lane {lane.number}: {cause.text}", "death", attempts=1)
            self._world.cluster.kill_worker(lane, cause)

    def _raise(self) -> None:
        lane = self._victim()
        if lane and lane.assignment is not None:  # else several trials may fail because no lane can start
            self._world.fault(f"lane {lane.number}: a bug", "bug", attempts=1)
            self._world.cluster.kill_worker(lane, Cause.BUG)

    def _die_after_result(self) -> None:
        self._world.fault("the next worker that has a result dies", "death", attempts=2)
        self._world.cluster.kill_after_next_result(self._world.random.choice([0.0, 0.005, 0.3]))

    def _repeat(self) -> None:
        if self._world.random.random() < 0.5:
            self._world.fault("the next result is sent twice", "repeated event")
            self._world.cluster.repeat_next_result()
        elif lane := self._victim():
            self._world.fault(f"lane {lane.number}: an event is sent twice", "repeated event")
            self._world.cluster.repeat_event(lane)

    def _stop(self) -> None:
        lane = self._victim()
        if lane and lane.begun:  # before that, it looks like one that waits for resources
            seconds = self._world.random.choice([10.0, 30.0, 2_000.0, math.inf])
            text, silence = f"lane {lane.number}: stopped for {seconds} s", min(seconds, self._world.longest_silence)
            self._world.fault(text, "death, timeout", silence, attempts=1)
            self._world.cluster.stop_worker(lane, seconds)

    def _node(self) -> Node | None:
        nodes = [node for node in self._world.cluster.nodes if node.alive and node.reachable]
        if len(nodes) == 1:  # else the run only waits
            seconds = 100 * self._world.random.random()
            self._world.allow(seconds)
            self._world.clock.after(seconds, partial(self._add_node, self._world.cluster))
        return self._world.random.choice(nodes) if nodes else None

    def _lose_node(self, cause: Cause = Cause.NODE_LOST, *, noticed: bool = False) -> None:
        if node := self._node():
            noticed = noticed or self._world.random.random() < 0.5
            text, lanes = f"{node.name}: {cause.text}, noticed at once: {noticed}", self._world.cluster.running_on(node)
            self._world.fault(text, "death", NODE_LOST_SECONDS + 40, len(lanes))
            self._world.cluster.lose_node(node, noticed=noticed, cause=cause)

    def _preempt(self) -> None:
        self._lose_node(Cause.PREEMPTED, noticed=True)

    def _cut_off(self) -> None:
        if node := self._node():
            seconds = self._world.random.choice([5.0, 14.0, 40.0, 400.0])
            text, lanes = f"{node.name}: cut off for {seconds} s", self._world.cluster.running_on(node)
            self._world.fault(text, "death, timeout", min(seconds, NODE_LOST_SECONDS) + 40, len(lanes))
            self._world.cluster.cut_off(node, seconds)

    def _add_node(self, cluster: SimulatedCluster | None = None) -> None:
        node = (cluster or self._world.cluster).add_node(self._world.random.randint(1, 2))
        self._world.note(f"{node.name}: joined")

    def _delay(self) -> None:
        if lane := self._victim():
            seconds = self._world.random.choice([5.0, 30.0, math.inf])
            text, silence = f"the content of its next event takes {seconds} s", self._world.limits.fetch_seconds + 10
            self._world.fault(f"lane {lane.number}: {text}", "death, timeout", min(seconds, silence), attempts=1)
            self._world.cluster.delay_content(lane, seconds)

    def _lose_event(self) -> None:
        if lane := self._victim():
            self._world.fault(f"lane {lane.number}: an event is lost", "death", attempts=1)
            self._world.cluster.lose_event(lane)

    def _lose_mailbox(self) -> None:
        self._world.fault("the mailbox is lost", "death", attempts=len(self._world.cluster.lanes))
        self._world.cluster.lose_mailbox()

    def _pause_driver(self) -> None:
        seconds = self._world.random.choice([10.0, 60.0, 1_000.0])
        self._world.fault(f"the driver is stopped for {seconds} s", "timeout", seconds)
        self._world.cluster.stop_driver(seconds)

    def _head_outage(self) -> None:
        seconds = self._world.random.choice([4.0, 15.0, 90.0])
        self._world.fault(
            f"the head does not answer for {seconds} s",
            "head",
            seconds,
            driver=seconds > self._world.limits.head_seconds / 3,
        )
        self._world.cluster.head_answers = False
        self._world.clock.after(seconds, self._world.cluster.answer_again)

    def _stall_storage(self) -> None:
        seconds = self._world.random.choice([20.0, 120.0, 700.0])
        self._world.fault(f"the storage stalls for {seconds} s", "storage, timeout", seconds, driver=seconds > 500)
        if self._world.driver is not None:
            self._world.driver.writes.stall(seconds)
