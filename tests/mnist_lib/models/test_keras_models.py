"""Augmentation is random, reproducible, and for training only."""

import dataclasses
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from mnist_lib.errors import ModelError
from mnist_lib.models.augmentation import AugmentedModel
from mnist_lib.models.building import build_model
from mnist_lib.models.keras_models import KERAS_FILE, KerasModel, first_step
from mnist_lib.spec import TrialSpec
from tests.support.stored import small_spec

pytestmark = pytest.mark.usefixtures("tensorflow")


def test_images_are_augmented_in_training_only() -> None:
    model = build_model(TrialSpec.of("keras-cnn", hidden_units=16), (28, 28, 1), 10)
    weights = model.initial_weights(0)
    images = tf.cast(tf.random.stateless_uniform((4, 28, 28, 1), [0, 0], 0, 256, tf.int32), tf.uint8)
    first, again = (model.logits(weights, images) for _ in range(2))
    assert (first.numpy() == again.numpy()).all()
    (first, state, _), (again, _, _) = (model.train_logits(weights, images, tf.constant(0)) for _ in range(2))
    assert (first.numpy() == again.numpy()).all()  # the random state is an argument
    other, _, _ = model.train_logits(weights._replace(state=state), images, tf.constant(0))
    assert (first.numpy() != other.numpy()).any()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["keras-cnn", "keras-best", "keras-resnet"])
def test_each_augmentation_draws_anew_at_each_step_and_in_each_replica(name: str) -> None:
    changes: list[np.ndarray] = []
    model = build_model(small_spec(name), (28, 28, 1), 10)
    assert isinstance(model, AugmentedModel)
    augmentations = [*model.augmentations]

    def record(images: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        changes.append(np.asarray(augmentations[len(changes) % len(augmentations)](images, seed)))
        return images

    model.augmentations = [record] * len(augmentations)
    weights = model.initial_weights(0)
    images = tf.cast(tf.random.stateless_uniform((4, 28, 28, 1), [0, 0], 0, 256, tf.int32), tf.uint8)
    _, state, _ = model.train_logits(weights, images, tf.constant(0))
    _, of_replica, _ = model.train_logits(weights, images, tf.constant(1))
    model.train_logits(weights._replace(state=state), images, tf.constant(0))
    count = len(augmentations)
    for first, other, later in zip(changes[:count], changes[count : 2 * count], changes[2 * count :], strict=True):
        assert (first != images.numpy()).any()
        assert (first != other).any()
        assert (first != later).any()
    assert all(map(np.array_equal, state[:count], of_replica))


def test_replicas_draw_different_random_numbers_and_end_with_the_same_state() -> None:
    """They would otherwise drop the same units, and move their images by the same pixels."""

    def layers() -> list[keras.layers.Layer]:
        return [keras.layers.Rescaling(1.0), keras.layers.Flatten(), keras.layers.Dropout(0.5)]

    model = KerasModel(layers(), layers, (4, 4, 1), "float32")
    weights, images = model.initial_weights(0), tf.ones((8, 4, 4, 1), tf.uint8)
    outputs, states = [], []
    for replica in (0, 0, 1, 5):
        output, state, _ = model.train_logits(weights, images, tf.constant(replica))
        outputs.append(output.numpy())
        states.append([value.numpy().tolist() for value in state])
    assert (outputs[0] == outputs[1]).all()
    assert (outputs[0] != outputs[2]).any()
    assert (outputs[2] != outputs[3]).any()
    assert all(state == states[0] for state in states)
    assert states[0] != [value.numpy().tolist() for value in weights.state]


@pytest.mark.parametrize(
    ("shape", "step"),
    [
        ((8, 8, 1), 1),
        ((28, 28, 1), 1),
        ((47, 47, 3), 1),
        ((48, 48, 3), 2),
        ((32, 96, 3), 2),
        ((95, 95, 3), 2),
        ((96, 96, 3), 4),
        ((224, 224, 3), 8),
    ],
)
def test_keras_resnet_takes_larger_steps_in_larger_images_and_moves_them_as_far(
    shape: tuple[int, int, int], step: int
) -> None:
    assert first_step(shape, positions=24) == step
    assert first_step(shape, positions=224) == 1
    spec = small_spec("keras-resnet")
    model = build_model(dataclasses.replace(spec, augment="network"), shape, 10)
    assert isinstance(model, AugmentedModel)
    (first, *_), (augment,) = model.initial_weights(0).trainable, model.augmentations
    assert first.shape[:2] == ((3, 3) if step == 1 else (2 * step + 1, 2 * step + 1))
    images = np.full((64, *shape), 255, np.uint8)
    moved = np.concatenate([augment(images, tf.constant([seed, 0])) for seed in range(8)])
    blank_rows = (moved[:, :, shape[1] // 2, 0] == 0).sum(axis=1)
    assert blank_rows.max() == step


def test_a_spec_of_an_earlier_release_has_the_network_of_that_time() -> None:
    spec = TrialSpec.of("keras-resnet", arguments={"width": 4})
    assert spec.arguments == {"width": 4, "blocks": 1, "positions": 24}
    fields = {field.name: getattr(spec, field.name) for field in dataclasses.fields(spec)}
    earlier = TrialSpec(**{**fields, "arguments": {"width": 4, "blocks": 1}})
    assert build_model(earlier, (64, 64, 3), 10).initial_weights(0).trainable[0].shape == (3, 3, 3, 4)
    assert build_model(spec, (64, 64, 3), 10).initial_weights(0).trainable[0].shape == (5, 5, 3, 4)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "size"), [("keras-cnn", 28), ("keras-resnet", 28), ("keras-best", 72)])
def test_a_model_is_stored_with_layers_of_keras_only_and_predicts_as_the_trained_one(
    name: str, size: int, tmp_path: Path
) -> None:
    model = build_model(TrialSpec.of(name), (size, size, 1), 10)
    weights = model.initial_weights(0)
    images = tf.cast(tf.random.stateless_uniform((8, size, size, 1), [0, 0], 0, 256, tf.int32), tf.uint8)
    weights = weights._replace(state=model.train_logits(weights, images, tf.constant(0))[1])
    files = model.files(weights)
    assert np.array_equal(model.logits(model.read(files), images), model.logits(weights, images))
    (tmp_path / KERAS_FILE).write_bytes(files[KERAS_FILE])
    stored = keras.models.load_model(tmp_path / KERAS_FILE)
    layers = {type(layer) for layer in stored._flatten_layers(include_self=False)}
    assert keras.layers.BatchNormalization in layers
    assert all(layer.__module__.startswith("keras.") for layer in layers)
    logits = model.logits(weights, images)
    assert np.allclose(stored(images), tf.nn.softmax(logits), atol=1e-5)


def test_the_activations_of_a_model_are_known_without_running_it() -> None:
    model = build_model(TrialSpec.of("keras-resnet"), (28, 28, 1), 10)
    assert model.activation_bytes == 2 * 4 * 28 * 28 * 16  # the first stage, in a model within the model

    class Opaque(keras.Model):
        def call(self, images: tf.Tensor) -> tf.Tensor:
            return keras.ops.repeat(keras.ops.reshape(images, (-1, 1)), 10, axis=1)

    assert KerasModel([Opaque()], list, (1, 1, 1), "float32").activation_bytes == 2 * 4 * 10  # its output only


def test_a_model_whose_weights_exceed_the_limit_is_refused_before_it_is_built() -> None:
    spec = TrialSpec.of("keras", hidden_units=65_536)
    with pytest.raises(ModelError, match="keras: expected weights of up to 1,000,000,000 bytes, got 52,613,349,376"):
        build_model(spec, (224, 224, 4), 10)
