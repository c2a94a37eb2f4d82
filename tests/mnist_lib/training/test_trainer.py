"""The training loop against `keras.fit` and on two replicas against one; evaluation; learning-rate schedules."""

import functools
from dataclasses import replace
from functools import partial

import keras
import numpy as np
import pytest
import tensorflow as tf
from numpy.typing import NDArray

from mnist_lib.catalog import OPTIMIZERS, PRECISIONS
from mnist_lib.data import batches
from mnist_lib.data.batches import Plan, epochs
from mnist_lib.data.dataset import Dataset
from mnist_lib.data.table import Table
from mnist_lib.errors import DivergedError
from mnist_lib.models.building import build_model
from mnist_lib.models.keras_models import KerasModel
from mnist_lib.results import Accuracy, EpochDone
from mnist_lib.spec import TrialSpec
from mnist_lib.training.prediction import accuracy_of
from mnist_lib.training.trainer import Trainer, learning_rates
from tests.support.stored import small_spec
from tests.support.training import train_epochs

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("tensorflow")]


@functools.cache
def trainer_of(spec: TrialSpec, replicas: int = 1) -> Trainer:
    """Cached, as trainers are shared by the trials of a lane."""
    strategy = tf.distribute.MirroredStrategy([f"/CPU:{i}" for i in range(replicas)])
    return Trainer(build_model(spec, (28, 28, 1), 10), spec, strategy)


def constant(learning_rate: float, steps: int = 1_000) -> NDArray[np.float32]:
    return np.full(steps, learning_rate, np.float32)


def first(split: Table, n: int) -> Table:
    return split.take(np.arange(n))


def keras_twin(spec: TrialSpec) -> keras.Model:
    """Return the network as a user of Keras would write it, ending in probabilities."""
    model = keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            keras.layers.Rescaling(1 / 255),
            keras.layers.Flatten(),
            keras.layers.Dense(spec.arguments["hidden_units"], activation="relu"),
            keras.layers.Dense(10, activation="softmax"),
        ]
    )
    classes = {"sgd": keras.optimizers.SGD, "rmsprop": keras.optimizers.RMSprop, "adam": keras.optimizers.Adam}
    model.compile(classes[spec.optimizer](spec.learning_rate), loss="sparse_categorical_crossentropy")
    return model


@pytest.mark.parametrize(
    "optimizer", [pytest.param(name, marks=() if name == "adam" else pytest.mark.long) for name in OPTIMIZERS]
)
def test_the_loop_gives_the_weights_of_keras_fit_on_equal_batches(
    digits: Dataset, optimizer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "STEPS_PER_CHUNK", 1)  # so that the loss of a chunk is that of a step
    spec = TrialSpec.of("keras", hidden_units=32, optimizer=optimizer)
    train = first(digits.train, 50 * 64)
    plan = Plan(len(train), 64, 1)
    trainer = trainer_of(spec)
    trainer.start(seed=0)
    twin = keras_twin(spec)
    twin.set_weights([value.numpy() for value in trainer.weights.trainable])

    chunks = list(epochs(train, plan, seed=0, first=1, last=1))
    totals = [trainer.train_chunk(chunk, constant(spec.learning_rate, 1)).totals for chunk in chunks]
    ours = [float(total.loss) / int(total.seen) for total in totals]
    pairs = [(chunk.parts[0].images[0], chunk.parts[0].labels[0]) for chunk in chunks]
    steps = tf.data.Dataset.from_tensor_slices(tuple(map(tf.stack, zip(*pairs, strict=True))))
    history = twin.fit(steps, epochs=50, steps_per_epoch=1, shuffle=False, verbose=0)  # an epoch of fit is a step

    assert len(ours) == 50
    np.testing.assert_allclose(ours, history.history["loss"], rtol=0, atol=1e-5)
    for mine, theirs in zip(trainer.weights.trainable, twin.get_weights(), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=0, atol=1e-5)


class Unused(keras.layers.Layer):
    """Has a weight that its output does not depend on, and a loss of its own."""

    def build(self, input_shape: tuple[int, ...]) -> None:
        self.weight = self.add_weight(shape=(3,), initializer="ones")

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        self.add_loss(0.01 * tf.reduce_mean(inputs))
        return inputs


def unusual_layers() -> list[keras.layers.Layer]:
    return [
        keras.layers.Rescaling(1 / 255),
        keras.layers.Flatten(),
        keras.layers.Dense(16, activation="relu", kernel_regularizer=keras.regularizers.L2(0.01)),
        Unused(),
        keras.layers.Dense(10, activity_regularizer=keras.regularizers.L1(0.001)),
    ]


@pytest.mark.filterwarnings("ignore:Gradients do not exist for variables")  # Keras warns, and trains the rest
@pytest.mark.parametrize("replicas", [1, 2])
def test_layer_losses_and_weights_without_a_gradient_are_treated_as_in_keras(digits: Dataset, replicas: int) -> None:
    train = first(digits.train, 10 * 64)
    strategy = tf.distribute.MirroredStrategy([f"/CPU:{i}" for i in range(replicas)])
    model = KerasModel(unusual_layers(), unusual_layers, (28, 28, 1), "float32")
    trainer = Trainer(model, TrialSpec.of("keras", optimizer="sgd"), strategy)
    twin = keras.Sequential([keras.Input((28, 28, 1), dtype="uint8"), *unusual_layers()])
    twin.compile(keras.optimizers.SGD(0.1), loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    twin.set_weights([value.numpy() for value in trainer.weights.trainable])
    for chunk in epochs(train, Plan(len(train), 64, replicas), seed=0, first=1, last=1):
        trainer.train_chunk(chunk, constant(0.1, 10))
        for step in range(10):
            parts = [(shard.images[step], shard.labels[step]) for shard in chunk.parts]
            images, labels = (np.concatenate(part) for part in zip(*parts, strict=True))
            twin.train_on_batch(images, labels)
    assert (trainer.weights.trainable[2].numpy() == 1).all()
    # The activity losses are means over a batch, so the mean over two replicas equals that of one up to rounding.
    for mine, theirs in zip(trainer.weights.trainable, twin.get_weights(), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=0, atol=1e-5)


def test_the_number_of_steps_per_chunk_does_not_change_the_weights(
    digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, train = TrialSpec.of("keras", hidden_units=8), first(digits.train, 500)
    hashes = set()
    for steps in (1, 3, batches.STEPS_PER_CHUNK):
        monkeypatch.setattr(batches, "STEPS_PER_CHUNK", steps)
        trainer = trainer_of(spec)
        trainer.start(seed=0)
        train_epochs(trainer, train, Plan(500, 32, 1), spec, 2)
        hashes.add(trainer.weights.sha256())
    assert len(hashes) == 1


# Batches of one image, of even and odd sizes, and larger than the dataset; last batches that are full, even or odd.
@pytest.mark.parametrize(
    ("n", "batch"),
    [(97, 1), (97, 32), *(pytest.param(*sizes, marks=pytest.mark.long) for sizes in ((98, 32), (99, 33), (101, 200)))],
)
def test_f24_two_replicas_learn_what_one_learns(digits: Dataset, n: int, batch: int) -> None:
    spec, train = TrialSpec.of("keras", hidden_units=8), first(digits.train, n)
    runs: list[tuple[EpochDone, Accuracy, np.ndarray]] = []
    for replicas in (1, 2):
        trainer = trainer_of(spec, replicas)
        trainer.start(seed=0)
        (epoch,) = train_epochs(trainer, train, Plan(n, batch, replicas), spec, 1)
        probabilities = trainer.predictor.probabilities(trainer.weights, first(digits.test, n).images)
        runs.append((epoch, accuracy_of(probabilities, first(digits.test, n).labels), probabilities))
    (one, one_test, one_probabilities), (two, two_test, two_probabilities) = runs
    assert one.train.total == two.train.total == n
    assert one_test.total == n
    assert two.loss == pytest.approx(one.loss, abs=1e-5)
    assert two.train == one.train
    assert two_test == one_test
    np.testing.assert_allclose(two_probabilities, one_probabilities, atol=1e-4)


def test_one_replica_trains_two_microbatches_as_two_replicas_train_them(digits: Dataset) -> None:
    """Batch statistics, random shifts, dropout and a last batch whose second part only fills in are the same."""
    spec = TrialSpec.of(
        "keras-cnn", hidden_units=8, global_batch_size=128, optimizer="sgd", learning_rate=0.05, schedule="constant"
    )
    train, runs = first(digits.train, 320), []
    for replicas in (1, 2):
        trainer = trainer_of(spec, replicas)
        trainer.start(seed=0)
        (epoch,) = train_epochs(trainer, train, Plan(320, 128, replicas), spec, 1)
        runs.append((epoch, [value.numpy() for kind in trainer.weights for value in kind]))
    (one, one_values), (two, two_values) = runs
    assert one.train == two.train
    assert one.loss == pytest.approx(two.loss, abs=1e-5)
    for mine, theirs in zip(one_values, two_values, strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-4)


@pytest.mark.parametrize("model", ["keras", "keras-cnn"])
def test_the_number_of_microbatches_changes_weights_where_batches_are_normalised(digits: Dataset, model: str) -> None:
    train, weights = first(digits.train, 32), []
    for microbatches in (1, 2):
        spec = TrialSpec.of(model, hidden_units=8, global_batch_size=32, optimizer="sgd", microbatches=microbatches)
        trainer = trainer_of(spec)
        trainer.start(seed=0)
        train_epochs(trainer, train, Plan(32, 32, 1), spec, 2)
        weights.append(trainer.weights)
    one, two = ([value.numpy() for value in each.trainable] for each in weights)
    if model == "keras":
        assert all(map(partial(np.allclose, atol=1e-5), one, two))
    else:
        assert not any(map(partial(np.allclose, atol=1e-5), one[:2], two[:2]))


def test_a_batch_is_divided_into_at_most_one_microbatch_for_each_image(digits: Dataset) -> None:
    spec, train = TrialSpec.of("keras-cnn", hidden_units=8, global_batch_size=3, microbatches=4), first(digits.train, 3)
    trainer = trainer_of(spec)
    trainer.start(seed=0)
    (epoch,) = train_epochs(trainer, train, Plan(3, 3, 1), spec, 1)
    assert epoch.train.total == 3
    assert all(np.isfinite(value).all() for value in trainer.weights.trainable)


@pytest.mark.parametrize("model", ["keras", "scratch"])
@pytest.mark.parametrize("replicas", [1, 2])
def test_balanced_class_weights_give_the_weights_of_keras_class_weight(
    digits: Dataset, model: str, replicas: int
) -> None:
    ones, sevens = (np.flatnonzero(digits.train.labels == label)[:n] for label, n in ((1, 90), (7, 10)))
    train = digits.train.take(np.concatenate([ones, sevens]))
    spec = TrialSpec.of(model, hidden_units=8, optimizer="sgd", learning_rate=0.05, class_weights="balanced")
    trainer = trainer_of(spec, replicas)
    trainer.start(seed=0)
    twin = keras_twin(spec)
    twin.set_weights([value.numpy() for value in trainer.weights.trainable])
    plan = Plan(100, 32, replicas)  # the last batch has 4 images
    for chunk in epochs(train, plan, seed=3, first=1, last=2):
        for step in range(plan.steps):
            real = [shard.weights[step] > 0 for shard in chunk.parts]
            images, labels = (
                np.concatenate([part[step][mask] for part, mask in zip(parts, real, strict=True)])
                for parts in zip(*(shard[:2] for shard in chunk.parts), strict=True)
            )
            weights = dict.fromkeys(range(10), 0.0) | {1: 100 / (2 * 90), 7: 100 / (2 * 10)}
            twin.train_on_batch(images, labels, class_weight=weights)
    train_epochs(trainer, train, plan, replace(spec, seed=3), 2)
    for mine, theirs in zip(trainer.weights.trainable, twin.get_weights(), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=0, atol=1e-5)


@pytest.mark.parametrize("replicas", [1, 2])
def test_p9_weights_are_equal_for_equal_seeds_and_differ_for_different_seeds(digits: Dataset, replicas: int) -> None:
    spec, train = TrialSpec.of("scratch", hidden_units=8), first(digits.train, 300)
    trainer, plan = trainer_of(spec, replicas), Plan(300, 32, replicas)
    hashes = []
    for seed in (0, 1, 0):
        trainer.start(seed)
        train_epochs(trainer, train, plan, replace(spec, seed=seed), 2)
        hashes.append(trainer.weights.sha256())
    assert hashes[0] == hashes[2] != hashes[1]


def test_epochs_trained_in_two_calls_equal_those_in_one(digits: Dataset) -> None:
    spec, train = TrialSpec.of("keras", hidden_units=8), first(digits.train, 300)
    trainer, plan = trainer_of(spec), Plan(300, 32, 1)
    hashes = []
    for cuts in ([(0, 4)], [(0, 2), (2, 4)]):
        trainer.start(seed=0)
        for before, last in cuts:
            train_epochs(trainer, train, plan, spec, last, done=before)
        hashes.append(trainer.weights.sha256())
    assert hashes[0] == hashes[1]


def test_compiling_does_not_change_the_weights(digits: Dataset) -> None:
    spec, train = TrialSpec.of("keras", hidden_units=8), first(digits.train, 100)
    trainer = trainer_of(spec)
    trainer.start(seed=0)
    before = trainer.weights.sha256()
    trainer.compile(train, Plan(100, 32, 1))
    assert trainer.weights.sha256() == before


@pytest.mark.parametrize(
    "model",
    ["keras", "scratch", *(pytest.param(name, marks=pytest.mark.long) for name in ("keras-cnn", "keras-resnet"))],
)
def test_bfloat16_trains_float32_weights_to_a_similar_loss(digits: Dataset, model: str) -> None:
    train = digits.train.take(np.arange(0, 3_840, 12))  # 320, of all classes
    losses = []
    for precision in PRECISIONS:
        spec = small_spec(model, 32, precision=precision)
        trainer = trainer_of(spec)
        trainer.start(seed=0)
        epochs = train_epochs(trainer, train, Plan(len(train), 32, 1), spec, 2)
        # Both epochs: after the second, the loss is so small that rounding changes a large share of it.
        losses.append(sum(epoch.loss for epoch in epochs))
        assert {weight.dtype for weight in trainer.weights.trainable} == {tf.float32}
    assert losses[0] != losses[1]  # the second was computed in bfloat16
    assert losses[1] == pytest.approx(losses[0], rel=0.15)


@pytest.mark.parametrize("replicas", [1, 2])
def test_the_error_locates_the_first_loss_that_is_not_finite(digits: Dataset, replicas: int) -> None:
    train = first(digits.train, 256)
    spec = TrialSpec.of("keras", hidden_units=8, optimizer="sgd", learning_rate=1e38, schedule="constant")
    trainer = trainer_of(spec, replicas)
    trainer.start(seed=0)
    with pytest.raises(
        DivergedError, match="the loss of epoch 1, step 2 of 2 is not a finite number; use a lower --learning-rate"
    ):
        train_epochs(trainer, train, Plan(256, 128, replicas), spec, 3)


@pytest.mark.parametrize("n", [1, 999, 1_000, 1_001, 2_001])
@pytest.mark.parametrize("replicas", [1, 2])
def test_f24_any_number_of_images_gets_one_prediction_each(digits: Dataset, n: int, replicas: int) -> None:
    spec = TrialSpec.of("keras", hidden_units=8)
    trainer = trainer_of(spec, replicas)
    images = first(digits.train, n).images
    probabilities = trainer.predictor.probabilities(trainer.weights, images)
    model = build_model(spec, digits.image_shape, 10)
    logits = model.logits(trainer.weights, tf.constant(images))
    np.testing.assert_allclose(probabilities, tf.nn.softmax(logits), atol=1e-5)


def test_probabilities_that_are_not_finite_are_refused(digits: Dataset) -> None:
    trainer = trainer_of(TrialSpec.of("keras", hidden_units=8))
    weights = trainer.weights
    broken = weights._replace(trainable=[tf.fill(value.shape, np.nan) for value in weights.trainable])
    with pytest.raises(DivergedError, match="not finite"):
        trainer.predictor.probabilities(broken, digits.test.images[:3])


def test_a_tie_between_classes_counts_for_the_lower_one() -> None:
    assert accuracy_of(np.full((2, 10), 0.1, np.float32), np.array([0, 1], np.uint8)) == Accuracy(1, 2)


def rates_of(schedule: str, steps: int) -> NDArray[np.float32]:
    return learning_rates(TrialSpec.of("keras", epochs=1, schedule=schedule, learning_rate=0.5), steps)


def test_the_constant_schedule_has_the_same_rate_at_every_step() -> None:
    assert rates_of("constant", 3).tolist() == [0.5, 0.5, 0.5]


@pytest.mark.parametrize("steps", [1, 2, 3, 100])
def test_the_one_cycle_schedule_rises_then_falls_and_is_never_0(steps: int) -> None:
    rates = rates_of("one-cycle", steps)
    top = int(rates.argmax())
    assert len(rates) == steps
    assert 0 < rates.min() <= rates.max() <= 0.5
    assert (np.diff(rates[: top + 1]) >= 0).all()
    assert (np.diff(rates[top:]) <= 0).all()


def test_the_one_cycle_schedule_peaks_after_a_quarter_of_the_steps() -> None:
    rates = rates_of("one-cycle", 999)
    assert rates.argmax() == 249
    assert rates.max() == 0.5
