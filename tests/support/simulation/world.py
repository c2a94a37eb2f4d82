"""Worlds from a seed: a cluster, a run on it, and faults; and what must hold whatever happens."""

import contextlib
import logging
import math
import random
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

from cluster.deadlines import Limits
from cluster.errors import ClusterLostError, ResourcesError
from cluster.lanes.fan_out import Died
from cluster.lanes.ports import Kind
from cluster.lanes.resources import LanePlan
from jobs.train.driver import fan_out_of, record_events
from jobs.train.progress import RunProgress
from jobs.train.recorder import Recorder
from mnist_lib.errors import StoreError
from mnist_lib.spec import TrialSpec, trial_grid
from mnist_lib.store.runs import RunFolder
from tests.support.simulation.clock import VirtualClock
from tests.support.simulation.cluster import Node, SimulatedCluster, SimulatedLane, Watch
from tests.support.simulation.memory import MemoryObjects, SimulatedWrites
from tests.support.simulation.trials import Durations, undisturbed_weights
from tests.support.store.faulty import Faulty, KilledError

MODELS = ("keras", "scratch", "keras-cnn")
MAX_DRIVERS = 6  # that a world may need
# The limit of virtual time for all drivers together. Every deadline that can expire in one world fits into it.
MAX_HOURS = 24.0
ANNOUNCED_SECONDS = 17.0  # within which a wait is logged: 10 s, two unanswered requests to the head, and a tick


@dataclass
class World(Watch):
    """What happens in a simulated run, and what came of it."""

    seed: int
    history: list[str] = field(default_factory=list)
    rows: dict[str, dict[str, Any]] = field(default_factory=dict)
    drivers: int = 0
    ended_by: str = ""

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.clock = VirtualClock()
        self.storage = MemoryObjects()
        draw = self.random
        models = draw.sample(MODELS, draw.randint(1, 3))
        self.trials = trial_grid(models, range(draw.randint(1, 3)), dataset="mnist-mini", epochs=draw.randint(1, 4))
        durations = {
            model: Durations(
                importing=draw.choice([1.0, 5.0, 60.0]),
                compiling=draw.choice([0.1, 10.0, 200.0]),
                epoch=draw.choice([0.01, 1.0, 20.0, 200.0]),
                evaluating=draw.choice([0.1, 30.0, 300.0]),
                checkpoint_every=draw.randint(1, 2),
                chunk=draw.choice([0.1, 0.1, 70.0]),
            )
            for model in models
        }
        self.cluster = SimulatedCluster(self.clock, durations)
        for _ in range(draw.randint(1, 3)):
            self.cluster.add_node(draw.randint(1, 2))
        # A worker that is stopped for good is noticed only after the deadline of its state.
        self.limits = Limits(max_failures=draw.randint(1, 4))
        self.deaths: Counter[str] = Counter()
        self.possible_deaths = 0  # of attempts, because of faults
        self.possible_ends = 0  # of drivers, because of faults
        self.cluster.watch = self
        self._waiting_since = self._looked_at = 0.0

    def note(self, text: str) -> None:
        self.history.append(f"{self.clock.now:10.2f} {text}")

    # Faults

    def announced(self) -> None:
        self._waiting_since = self.clock.now

    def plan_faults(self) -> None:
        draw = self.random
        for _ in range(draw.choice([0, 1, 3, 8])):
            fault = draw.choice(
                [
                    self._kill,
                    self._stop,
                    self._lose_node,
                    self._add_node,
                    self._delay,
                    self._lose_event,
                    self._lose_mailbox,
                ]
            )
            self.clock.after(draw.choice([1.0, 10.0, 100.0, 1_000.0]) * draw.random(), fault)
        for _ in range(draw.choice([0, 0, 1, 2])):
            self.clock.after(300 * draw.random(), self._pause_driver)
        if draw.random() < 0.3:
            self.clock.after(300 * draw.random(), self._head_outage)
        self.storage_fault = draw.choice([0, 0, draw.randint(1, 60)])
        self.storage_error = draw.choice([StoreError, KilledError])
        self.storage_late = draw.random() < 0.5
        self.storage_pace = draw.choice([0.0, 0.0, 0.2, 5.0, 30.0]), draw.randint(1, 3), draw.choice([2, 10, 100])

    def _victim(self) -> Any:
        running = self.cluster.running
        return self.random.choice(running) if running else None

    def _kill(self) -> None:
        if lane := self._victim():
            kind = self.random.choice([Kind.KILLED, Kind.OUT_OF_MEMORY])
            self.note(f"lane {lane.number}: {kind.text}")
            self.possible_deaths += 1
            self.cluster.kill_worker(lane, kind)

    def _stop(self) -> None:
        lane = self._victim()
        if lane and lane.begun:  # before that, it looks like one that waits for resources
            seconds = self.random.choice([10.0, 30.0, 2_000.0, math.inf])
            self.note(f"lane {lane.number}: stopped for {seconds} s")
            self.possible_deaths += seconds > self.limits.training_seconds
            self.cluster.stop_worker(lane, seconds)

    def _lose_node(self) -> None:
        nodes = [node for node in self.cluster.nodes if node.alive]
        if nodes:
            node = self.random.choice(nodes)
            noticed = self.random.random() < 0.5
            self.note(f"{node.name}: lost, noticed at once: {noticed}")
            self.possible_deaths += len(self.cluster.running_on(node))
            self.cluster.lose_node(node, noticed=noticed)
            if len(nodes) == 1:  # else the run only waits
                self.clock.after(100 * self.random.random(), self._add_node)

    def _add_node(self) -> None:
        node: Node = self.cluster.add_node(self.random.randint(1, 2))
        self.note(f"{node.name}: joined")

    def _delay(self) -> None:
        if lane := self._victim():
            seconds = self.random.choice([5.0, 30.0, math.inf])
            self.note(f"lane {lane.number}: the content of its next event takes {seconds} s")
            self.possible_deaths += seconds > self.limits.fetch_seconds
            self.cluster.delay_content(lane, seconds)

    def _lose_event(self) -> None:
        if lane := self._victim():
            self.note(f"lane {lane.number}: an event is lost")
            self.possible_deaths += 1
            self.cluster.lose_event(lane)

    def _lose_mailbox(self) -> None:
        self.note("the mailbox is lost")
        self.possible_deaths += len(self.cluster.lanes)
        self.cluster.lose_mailbox()

    def _pause_driver(self) -> None:
        seconds = self.random.choice([10.0, 60.0, 1_000.0])
        self.note(f"the driver is stopped for {seconds} s")
        self.cluster.stop_driver(seconds)

    def _head_outage(self) -> None:
        seconds = self.random.choice([4.0, 15.0, 100.0])
        self.note(f"the head does not answer for {seconds} s")
        self.possible_ends += seconds > self.limits.head_seconds / 2
        self.cluster.head_answers = False
        self.clock.after(seconds, self.cluster.answer_again)

    # The run

    def on_wait(self, lanes: Collection[SimulatedLane]) -> None:
        """Check that a wait for resources is logged at intervals. A driver that is stopped announces nothing."""
        now = self.clock.now
        if not lanes or any(lane.node for lane in lanes) or now - self._looked_at > 5:
            self._waiting_since = now
        self._looked_at = now
        assert now - self._waiting_since < ANNOUNCED_SECONDS, (
            f"at {now:.1f}, a wait has not been announced since {self._waiting_since:.1f}"
        )

    def run(self) -> None:
        """Run drivers, as a schedule would, until one completes the run."""
        self.plan_faults()
        with logged_waits(self):
            while self.drivers < MAX_DRIVERS:
                self.drivers += 1
                objects = self.storage
                if self.drivers == 1 and self.storage_fault:
                    objects = Faulty(  # type: ignore[assignment]
                        self.storage, self.storage_fault, self.storage_error, late=self.storage_late
                    )
                try:
                    self._drive(RunFolder(objects, "run", resumed=self.drivers > 1))
                except (ClusterLostError, ResourcesError, StoreError, KilledError) as error:
                    self.note(f"driver {self.drivers} ended: {type(error).__name__}: {error}")
                    self.cluster.connect()
                    self.clock.sleep(60.0)
                    continue
                return
        raise AssertionError(f"the run is not complete after {self.drivers} drivers")

    def _drive(self, folder: RunFolder) -> None:
        with WatchedRecorder(self, folder, SimulatedWrites(self.clock, *self.storage_pace)) as recorder:
            plan = LanePlan(lanes=max(1, self.cluster.capacity()), cpus=1, gpus=0)
            with fan_out_of(self.cluster, self.limits, plan, recorder, clock=self.clock) as fan_out:
                record_events(fan_out, recorder, RunProgress(self.trials, recorder.rows), shown=False)
            self.rows = {row["id"]: row for row in recorder.rows}
            assert len(recorder.rows) == len(self.rows), "a trial has two results"

    def check(self) -> None:
        """Raise AssertionError if anything that must always hold does not."""
        assert sum(self.deaths.values()) <= self.possible_deaths, f"healthy attempts died: {self.deaths}"
        ends = self.possible_ends + bool(self.storage_fault)
        assert self.drivers - 1 <= ends, f"{self.drivers} drivers ran, {ends} could have ended"
        for spec in self.trials:
            row = self.rows[spec.id]
            if row["status"] == "ok":
                assert row["weights_sha256"] == undisturbed_weights(spec), f"{spec.id} has different weights"
            else:
                self._check_failure(spec, row)
        assert not self.cluster.running, f"still running: {self.cluster.running}"
        for node in self.cluster.nodes:
            assert not node.alive or node.free == node.slots, f"{node.name} has slots that were not given back"

    def _check_failure(self, spec: TrialSpec, row: dict[str, Any]) -> None:
        code, allowed = row["error"]["code"], self.limits.max_failures
        assert code != "E-BUG", row
        assert self.deaths[spec.id] >= (2 if code == "E-OOM" else allowed + 1), f"{spec.id} failed early: {row}"


class WatchedRecorder(Recorder):
    """Notes deaths in the history of a world."""

    def __init__(self, world: World, folder: RunFolder, writes: SimulatedWrites) -> None:
        super().__init__(folder, world.trials, writes)
        self._world = world

    def record(self, event: object, attempts: Callable[[str], int]) -> None:
        world = self._world
        if isinstance(event, Died):
            world.deaths[event.item] += 1
            world.note(f"{event.item}: attempt {event.attempt} died: {event.death}, final: {event.final}")
        assert world.clock.now < 3_600 * MAX_HOURS, "the run takes too long"
        super().record(event, attempts)


@contextlib.contextmanager
def logged_waits(world: World) -> Any:
    """Note every warning with its virtual time in the history of a world."""

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            world.note(record.getMessage())
            if record.getMessage().startswith("waiting for"):
                world.announced()

    handler = Handler(level=logging.WARNING)
    loggers = [logging.getLogger(name) for name in ("cluster.deadlines", "jobs.train.recorder")]
    for logger in loggers:
        logger.addHandler(handler)
        logger.propagate = False
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeHandler(handler)
            logger.propagate = True


def simulate(seed: int) -> World:
    """Run the world of a seed. A failure names the seed and what happened."""
    world = World(seed)
    try:
        world.run()
        world.check()
    except Exception as error:
        error.add_note(f"seed {seed}:\n" + "\n".join(world.history))
        raise
    return world
