"""The augmentations of a model as a Keras layer, for `keras.fit`."""

from collections.abc import Sequence

import keras
import tensorflow as tf

from mnist_lib.models.augmentation import Augmentation, shifted


class Augmented(keras.layers.Layer):  # type: ignore[misc]
    """Changes images in training only. The result of each augmentation is rounded to the type of the images.

    `fit` does not know the size of a batch, so each image has its own shift.
    """

    def __init__(self, augmentations: Sequence[Augmentation]) -> None:
        super().__init__(autocast=False)
        self._augmentations = [each_shifted if augment is shifted else augment for augment in augmentations]
        self._seeds = [keras.random.SeedGenerator() for _ in augmentations]

    def call(self, images: tf.Tensor, training: bool = False) -> tf.Tensor:
        """images: [batch, height, width, channels] -> the same shape and type."""
        if training:
            for augment, seeds in zip(self._augmentations, self._seeds, strict=True):
                images = tf.cast(augment(images, tf.cast(seeds.next(), tf.int32)), images.dtype)
        return images


def each_shifted(images: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Move each image of a batch of any size by at most one pixel along each axis; otherwise as in `shifted`."""
    height, width = images.shape[1:3]
    begin = tf.random.stateless_uniform((tf.shape(images)[0], 2), seed, 0, 3, tf.int32)
    rows, columns = begin[:, :1] + tf.range(height), begin[:, 1:] + tf.range(width)
    images = tf.gather(tf.pad(images, [[0, 0], [1, 1], [1, 1], [0, 0]]), rows, axis=1, batch_dims=1)
    return tf.gather(images, columns, axis=2, batch_dims=1)
