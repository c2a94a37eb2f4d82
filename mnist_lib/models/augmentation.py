"""Augmentation: what changes training images at each step. Each change is a function of images and a seed."""

import functools
import math
from collections.abc import Callable, Mapping, Sequence

import keras
import tensorflow as tf

from mnist_lib.augment import Changes
from mnist_lib.models.model import ImageShape, Model, Tensors, Weights

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
    edge: bool = False,
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
        edge: whether pixels from outside an image are those at its edge.
    """
    batch, (height, width) = tf.shape(images)[0], images.shape[1:3]
    seed *= (1, 2)  # two numbers of the sequence for each call
    draws = tf.random.stateless_uniform((6, batch, 1, 1), seed, -1.0, 1.0)
    angle = draws[0] * rotation
    scales = tf.exp(draws[1:3] * scale)
    shears = draws[3] * shear
    y = tf.range(height, dtype=tf.float32)[:, None] - (height - 1) / 2
    x = tf.range(width, dtype=tf.float32) - (width - 1) / 2 + shears * y
    shifts = draws[4:6] * shift
    bends = tf.random.stateless_normal((batch, knots, knots, 2), tf.add(seed, (0, 1)), stddev=bend)
    bends = tf.image.resize(bends, (height, width), "bicubic")
    cos, sin = tf.cos(angle), tf.sin(angle)
    from_x = scales[0] * (cos * x - sin * y) + shifts[0] + bends[..., 0] + (width - 1) / 2
    from_y = scales[1] * (sin * x + cos * y) + shifts[1] + bends[..., 1] + (height - 1) / 2
    if edge:
        from_x, from_y = tf.clip_by_value(from_x, 0.0, width - 1), tf.clip_by_value(from_y, 0.0, height - 1)
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


def flipped(images: tf.Tensor, seed: tf.Tensor, axis: int) -> tf.Tensor:
    """Mirror half of the images, at random, along an axis: 1 swaps top and bottom, 2 left and right."""
    mirrored = tf.random.stateless_uniform((tf.shape(images)[0], 1, 1, 1), seed) < 0.5
    return tf.where(mirrored, tf.reverse(images, [axis]), images)


def lit(images: tf.Tensor, seed: tf.Tensor, brightness: float = 0.0, contrast: float = 0.0) -> tf.Tensor:
    """Change the light of each image: its difference from its mean by a factor, then all of it by a number.

    Args:
        images: [batch, height, width, channels], 0-255; the result has the same shape and is float32. The fourth of
            four channels, which is transparency, stays.
        brightness: the largest number, as a share of 255.
        contrast: the largest difference of the factor from 1.
    """
    images = tf.cast(images, tf.float32)
    colours = images[..., :3]
    draws = tf.random.stateless_uniform((2, tf.shape(images)[0], 1, 1, 1), seed, -1.0, 1.0)
    mean = tf.reduce_mean(colours, axis=(1, 2, 3), keepdims=True)
    changed = mean + (colours - mean) * (1 + contrast * draws[0]) + 255 * brightness * draws[1]
    return tf.concat([tf.clip_by_value(changed, 0.0, 255.0), images[..., 3:]], axis=3)


def erased(images: tf.Tensor, seed: tf.Tensor, share: float) -> tf.Tensor:
    """Replace a rectangle of each image by its mean (random erasing: Zhong et al., 2017).

    Args:
        share: the largest side of the rectangle, as a share of that of the image.
    """
    images = tf.cast(images, tf.float32)
    draws = tf.random.stateless_uniform((4, tf.shape(images)[0], 1), seed)
    inside = []
    for axis, count in enumerate(images.shape[1:3]):
        positions = (tf.range(count, dtype=tf.float32) + 0.5) / count
        inside.append(tf.abs(positions - draws[axis]) < draws[2 + axis] * share / 2)  # [batch, side]
    rectangle = (inside[0][:, :, None] & inside[1][:, None, :])[..., None]
    return tf.where(rectangle, tf.reduce_mean(images, axis=(1, 2), keepdims=True), images)


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


def augmentations_of(changes: Changes, image_shape: ImageShape) -> list[Augmentation]:
    """Return the functions for the changes that a setting names, in the order in which they are applied."""
    height, width, _ = image_shape
    side = math.sqrt(height * width)
    found: list[Augmentation] = []
    for name, axis in (("horizontal", 2), ("vertical", 1)):
        if changes.flip in (name, "both"):
            found.append(functools.partial(flipped, axis=axis))
    if changes.stroke:
        found.append(functools.partial(stroked, thicker=changes.stroke, thinner=changes.stroke))
    if changes.shift or changes.rotate or changes.zoom or changes.bend:
        found.append(
            functools.partial(
                distorted,
                rotation=math.radians(changes.rotate),
                scale=changes.zoom,
                shear=0.0,
                shift=changes.shift * side,
                bend=changes.bend * side,
                edge=True,
            )
        )
    if changes.brightness or changes.contrast:
        found.append(functools.partial(lit, brightness=changes.brightness, contrast=changes.contrast))
    if changes.erase:
        found.append(functools.partial(erased, share=changes.erase))
    return found


class AugmentedModel:
    """A `Model` whose training images are changed at each step.

    The state is a seed for each augmentation, followed by the state of the model.
    """

    fast_in_xla_on_cpu = False  # XLA takes 30 times as long for random numbers

    def __init__(self, model: Model, augmentations: Sequence[Augmentation]) -> None:
        self.model, self.augmentations = model, augmentations
        self.activation_bytes = model.activation_bytes

    def initial_weights(self, seed: int) -> Weights:
        keras.utils.set_random_seed(seed)  # as a model of Keras' layers does again, but not one from scratch
        return self._with_seeds(self.model.initial_weights(seed))

    def logits(self, weights: Weights, images: tf.Tensor) -> tf.Tensor:
        return self.model.logits(self._without_seeds(weights), images)

    def features(self, weights: Weights, images: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return self.model.features(self._without_seeds(weights), images)

    def train_logits(
        self, weights: Weights, images: tf.Tensor, replica: tf.Tensor
    ) -> tuple[tf.Tensor, Tensors, tf.Tensor]:
        seeds = weights.state[: len(self.augmentations)]
        for augment, seed in zip(self.augmentations, seeds, strict=True):
            # A replica changes the first half of a seed, a step the second.
            images = augment(images, tf.cast(seed, tf.int32) + tf.stack([replica, 0]))
        logits, state, loss = self.model.train_logits(self._without_seeds(weights), images, replica)
        return logits, [*(tf.add(seed, (0, 1)) for seed in seeds), *state], loss

    def stored(self, weights: Weights) -> Weights:
        return self.model.stored(self._without_seeds(weights))

    def files(self, weights: Weights) -> dict[str, bytes]:
        return self.model.files(self._without_seeds(weights))

    def read(self, files: Mapping[str, bytes]) -> Weights:
        return self._with_seeds(self.model.read(files))

    def _with_seeds(self, weights: Weights) -> Weights:
        """Add seeds, which Keras draws as those of layers, after these."""
        seeds = [tf.constant(keras.random.SeedGenerator().state.numpy()) for _ in self.augmentations]
        return weights._replace(state=[*seeds, *weights.state])

    def _without_seeds(self, weights: Weights) -> Weights:
        return weights._replace(state=weights.state[len(self.augmentations) :])
