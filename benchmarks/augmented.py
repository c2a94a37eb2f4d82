"""The augmentations of a model as a Keras layer, for `keras.fit`."""

from collections.abc import Sequence

import keras
import tensorflow as tf

from mnist_lib.models.layers import Augmentation


class Augmented(keras.layers.Layer):  # type: ignore[misc]
    """Changes images in training only. The result of each augmentation is rounded to the type of the images."""

    def __init__(self, augmentations: Sequence[Augmentation]) -> None:
        super().__init__(autocast=False)
        self._augmentations = augmentations
        self._seeds = [keras.random.SeedGenerator() for _ in augmentations]

    def call(self, images: tf.Tensor, training: bool = False) -> tf.Tensor:
        """images: [batch, height, width, channels] -> the same shape and type."""
        if training:
            for augment, seeds in zip(self._augmentations, self._seeds, strict=True):
                images = tf.cast(augment(images, tf.cast(seeds.next(), tf.int32)), images.dtype)
        return images
