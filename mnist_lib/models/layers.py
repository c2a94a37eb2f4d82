"""Layers of the catalog's models: predictions at several angles, and a faster batch normalisation."""

import math
from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf


class FusedBatchNormalization(keras.layers.BatchNormalization):
    """Keras' batch normalisation, which is computed in training by one operation of TensorFlow instead of ten.

    That takes a third of the time. `to_predict` replaces it with Keras' own layer.
    """

    def __init__(self, momentum: float, epsilon: float = 0.001) -> None:
        super().__init__(momentum=momentum, epsilon=epsilon)

    def call(self, inputs: tf.Tensor, training: bool | None = None, mask: tf.Tensor | None = None) -> tf.Tensor:
        """inputs: [batch, channels] or [batch, height, width, channels] -> the same shape and type."""
        if not training or not self.trainable or mask is not None or len(inputs.shape) not in (2, 4):
            return super().call(inputs, training=training, mask=mask)
        images = tf.cast(inputs if len(inputs.shape) == 4 else inputs[:, None, None], self.compute_dtype)
        gamma, beta = tf.convert_to_tensor(self.gamma), tf.convert_to_tensor(self.beta)
        outputs, mean, variance = tf.compat.v1.nn.fused_batch_norm(images, gamma, beta, epsilon=self.epsilon)
        # The operation returns the unbiased variance, with n - 1; Keras averages the biased one, with n.
        count = tf.cast(tf.shape(inputs)[0] * math.prod(inputs.shape[1:-1]), tf.float32)
        variance *= (count - 1) / count
        for average, value in ((self.moving_mean, mean), (self.moving_variance, variance)):
            average.assign(average * self.momentum + value * (1 - self.momentum))
        return outputs if len(inputs.shape) == 4 else outputs[:, 0, 0]


class AveragedOverAngles(keras.layers.Layer):
    """A network whose log-probabilities are averaged over several angles of each image.

    In training, it is the network alone. `to_predict` replaces it with a model of Keras' own layers and operations.

    Args:
        network: from images, [batch, height, width, channels], to logits, [batch, classes].
        angles: in radians.
    """

    def __init__(self, network: keras.Sequential, angles: Sequence[float]) -> None:
        super().__init__()
        self.network, self._angles = network, angles

    def call(self, images: tf.Tensor, training: bool = False) -> tf.Tensor:
        """images: [batch, height, width, channels] -> [batch, classes], logits."""
        return self.network(images, training=True) if training else self.average(self.network, images)

    def average(self, network: keras.Layer, images: tf.Tensor) -> tf.Tensor:
        """Return the log-probabilities of this network, averaged over the angles: [batch, classes]."""
        views = [_turned(images, angle) if angle else images for angle in self._angles]
        return keras.layers.average([keras.ops.log_softmax(network(view)) for view in views])


def _turned(images: tf.Tensor, angle: float) -> tf.Tensor:
    """Return images, [batch, height, width, channels], turned around their centre; 0 outside an image.

    All export formats have the operations that are used here.
    """
    height, width, channels = images.shape[1:]
    # Positions are computed from the images, since a stored model lists every number of a constant. They are products,
    # since Keras 3.15 adds a column to a square matrix as if it were a row.
    images = keras.ops.cast(images, "float32")  # bfloat16 cannot count pixels
    ones = keras.ops.sum(keras.ops.zeros_like(images), axis=(0, 3)) + 1.0  # [height, width]
    x = ones * (np.arange(width, dtype=np.float32) - (width - 1) / 2)
    y = ones * (np.arange(height, dtype=np.float32) - (height - 1) / 2)[:, None]
    from_x = math.cos(angle) * x - math.sin(angle) * y + (width - 1) / 2
    from_y = math.sin(angle) * x + math.cos(angle) * y + (height - 1) / 2
    positions, shares = [], []
    for row in (keras.ops.floor(from_y), keras.ops.floor(from_y) + 1):
        for column in (keras.ops.floor(from_x), keras.ops.floor(from_x) + 1):
            inside = keras.ops.cast((row >= 0) & (row < height) & (column >= 0) & (column < width), "float32")
            positions.append(inside * (row * width + column))
            shares.append(inside * (1 - keras.ops.abs(from_y - row)) * (1 - keras.ops.abs(from_x - column)))
    flat = keras.ops.reshape(images, (-1, height * width, channels))
    taken = keras.ops.take(flat, keras.ops.cast(keras.ops.ravel(keras.ops.stack(positions)), "int32"), axis=1)
    taken = keras.ops.reshape(taken, (-1, 4, height, width, channels))
    return keras.ops.sum(taken * keras.ops.stack(shares)[..., None], axis=1)


def with_fused_normalization(network: keras.Model, momentum: float) -> keras.Model:
    """Return a network with the same weights, whose batch normalisation is fused and averages with this momentum."""

    def fused(layer: keras.Layer) -> keras.Layer:
        if isinstance(layer, keras.layers.BatchNormalization):
            return FusedBatchNormalization(momentum, layer.epsilon)
        return type(layer).from_config(layer.get_config())

    copy = keras.models.clone_model(network, clone_function=fused)
    copy.set_weights(network.get_weights())
    return copy


def to_predict(layer: keras.Layer) -> keras.Layer:
    """Return the layer or model to store, with Keras' own layers in place of those of this module."""
    if isinstance(layer, AveragedOverAngles):
        images = keras.Input(layer.network.input_shape[1:])
        return keras.Model(images, layer.average(to_predict(layer.network), images))
    if isinstance(layer, FusedBatchNormalization):
        return keras.layers.BatchNormalization(momentum=layer.momentum, epsilon=layer.epsilon)
    return keras.models.clone_model(layer, clone_function=to_predict) if _has_fused(layer) else layer


def _has_fused(layer: keras.Layer) -> bool:
    return isinstance(layer, FusedBatchNormalization) or any(map(_has_fused, getattr(layer, "layers", ())))
