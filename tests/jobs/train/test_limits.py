"""Time limits of a run on a simulated cluster: what they count, by which clock, and how trials share the time."""

import math
import pickle
import time
from datetime import UTC, datetime, timedelta

import pytest

from cluster.nodes import LanePlan
from jobs.train.display import RunProgress
from jobs.train.options import TrainOptions
from jobs.train.recorder import Recorder
from jobs.train.run import deadline_of
from mnist_lib.environment import steady_time, text_of
from mnist_lib.results import EpochDone, TrialResult
from mnist_lib.spec import TrialSpec, trial_grid
from mnist_lib.store.history import DriverConnected, TrialEnded
from mnist_lib.store.runs import RunFolder
from mnist_lib.training.assignment import Assignment
from tests.support.recorded import RecordedTrials
from tests.support.simulation.clock import VirtualClock
from tests.support.simulation.cluster import SimulatedCluster
from tests.support.simulation.memory import MemoryObjects, SimulatedWrites
from tests.support.simulation.trials import Durations, epoch_of
from tests.support.supervised import run_loop

HOUR = 3_600.0


class Run:
    """A run with a time limit on a simulated cluster."""

    def __init__(self, trials: list[TrialSpec], durations: dict[str, Durations], *, lanes: int = 1) -> None:
        self.clock = VirtualClock()
        self.cluster = SimulatedCluster(self.clock, durations, [lanes])
        self._trials, self._lanes = trials, lanes
        self.epochs: dict[str, int] = {}  # that each trial was trained for
        self.trained_until = 0.0

    def finish(self, deadline: float) -> None:
        writes = SimulatedWrites(self.clock, seconds=0.0)
        plan = LanePlan(lanes=self._lanes, cpus=1, gpus=0)
        outer = self

        class Noted(RecordedTrials):
            def on(self, event: object, attempt: int) -> None:
                super().on(event, attempt)
                if isinstance(event, EpochDone):
                    outer.trained_until = outer.clock.now
                if isinstance(event, TrialResult):
                    outer.epochs[event.trial] = len(event.history)

        with Recorder(RunFolder(MemoryObjects(), "r"), writes) as recorder:
            source = Noted(recorder, self._trials)
            run_loop(self.cluster, source, recorder, plan, deadline=deadline, clock=self.clock)


def grid(*models: str, seeds: int = 1, epochs: int = 20) -> list[TrialSpec]:
    return trial_grid(models, range(seeds), dataset="mnist-mini", epochs=epochs)


def set_wall_clock(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Set the wall clock forward, or back if `seconds` is negative."""
    steady_time()  # the process has read the wall clock once before it is set
    wall = time.time
    monkeypatch.setattr(time, "time", lambda: wall() + seconds)


@pytest.mark.parametrize("jump", [HOUR, -HOUR])
def test_w5_a_wall_clock_that_is_set_during_a_run_changes_no_limit(
    monkeypatch: pytest.MonkeyPatch, jump: float
) -> None:
    objects, begin = MemoryObjects(), steady_time()
    finish_by = text_of(datetime.now(UTC) + timedelta(seconds=HOUR / 2))
    deadlines = [
        deadline_of(limit, begin) for limit in (TrainOptions(max_seconds=HOUR / 2), TrainOptions(finish_by=finish_by))
    ]
    RunFolder(objects, "r").append_history(DriverConnected())
    set_wall_clock(monkeypatch, jump)
    RunFolder(objects, "r").append_history(TrialEnded(trial="keras-s0", status="ok"))
    assert RunFolder(objects, "r", resumed=True).seconds_worked() < 10  # which a resumed run deducts
    for deadline in deadlines:
        assert deadline - steady_time() == pytest.approx(HOUR / 2, abs=10)
        (spec,) = grid("keras")
        progress = RunProgress([spec])
        progress.deadline = deadline
        progress.update(epoch_of(spec, 1, HOUR), 1)
        assert progress.total_seconds_left == pytest.approx(HOUR / 2, abs=10)


def test_a_time_limit_also_counts_the_import_and_the_wait_for_the_data() -> None:
    run = Run(grid("keras"), {"keras": Durations(importing=40.0, epoch=1.0)})
    run.finish(deadline=50.0)
    assert 45 < run.trained_until <= 50
    assert run.epochs["keras-s0"] < 10


def test_the_time_in_which_an_assignment_waits_for_its_lane_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    now = {"driver": 1_000.0, "lane": 77.0}  # the clocks of two machines
    host = "driver"
    monkeypatch.setattr("mnist_lib.training.assignment.steady_time", lambda: now[host])
    (spec,) = grid("keras")
    assignment = Assignment(spec, b"checkpoint", deadline=1_100.0, until=3)
    waiting = pickle.loads(pickle.dumps(assignment, protocol=5))  # in the mailbox, on the machine of the driver
    now = {machine: seconds + 40.0 for machine, seconds in now.items()}
    sent = pickle.dumps(waiting, protocol=5)
    host = "lane"
    received = pickle.loads(sent)
    assert received.deadline - now["lane"] == pytest.approx(60.0)
    assert (received.spec, bytes(received.checkpoint), received.until) == (spec, b"checkpoint", 3)
    host = "driver"
    assert pickle.loads(pickle.dumps(Assignment(spec))).deadline == math.inf


def of_three_models(cnn: float, compiling: float = 1.0) -> dict[str, Durations]:
    """Return durations for which an epoch of `keras-cnn` takes `cnn` seconds, and that of another model 0.5 s."""
    epochs = {"keras-cnn": cnn, "keras": 0.5, "scratch": 0.5}
    return {model: Durations(epoch=epoch, compiling=compiling) for model, epoch in epochs.items()}


@pytest.mark.parametrize("cnn", [5.0, 10.0])  # 10 and 20 times the others; the catalog says 20
def test_no_trial_is_cut_short_when_the_time_is_enough_for_all(cnn: float) -> None:
    run = Run(grid("keras", "scratch", "keras-cnn"), of_three_models(cnn))
    run.finish(deadline=20 * cnn + 2 * 20 * 0.5 + 50)
    assert run.epochs == {"keras-s0": 20, "scratch-s0": 20, "keras-cnn-s0": 20}


def test_an_expensive_trial_has_all_the_time_while_another_lane_trains_the_others() -> None:
    run = Run(grid("keras", "scratch", "keras-cnn"), of_three_models(cnn=15.0), lanes=2)
    run.finish(deadline=290.0)  # enough for 18 epochs of 15 s after the start
    assert run.epochs == {"keras-s0": 20, "scratch-s0": 20, "keras-cnn-s0": 18}


@pytest.mark.parametrize("lanes", [1, 2])
@pytest.mark.parametrize("seeds", [1, 3])
def test_a_run_that_has_too_little_time_uses_all_of_it_and_trains_each_model(seeds: int, lanes: int) -> None:
    run = Run(grid("keras", "scratch", "keras-cnn", seeds=seeds, epochs=1_000), of_three_models(cnn=5.0), lanes=lanes)
    run.finish(deadline=300.0 * seeds)
    assert 290 * seeds < run.trained_until <= 300 * seeds
    epochs = {
        model: [run.epochs[f"{model}-s{seed}"] for seed in range(seeds)] for model in ("keras-cnn", "keras", "scratch")
    }
    assert all(count >= 10 for counts in epochs.values() for count in counts), epochs
    assert max(epochs["keras-cnn"]) < 2 * min(epochs["keras-cnn"]), epochs


def test_in_a_short_run_a_cheap_trial_has_the_time_to_be_compiled() -> None:
    run = Run(grid("keras", "scratch", "keras-cnn", epochs=1_000), of_three_models(cnn=5.0, compiling=3.0))
    run.finish(deadline=60.0)
    assert min(run.epochs.values()) >= 3, run.epochs
    assert run.trained_until <= 60
