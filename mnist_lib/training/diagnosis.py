"""What the devices of this process compute: gradients, and copies between devices.

Nothing is judged here: a wrong copy or a gradient that is not finite is returned as such. `jobs.doctor` compares.
"""

import itertools
import math
from functools import partial

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from mnist_lib.data.batches import Chunk, ReplicaPart
from mnist_lib.data.dataset import Dataset
from mnist_lib.models.building import build_model
from mnist_lib.models.keras_models import KerasModel
from mnist_lib.models.model import Weights
from mnist_lib.models.scratch import Optimizer
from mnist_lib.spec import TrialSpec
from mnist_lib.training.steps import Values, gradients_of, steps_of
from mnist_lib.training.strategy import devices_of

# The learning rate of a step of SGD whose change of the weights is the gradient: so large that the changed weights are
# rounded like the gradient, and a power of two, so that the product is not rounded.
RATE = 2.0**20
IMAGES = 128  # of the step
COPIED = 1 << 20  # numbers in the vector that is copied, 4 MB


def gradient_difference(name: str, dataset: Dataset, strategy: tf.distribute.Strategy, *, xla: bool) -> float | None:
    """Return how much the gradients of a step differ from those on a CPU without XLA.

    That is |g - cpu| / |cpu| of all gradients as one vector, or None if it is not a finite number.

    Every replica computes the same images, without random numbers, but has another share of the loss than the next
    one. So the sum over the replicas is the same for each model, and one that is left out or counted twice changes it.

    Args:
        xla: whether XLA works on these devices.
    """
    model = build_model(TrialSpec.of(name, augment="none"), dataset.image_shape, len(dataset.classes))
    if isinstance(model, KerasModel):
        model.without_dropout()
    weights = model.initial_weights(seed=0)
    values = Values(weights.trainable, [], weights.state, step=tf.constant(0))
    gradients = partial(gradients_of, model, 0.0, [False] * len(weights.trainable))
    batch = dataset.train.take(np.arange(IMAGES))

    def gradient(strategy: tf.distribute.Strategy, *, xla: bool) -> NDArray[np.float64]:
        replicas = strategy.num_replicas_in_sync
        shares = 1 + np.arange(replicas) % 2
        parts = tuple(
            ReplicaPart(
                tf.constant(np.asarray(batch.images)[None]),
                tf.constant(batch.labels[None]),
                tf.fill((1, IMAGES), tf.constant(share / shares.sum() / IMAGES, tf.float32)),
                tf.constant([0]),
                tf.zeros((1, 0, *dataset.image_shape), tf.uint8),
            )
            for share in shares
        )
        sgd = Optimizer(TrialSpec.of(name, optimizer="sgd"))
        steps = steps_of(model, gradients, sgd, strategy, xla=xla, compile_update=xla)
        after, *_ = steps.run(values, Chunk(tf.constant(1), parts), tf.constant([RATE]))
        return (_flat(weights) - _flat(Weights(after.trainable, []))) / RATE

    cpu = gradient(tf.distribute.MirroredStrategy(["/CPU:0"]), xla=False)
    difference = float(np.linalg.norm(gradient(strategy, xla=xla) - cpu) / np.linalg.norm(cpu))
    return difference if math.isfinite(difference) else None


def _flat(weights: Weights) -> NDArray[np.float64]:
    return np.concatenate([np.asarray(tensor, np.float64).reshape(-1) for tensor in weights.trainable])


def moved(tensor: tf.Tensor, device: str) -> tf.Tensor:
    with tf.device(device):
        return tf.identity(tensor)


def wrong_numbers(strategy: tf.distribute.Strategy) -> dict[str, int]:
    """Return how many numbers of a known vector are wrong after each copy and after the sum over all devices.

    The names are "A to B" for each two devices in each direction, "A to A" for a copy to a device and back, and "sum".
    """
    vector, wrong = np.arange(COPIED, dtype=np.float32) % 4_093, {}  # sums of whole numbers below 2^24 are exact
    devices = [*zip(devices_of(strategy), strategy.extended.worker_devices, strict=True)]
    for (number, (source, source_device)), (target, target_device) in itertools.product(enumerate(devices), devices):
        received = moved(moved(vector + number, source_device), target_device)
        wrong[f"{source} to {target}"] = int(np.count_nonzero(received.numpy() != vector + number))

    @tf.function(autograph=False)
    def total(parts: tf.Tensor) -> tf.Tensor:
        return strategy.reduce(tf.distribute.ReduceOp.SUM, strategy.run(tf.identity, args=(parts,)), axis=None)

    parts = strategy.experimental_distribute_values_from_function(
        lambda context: tf.constant(vector * (1 + context.replica_id_in_sync_group))
    )
    expected = vector * sum(range(strategy.num_replicas_in_sync + 1))
    return {**wrong, "sum": int(np.count_nonzero(total(parts).numpy() != expected))}
