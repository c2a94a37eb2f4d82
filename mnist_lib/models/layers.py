"""Parts of the catalog's models: augmentations, which are functions of images and a seed, and layers for predictions at
several angles and a faster batch normalisation."""

import math
from collections.abc import Callable, Sequence

import keras
import numpy as np
import tensorflow as tf

# An augmentation: from images, [batch, height, width, channels], and a seed, two integers, to changed images.
Augmentation = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]


def shifted(images: tf.Tensor, seed: tf.Tensor, pixels: int = 1, shifts: int = 8) -> tf.Tensor:
    """Move images by at most `pixels` along each axis. Pixels from outside an image are 0.

    A batch has a few random shifts, each of as many neighbours: their order is random, too, and slices take a fifth of
    the time of a shift for each image.

    Args:
        images: [batch, height, width, channels]; the result has the same shape and type.
    """
    batch, height, width, channels = images.shape
    begins = tf.random.stateless_uniform((min(shifts, batch), 2), seed, 0, 2 * pixels + 1, tf.int32)
    padded = tf.pad(images, [[0, 0], [pixels, pixels], [pixels, pixels], [0, 0]])
    edges = [part * batch // begins.shape[0] for part in range(begins.shape[0] + 1)]
    parts = []
    for begin, first, end in zip(tf.unstack(begins), edges[:-1], edges[1:], strict=True):
        corner = tf.stack([first, begin[0], begin[1], 0])
        parts.append(tf.slice(padded, corner, (end - first, height, width, channels)))
    return tf.concat(parts, axis=0)


def distorted(
    images: tf.Tensor,
    seed: tf.Tensor,
    rotation: float = 0.15,
    scale: float = 0.08,
    shear: float = 0.1,
    shift: float = 1.5,
    bend: float = 0.6,
    knots: int = 5,
) -> tf.Tensor:
    """Turn, scale, shear and move each image, and bend it smoothly. Pixels from outside it are 0.

    The bend is similar to the elastic distortion of Simard et al. (2003): random offsets at `knots` x `knots` grid
    points, interpolated smoothly between them.

    Args:
        images: [batch, height, width, channels]; the result has the same shape and is float32.
        rotation: the largest angle, in radians.
        scale: each axis is scaled by up to exp(scale) or down to exp(-scale).
        shear: the largest horizontal offset of a row, as a share of its distance from the centre.
        shift: the largest offset along each axis, in pixels.
        bend: the standard deviation of the offset of a grid point, in pixels.
        knots: the number of grid points along each axis.
    """
    batch, (height, width) = tf.shape(images)[0], images.shape[1:3]
    seed *= (1, 2)  # two numbers of the sequence for each call
    draws = tf.random.stateless_uniform((6, batch, 1, 1), seed, -1.0, 1.0)
    angle, scales, shears = draws[0] * rotation, tf.exp(draws[1:3] * scale), draws[3] * shear
    y = tf.range(height, dtype=tf.float32)[:, None] - (height - 1) / 2
    x = tf.range(width, dtype=tf.float32) - (width - 1) / 2 + shears * y
    shifts = draws[4:6] * shift
    bends = tf.random.stateless_normal((batch, knots, knots, 2), tf.add(seed, (0, 1)), stddev=bend)
    bends = tf.image.resize(bends, (height, width), "bicubic")
    cos, sin = tf.cos(angle), tf.sin(angle)
    from_x = scales[0] * (cos * x - sin * y) + shifts[0] + bends[..., 0] + (width - 1) / 2
    from_y = scales[1] * (sin * x + cos * y) + shifts[1] + bends[..., 1] + (height - 1) / 2
    return _sampled(tf.cast(images, tf.float32), from_x, from_y)


def stroked(images: tf.Tensor, seed: tf.Tensor, thicker: float = 0.6, thinner: float = 0.4) -> tf.Tensor:
    """Make the bright strokes of each image thicker or thinner.

    Each pixel moves by a random share towards the brightest, or the darkest, pixel of the 3 x 3 square around it.

    Args:
        images: [batch, height, width, channels]; the result has the same shape and is float32.
        thicker, thinner: the largest share in each direction.
    """
    images = tf.cast(images, tf.float32)
    share = tf.random.stateless_uniform((tf.shape(images)[0], 1, 1, 1), seed, -thinner, thicker)
    brightest, darkest = tf.nn.max_pool2d(images, 3, 1, "SAME"), -tf.nn.max_pool2d(-images, 3, 1, "SAME")
    return images + tf.nn.relu(share) * (brightest - images) + tf.nn.relu(-share) * (darkest - images)


def _sampled(images: tf.Tensor, x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
    """Return pixels at fractional positions, interpolated between the four around them; 0 outside an image.

    Args:
        images: [batch, height, width, channels] float32.
        x, y: [batch, height, width] float32.
    """
    batch, (height, width, channels) = tf.shape(images)[0], images.shape[1:]
    # Positions outside are moved to a border of zeros, which ensures that all four pixels exist.
    padded = tf.reshape(tf.pad(images, [[0, 0], [1, 2], [1, 2], [0, 0]]), (batch, (height + 3) * (width + 3), channels))
    x, y = tf.clip_by_value(x, -1.0, width) + 1, tf.clip_by_value(y, -1.0, height) + 1
    left, top = tf.floor(x), tf.floor(y)
    to_right, to_bottom = (x - left)[..., None], (y - top)[..., None]
    position = tf.cast(top, tf.int32) * (width + 3) + tf.cast(left, tf.int32)

    def row(offset: int) -> tf.Tensor:
        first, second = (tf.gather(padded, position + offset + right, batch_dims=1) for right in (0, 1))
        return first + to_right * (second - first)

    above, below = row(0), row(width + 3)
    return above + to_bottom * (below - above)


class FusedBatchNormalization(keras.layers.BatchNormalization):
    """Keras' batch normalisation, which is computed in training by one operation of TensorFlow instead of ten.

    That takes a third of the time. `to_predict` replaces it with Keras' own layer.
    """

    def __init__(self, momentum: float) -> None:
        super().__init__(momentum=momentum)

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


def to_predict(layer: keras.Layer) -> keras.Layer:
    """Return the layer or model to store, with Keras' own layers in place of those of this module."""
    if isinstance(layer, AveragedOverAngles):
        images = keras.Input(layer.network.input_shape[1:])
        return keras.Model(images, layer.average(to_predict(layer.network), images))
    if isinstance(layer, FusedBatchNormalization):
        return keras.layers.BatchNormalization(momentum=layer.momentum)
    return keras.models.clone_model(layer, clone_function=to_predict) if _has_fused(layer) else layer


def _has_fused(layer: keras.Layer) -> bool:
    return isinstance(layer, FusedBatchNormalization) or any(map(_has_fused, getattr(layer, "layers", ())))
