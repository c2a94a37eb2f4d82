"""The margins of training images, and their file."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import tensorflow as tf

from mnist_lib.data import batches
from mnist_lib.data.batches import Plan, epochs
from mnist_lib.data.dataset import Dataset
from mnist_lib.data.table import indices_of
from mnist_lib.errors import IntegrityError
from mnist_lib.models.building import build_model
from mnist_lib.objects.archives import npz
from mnist_lib.results import TrialResult
from mnist_lib.spec import TrialSpec
from mnist_lib.store import margins
from mnist_lib.store.margins import MARGINS, Margins, counted_epochs, no_sums
from mnist_lib.training import trial
from mnist_lib.training.assignment import Assignment, Resources
from mnist_lib.training.prediction import Predictor
from mnist_lib.training.steps import gradients_of, gradients_of_microbatches
from mnist_lib.training.trial import WorkerPlace, run_trials

UNMOVED = 1e-20  # a learning rate that changes no weight


def trained(dataset: Dataset, spec: TrialSpec, resources: Resources) -> Margins:
    place = WorkerPlace(node="here")
    *_, result = run_trials([Assignment(spec)], lambda: dataset, resources, place)
    assert isinstance(result, TrialResult)
    return Margins.read(result.files[MARGINS], "m")


@pytest.fixture
def configured(monkeypatch: pytest.MonkeyPatch, tensorflow: None) -> None:
    monkeypatch.setattr(trial, "configure_process", lambda *_: None)


@pytest.mark.slow
@pytest.mark.usefixtures("configured")
@pytest.mark.parametrize("replicas", [1, 2])
def test_margins_are_those_of_each_image_with_its_label(
    digits: Dataset, monkeypatch: pytest.MonkeyPatch, replicas: int
) -> None:
    """Chunks, batches and replicas are filled up with images that do not count."""
    monkeypatch.setattr(batches, "STEPS_PER_CHUNK", 2)
    spec = TrialSpec.of("keras", epochs=3, learning_rate=UNMOVED, global_batch_size=25, hidden_units=8)
    dataset = Dataset.of("few", "1", digits.train.take(np.arange(117)), digits.test)
    found = trained(dataset, replace(spec, validation_percent=0), Resources(cpus=2, cpu_replicas=replicas))
    model, train = build_model(spec, dataset.image_shape, 10), dataset.train
    predictor = Predictor(model, tf.distribute.MirroredStrategy(["/CPU:0"]))
    (outputs,) = predictor.predict(model.initial_weights(spec.seed), train.images)
    of_label = np.take_along_axis(outputs.logits, train.labels[:, None].astype(np.int64), axis=1)[:, 0]
    others = np.where(np.arange(10) == train.labels[:, None], -np.inf, outputs.logits).max(axis=1)
    rows = indices_of(train.hashes, found.hashes)
    assert sorted(rows) == [*range(117)]
    np.testing.assert_allclose(found.means[rows], of_label - others, atol=1e-4)
    assert (found.labels[rows] == train.labels).all()
    assert (np.diff(found.means) >= 0).all()


@pytest.mark.usefixtures("tensorflow")
def test_the_margins_of_the_microbatches_are_those_of_the_batch(digits: Dataset) -> None:
    spec = TrialSpec.of("keras", hidden_units=8)
    model, train = build_model(spec, digits.image_shape, 10), digits.train.take(np.arange(25))
    (chunk,) = epochs(train, Plan(25, 25, 1), seed=0, first=1, last=1)
    batch = chunk.parts[0]._replace(**{name: tensor[0] for name, tensor in chunk.parts[0]._asdict().items()})
    weights = model.initial_weights(seed=0)
    whole = partial(gradients_of, model, 0.0, [False] * len(weights.trainable))
    margins = gradients_of_microbatches(whole, 2, weights, batch, 1)[-1]
    np.testing.assert_allclose(margins, whole(weights, batch, 1)[-1], atol=1e-5)


@pytest.mark.slow
@pytest.mark.usefixtures("configured")
def test_wrong_labels_that_a_model_learns_by_heart_have_the_lowest_margins(digits: Dataset) -> None:
    labels, wrong = digits.train.labels[:300].copy(), np.arange(0, 300, 20)
    labels[wrong] = (labels[wrong] + 3) % 10
    dataset = Dataset.of("few", "1", replace(digits.train.take(np.arange(300)), labels=labels), digits.test)
    spec = replace(TrialSpec.of("keras-cnn", epochs=30, global_batch_size=16), validation_percent=0)
    found = trained(dataset, spec, Resources(cpus=2))
    lowest = indices_of(found.hashes[: len(wrong)], dataset.train.hashes)
    assert len({*lowest} & {*wrong}) >= 12


def test_the_first_half_of_the_epochs_counts() -> None:
    assert [counted_epochs(count) for count in (1, 2, 5, 40)] == [1, 1, 3, 20]


def test_margins_survive_a_file_and_only_the_lowest_are_stored(
    digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    sums, train = no_sums(5), digits.train.take(np.arange(5))
    sums[:] = [[6, 1, 0, -4, 5], [3, 1, 0, 2, 1]]  # means 2, 1, -2 and 5; the third was not trained on
    stored = Margins.read(Margins.of(sums, train).file(), "m")
    assert stored.means.tolist() == [-2, 1, 2, 5]
    assert (stored.hashes == train.hashes[[3, 1, 0, 4]]).all()
    assert stored.labels.tolist() == train.labels[[3, 1, 0, 4]].tolist()
    monkeypatch.setattr(margins, "MAX_STORED", 2)
    lowest = Margins.of(sums, train)
    assert lowest.means.tolist() == [-2, 1]
    assert lowest.quartiles.tolist() == np.percentile([2, 1, -2, 5], [25, 50, 75]).tolist()  # of all four


def test_a_malformed_file_of_margins_is_refused(digits: Dataset) -> None:
    found = Margins.of(np.ones((2, 3), np.float32), digits.train.take(np.arange(3)))
    arrays = {name: array for name, array in vars(found).items() if name != "means"}
    for content in (npz(arrays), found.file()[:-40], b""):
        with pytest.raises(IntegrityError, match=r"keras@1: margins.npz: expected "):
            Margins.read(content, "keras@1: margins.npz")
