"""The interface of all models.

A model takes raw pixels: the scaling to [0, 1] is part of it, so that users of a stored model cannot forget it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import tensorflow as tf

from mnist_lib.objects.archives import hash_arrays
from mnist_lib.pictures.likeness import MAX_FEATURES

ImageShape = tuple[int, int, int]  # height, width, channels
Tensors = list[tf.Tensor]


class Weights(NamedTuple):
    """The values of a trained model."""

    trainable: Tensors
    state: Tensors  # changed by training without a gradient: moving averages, seed states

    def sha256(self) -> str:
        """Return the sha256 of all values, types and shapes. Files contain times, so they differ for equal weights."""
        return hash_arrays(map(np.ascontiguousarray, (*self.trainable, *self.state)))


class Model(Protocol):
    """A model as functions of its weights, which the training loop holds on its devices."""

    activation_bytes: int  # memory that prediction needs for one image: a layer's input and output; 0 if unknown
    fast_in_xla_on_cpu: bool  # whether XLA on a CPU is at least as fast as TensorFlow's oneDNN kernels

    def initial_weights(self, seed: int) -> Weights:
        """Return initial weights that are a function of the seed."""

    def logits(self, weights: Weights, images: tf.Tensor) -> tf.Tensor:
        """Return the logits, [batch, classes] float32, of images, [batch, height, width, channels] uint8."""

    def features(self, weights: Weights, images: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Return what the last layer with weights receives, [batch, features] float32, `folded`, and the logits.

        The features of a model whose layers are unknown are its logits.
        """

    def train_logits(
        self, weights: Weights, images: tf.Tensor, replica: tf.Tensor
    ) -> tuple[tf.Tensor, Tensors, tf.Tensor]:
        """Return logits computed in the spec's precision, the new state, and a loss to add to the cross-entropy.

        Args:
            replica: the number of the replica, so that replicas draw different random numbers.
        """

    def stored(self, weights: Weights) -> Weights:
        """Return the weights without the state that only training needs."""

    def files(self, weights: Weights) -> dict[str, bytes]:
        """Return the model as files by path. They work without this project: raw pixels in, class probabilities out."""

    def read(self, files: Mapping[str, bytes]) -> Weights:
        """Return the weights in the files, without running stored code. Initialises the state that only training needs.

        Raises some error if the files are not those of this model: call it within `documents.reading`.
        """


def serving_module(model: Model, weights: Weights, image_shape: ImageShape, output: str | None = None) -> tf.Module:
    """Return a module to save. Its function `serve` takes pixels, [n, *image_shape] uint8, 0-255, and returns
    {output: probabilities}, or without `output` the probabilities alone, [n, classes] float32.
    """
    module = tf.Module()
    module.weights = list(map(tf.Variable, (*weights.trainable, *weights.state)))
    count = len(weights.trainable)

    @tf.function(autograph=False, input_signature=[tf.TensorSpec([None, *image_shape], tf.uint8, name="pixels")])
    def serve(pixels: tf.Tensor) -> tf.Tensor | dict[str, tf.Tensor]:
        values = list(map(tf.convert_to_tensor, module.weights))
        probabilities = tf.nn.softmax(model.logits(Weights(values[:count], values[count:]), pixels))
        return probabilities if output is None else {output: probabilities}

    module.serve = serve
    return module


def folded(features: tf.Tensor) -> tf.Tensor:
    """Return at most `MAX_FEATURES` features of each image: sums of many with random signs, which keep distances.

    features: [batch, features] -> [batch, at most MAX_FEATURES].
    """
    width = features.shape[1]
    if width <= MAX_FEATURES:
        return features
    signs = np.random.RandomState(0).choice(np.array((-1, 1), np.float32), width)  # NumPy never changes these numbers
    padded = tf.pad(features * signs, [[0, 0], [0, -width % MAX_FEATURES]])
    return tf.reduce_sum(tf.reshape(padded, [-1, padded.shape[1] // MAX_FEATURES, MAX_FEATURES]), axis=1)


def read_files(folder: Path) -> dict[str, bytes]:
    """Return the content of every file below the folder, by path."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }
