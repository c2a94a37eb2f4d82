"""Worlds from a seed: a cluster, a run on it, and faults. `invariants` has what must hold whatever happens."""

import contextlib
import logging
import math
import random
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from cluster.deadlines import BACK_OFF_SECONDS, Limits
from cluster.errors import ClusterLostError, ResourcesError
from cluster.nodes import LanePlan
from jobs.train.display import display
from jobs.train.supervision import Loop
from jobs.train.trials import Trials
from mnist_lib.errors import StoreError
from mnist_lib.objects.records import unseal
from mnist_lib.results import TrialRecord
from mnist_lib.run_documents import FailedTrial
from mnist_lib.spec import TrialSpec, trial_grid
from mnist_lib.store.resumption import StoredResult
from mnist_lib.store.runs import RunFolder
from tests.support.simulation.clock import VirtualClock
from tests.support.simulation.cluster import SimulatedCluster
from tests.support.simulation.faults import Faults
from tests.support.simulation.invariants import (
    WARNINGS,
    Invariants,
    WatchedRecorder,
    WatchedSupervisor,
    known_capacity,
    must,
)
from tests.support.simulation.lanes import Watch
from tests.support.simulation.memory import MemoryObjects, SimulatedWrites
from tests.support.simulation.trials import Durations, undisturbed_weights
from tests.support.store.faulty import Faulty, KilledError

MODELS = ("keras", "scratch", "keras-cnn")
MAX_DRIVERS = 9  # that a world may need
SECONDS_BETWEEN_DRIVERS = 60.0
LOGGERS = ("cluster", "jobs", "mnist_lib")


@dataclass
class World:
    """What happens in a simulated run, and what came of it."""

    seed: int
    history: list[str] = field(default_factory=list)
    rows: dict[str, TrialRecord | FailedTrial] = field(default_factory=dict)
    drivers: int = 0

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.clock = VirtualClock()
        self.storage = MemoryObjects()
        draw = self.random
        models = draw.sample(MODELS, draw.randint(1, 3))
        self.trials = trial_grid(models, range(draw.randint(1, 3)), dataset="mnist-mini", epochs=draw.randint(1, 4))
        self.durations = {
            model: Durations(
                importing=draw.choice([1.0, 5.0, 60.0]),
                compiling=draw.choice([0.1, 10.0, 200.0]),
                epoch=draw.choice([0.01, 1.0, 20.0, 200.0]),
                evaluating=draw.choice([0.1, 30.0, 300.0]),
                checkpoint_every=draw.randint(1, 2),
                chunk=draw.choice([0.1, 0.1, 70.0]),
                diverges_at={0: draw.randint(1, 4)} if draw.random() < 0.1 else {},
            )
            for model in models
        }
        self.limits = Limits(
            max_failures=draw.choice([0, 1, 2, 4]),
            trial_seconds=draw.choice([100.0, 1_000.0]) if draw.random() < 0.15 else math.inf,
        )
        self.deadline = draw.choice([60.0, 600.0]) if draw.random() < 0.15 else math.inf
        self.cluster = self._new_cluster()
        self.faults = {""}  # that have happened; they explain warnings
        self.faults |= {"diverging"} if any(d.diverges_at for d in self.durations.values()) else set()
        self.faults |= {"timeout"} if self.limits.trial_seconds < math.inf else set()
        self._unexplained: list[str] = []  # warnings
        self.possible_ends = 0  # of drivers, because of faults
        self._bound = 0.0  # virtual seconds within which the run must have ended
        self._left_by_other: dict[str, str] | None = None  # what was stored when a driver that has taken over had ended
        self.driver: Invariants | None = None  # while a driver runs

    def _new_cluster(self) -> SimulatedCluster:
        draw = self.random
        slots = [draw.randint(1, 2) for _ in range(draw.randint(1, 3))]
        large = draw.random() < 0.5
        return SimulatedCluster(self.clock, self.durations, slots, large_events=large)

    def note(self, text: str) -> None:
        self.history.append(f"{self.clock.now:10.2f} {text}")

    # The bound

    def _trial_seconds(self, spec: TrialSpec) -> float:
        durations = self.durations[spec.model]
        training = durations.importing + durations.compiling + spec.epochs * durations.epoch + durations.evaluating
        writes = (spec.epochs * 3 + 8) * self.storage_faults.pace[0]  # if the lane waits for each of them
        return 1.0 + training + writes

    @property
    def _work(self) -> float:
        """Seconds that one lane needs for all trials, each in a new process."""
        return sum(map(self._trial_seconds, self.trials))

    def allow(self, seconds: float, attempts: int = 0, driver: bool = False) -> None:
        """Extend the bound because of a fault that may end attempts or a driver, or delays everything."""
        longest = max(map(self._trial_seconds, self.trials))
        self._bound += seconds + attempts * (longest + BACK_OFF_SECONDS[1] + 10)
        if driver:
            self.possible_ends += 1
            self._bound += self._work + SECONDS_BETWEEN_DRIVERS + 90 + self.longest_silence

    def fault(self, text: str, explains: str, seconds: float = 0.0, attempts: int = 0, *, driver: bool = False) -> None:
        """Note a fault, which explains these warnings, and extend the bound."""
        self.faults |= {*explains.split(", ")}
        self.note(text)
        self.allow(seconds, attempts, driver)

    @property
    def longest_silence(self) -> float:
        """Seconds until the driver abandons any attempt that is silent."""
        return max(900.0, *(10 * (durations.chunk + 3) for durations in self.durations.values())) + 10

    def take_over(self) -> None:
        """Let another driver, on another cluster, take over the run while this one is stopped; then let it go on."""
        first, cluster = self.driver, self.cluster
        if first is None:
            return
        self.fault("another driver takes over", "take-over, storage", driver=True)
        self.cluster = self._new_cluster()
        before = len(self.history)
        with first.writes.stopped():
            self._drive(MemoryObjects(self.storage.content))
        self.note(f"the other driver has ended, {len(self.history) - before} lines later; the first one goes on")
        self.cluster, self.driver = cluster, first
        self._left_by_other = self._lasting_content()

    # The run

    def run(self) -> None:
        """Run drivers, as a schedule would, until one completes the run."""
        self.storage_faults = Faults(self).plan()
        self.allow(2 * self._work + 60)
        with self._checked_warnings():
            while self.drivers < MAX_DRIVERS:
                objects: Any = MemoryObjects(self.storage.content)
                number = self.storage_faults.operations.pop(0) if self.storage_faults.operations else 0
                if number:
                    self.faults.add("storage")
                    self.allow(0.0, driver=True)
                    objects = Faulty(objects, number, self.storage_faults.error, late=self.storage_faults.late)
                try:
                    self._drive(objects)
                except (ClusterLostError, ResourcesError, StoreError, KilledError) as error:
                    self.note(f"driver {self.drivers} ended: {type(error).__name__}: {error}")
                    if isinstance(error, StoreError):  # its process goes on for a moment
                        training = [lane for lane in self.cluster.lanes if lane.assignment and not lane.cancelled]
                        must(not training, "nothing left", f"{len(training)} lanes go on without their driver")
                    if self._left_by_other is not None:
                        break  # the other driver has completed the run
                    self.cluster.connect()
                    self.clock.sleep(SECONDS_BETWEEN_DRIVERS)
                    continue
                break
            else:
                must(False, "drivers", f"the run is not complete after {self.drivers} drivers")
        now = self._lasting_content()
        for name, content in (self._left_by_other or {}).items():
            must(now.get(name, "").startswith(content), "take-over", f"the first driver has changed {name}")

    def _lasting_content(self) -> dict[str, str]:
        """Return what a late driver may not change: each line of the history, and the weights of each stored result.

        With a time limit, a late driver may have had less time for a trial.
        """
        lasting: dict[str, str] = {}
        for name, content in self.storage.content.items():
            if "/history/" in name:
                lasting[name] = content.decode()
            elif name.endswith("/ended.json") and self.deadline == math.inf:
                lasting[name] = unseal(content, name, StoredResult).record.weights_sha256
        return lasting

    def _drive(self, objects: Any) -> None:
        self.drivers += 1
        folder = RunFolder(objects, "run", resumed=self.drivers > 1)
        cluster, clock, limits = self.cluster, self.clock, self.limits
        watch = Invariants(clock, cluster, limits, self.storage, SimulatedWrites(clock, *self.storage_faults.pace))
        self.driver = cluster.watch = watch
        is_stored = True
        try:
            with WatchedRecorder(folder, watch, self.note) as recorder:
                trials = Trials(recorder, self.trials)
                plan = LanePlan(lanes=max(1, known_capacity(cluster)), cpus=1, gpus=0)
                watch.supervisor = WatchedSupervisor(limits, plan, watch)
                trials.progress.deadline = self.deadline
                with display(trials.progress, shown=False) as show:
                    Loop(cluster, watch.supervisor, trials, recorder, show=show, clock=clock).run()
        except (StoreError, KilledError):
            is_stored = False
            raise
        finally:
            if is_stored and "storage" not in self.faults:
                watch.check_storage(self.trials)
            watch.writes.end()
            self.driver, cluster.watch = None, Watch()  # what comes now concerns no driver
        self.rows = {row.id: row for row in trials.rows}
        must(len(trials.rows) == len(self.rows), "one end", "a trial has two results")

    def check(self) -> None:
        """Raise AssertionError if anything that must hold at the end does not."""
        must(self.drivers - 1 <= self.possible_ends, "drivers", f"{self.drivers} ran, {self.possible_ends} could end")
        must(self.clock.now <= self._bound, "bound", f"the run took {self.clock.now:.0f} of {self._bound:.0f} s")
        for spec in self.trials:
            row = self.rows[spec.id]
            if isinstance(row, TrialRecord):
                self._check_result(spec, row)
        self.clock.sleep(1.0)  # until cancelled lanes have ended
        left = [lane for lane in self.cluster.lanes if lane.node is None or (lane.node.alive and lane.node.reachable)]
        must(not left, "nothing left", f"{len(left)} lanes still run")
        for node in self.cluster.nodes:
            gone = not (node.alive and node.reachable)
            must(gone or node.free == node.slots, "nothing left", f"{node.name} has slots that were not given back")

    def _check_result(self, spec: TrialSpec, row: TrialRecord) -> None:
        epochs = int(row.trained_epochs)  # simulated trials end between two epochs
        must(epochs == spec.epochs or self.deadline < math.inf, "weights", f"{spec.id} was trained for {epochs} epochs")
        expected = undisturbed_weights(spec, epochs)
        must(row.weights_sha256 == expected, "weights", f"{spec.id} has different weights")
        at = self.durations[spec.model].diverges_at.get(spec.seed, math.inf)
        must(at > epochs, "weights", f"{spec.id} has a result, though its loss is not a number in epoch {at}")

    @contextlib.contextmanager
    def _checked_warnings(self) -> Iterator[None]:
        """Note every warning with its virtual time, and raise AssertionError at the end for those without a reason."""
        handler, thread = logging.Handler(logging.WARNING), threading.get_ident()
        handler.addFilter(lambda record: record.thread == thread)  # another test may have left a thread behind
        handler.emit = self._note_warning  # type: ignore[method-assign]
        loggers = [logging.getLogger(name) for name in LOGGERS]
        for logger in loggers:
            logger.addHandler(handler)
            logger.propagate = False
        try:
            yield
        finally:
            for logger in loggers:
                logger.removeHandler(handler)
                logger.propagate = True
        must(not self._unexplained, "warnings", f"no fault explains: {self._unexplained}")

    def _note_warning(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        self.note(text)
        if text.startswith("waiting for ") and self.driver is not None:
            self.driver.announced(text.removeprefix("waiting for "))
        if not any(reason in self.faults for pattern, reason in WARNINGS.items() if re.match(pattern, text)):
            self._unexplained.append(text)


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
