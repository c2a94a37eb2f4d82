"""A trial that continues from a checkpoint ends as if it had never stopped."""

import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from msgspec import structs

from mnist_lib.catalog import MODELS
from mnist_lib.data import batches, images
from mnist_lib.data.batches import Plan
from mnist_lib.data.dataset import Dataset
from mnist_lib.environment import steady_time
from mnist_lib.errors import CheckpointError
from mnist_lib.models.model import Weights
from mnist_lib.objects.archives import npz, read_npz
from mnist_lib.objects.local import LocalObjects
from mnist_lib.results import (
    Accuracy,
    Balanced,
    CheckpointTaken,
    EpochDone,
    EpochPart,
    RungDone,
    TrialEvent,
    TrialFailure,
    TrialResult,
    TrialStarted,
)
from mnist_lib.spec import TrialSpec, trial_grid
from mnist_lib.store.contents import contents_of
from mnist_lib.store.margins import MARGINS, no_sums
from mnist_lib.store.publishing import publish
from mnist_lib.training import prediction, trial
from mnist_lib.training.assignment import Assignment, Resources
from mnist_lib.training.checkpoint import Best, TrainingState, pack, unpack
from mnist_lib.training.reproduction import IDENTICAL, ReproductionInputs, reproduce
from mnist_lib.training.steps import Values
from mnist_lib.training.trial import WorkerPlace, run_trials
from tests.support.bounds import assert_at_most
from tests.support.digits import few_digits
from tests.support.pixel_files import file_of, in_file
from tests.support.results import epochs_in
from tests.support.training_clock import TrainingClock

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("tensorflow")]

EVERY_CHANGE = "photos,digits,flip=both,brightness=0.2,contrast=0.2,erase=0.25"
EACH_EPOCH, EACH_CHUNK = 0.0, 1e-9  # seconds between checkpoints
ONE, TWO = Resources(cpus=2), Resources(cpus=2, cpu_replicas=2)


@pytest.fixture(autouse=True)
def configured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the two devices that the fixture `tensorflow` has set up; a single replica uses the first."""
    monkeypatch.setattr(trial, "configure_process", lambda *_: None)


@pytest.fixture(scope="module")
def few(digits: Dataset) -> Dataset:
    return few_digits(digits)


def events(
    assignments: Sequence[Assignment], few: Dataset, checkpoint_seconds: float = 30.0, resources: Resources = ONE
) -> list[TrialEvent]:
    """Train these trials in a new lane."""
    return list(run_trials(assignments, lambda: few, resources, WorkerPlace(node="here"), checkpoint_seconds))


def results(seen: Sequence[TrialEvent]) -> list[TrialResult]:
    return [event for event in seen if isinstance(event, TrialResult)]


@pytest.fixture
def three_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Divide an epoch of 120 or 108 images, in batches of 25, into chunks of 2, 2 and 1 steps."""
    monkeypatch.setattr(batches, "STEPS_PER_CHUNK", 2)


def checkpoints_in(seen: Sequence[TrialEvent]) -> dict[float, bytes]:
    return {event.epoch: event.content for event in seen if isinstance(event, CheckpointTaken)}


def histories(*results: TrialResult) -> list[list[EpochDone]]:
    return [[structs.replace(epoch, seconds=0) for epoch in result.history] for result in results]


@pytest.mark.usefixtures("three_chunks")
@pytest.mark.parametrize(
    ("model", "resources", "settings"),
    [
        ("scratch", ONE, {"class_weights": "balanced"}),
        pytest.param("keras", TWO, {"validation_percent": 10, "freeze_epochs": 1}, marks=pytest.mark.long),
        pytest.param("keras-cnn", ONE, {"validation_percent": 10}, marks=pytest.mark.long),
        pytest.param("scratch", TWO, {"augment": EVERY_CHANGE}, marks=pytest.mark.long),
        pytest.param("keras-cnn", ONE, {"augment": EVERY_CHANGE}, marks=pytest.mark.long),
    ],
    ids=[
        "scratch-1 replica",
        "keras-2 replicas",
        "keras-cnn-2 microbatches",
        "scratch-2 replicas-every change of images",
        "keras-cnn-2 microbatches-every change of images",
    ],
)
def test_a_trial_resumed_after_any_chunk_ends_with_the_same_weights_and_history(
    few: Dataset,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    model: str,
    resources: Resources,
    settings: dict[str, Any],
) -> None:
    """The first run holds the images in memory, the others read those that they need from a file."""
    shared: dict[str, Any] = {"schedule": "one-cycle", "global_batch_size": 25, "hidden_units": 8}
    (spec,) = trial_grid([model], [7], epochs=3, **shared, **settings)
    spec = replace(spec, microbatches=MODELS[model].microbatches)
    uninterrupted = events([Assignment(spec)], few, EACH_CHUNK, resources)
    checkpoints = checkpoints_in(uninterrupted)
    positions = [1 / 3, 2 / 3, 1, 4 / 3, 5 / 3, 2, 7 / 3, 8 / 3]  # none after the last chunk
    assert [*checkpoints] == pytest.approx(positions)
    # The first one in a lane that has trained nothing, the others in a lane that has trained more. Without checkpoints
    # within epochs, the totals of chunks are not added one by one.
    epochs = epochs_in(uninterrupted)
    assignments = [Assignment(spec, content, epochs=epochs) for content in checkpoints.values()]
    monkeypatch.setattr(images, "MAX_HELD_BYTES", 0)
    seen = events(assignments, in_file(few, tmp_path), EACH_EPOCH, resources)
    assert [event.resumed_after for event in seen if isinstance(event, TrialStarted)] == pytest.approx(positions)
    (expected,) = results(uninterrupted)
    assert len(results(seen)) == len(positions)
    for resumed in results(seen):
        assert resumed.record.weights_sha256 == expected.record.weights_sha256
        assert resumed.record.best_epoch == expected.record.best_epoch
        assert resumed.files[MARGINS] == expected.files[MARGINS]
        assert histories(resumed) == histories(expected)


def test_d10_a_file_of_images_that_is_lost_during_training_ends_the_trial(
    few: Dataset, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(images, "MAX_HELD_BYTES", 0)
    dataset = in_file(few, tmp_path)
    (spec,) = trial_grid(["scratch"], [0], epochs=50, hidden_units=8)
    path = file_of(dataset.table.images).path
    for event in run_trials([Assignment(spec)], lambda: dataset, ONE, WorkerPlace(node="here"), EACH_EPOCH):
        if isinstance(event, EpochDone):
            path.unlink(missing_ok=True)
    assert isinstance(event, TrialFailure)
    assert (event.code, event.details) == ("E-DATA-READ", "")
    assert event.message.startswith(f"{path}: expected the images of a dataset, got No such")


@pytest.mark.usefixtures("compiled_once", "three_chunks")
def test_a_rung_that_is_resumed_within_an_epoch_has_the_same_score_and_values(few: Dataset) -> None:
    (trial,) = trial_grid(["keras"], [0], epochs=3, global_batch_size=25, hidden_units=8, validation_percent=10)
    spec = replace(trial, configuration=0)
    *uninterrupted, expected = events([Assignment(spec, until=2)], few, EACH_CHUNK)
    (within,) = [content for epoch, content in checkpoints_in(uninterrupted).items() if 1 < epoch < 1.5]
    *_, done = events([Assignment(spec, within, until=2)], few, EACH_CHUNK)
    assert isinstance(done, RungDone)
    assert isinstance(expected, RungDone)
    assert (done.epoch, done.validation) == (2, expected.validation)
    finished = [
        events([Assignment(trial, rung.content, epochs=epochs_in(uninterrupted))], few) for rung in (done, expected)
    ]
    assert len({result.record.weights_sha256 for seen in finished for result in results(seen)}) == 1
    refused = events([Assignment(spec, within, until=1)], few)
    assert any(
        "its checkpoint is of a later rung" in event.notices[0] for event in refused if isinstance(event, TrialStarted)
    )


@pytest.mark.parametrize("other", [{"chunks": 2}, {"chunks": 0}, {"train": Accuracy(1, 3)}])
def test_a_checkpoint_of_chunks_of_another_size_is_refused(
    monkeypatch: pytest.MonkeyPatch, other: dict[str, Any]
) -> None:
    monkeypatch.setattr(batches, "STEPS_PER_CHUNK", 2)
    spec, values, plan = TrialSpec.of("scratch"), Values([tf.zeros(3)], [], [], tf.constant(0)), Plan(4, 1, 1)
    part = EpochPart(chunks=1, loss=0.1, train=Accuracy(1, 2))
    state = TrainingState(Weights([tf.zeros(3)], []), part=part, margins=no_sums(4))
    assert unpack(pack(state, values, spec), spec, plan, like=values)[0].part == state.part
    damaged = replace(state, part=structs.replace(state.part, **other))
    with pytest.raises(CheckpointError, match=r"it has \d images in \d chunks"):
        unpack(pack(damaged, values, spec), spec, plan, like=values)


def test_w7_the_size_of_a_checkpoint_does_not_depend_on_the_number_of_epochs() -> None:
    spec = TrialSpec.of("scratch", epochs=100_000, hidden_units=8)
    values = Values([tf.zeros(3)], [], [], tf.constant(0))
    validation = Accuracy(90, 100, Balanced(1 / 3, 2.0, 0.1))
    best, weights = Best(1, validation, validation), Weights([tf.zeros(3)], [])
    part, plan = EpochPart(chunks=1, loss=1 / 3, train=Accuracy(1, 59), seconds=1 / 3), Plan(118, 1, 1)
    states = [TrainingState(weights, best, epoch, part, 1e3, no_sums(118)) for epoch in (10_000, 99_999)]
    first, last = (pack(state, values, spec) for state in states)
    assert len(first) == len(last) < 5_000
    state, _ = unpack(last, spec, plan, like=values)
    assert state == replace(states[1], weights=state.weights)


@pytest.mark.parametrize("model", ["scratch", "keras-cnn"])
def test_a_checkpoint_of_a_version_without_microbatches_is_read(model: str) -> None:
    spec, values, plan = TrialSpec.of(model), Values([tf.zeros(3)], [], [], tf.constant(0)), Plan(4, 1, 1)
    state = TrainingState(Weights([tf.zeros(3)], []), epoch=1, margins=no_sums(4))
    arrays = read_npz(pack(state, values, spec))
    notes = json.loads(arrays["notes"].tobytes())
    assert notes["spec"].pop("microbatches") == MODELS[model].microbatches
    earlier = npz({**arrays, "notes": np.frombuffer(json.dumps(notes).encode(), np.uint8)})
    assert unpack(earlier, spec, plan, like=values)[0].epoch == 1
    with pytest.raises(CheckpointError, match="its spec is"):
        unpack(earlier, replace(spec, microbatches=4), plan, like=values)


@pytest.mark.usefixtures("compiled_once")
def test_w7_a_trial_whose_epochs_are_lost_from_the_history_starts_from_the_beginning(few: Dataset) -> None:
    (spec,) = trial_grid(["scratch"], [0], epochs=3, global_batch_size=50, hidden_units=8)
    uninterrupted = events([Assignment(spec)], few, EACH_EPOCH)
    _, second = (event.content for event in uninterrupted if isinstance(event, CheckpointTaken))
    known = epochs_in(uninterrupted)[:1]
    seen = events([Assignment(spec, second, epochs=known)], few, EACH_EPOCH)
    (started,) = [event for event in seen if isinstance(event, TrialStarted)]
    assert started.resumed_after == 0
    assert started.notices[0].startswith("the history of the run lacks epochs before its checkpoint of epoch 2")
    assert results(seen)[0].record.weights_sha256 == results(uninterrupted)[0].record.weights_sha256
    assert [done.epoch for done in results(seen)[0].history] == [1, 2, 3]


@pytest.mark.usefixtures("compiled_once")
def test_a_trial_that_is_shorter_than_the_interval_yields_no_checkpoint(few: Dataset) -> None:
    (spec,) = trial_grid(["scratch"], [0], epochs=3, hidden_units=8)
    seen = events([Assignment(spec)], few)
    assert not [event for event in seen if isinstance(event, CheckpointTaken)]


def damaged(content: bytes) -> dict[str, bytes]:
    middle = len(content) // 2
    flipped = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
    return {"cut": content[:middle], "empty": b"", "flipped": flipped, "no archive": b"x" * 100}


@pytest.mark.usefixtures("compiled_once")
def test_a_trial_with_an_unusable_checkpoint_starts_from_the_beginning_and_says_so(few: Dataset) -> None:
    spec, other = trial_grid(["scratch"], [0, 1], epochs=2, global_batch_size=50, hidden_units=8)
    uninterrupted = events([Assignment(spec), Assignment(other)], few, EACH_EPOCH)
    own, others = (event.content for event in uninterrupted if isinstance(event, CheckpointTaken))
    contents = {**damaged(own), "another's": others}
    seen = events([Assignment(spec, content) for content in contents.values()], few, EACH_EPOCH)
    starts = [event for event in seen if isinstance(event, TrialStarted)]
    for name, started, result in zip(contents, starts, results(seen), strict=True):
        assert started.resumed_after == 0, name
        assert "the checkpoint of scratch-s0 is damaged or belongs to another trial" in started.notices[0]
        assert started.notices[0].endswith("; the trial starts from the beginning")
        assert result.record.weights_sha256 == results(uninterrupted)[0].record.weights_sha256, name


@pytest.mark.usefixtures("compiled_once")
def test_at_the_deadline_every_trial_has_a_valid_result_of_at_least_one_epoch(few: Dataset) -> None:
    specs = trial_grid(["scratch"], [0, 1, 2, 3], epochs=100_000, hidden_units=8)
    begin = steady_time()
    assignments = [
        Assignment(spec, deadline=begin + seconds) for spec, seconds in zip(specs, (1, 2, 0, 0), strict=True)
    ]
    found = results(events(assignments, few))
    assert_at_most(20, since=time.monotonic() - (steady_time() - begin))
    assert [result.trial for result in found] == [spec.id for spec in specs]
    assert all(1 <= len(result.history) < 100_000 and result.record.test.total == 110 for result in found)
    assert [len(result.history) for result in found[2:]] == [1, 1]


@pytest.mark.usefixtures("compiled_once")
def test_the_wait_for_the_data_counts_against_the_deadline(few: Dataset) -> None:
    def load() -> Dataset:
        time.sleep(2)
        return few

    (spec,) = trial_grid(["scratch"], [0], epochs=100_000, hidden_units=8)
    lane = run_trials([Assignment(spec, deadline=steady_time() + 2)], load, ONE, WorkerPlace(node="here"))
    (result,) = results([*lane])
    assert len(result.history) == 1


@pytest.mark.usefixtures("compiled_once", "three_chunks")
@pytest.mark.parametrize(
    ("percent", "seconds", "images"),
    [
        # A batch was measured in 100 s, and the test images and a sample of the others are one batch.
        (0, 100 + 40 + 100, [120, 50]),
        (0, 100 + 39 + 100, [120]),
        (0, 1, [50]),
        # The second epoch follows on 130 s and a validation; after its second chunk, 10 + 200 s would follow.
        (10, 100 + 130 + 30 + 200, [108, 108]),
        (10, 100 + 130 + 29 + 200, [108, 100]),
    ],
)
def test_a_trial_ends_before_the_chunk_after_which_it_could_not_be_evaluated_in_time(
    few: Dataset, monkeypatch: pytest.MonkeyPatch, percent: int, seconds: float, images: list[int]
) -> None:
    clock = TrainingClock(monkeypatch, chunk=10, batch=100)
    monkeypatch.setattr(prediction, "evaluation_batch_size", lambda *_: 230)
    (spec,) = trial_grid(["scratch"], [0], epochs=9, global_batch_size=25, hidden_units=8, validation_percent=percent)
    (result,) = results(events([Assignment(spec, deadline=seconds)], few))
    assert [epoch.train.total for epoch in result.history] == images
    assert [epoch.epoch for epoch in result.history] == [*range(1, len(images) + 1)]
    assert result.record.trained_epochs == len(images) - 1 + images[-1] / (108 if percent else 120)
    assert result.record.images_per_second == pytest.approx(sum(images) / (10 * sum(-(-n // 50) for n in images)))
    assert clock.now <= max(seconds, 100 + 10 + 100)


@pytest.mark.usefixtures("three_chunks")
def test_a_version_that_a_deadline_ended_within_an_epoch_is_reproduced(
    few: Dataset, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (spec,) = trial_grid(["scratch"], [0], epochs=9, global_batch_size=25, hidden_units=8)
    with monkeypatch.context() as patch:
        TrainingClock(patch, chunk=10, batch=100)
        (result,) = results(events([Assignment(spec, deadline=250.0)], few))
    assert [epoch.train.total for epoch in result.history] == [120, 100]
    code = {"sha256": "0" * 64}
    files, about = contents_of(result, few, "r", code)
    version = publish(LocalObjects(tmp_path), spec.model, "r", files, about)
    again = reproduce(LocalObjects(tmp_path), version, lambda: few, code, ReproductionInputs(cpus=2))
    assert (again.verdict, again.differing) == (IDENTICAL, {})
    monkeypatch.setattr(batches, "STEPS_PER_CHUNK", 3)  # as another version of the project may have
    other = reproduce(LocalObjects(tmp_path), version, lambda: few, code, ReproductionInputs(cpus=2))
    assert "images of the last epoch" in other.differing


@pytest.mark.usefixtures("compiled_once")
def test_a_trial_that_ends_early_has_the_losses_of_the_full_one(few: Dataset) -> None:
    (spec,) = trial_grid(["keras"], [0], epochs=4, schedule="one-cycle", validation_percent=0, hidden_units=8)
    (full,), (short,) = (results(events([Assignment(spec, until=until)], few)) for until in (None, 2))
    assert len(short.history) == 2
    assert [epoch.loss for epoch in short.history] == [epoch.loss for epoch in full.history[:2]]
