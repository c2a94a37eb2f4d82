"""The batches of training, as a tf.data dataset of chunks, and the sizes of chunks and of evaluation batches.

A chunk holds several steps, so that compiled code is called once per chunk and not once per step. The order of the
images depends only on the seed and the epoch, so that a resumed run trains on the same batches as an uninterrupted run.
"""

from dataclasses import dataclass
from typing import NamedTuple

import tensorflow as tf

from mnist_lib.data.split import Split

# The maximum. A few dozen already make Python's overhead small; 117 steps of 128 images take 11 MB of memory.
STEPS_PER_CHUNK = 117

# Images per replica. Every evaluation batch is padded to this size, so that evaluation is compiled once for all splits.
EVALUATION_BATCH_SIZE = 1_000


@dataclass(frozen=True)
class Plan:
    """How an epoch is divided into chunks of steps, and a global batch among replicas. All divisions round up."""

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
        """Steps in each chunk, equal so that one compilation serves all; the last may have fewer real steps."""
        return -(-self.steps // self.chunks)

    @property
    def replica_batch_size(self) -> int:
        return -(-self.global_batch_size // self.replicas)


class Shard(NamedTuple):
    """One replica's part of a chunk. Padding at the end of a short batch or chunk has the weight 0."""

    images: tf.Tensor  # [steps, replica batch, height, width, 1] uint8, 0-255
    labels: tf.Tensor  # [steps, replica batch] uint8
    weights: tf.Tensor  # [steps, replica batch] float32: 1 / images in the global batch; their sum over replicas is 1


class Chunk(NamedTuple):
    steps: tf.Tensor  # [] int32: the number of real steps
    shards: tuple[Shard, ...]  # one per replica


def epochs(split: Split, plan: Plan, seed: int, first: int, last: int) -> tf.data.Dataset:
    """Return the chunks of the epochs `first` to `last`, counted from 1, in order: `plan.chunks` for each epoch.

    One dataset covers all epochs, so that the next epoch's first chunk is gathered during the last chunk of this one.
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
            # The positions of each image in the global batch and in the epoch: [steps, replica batch].
            in_batch = replica * plan.replica_batch_size + tf.range(plan.replica_batch_size)[None, :]
            position = step * plan.global_batch_size + in_batch
            real = (in_batch < plan.global_batch_size) & (position < plan.images)
            batch_size = tf.minimum(plan.global_batch_size, plan.images - step * plan.global_batch_size)
            index = tf.gather(order, tf.where(real, position, 0))
            weight = tf.where(real, 1.0 / tf.cast(batch_size, tf.float32), 0.0)
            shards.append(Shard(tf.gather(images, index), tf.gather(labels, index), weight))
        return Chunk(tf.minimum(plan.steps_per_chunk, plan.steps - first_step), tuple(shards))

    options = tf.data.Options()
    # Autotuning has nothing to tune here, and stopping its thread can take five seconds.
    options.autotune.enabled = False
    return tf.data.Dataset.range(first, last + 1).flat_map(chunks_of).prefetch(2).with_options(options)
