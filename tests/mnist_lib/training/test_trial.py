"""Trials from start to end, in one process and without Ray."""

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from cluster.deadlines import SILENCE_SECONDS, Limits
from cluster.lanes import Lane, WorkerProcess
from mnist_lib.data.batches import Plan
from mnist_lib.data.dataset import Dataset
from mnist_lib.data.table import Table
from mnist_lib.errors import DataError
from mnist_lib.models.building import build_model
from mnist_lib.models.pretrained import Pretrained, StoredWeights
from mnist_lib.results import (
    Accuracy,
    EpochDone,
    Evaluating,
    Heartbeat,
    LaneReady,
    RungDone,
    TrialEvent,
    TrialFailure,
    TrialResult,
    TrialStarted,
)
from mnist_lib.spec import TrialSpec, trial_grid
from mnist_lib.training import prediction, trial
from mnist_lib.training.assignment import Assignment, Resources
from mnist_lib.training.trainer import Trainer
from mnist_lib.training.trial import WorkerPlace, run_trials
from tests.support.digits import few_digits
from tests.support.results import epochs_in
from tests.support.training_clock import TrainingClock

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("tensorflow")]

TWO_REPLICAS = Resources(cpus=2, cpu_replicas=2)  # as the fixture `tensorflow` sets the process up
PLACE = WorkerPlace(node="here", gpus=("3",))


def events_of(specs: Sequence[TrialSpec], dataset: Dataset, resources: Resources = TWO_REPLICAS) -> list[TrialEvent]:
    return list(run_trials(map(Assignment, specs), lambda: dataset, resources, PLACE))


def results_of(events: Sequence[TrialEvent]) -> dict[str, TrialResult]:
    return {event.trial: event for event in events if isinstance(event, TrialResult)}


def test_a_trial_yields_an_event_for_its_start_for_each_epoch_and_for_its_result(digits: Dataset) -> None:
    (spec,) = trial_grid(["keras"], [0], epochs=3, hidden_units=8, validation_percent=10)
    begun, started, *epochs, trained, result = events_of([spec], few_digits(digits))
    assert isinstance(begun, LaneReady)
    assert isinstance(started, TrialStarted)
    assert (started.devices, started.gpus, started.node) == (("CPU:0", "CPU:1"), ("3",), "here")
    assert [*started.phases] == ["import", "data", "compile"]
    assert all(0 <= seconds < 600 for seconds in started.phases.values())
    assert [epoch.epoch for epoch in epochs if isinstance(epoch, EpochDone)] == [1, 2, 3]
    assert all(epoch.train.total == 108 and epoch.validation.total == 12 for epoch in epochs)  # type: ignore[attr-defined]
    assert isinstance(result, TrialResult)
    assert result.record.test.total == 110
    assert result.probabilities.shape == (110, 10)
    assert "model.keras" in result.files
    assert [event.final for event in (begun, started, *epochs, trained, result)] == [False] * 6 + [True]
    phases = [event.phase for event in (begun, started, *epochs, trained)]
    assert phases == ["preparing", "preparing", "training", "training", "training", "finishing"]


def test_a_trial_with_other_classes_than_its_version_says_what_it_takes_from_it(digits: Dataset) -> None:
    (spec,) = trial_grid(["keras"], [0], epochs=1, hidden_units=8, learning_rate=1e-6, optimizer="sgd")
    model = build_model(spec, (28, 28, 1), 10)
    weights = model.initial_weights(9)
    version = StoredWeights("keras@3", model.files(weights), (28, 28, 1), tuple("ABCDEFGHIJ"))
    spec = replace(spec, init_from="keras@3", init_sha256="0" * 64)
    pretrained, few = Pretrained(versions={"0" * 64: version}), few_digits(digits)
    _, started, *_, result = run_trials(
        [Assignment(spec)], lambda: few, TWO_REPLICAS, PLACE, pretrained=lambda: pretrained
    )
    assert isinstance(started, TrialStarted)
    assert started.notices == (
        "limited the global batch of 128 to all 120 training images",
        "all weights of keras but those of the last layer are from keras@3, since the classes differ",
    )
    assert isinstance(result, TrialResult)
    kernel, _, last, _ = model.read(result.files).trainable
    drawn = model.initial_weights(0).trainable
    assert np.allclose(kernel, weights.trainable[0], atol=1e-4)  # the learning rate is small
    assert np.allclose(last, drawn[2], atol=1e-4)


@pytest.mark.long
def test_a_trial_of_a_fold_predicts_its_images_without_having_been_trained_on_them(digits: Dataset) -> None:
    """Other labels for these images change neither its weights nor its predictions, but its accuracy on them."""
    (whole,) = trial_grid(["keras"], [0], epochs=3, hidden_units=8)
    dataset, other = few_digits(digits), few_digits(digits)
    specs = whole.in_folds(3)
    inside = other.folds(3) == 1
    other.train.labels[inside] = (other.train.labels[inside] + 1) % 10
    events = events_of(specs, dataset)
    first, second, third = results_of(events).values()
    (changed,) = results_of(events_of([specs[1]], other)).values()
    assert changed.record.weights_sha256 == second.record.weights_sha256
    assert second.of_fold is not None
    assert np.array_equal(changed.of_fold, second.of_fold)  # type: ignore[arg-type]
    for result, labels in ((second, dataset.train.labels), (changed, other.train.labels)):
        correct = int((second.of_fold.argmax(axis=1) == labels[inside]).sum())
        assert result.record.validation == Accuracy(correct, int(inside.sum()))
    assert len({result.record.weights_sha256 for result in (first, second, third)}) == 3
    assert [event.validation for event in events if isinstance(event, EpochDone)] == [None] * 9
    assert second.record.best_epoch == 3  # its fold does not choose the epoch, since it measures it
    paused = replace(specs[1], configuration=0)  # of a search
    *_, first_rung = run_trials([Assignment(paused, until=2)], lambda: dataset, TWO_REPLICAS, PLACE)
    assert isinstance(first_rung, RungDone)
    *_, last_rung = run_trials([Assignment(paused, first_rung.content, until=3)], lambda: dataset, TWO_REPLICAS, PLACE)
    assert isinstance(last_rung, RungDone)
    assert last_rung.validation == second.record.validation


@pytest.mark.usefixtures("compiled_once")
def test_the_result_has_the_weights_of_the_epoch_that_validation_chooses(digits: Dataset) -> None:
    """A trial with only that many epochs ends with the same weights."""
    (spec,) = trial_grid(["keras"], [1], epochs=12, hidden_units=8, learning_rate=0.02, validation_percent=10)
    events = events_of([spec], few_digits(digits))
    record = results_of(events)[spec.id].record
    validation = [event.validation.correct for event in events if isinstance(event, EpochDone) and event.validation]
    assert validation[record.best_epoch - 1] >= max(validation) - 1  # one standard error is at most 1.7 of 12 images
    assert record.validation is not None
    assert record.validation.correct == validation[record.best_epoch - 1]
    assert record.test_ci95 == pytest.approx(record.test.interval())
    shorter = replace(spec, epochs=record.best_epoch)
    again = results_of(events_of([shorter], few_digits(digits)))[spec.id].record
    assert again.weights_sha256 == record.weights_sha256


@pytest.mark.usefixtures("compiled_once")
def test_few_images_are_all_trained_on_by_default_and_the_result_is_of_the_last_epoch(digits: Dataset) -> None:
    (spec,) = trial_grid(["keras"], [0], epochs=3, hidden_units=8)
    result = results_of(events_of([spec], few_digits(digits)))[spec.id]
    assert (result.record.best_epoch, result.record.validation, result.history[0].train.total) == (3, None, 120)


@pytest.mark.usefixtures("compiled_once")
def test_a_trial_that_fails_does_not_end_the_lane(digits: Dataset) -> None:
    good, diverging, after = trial_grid(["scratch"], [0, 1, 2], epochs=1, hidden_units=8)
    diverging = replace(diverging, learning_rate=1e38, epochs=3)
    events = events_of([good, diverging, after], few_digits(digits))
    (failure,) = [event for event in events if isinstance(event, TrialFailure)]
    assert (failure.trial, failure.code, failure.final) == (diverging.id, "E-NAN", True)
    assert "epoch" in failure.message
    assert set(results_of(events)) == {good.id, after.id}


def test_a_trial_has_the_same_weights_in_whatever_order_a_lane_trains(digits: Dataset) -> None:
    specs = trial_grid(["keras", "scratch"], [0, 1], epochs=2, hidden_units=8)
    # Each trial is the first of its model in one order, and follows one of that model in the other.
    one, other = (results_of(events_of(order, few_digits(digits))) for order in (specs, specs[::-1]))
    for spec in specs:
        assert one[spec.id].record.weights_sha256 == other[spec.id].record.weights_sha256


@pytest.mark.usefixtures("compiled_once")
def test_a_trial_that_pauses_after_each_rung_has_the_weights_of_one_that_does_not(digits: Dataset) -> None:
    (trial,) = trial_grid(["keras"], [0], epochs=4, hidden_units=8, schedule="one-cycle", validation_percent=10)
    spec = replace(trial, configuration=0)  # of a search
    small = few_digits(digits)

    def run(*assignments: Assignment) -> list[TrialEvent]:
        return [*run_trials(assignments, lambda: small, TWO_REPLICAS, PLACE)]

    rungs, checkpoint = [], None
    trained: list[TrialEvent] = []
    for until in (1, 3, 4):
        *events, done = run(Assignment(spec, checkpoint, until=until))
        trained += events
        assert isinstance(done, RungDone)
        assert done.epoch == until
        assert not any(isinstance(event, TrialResult) for event in events)
        rungs.append(done)
        checkpoint = done.content
    assert checkpoint == b""  # nothing follows the last rung
    events = run(Assignment(spec), Assignment(spec, rungs[1].content, epochs=epochs_in(trained)))
    assert [event.resumed_after for event in events if isinstance(event, TrialStarted)] == [0, 3]
    whole, resumed = [event for event in events if isinstance(event, TrialResult)]
    assert resumed.record.weights_sha256 == whole.record.weights_sha256
    shorter = [run(Assignment(spec, until=done.epoch))[-1] for done in rungs]
    assert [done.validation for done in rungs] == [done.validation for done in shorter if isinstance(done, RungDone)]
    assert rungs[-1].validation == whole.record.validation


@pytest.mark.long
def test_a_trial_leaves_no_temporary_files(digits: Dataset, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert isinstance(events_of(trial_grid(["keras-cnn"], [0], epochs=1), few_digits(digits))[-1], TrialResult)
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize("resources", [Resources(cpus=2), TWO_REPLICAS], ids=["1 replica", "2 replicas"])
def test_w3_a_lane_that_validates_and_evaluates_for_minutes_is_not_silent(
    digits: Dataset, monkeypatch: pytest.MonkeyPatch, resources: Resources
) -> None:
    monkeypatch.setattr(trial, "configure_process", lambda *_: None)
    clock = TrainingClock(monkeypatch, chunk=4, batch=40)
    monkeypatch.setattr(prediction, "evaluation_batch_size", lambda *_: 2)
    (spec,) = trial_grid(["keras"], [0], epochs=2, hidden_units=8, validation_percent=10)
    lane = Lane(handle=1, state_since=0)
    lane.start(WorkerProcess(node="n", host="h", pid=1), 0)
    lane.assign(SimpleNamespace(id=spec.id, compile_key=spec.model, cost=spec.cost), 0)
    seen = []
    for event in run_trials([Assignment(spec)], lambda: few_digits(digits), resources, PLACE):
        assert lane.why_overdue(Limits(), clock.now) is None
        lane.note(event.phase, clock.now, clock.now)
        seen.append((clock.now, event))
    batches = 3 if resources is TWO_REPLICAS else 6
    beats = [event.epoch for _, event in seen if isinstance(event, Heartbeat)]
    assert [(beat, beats.count(beat)) for beat in sorted({*beats})] == [(1, 1 + batches), (2, 1 + batches)]
    assert isinstance(seen[-1][1], TrialResult)
    begin = next(now for now, event in seen if isinstance(event, Evaluating))
    assert seen[-1][0] - begin > SILENCE_SECONDS["finishing"]


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[Trainer]:
    """The trainers that the test has compiled so far."""
    compiled: list[Trainer] = []
    compile_once = Trainer.compile

    def record(self: Trainer, train: Table, plan: Plan) -> None:
        compiled.append(self)
        compile_once(self, train, plan)

    monkeypatch.setattr(Trainer, "compile", record)
    return compiled


def test_trials_of_the_same_shape_are_compiled_once(digits: Dataset, compiled: list[Trainer]) -> None:
    specs = trial_grid(["keras"], [0, 1], epochs=1, hidden_units=8)
    assert len(results_of(events_of([*specs, replace(specs[1], seed=2, epochs=2)], few_digits(digits)))) == 3
    (trainer,) = compiled
    run_chunk = trainer._steps[False]._compiled  # a tf.function
    assert run_chunk.experimental_get_tracing_count() == 1


@pytest.mark.long
def test_a_lane_removes_the_least_recently_used_compiled_model(
    digits: Dataset, compiled: list[Trainer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial, "MAX_COMPILED", 2)
    one, two, three = (trial_grid(["keras"], [0], epochs=1, hidden_units=units)[0] for units in (1, 2, 3))
    order = [replace(spec, seed=number) for number, spec in enumerate((one, two, one, three, one, two))]
    assert len(results_of(events_of(order, few_digits(digits)))) == 6
    assert len(compiled) == 4  # one, two, three, and two again
    assert not any(trainer.values.trainable for trainer in compiled)  # whose memory only a trial needs


def test_i3_a_batch_larger_than_the_dataset_is_reduced_with_a_notice(digits: Dataset) -> None:
    (spec,) = trial_grid(["keras"], [0], epochs=1, hidden_units=8, global_batch_size=1_000)
    events = events_of([spec], few_digits(digits))
    assert isinstance(events[1], TrialStarted)
    assert events[1].notices == ("limited the global batch of 1000 to all 120 training images",)
    assert isinstance(events[-1], TrialResult)


def test_if_the_dataset_cannot_be_loaded_every_trial_fails_with_that_error_code() -> None:
    def load() -> Dataset:
        raise DataError("damaged")

    specs = trial_grid(["keras"], [0, 1])
    failures = list(run_trials(map(Assignment, specs), load, TWO_REPLICAS, PLACE))
    assert [(failure.trial, failure.code) for failure in failures if isinstance(failure, TrialFailure)] == [
        (spec.id, "E-DATA") for spec in specs
    ]


def test_a_bug_is_reported_with_its_traceback(digits: Dataset) -> None:
    few = few_digits(digits)
    broken = replace(few, table=replace(few.table, ranks=np.full(len(few.table), "no number")))
    (failure,) = [e for e in events_of(trial_grid(["keras"], [0], epochs=1), broken) if isinstance(e, TrialFailure)]
    assert failure.code == "E-BUG"
    assert "Traceback" in failure.details


def test_f16_the_error_for_invisible_gpus_suggests_allow_cpu(digits: Dataset) -> None:
    (failure,) = events_of(trial_grid(["keras"], [0]), digits, Resources(cpus=1, gpus=2))
    assert isinstance(failure, TrialFailure)
    assert failure.code == "E-GPU-INVISIBLE"
    assert "expected TensorFlow to see 2 GPUs, got 0" in failure.message
    assert "--allow-cpu" in failure.message
