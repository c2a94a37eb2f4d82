"""The one training loop and the one evaluation, used by every model on every number of replicas.

A `Trainer` is compiled once for a shape of data and then trains any number of trials of that shape.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from mnist_lib.data.batches import Chunk, Plan, epochs
from mnist_lib.data.split import Split
from mnist_lib.errors import DivergedError
from mnist_lib.models.model import Model, Weights
from mnist_lib.models.scratch import Optimizer
from mnist_lib.results import Accuracy
from mnist_lib.training.steps import Totals, Values, steps_of

# Evaluation pads to this many images a replica: one shape for every split, so one compilation.
EVALUATION_BATCH_SIZE = 1_000


@dataclass(frozen=True)
class Epoch:
    """What an epoch of training came to."""

    number: int  # counted from 1
    loss: float  # mean over its images, each as it was trained on
    train: Accuracy
    seconds: float


class Trainer:
    """A model and an optimizer on the devices of a strategy, and the values that training has reached.

    Args:
        model: which function to learn.
        optimizer: how to follow the gradients.
        strategy: the devices; one replica each.
    """

    def __init__(self, model: Model, optimizer: Optimizer, strategy: tf.distribute.Strategy) -> None:
        self._model, self._optimizer, self._strategy = model, optimizer, strategy
        self._steps = steps_of(model, optimizer, strategy)
        self._compiled_softmax = tf.function(self._softmax, jit_compile=True, autograph=False)
        self.start(seed=0)

    @property
    def replicas(self) -> int:
        return int(self._strategy.num_replicas_in_sync)

    def start(self, seed: int) -> None:
        """Back to the beginning, with the initial weights of that seed."""
        weights = self._model.initial_weights(seed)
        slots = self._optimizer.initial_slots(weights.trainable)
        self._values = Values(weights.trainable, slots, weights.state, step=tf.constant(0))

    @property
    def values(self) -> Values:
        """Everything that training has reached; `resume` goes on from there."""
        return self._values

    def resume(self, values: Values) -> None:
        self._values = values

    def compile(self, split: Split, plan: Plan) -> None:
        """Compiles by running one step, whose result is dropped, so that the time of the first epoch is that of
        training."""
        chunk: Chunk = next(iter(epochs(split, plan, seed=0, first=1, last=1)))
        rates = np.zeros(plan.steps_per_chunk, np.float32)
        self._steps.run(self._values, chunk._replace(steps=tf.constant(1)), tf.constant(rates))

    @property
    def weights(self) -> Weights:
        return Weights(self._values.trainable, self._values.state)

    def train(
        self, split: Split, plan: Plan, *, seed: int, learning_rates: NDArray[np.float32], last: int, first: int = 1
    ) -> Iterator[Epoch]:
        """Trains from epoch `first` to `last`, and yields after each.

        Args:
            plan: for `replicas` of them.
            seed: of the order of the images.
            learning_rates: [steps], of every step from the first of epoch 1 on.

        Raises:
            DivergedError: naming epoch and step of the first loss that is not finite.
        """
        chunks = iter(epochs(split, plan, seed, first, last))
        for number in range(first, last + 1):
            begin = time.perf_counter()
            rates = learning_rates[(number - 1) * plan.steps : number * plan.steps]
            padded = np.pad(rates, (0, plan.chunks * plan.steps_per_chunk - plan.steps))
            parts = [self.train_chunk(next(chunks), part) for part in np.split(padded, plan.chunks)]
            # Added in Python: whole numbers exactly, the loss in double precision.
            loss, correct, seen, finite_steps = (
                sum(total.numpy().item() for total in column) for column in zip(*parts, strict=True)
            )
            if finite_steps < plan.steps:
                raise DivergedError(
                    f"loss is not a finite number in epoch {number}, step {finite_steps + 1} of {plan.steps}"
                    f"; try a --learning-rate below {learning_rates.max():g}"
                )
            yield Epoch(number, loss / seen, Accuracy(correct, seen), time.perf_counter() - begin)

    def train_chunk(self, chunk: Chunk, learning_rates: NDArray[np.float32]) -> Totals:
        """Trains the steps of one chunk at its learning rates, [steps] -> their sums over all replicas."""
        self._values, totals = self._steps.run(self._values, chunk, tf.constant(learning_rates))
        return totals

    def probabilities(self, weights: Weights, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """images: [n, height, width, 1] uint8 -> [n, classes] float32, each image computed once; the rest is padding.

        Raises:
            DivergedError: a probability is not a finite number.
        """
        # In a group, each process computes all of them: they are the same, and there is less to wait for.
        share, replicas = EVALUATION_BATCH_SIZE, len(self._strategy.extended.worker_devices)
        batches = []
        for begin in range(0, len(images), share * replicas):
            batch = images[begin : begin + share * replicas]
            padded = np.pad(batch, [(0, share * replicas - len(batch)), (0, 0), (0, 0), (0, 0)])
            shares = self._predict(weights, tf.split(padded, replicas))
            batches.append(np.concatenate(shares)[: len(batch)])
        probabilities: NDArray[np.float32] = np.concatenate(batches)
        if not np.isfinite(probabilities).all():
            raise DivergedError("probabilities are not finite numbers; try a lower --learning-rate")
        return probabilities

    def any_says(self, flag: bool) -> bool:
        """Whether it is true in any process of the group, which has to do as the others do."""
        if len(self._strategy.extended.worker_devices) == self.replicas:
            return flag
        return bool(self._count(tf.constant(int(flag))) > 0)

    @tf.function(autograph=False)
    def _count(self, number: tf.Tensor) -> tf.Tensor:
        of_replicas = self._strategy.experimental_distribute_values_from_function(lambda _: number)
        return self._strategy.reduce(tf.distribute.ReduceOp.SUM, of_replicas, axis=None)

    @tf.function(autograph=False)
    def _predict(self, weights: Weights, images: list[tf.Tensor]) -> tuple[tf.Tensor, ...]:
        """images: [EVALUATION_BATCH_SIZE, height, width, 1] for each replica -> the probabilities of each."""
        shares = self._strategy.experimental_distribute_values_from_function(
            lambda context: images[context.replica_id_in_sync_group % len(images)]
        )
        probabilities: tuple[tf.Tensor, ...] = self._strategy.experimental_local_results(
            self._strategy.run(self._compiled_softmax, args=(weights, shares))
        )
        return probabilities

    def _softmax(self, weights: Weights, images: tf.Tensor) -> tf.Tensor:
        return tf.nn.softmax(self._model.logits(weights, images, training=False)[0])


def accuracy_of(probabilities: NDArray[np.float32], labels: NDArray[np.uint8]) -> Accuracy:
    """probabilities: [n, classes]; labels: [n]. The prediction is the most probable class, the lower one of a tie."""
    return Accuracy(int((probabilities.argmax(axis=1) == labels).sum()), len(labels))


WARM_UP = 0.25  # of the steps of a cycle


def learning_rates(schedule: str, peak: float, steps: int) -> NDArray[np.float32]:
    """-> [steps], the rate of each step.

    "constant" is `peak` always; "one-cycle" goes linearly up to `peak` and down to 0 (Smith, 2018).
    """
    if schedule == "constant":
        return np.full(steps, peak, np.float32)
    done = np.arange(1, steps + 1) / (steps + 1)  # neither 0 nor 1: no step is for nothing
    return (peak * np.minimum(done / WARM_UP, (1 - done) / (1 - WARM_UP))).astype(np.float32)
