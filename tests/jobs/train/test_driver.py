"""A whole run on a simulated cluster: at any operation, the storage fails or another driver takes over."""

import contextlib
import copy
import functools
from typing import Any

import numpy as np
import pytest

from cluster.nodes import LanePlan
from jobs.console.exit_codes import TrainingError
from jobs.train.options import TrainOptions
from jobs.train.plan import Plan
from jobs.train.run import Run, finish
from jobs.train.run_dataset import RunDataset
from jobs.train.trials import Trials
from jobs.train.write_queue import Write
from mnist_lib.data.dataset import Dataset
from mnist_lib.data.table import Table
from mnist_lib.errors import ConflictError, IntegrityError, StoreError
from mnist_lib.objects.protocol import MAX_RECORD_BYTES, Objects
from mnist_lib.results import Accuracy, TrialFailure, TrialRecord, TrialResult
from mnist_lib.run_documents import Summary
from mnist_lib.spec import trial_grid
from mnist_lib.store.opening import open_run
from mnist_lib.store.runs import RunFolder
from mnist_lib.store.versions import commit_record, find
from tests.support.recorded import recorded
from tests.support.results import trial_result
from tests.support.simulation.clock import VirtualClock
from tests.support.simulation.cluster import SimulatedCluster
from tests.support.simulation.memory import MemoryObjects, SimulatedWrites
from tests.support.simulation.trials import PROBABILITIES, Durations, epoch_of, undisturbed_weights
from tests.support.store.faulty import FAULTS, Faulty, Interrupted, KilledError
from tests.support.store.invariants import all_verified, champion_verified
from tests.support.supervised import run_loop

TRIALS = [
    spec
    for n, model in ((2, "keras"), (1, "scratch"))
    for spec in trial_grid([model], range(n), dataset="mnist-mini", epochs=2)
]
LABELS = PROBABILITIES.argmax(axis=1).astype(np.uint8)
DATA = Table.of(np.zeros((len(LABELS), 28, 28, 1), np.uint8), LABELS)
FACTS = Dataset.of("mnist-mini", "1.0.0", DATA, DATA).without_images()
PLAN = Plan.of(TrainOptions(report=False, quiet=True))
MAX_OPERATIONS = 500


def complete_run(objects: Objects) -> Summary:
    """Begin or resume a run, as `jobs.train` does, and return its summary."""
    with open_run(
        objects, "r", dataset="mnist-mini", terms={"epochs": 2}, command="jobs.train", configuration=""
    ) as folder:
        summary = folder.summary()
        if summary is not None:
            finish(folder, summary, report=False)
            return summary
        clock = VirtualClock()
        cluster = SimulatedCluster(clock, {"keras": Durations(), "scratch": Durations()}, [2])
        with recorded(folder, TRIALS, SimulatedWrites(clock, seconds=0.0)) as trials:
            run_loop(cluster, trials, trials.recorder, LanePlan(lanes=2, cpus=1, gpus=0), clock=clock)
        return run_in(folder).store(trials)


class PreparedDataset(RunDataset):
    """A dataset that no task prepares."""

    begin = prepared = 0.0

    def __init__(self) -> None:
        self._known, self._since, self._reference, self._plan = FACTS, None, None, PLAN

    def content(self) -> Dataset:
        raise AssertionError("only a report needs the dataset")

    def state(self) -> bytes:
        return b"state"


def run_in(folder: RunFolder) -> Run[Plan]:
    return Run(plan=PLAN, folder=folder, code={"sha256": "0" * 64}, begin=0.0, data=PreparedDataset())


def check(objects: MemoryObjects, summary: Summary) -> None:
    """Check that each trial has undisturbed weights, and that each model has one version, which is the champion."""
    weights = {trial.id: trial.weights_sha256 for trial in summary.successful}
    assert {trial.trained_epochs for trial in summary.successful} == {2}
    assert weights == {spec.id: undisturbed_weights(spec) for spec in TRIALS}
    for model in ("keras", "scratch"):
        (number,) = all_verified(objects, model)
        assert champion_verified(objects, model, FACTS.name) == number == summary.models[model].version
        version = find(objects, model, number)
        assert version is not None
        assert version.run == "r"
    left = [name for name in objects.content if name.startswith("unfinished/") or "/ended" in name or "check" in name]
    assert left == []


@pytest.mark.parametrize(("error", "late"), FAULTS)
@pytest.mark.slow
def test_f6_s1_s2_an_error_or_kill_at_any_operation_of_a_run_changes_no_result(
    error: type[BaseException], late: bool
) -> None:
    for at in range(1, MAX_OPERATIONS):
        objects = MemoryObjects()
        faulty = Faulty(objects, at, error, late=late)
        try:
            complete_run(faulty)
        except (StoreError, KilledError):
            check(objects, complete_run(objects))
        if faulty.operations < at:  # the run ended before the fault
            break
    assert 40 < at < MAX_OPERATIONS - 1


KERAS = trial_grid(["keras"], range(3), dataset="mnist-mini", epochs=2)


def after(objects: Objects, events: list[Any], *, resumed: bool) -> tuple[RunFolder, Trials]:
    folder = RunFolder(objects, "r", resumed=resumed)
    with recorded(folder, KERAS, SimulatedWrites(VirtualClock(), seconds=0.0)) as trials:
        for event in events:
            trials.record(event)
    return folder, trials


def stored_trial(folder: RunFolder, trials: Trials) -> str:
    """Store the models of a run, and return the trial whose model was stored."""
    summary = run_in(folder).store(trials)
    version = find(folder.objects, "keras", summary.models["keras"].version)
    assert version is not None
    assert "weights.npz" in version.files
    assert version.about["trial"] == summary.models["keras"].best_trial
    return str(version.about["trial"])


def ended(seed: int, validation: int) -> TrialResult:
    return trial_result(
        KERAS[seed],
        test=Accuracy(len(LABELS), len(LABELS)),
        validation=Accuracy(validation, 10),
        history=tuple(epoch_of(KERAS[seed], epoch) for epoch in (1, 2)),
        probabilities=PROBABILITIES,
        files={"weights.npz": bytes([seed])},
    )


def failed(seed: int) -> TrialFailure:
    return TrialFailure(trial=KERAS[seed].id, code="E-NAN", message="the loss is not a number")


def test_without_the_best_model_the_next_best_is_stored_and_without_any_the_run_trains_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    objects = MemoryObjects()
    after(objects, [ended(0, 5), ended(1, 9), ended(2, 7)], resumed=False)  # the model of trial 2 is not stored
    objects.replace("runs/r/trials/keras-s1/ended.json", b"damaged")
    before = copy.deepcopy(objects)
    folder, trials = after(objects, [failed(1)], resumed=True)
    with caplog.at_level("WARNING", logger="jobs.train"):
        assert stored_trial(folder, trials) == "keras-s0"
    assert "keras-s2: its model and a better trial's result are lost; storing keras-s0 instead" in caplog.text

    before.replace("runs/r/trials/keras-s0/ended.json", b"damaged")
    folder, trials = after(before, [failed(0), failed(1)], resumed=True)
    with pytest.raises(
        IntegrityError, match=r"^keras-s2: expected the files of its model, got none, .* trains keras-s2 again$"
    ):
        stored_trial(folder, trials)
    assert find(before, "keras", 1) is None
    assert not folder.is_complete
    folder, trials = after(before, [ended(2, 7), failed(0), failed(1)], resumed=True)
    assert stored_trial(folder, trials) == "keras-s2"


@pytest.mark.slow
def test_p10_u8_a_driver_whose_run_another_one_completes_at_any_operation_changes_no_result() -> None:
    for at in range(1, MAX_OPERATIONS):
        objects = MemoryObjects()
        summaries: list[Summary] = []
        written: dict[str, bytes] = {}
        interrupted = Interrupted(objects, at, functools.partial(complete_as_second, summaries, written))
        with contextlib.suppress(ConflictError):
            complete_run(interrupted)
        if not summaries:  # the run ended before another driver would have completed it
            break
        for name, content in written.items():
            assert objects.content[name] == content, f"{at}: the first driver has overwritten {name}"
        assert complete_run(objects) == summaries[0]  # and this deletes what the first one wrote too late
        check(objects, *summaries)
    assert 40 < at < MAX_OPERATIONS - 1


def complete_as_second(summaries: list[Summary], written: dict[str, bytes], objects: MemoryObjects) -> None:
    """Complete the run, and note what was written once and for all: the versions, the champions and the summary."""
    summaries.append(complete_run(MemoryObjects(objects.content)))
    lasting = ("models/", "runs/r/summary.json", "runs/r/run.json")
    for name, content in objects.content.items():
        parts = name.split("/")
        if parts[2:3] == ["versions"] and not objects.exists(commit_record(parts[1], int(parts[3]))):
            continue  # a number that the first driver has claimed is its own to give up
        if name.startswith(lasting):
            written[name] = content


def test_w6_a_checkpoint_is_read_beside_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobs.train.recorder.MAX_CACHED_BYTES", 0)  # so none is in memory when its attempt dies
    clock = VirtualClock()
    reads: list[bool] = []  # whether a thread of the queue made them

    class Storage(MemoryObjects):
        def read(self, name: str, limit: int = MAX_RECORD_BYTES) -> bytes | None:
            if "/checkpoints/" in name:
                reads.append(writes.making)
            return super().read(name, limit)

    class Writes(SimulatedWrites):
        making = False

        def _make(self, key: str, write: Write) -> None:
            self.making = True
            super()._make(key, write)
            self.making = False

    folder, writes = RunFolder(Storage(), "r"), Writes(clock, seconds=5.0)
    cluster = SimulatedCluster(clock, {"keras": Durations(epoch=20.0), "scratch": Durations(epoch=20.0)}, [2])
    clock.after(40.0, lambda: cluster.kill_worker(cluster.running[0]))
    with recorded(folder, TRIALS, writes) as trials:
        run_loop(cluster, trials, trials.recorder, LanePlan(lanes=2, cpus=1, gpus=0), clock=clock)
    assert reads == [True]
    assert {row.id: row.weights_sha256 for row in trials.rows if isinstance(row, TrialRecord)} == {
        spec.id: undisturbed_weights(spec) for spec in TRIALS
    }


@pytest.mark.parametrize(("code", "is_trained_again"), [("E-DATA-READ", True), ("E-NAN", False)])
def test_x7_a_run_whose_trials_all_failed_for_a_reason_that_may_not_recur_stays_unfinished(
    code: str, is_trained_again: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So the same command trains it again, instead of saying that it is complete."""
    objects = MemoryObjects()
    failures = [TrialFailure(trial=spec.id, code=code, message="images are missing") for spec in KERAS]

    def fail(_: object, trials: Trials, *__: object) -> None:
        for event in failures:
            trials.on(event, 1)

    monkeypatch.setattr(Run, "drive", fail)
    monkeypatch.setattr("jobs.train.recorder.WriteQueue", lambda: SimulatedWrites(VirtualClock(), seconds=0.0))
    run = run_in(RunFolder(objects, "r"))
    again = "images are missing; nothing is stored yet; the same command trains what is missing"
    with pytest.raises(TrainingError, match=again) if is_trained_again else contextlib.nullcontext():
        run.train_trials(KERAS, pool=object())  # type: ignore[arg-type]
    assert run.folder.is_complete != is_trained_again
