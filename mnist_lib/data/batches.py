"""A split as tf.data chunks for the compiled training loop.

A chunk holds several steps, so that Python is left once per chunk, not once per step. The order of the images is a
function of (seed, epoch) and of nothing else: that is what makes a resumed run equal to an uninterrupted one.
"""

from dataclasses import dataclass
from typing import NamedTuple

import tensorflow as tf

from mnist_lib.data.split import Split

# The most steps in a chunk. A few dozen make Python's share small; more would only take memory (11 MB at batch 128).
STEPS_PER_CHUNK = 117


@dataclass(frozen=True)
class Plan:
    """How an epoch is cut: into chunks of steps of global batches of one batch per replica, each rounded up."""

    images: int
    global_batch_size: int
    replicas: int

    @property
    def steps(self) -> int:
        return -(-self.images // self.global_batch_size)

    @property
    def chunks(self) -> int:
        return -(-self.steps // STEPS_PER_CHUNK)

    @property
    def steps_per_chunk(self) -> int:
        """The last chunk may have fewer real steps; its shape is the same, so that nothing is compiled twice."""
        return -(-self.steps // self.chunks)

    @property
    def replica_batch_size(self) -> int:
        return -(-self.global_batch_size // self.replicas)


class Shard(NamedTuple):
    """What one replica gets of a chunk. Padding, at the end of a short batch or chunk, has the weight 0."""

    images: tf.Tensor  # [steps, replica batch, height, width, 1] uint8, 0-255
    labels: tf.Tensor  # [steps, replica batch] uint8
    weights: tf.Tensor  # [steps, replica batch] float32: 1 / images in the global batch; they sum to 1 over replicas


class Chunk(NamedTuple):
    steps: tf.Tensor  # [] int32: how many of the steps are real
    shards: tuple[Shard, ...]  # one per replica


def epochs(split: Split, plan: Plan, seed: int, first: int, last: int) -> tf.data.Dataset:
    """`plan.chunks` chunks for each epoch from `first` to `last` (both counted from 1 and included), in order.

    One dataset for all epochs: the first chunk of the next is gathered while the last of this one trains.
    """
    images, labels = tf.constant(split.images), tf.constant(split.labels)

    @tf.autograph.experimental.do_not_convert
    def chunks_of(epoch: tf.Tensor) -> tf.data.Dataset:
        order = tf.random.experimental.stateless_shuffle(tf.range(plan.images), seed=tf.stack([seed, epoch]))
        return tf.data.Dataset.range(plan.chunks).map(lambda chunk: gather(order, chunk))

    @tf.autograph.experimental.do_not_convert
    def gather(order: tf.Tensor, chunk: tf.Tensor) -> Chunk:
        first_step = tf.cast(chunk, tf.int32) * plan.steps_per_chunk
        step = (first_step + tf.range(plan.steps_per_chunk))[:, None]  # [steps, 1]
        shards = []
        for replica in range(plan.replicas):
            place = (
                replica * plan.replica_batch_size + tf.range(plan.replica_batch_size)[None, :]
            )  # in the global batch
            position = step * plan.global_batch_size + place  # in the epoch: [steps, replica batch]
            real = (place < plan.global_batch_size) & (position < plan.images)
            in_batch = tf.minimum(plan.global_batch_size, plan.images - step * plan.global_batch_size)
            index = tf.gather(order, tf.where(real, position, 0))
            weight = tf.where(real, 1.0 / tf.cast(in_batch, tf.float32), 0.0)
            shards.append(Shard(tf.gather(images, index), tf.gather(labels, index), weight))
        return Chunk(tf.minimum(plan.steps_per_chunk, plan.steps - first_step), tuple(shards))

    options = tf.data.Options()
    # There is nothing to tune, and to end the tuner's thread takes up to five seconds when it has just gone to sleep.
    options.autotune.enabled = False
    return tf.data.Dataset.range(first, last + 1).flat_map(chunks_of).prefetch(2).with_options(options)
