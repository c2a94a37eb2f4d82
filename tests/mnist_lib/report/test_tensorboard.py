"""The event file of a real trial, as TensorBoard itself reads it."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mnist_lib.catalog import DIGITS
from mnist_lib.data import batches
from mnist_lib.data.dataset import Dataset
from mnist_lib.results import CheckpointTaken, EpochDone, TrialEvent, TrialResult
from mnist_lib.spec import TrialSpec
from mnist_lib.training.assignment import Assignment, Resources
from mnist_lib.training.trainer import learning_rates
from mnist_lib.training.trial import WorkerPlace, run_trials
from tests.support.results import epochs_in

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("tensorflow")]

SPEC = TrialSpec.of("keras", epochs=4, hidden_units=8, schedule="one-cycle", validation_percent=10)
STEPS = 3  # of an epoch: 360 images


def events_of(
    digits: Dataset,
    checkpoint: bytes | None = None,
    spec: TrialSpec = SPEC,
    before: Sequence[TrialEvent] = (),
    **fields: Any,
) -> list[TrialEvent]:
    train = digits.train.take(np.arange(0, 4_000, 10))
    dataset, resources = Dataset.of("few", "1", train, digits.test), Resources(cpus=2, cpu_replicas=2)
    place = WorkerPlace(node="here")
    assignment = Assignment(spec, checkpoint, epochs=epochs_in(before), **fields)
    return list(run_trials([assignment], lambda: dataset, resources, place, 0))


@pytest.fixture(scope="module")
def events(tensorflow: None, digits: Dataset) -> list[TrialEvent]:
    return events_of(digits)


def result_of(events: list[TrialEvent]) -> TrialResult:
    assert isinstance(events[-1], TrialResult)
    return events[-1]


def shown(result: TrialResult, folder: Path) -> EventAccumulator:
    (folder / f"events.out.tfevents.{result.trial}").write_bytes(result.tensorboard)
    return EventAccumulator(str(folder)).Reload()


def test_every_epoch_has_its_numbers_at_its_step(events: list[TrialEvent], tmp_path: Path) -> None:
    seen, epochs = shown(result_of(events), tmp_path), [event for event in events if isinstance(event, EpochDone)]
    rates = learning_rates(SPEC, STEPS)
    expected = {
        "loss": [epoch.loss for epoch in epochs],
        "accuracy/train": [epoch.train.value for epoch in epochs],
        "accuracy/validation": [epoch.validation.value for epoch in epochs if epoch.validation],
        "learning_rate": rates[STEPS - 1 :: STEPS],
        "images_per_second": [360 / epoch.seconds for epoch in epochs],
    }
    assert set(seen.Tags()["scalars"]) == set(expected)
    for tag, values in expected.items():
        scalars = seen.Scalars(tag)
        assert [scalar.step for scalar in scalars] == [1, 2, 3, 4]
        np.testing.assert_array_equal([scalar.value for scalar in scalars], np.asarray(values, np.float32))
        times = [scalar.wall_time for scalar in scalars]
        np.testing.assert_allclose(np.diff(times), [epoch.seconds for epoch in epochs[1:]], atol=1e-5)
        assert time.time() - 300 < times[0]
        assert times[-1] <= time.time()


def test_the_images_are_the_ten_most_confident_mistakes_on_test(
    events: list[TrialEvent], digits: Dataset, tmp_path: Path
) -> None:
    import tensorflow as tf

    result, test = result_of(events), digits.test
    predicted, confidence = result.probabilities.argmax(axis=1), result.probabilities.max(axis=1)
    wrong = np.flatnonzero(predicted != test.labels)
    mistakes = wrong[np.argsort(-confidence[wrong], kind="stable")][:10]
    seen = shown(result, tmp_path)
    assert seen.Tags()["images"] == [
        f"mistakes/{rank:02}: label {test.labels[i]}, predicted {predicted[i]} ({confidence[i]:.1%}), image {i}"
        for rank, i in enumerate(mistakes, start=1)
    ]
    for tag, index in zip(seen.Tags()["images"], mistakes, strict=True):
        (image,) = seen.Images(tag)
        assert (image.step, image.width, image.height) == (result.record.best_epoch, 28, 28)
        np.testing.assert_array_equal(tf.io.decode_png(image.encoded_image_string), test.images[index])


def test_a_trial_that_resumed_from_a_checkpoint_has_every_epoch_once(
    events: list[TrialEvent], digits: Dataset, tmp_path: Path
) -> None:
    checkpoint = next(event for event in events if isinstance(event, CheckpointTaken) and event.epoch == 2)
    resumed = result_of(events_of(digits, checkpoint.content, before=events))
    losses = [(loss.step, loss.value) for loss in shown(resumed, tmp_path).Scalars("loss")]
    assert losses == [(epoch.epoch, np.float32(epoch.loss)) for epoch in result_of(events).history]


def test_a_partly_trained_epoch_has_the_learning_rate_of_its_last_step(
    digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "STEPS_PER_CHUNK", 1)
    result = result_of(events_of(digits, until=2, images=256))
    assert [epoch.train.total for epoch in result.history] == [360, 256]
    rates = [scalar.value for scalar in shown(result, tmp_path).Scalars("learning_rate")]
    assert rates == [learning_rates(SPEC, STEPS)[step - 1] for step in (3, 5)]


def test_without_validation_and_without_mistakes_the_other_values_are_written(
    events: list[TrialEvent], digits: Dataset, tmp_path: Path
) -> None:
    from mnist_lib.report.tensorboard import event_file

    test = result_of(events).record.test
    history = (EpochDone(trial="t", epoch=1, loss=0.5, train=test, validation=None, seconds=1.0),)
    certain = np.eye(10, dtype=np.float32)[digits.test.labels]
    (tmp_path / "tfevents").write_bytes(
        event_file(history, np.array([0.01], np.float32), 1, certain, digits.test, DIGITS)
    )
    tags = EventAccumulator(str(tmp_path)).Reload().Tags()
    assert set(tags["scalars"]) == {"loss", "accuracy/train", "learning_rate", "images_per_second"}
    assert tags["images"] == []
