"""Training with made-up pictures as a further class: its loss, equal weights, and what it rejects."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from mnist_lib.data import batches
from mnist_lib.data.batches import Plan, ReplicaPart, epochs
from mnist_lib.data.dataset import Dataset
from mnist_lib.data.made_up import MAKERS, MadeUp
from mnist_lib.data.table import TEST, TRAIN, Table
from mnist_lib.loading import StoredPredictor, build
from mnist_lib.models.building import build_model
from mnist_lib.objects.local import LocalObjects
from mnist_lib.pictures.likeness import REJECT_SHARE
from mnist_lib.results import CheckpointTaken, TrialEvent, TrialResult
from mnist_lib.spec import TrialSpec
from mnist_lib.store.contents import StoredModel, contents_of
from mnist_lib.store.margins import MARGINS
from mnist_lib.store.publishing import publish
from mnist_lib.training import trial
from mnist_lib.training.assignment import Assignment, Resources
from mnist_lib.training.steps import MADE_UP_WEIGHT, gradients_of, gradients_of_microbatches
from mnist_lib.training.trial import WorkerPlace, run_trials
from tests.mnist_lib.pictures.test_likeness import bars, discs
from tests.support.results import epochs_in

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("tensorflow")]

ONE, TWO = Resources(cpus=1), Resources(cpus=2, cpu_replicas=2)


@pytest.fixture(autouse=True)
def configured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the two devices that the fixture `tensorflow` has set up; a single replica uses the first."""
    monkeypatch.setattr(trial, "configure_process", lambda *_: None)


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    rng = np.random.default_rng(0)
    pictures = Dataset.of("bars", "1", bars(300, rng), bars(150, rng), ("upright", "lying"))
    return replace(pictures, made_up=tuple(MAKERS))


def spec_of(model: str = "keras", **settings: Any) -> TrialSpec:
    shared: dict[str, Any] = {"hidden_units": 16, "epochs": 2, "global_batch_size": 64}
    return TrialSpec.of(model, dataset="bars", **(shared | settings))


def events(
    assignment: Assignment, dataset: Dataset, resources: Resources = ONE, seconds: float = 30
) -> Sequence[TrialEvent]:
    return [*run_trials([assignment], lambda: dataset, resources, WorkerPlace(node="here"), seconds)]


def trained(spec: TrialSpec, dataset: Dataset, resources: Resources = ONE) -> TrialResult:
    *_, result = events(Assignment(spec), dataset, resources)
    assert isinstance(result, TrialResult), result
    return result


def batch_of(dataset: Dataset, size: int = 32) -> ReplicaPart:
    plan = Plan(size, size, 1, made_up=MadeUp(dataset.made_up))
    (chunk,) = epochs(dataset.train.take(np.arange(size)), plan, seed=0, first=1, last=1)
    return ReplicaPart(*(part[0] for part in chunk.parts[0]))


def test_the_loss_is_that_of_a_further_class_whose_logit_is_0(dataset: Dataset) -> None:
    model = build_model(spec_of(), dataset.image_shape, 2)
    weights = model.initial_weights(0)
    batch = batch_of(dataset)
    assert batch.made_up.shape == (8, 12, 12, 1)
    found, *_ = gradients_of(model, 0.0, [False] * len(weights.trainable), weights, batch, 1)
    with tf.GradientTape() as tape:
        tape.watch(weights.trainable)
        images = tf.concat([batch.images, batch.made_up], 0)
        logits = model.logits(weights, images)
        of_all = tf.concat([logits, tf.zeros((40, 1))], axis=1)
        labels = tf.concat([tf.cast(batch.labels, tf.int32), tf.fill((8,), 2)], axis=0)
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, of_all)
        loss = tf.reduce_mean(losses[:32]) + MADE_UP_WEIGHT * tf.reduce_mean(losses[32:])
    for mine, theirs in zip(found, tape.gradient(loss, weights.trainable), strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-6)


def test_microbatches_share_the_made_up_pictures(dataset: Dataset) -> None:
    model = build_model(spec_of(), dataset.image_shape, 2)
    weights = model.initial_weights(0)
    batch = batch_of(dataset)
    gradients = partial(gradients_of, model, 0.0, [False] * len(weights.trainable))
    whole, _, totals, margins = gradients(weights, batch, 1)
    for count in (2, 32):  # more than there are made-up pictures
        shared, _, shared_totals, shared_margins = gradients_of_microbatches(gradients, count, weights, batch, 1)
        assert [*map(float, shared_totals)] == pytest.approx([*map(float, totals)])
        np.testing.assert_allclose(margins, shared_margins, atol=1e-5)
        if count == 2:
            for mine, theirs in zip(whole, shared, strict=True):
                np.testing.assert_allclose(mine, theirs, atol=1e-6)


def test_only_images_are_counted(dataset: Dataset) -> None:
    result = trained(spec_of(), dataset)
    assert [epoch.train.total for epoch in result.history] == [300, 300]
    assert result.probabilities.shape == (150, 2)
    assert MARGINS in result.files


def test_it_is_turned_off_by_the_spec_and_by_the_dataset(dataset: Dataset) -> None:
    without = trained(spec_of(), replace(dataset, made_up=()))
    assert trained(spec_of(none_class=False), dataset).record.weights_sha256 == without.record.weights_sha256
    assert without.record.rejected == {}
    assert trained(spec_of(), dataset).record.weights_sha256 != without.record.weights_sha256
    some = trained(spec_of(), replace(dataset, made_up=("noise",)))
    assert [*some.record.rejected] == ["noise"]


def test_a_fold_is_trained_with_the_same_loss(dataset: Dataset) -> None:
    fold = spec_of(fold=1, folds=3)
    result = trained(fold, dataset)
    assert result.of_fold is not None
    assert result.record.weights_sha256 != trained(replace(fold, none_class=False), dataset).record.weights_sha256


@pytest.mark.parametrize(
    ("model", "resources"), [("keras", TWO), pytest.param("keras-cnn", ONE, marks=pytest.mark.long)]
)
def test_a_trial_resumed_after_any_chunk_ends_with_the_same_weights(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch, model: str, resources: Resources
) -> None:
    monkeypatch.setattr(batches, "STEPS_PER_CHUNK", 2)
    spec = replace(spec_of(model), microbatches=2)
    whole = events(Assignment(spec), dataset, resources, 1e-9)
    expected = whole[-1]
    assert isinstance(expected, TrialResult)
    taken = [event.content for event in whole if isinstance(event, CheckpointTaken)]
    assert len(taken) == 5
    for content in taken:
        *_, result = events(Assignment(spec, content, epochs=epochs_in(whole)), dataset, resources)
        assert isinstance(result, TrialResult), result
        assert result.record.weights_sha256 == expected.record.weights_sha256
        assert result.files[MARGINS] == expected.files[MARGINS]
        assert result.record.rejected == expected.record.rejected


def test_x9_more_pictures_of_something_else_are_rejected_and_blank_ones_always(digits: Dataset, tmp_path: Any) -> None:
    rng = np.random.default_rng(2)
    objects = LocalObjects(tmp_path)
    own = Dataset.of("own", "1", digits.train.take(np.arange(1_000)), digits.test.take(np.arange(500)))
    own = replace(own, made_up=tuple(MAKERS))
    fresh = np.asarray(digits.test.images[500:])
    pictures = {
        "fresh": fresh,
        "lower halves": fresh[:, 14:].repeat(2, axis=1),
        "noise": rng.integers(256, size=(200, 28, 28, 1), dtype=np.uint8),
        "blank": np.zeros((50, 28, 28, 1), np.uint8) + rng.integers(256, size=(50, 1, 1, 1), dtype=np.uint8),
    }
    shares = {}
    for none_class in (False, True):
        spec = spec_of(epochs=8, hidden_units=64, none_class=none_class)
        result = trained(spec, own)
        version = publish(objects, "keras", f"run-{none_class}", *contents_of(result, own, "run", {}))
        predictor = StoredPredictor(build(StoredModel.read(objects, version)))
        answers = {name: predictor.answers(images).likeness <= REJECT_SHARE for name, images in pictures.items()}
        shares[none_class] = {name: rejected.mean() for name, rejected in answers.items()}
    assert result.record.rejected["noise"].total == 167  # every third of 500
    assert result.record.rejected["noise"].value >= 0.9
    assert (predictor.answers(pictures["blank"]).likeness > 0).all()  # so that a share of 0 rejects nothing
    assert result.record.rejected["two"].value >= 0.8
    assert shares[True]["blank"] == 1
    assert shares[True]["noise"] >= 0.9
    assert shares[True]["fresh"] <= 0.06
    assert shares[True]["lower halves"] > shares[False]["lower halves"] + 0.1


def test_held_out_counter_examples_are_counted(dataset: Dataset) -> None:
    rng = np.random.default_rng(3)
    pictures = np.concatenate([discs(30, rng), discs(9, rng)])
    splits = np.repeat(np.array((TRAIN, TEST), np.uint8), (30, 9))
    given = Table.of(pictures, np.full(39, len(dataset.classes), np.uint8), splits=splits)
    both = replace(dataset, table=dataset.table.followed_by(given))
    record = trained(spec_of(epochs=15, global_batch_size=32, hidden_units=64), both).record
    assert record.rejected["counter-examples"].total == 9
    assert record.rejected["counter-examples"].correct >= 8
    assert record.test.total == len(dataset.test)
    assert [*trained(spec_of(none_class=False), both).record.rejected] == ["counter-examples"]  # measured all the same
