"""The batches of training, as a tf.data dataset of chunks, and the sizes of chunks and of evaluation batches.

A chunk holds several steps, so that compiled code is called once per chunk and not once per step. The order of the
images depends only on the seed and the epoch, so that a resumed run trains on the same batches as an uninterrupted run.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from mnist_lib.data.images import CHUNK_BYTES, CHUNKS_AHEAD
from mnist_lib.data.made_up import MadeUp
from mnist_lib.data.table import Labels, Table

# The maxima of a chunk. A few dozen steps already make Python's overhead small; 117 steps of 128 MNIST images take
# 12 MB.
STEPS_PER_CHUNK = 117
# The same where a step takes long: a checkpoint, or the end at a time limit, waits for the end of a chunk. 117 steps of
# `keras-cnn` take 2 s on two cores; 30 or 58 make its epochs no slower, but those of dense networks by up to a tenth.
SLOW_STEPS_PER_CHUNK = 40

# The maxima of an evaluation batch, per replica. Models need many times the memory of the images that they evaluate.
EVALUATION_BATCH_SIZE, EVALUATION_BATCH_BYTES = 1_000, 3_200_000
MAX_ACTIVATION_BYTES = 1 << 30  # of the two largest layers that follow each other, for all images of the batch


def evaluation_batch_size(image_shape: Sequence[int], activation_bytes: int = 0) -> int:
    """Return the number of images in every batch of an evaluation except the last one.

    Args:
        activation_bytes: size of the model's activations for one image; 0 if it is unknown.
    """
    fitting = MAX_ACTIVATION_BYTES // max(1, activation_bytes)
    return max(1, min(EVALUATION_BATCH_SIZE, EVALUATION_BATCH_BYTES // math.prod(image_shape), fitting))


@dataclass(frozen=True)
class Plan:
    """How an epoch is divided into chunks of steps, and a global batch among replicas. All divisions round up."""

    images: int
    global_batch_size: int
    replicas: int
    image_bytes: int = 1
    is_slow: bool = False  # whether a step takes more than a few milliseconds
    made_up: MadeUp = field(default_factory=MadeUp)

    @property
    def steps(self) -> int:
        return self.steps_for(self.images)

    @property
    def chunks(self) -> int:
        steps = min(STEPS_PER_CHUNK, SLOW_STEPS_PER_CHUNK) if self.is_slow else STEPS_PER_CHUNK
        return -(-self.steps // max(1, min(steps, CHUNK_BYTES // (self.global_batch_size * self.image_bytes))))

    @property
    def steps_per_chunk(self) -> int:
        """Steps in each chunk, equal so that one compilation serves all; the last may have fewer real steps."""
        return -(-self.steps // self.chunks)

    @property
    def replica_batch_size(self) -> int:
        return -(-self.global_batch_size // self.replicas)

    @property
    def replica_made_up(self) -> int:
        """Made-up pictures of each replica in a step."""
        return self.made_up.count(self.replica_batch_size)

    def steps_for(self, images: int) -> int:
        """Return the number of steps for the first images of an epoch."""
        return -(-images // self.global_batch_size)

    def steps_in(self, chunks: int) -> int:
        """Return the number of steps in the first chunks of an epoch."""
        return min(self.steps, chunks * self.steps_per_chunk)

    def images_in(self, chunks: int) -> int:
        """Return the number of images in the first chunks of an epoch."""
        return min(self.images, chunks * self.steps_per_chunk * self.global_batch_size)


class ReplicaPart(NamedTuple):
    """The part of a chunk that one replica trains on. Where images are missing, other images of the epoch fill in."""

    images: tf.Tensor  # [steps, replica batch, height, width, channels] uint8, 0-255
    labels: tf.Tensor  # [steps, replica batch] uint8 or uint16
    # [steps, replica batch] float32: 1 / images in the global batch, times the weight of the image; 0 for images that
    # only fill in.
    weights: tf.Tensor
    replica: tf.Tensor  # [steps] int32: the number of the replica
    made_up: tf.Tensor  # [steps, made-up pictures, height, width, channels] uint8


class Chunk(NamedTuple):
    steps: tf.Tensor  # [] int32: the number of real steps
    parts: tuple[ReplicaPart, ...]  # one per replica


def blank_chunk(split: Table, plan: Plan) -> Chunk:
    """Return a chunk of one real step, in shape and type like those of `epochs`, with black images of class 0."""
    batches = (plan.steps_per_chunk, plan.replica_batch_size)
    images = tf.zeros((*batches, *split.images.shape[1:]), split.images.dtype)
    labels, weights = tf.zeros(batches, split.labels.dtype), tf.zeros(batches)
    made_up = tf.zeros((batches[0], plan.replica_made_up, *split.images.shape[1:]), split.images.dtype)
    part = partial(ReplicaPart, images, labels, weights, made_up=made_up)
    return Chunk(tf.constant(1), tuple(part(tf.fill(batches[:1], replica)) for replica in range(plan.replicas)))


def balancing_weights(labels: Labels) -> NDArray[np.float32]:
    """Return weights of images with which every class that has images counts the same: [images], with a mean of 1."""
    _, classes, counts = np.unique(labels, return_inverse=True, return_counts=True)
    weights: NDArray[np.float32] = (len(labels) / (len(counts) * counts)).astype(np.float32)[classes]
    return weights


def order_of(images: int, seed: int, epoch: int | tf.Tensor) -> tf.Tensor:
    """Return the order of the images in an epoch: [images] int32."""
    return tf.random.experimental.stateless_shuffle(tf.range(images), seed=tf.stack([seed, epoch]))


def epochs(
    split: Table,
    plan: Plan,
    seed: int,
    first: int,
    last: int,
    weights: NDArray[np.float32] | None = None,
    first_chunk: int = 0,
) -> Iterator[Chunk]:
    """Yield the chunks of the epochs `first` to `last`, counted from 1, in order: `plan.chunks` for each epoch.

    One dataset covers all epochs, so that the next epoch's first chunk is gathered during the last chunk of this one.

    Args:
        weights: [images] how much each image counts in the loss; by default 1.
        first_chunk: the chunk, counted from 0, with which the first epoch begins.

    Raises:
        DataReadError: images cannot be read.
    """
    labels, image_weights = tf.constant(split.labels), None if weights is None else tf.constant(weights)
    errors = list[Exception]()
    image_shape = split.images.shape[1:]
    shape = (plan.replicas, plan.steps_per_chunk, plan.replica_batch_size, *image_shape)
    shape_made_up = (plan.replicas, plan.steps_per_chunk, plan.replica_made_up, *image_shape)
    sources = [split.images]  # emptied at the end, since TensorFlow never forgets a function

    def read(
        indices: NDArray[np.int32], epoch: NDArray[np.int64], chunk: NDArray[np.int64]
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Return the pixels of images, [*shape], and of made-up pictures, [*shape_made_up]."""
        try:
            images = np.asarray(sources[0][indices.reshape(-1)])
            made_up = np.empty(shape_made_up, np.uint8)
            if made_up.size:
                random = np.random.default_rng([seed, int(epoch), int(chunk)])
                made_up = plan.made_up.make(images, math.prod(shape_made_up[:3]), random).reshape(shape_made_up)
            return images.reshape(shape), made_up
        except Exception as error:
            errors.append(error)  # TensorFlow raises another error in its place
            raise

    @tf.autograph.experimental.do_not_convert
    def chunks_of(epoch: tf.Tensor) -> tf.data.Dataset:
        order = order_of(plan.images, seed, epoch)
        begin = tf.where(epoch == first, tf.constant(first_chunk, tf.int64), 0)
        return tf.data.Dataset.range(begin, plan.chunks).map(lambda chunk: gather(order, epoch, chunk))

    @tf.autograph.experimental.do_not_convert
    def gather(order: tf.Tensor, epoch: tf.Tensor, chunk: tf.Tensor) -> Chunk:
        first_step = tf.cast(chunk, tf.int32) * plan.steps_per_chunk
        step = (first_step + tf.range(plan.steps_per_chunk))[:, None]  # [steps, 1]
        indices, weights_of_images = [], []
        for replica in range(plan.replicas):
            # The positions of each image in the global batch and in the epoch: [steps, replica batch].
            in_batch = replica * plan.replica_batch_size + tf.range(plan.replica_batch_size)[None, :]
            position = step * plan.global_batch_size + in_batch
            real = (in_batch < plan.global_batch_size) & (position < plan.images)
            batch_size = tf.minimum(plan.global_batch_size, plan.images - step * plan.global_batch_size)
            # Padded with real images, for representative batch statistics.
            indices.append(tf.gather(order, position % plan.images))
            weights_of_images.append(tf.where(real, 1.0 / tf.cast(batch_size, tf.float32), 0.0))
            if image_weights is not None:
                weights_of_images[-1] *= tf.gather(image_weights, indices[-1])
        # At once, since images are read in the order of their file.
        images, made_up = tf.numpy_function(read, [indices, epoch, chunk], (tf.uint8, tf.uint8))
        images = tf.ensure_shape(images, shape)
        made_up = tf.ensure_shape(made_up, shape_made_up)
        parts = (
            ReplicaPart(
                images=images[replica],
                labels=tf.gather(labels, index),
                weights=weight,
                replica=tf.fill([plan.steps_per_chunk], replica),
                made_up=made_up[replica],
            )
            for replica, (index, weight) in enumerate(zip(indices, weights_of_images, strict=True))
        )
        return Chunk(tf.minimum(plan.steps_per_chunk, plan.steps - first_step), tuple(parts))

    options = tf.data.Options()
    # Autotuning has nothing to tune here, and stopping its thread can take five seconds.
    options.autotune.enabled = False
    chunks = tf.data.Dataset.range(first, last + 1).flat_map(chunks_of).prefetch(CHUNKS_AHEAD).with_options(options)
    try:
        yield from chunks
    except tf.errors.OpError as error:
        raise (errors or [error])[0] from None
    finally:
        sources.clear()
