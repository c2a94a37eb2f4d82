"""Augmentation is random, reproducible, and for training only."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from mnist_lib.errors import ModelError
from mnist_lib.models.building import build_model
from mnist_lib.models.keras_models import KerasModel, RandomShift
from mnist_lib.spec import TrialSpec

pytestmark = pytest.mark.usefixtures("tensorflow")


def test_a_random_shift_moves_every_pixel_of_an_image_alike_and_reproducibly() -> None:
    images = np.zeros((200, 6, 6, 1), np.uint8)
    images[:, 2, 3] = 255
    keras.utils.set_random_seed(0)
    shifted = RandomShift(1)(images, training=True).numpy()
    places = {tuple(place) for place in np.argwhere(shifted[..., 0])[:, 1:]}
    assert places == {(row, column) for row in (1, 2, 3) for column in (2, 3, 4)}
    assert (shifted.reshape(200, -1).sum(axis=1) == 255).all()
    keras.utils.set_random_seed(0)
    assert (RandomShift(1)(images, training=True).numpy() == shifted).all()
    assert (RandomShift(1)(images).numpy() == images).all()


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


def test_replicas_draw_different_random_numbers_and_end_with_the_same_state() -> None:
    """They would otherwise drop the same units, and move their images by the same pixels."""
    model = KerasModel(
        lambda: [
            keras.layers.Rescaling(1.0),
            keras.layers.Flatten(),
            keras.layers.Dropout(0.5),
        ],
        (4, 4, 1),
        "float32",
    )
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


def test_the_activations_of_a_model_are_known_without_running_it() -> None:
    model = build_model(TrialSpec.of("keras-resnet"), (28, 28, 1), 10)
    assert model.activation_bytes == 2 * 4 * 28 * 28 * 16  # the first stage, in a model within the model

    class Opaque(keras.Model):
        def call(self, images: tf.Tensor) -> tf.Tensor:
            return keras.ops.repeat(keras.ops.reshape(images, (-1, 1)), 10, axis=1)

    assert KerasModel(lambda: [Opaque()], (1, 1, 1), "float32").activation_bytes == 2 * 4 * 10  # its output only


def test_a_model_whose_weights_exceed_the_limit_is_refused_before_it_is_built() -> None:
    spec = TrialSpec.of("keras", hidden_units=65_536)
    with pytest.raises(ModelError, match="keras: expected weights of up to 1,000,000,000 bytes, got 52,613,349,376"):
        build_model(spec, (224, 224, 4), 10)
