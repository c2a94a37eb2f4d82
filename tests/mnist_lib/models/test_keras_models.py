"""Augmentation is random, reproducible, and for training only."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from mnist_lib.models.keras_models import RandomShift
from mnist_lib.models.model import build_model
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
    model = build_model(TrialSpec.of("keras-cnn", hidden_units=16), (28, 28, 1))
    weights = model.initial_weights(0)
    images = tf.cast(tf.random.stateless_uniform((4, 28, 28, 1), [0, 0], 0, 256, tf.int32), tf.uint8)
    (first, _), (again, _) = (model.logits(weights, images, training=False) for _ in range(2))
    assert (first.numpy() == again.numpy()).all()
    (first, state), (again, _) = (model.logits(weights, images, training=True) for _ in range(2))
    assert (first.numpy() == again.numpy()).all()  # the random state is an argument
    (other, _) = model.logits(weights._replace(state=state), images, training=True)
    assert (first.numpy() != other.numpy()).any()
