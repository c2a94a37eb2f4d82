"""The one training loop and the one evaluation, used by every model on every number of replicas.

A `Trainer` is compiled once for a shape of data and then trains any number of trials of that shape. On one replica a
whole chunk of steps is one XLA function; on several, each step is: gradients (XLA, per replica), one all-reduce of one
flat vector, update (XLA, per replica).
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from mnist_lib.data.batches import Chunk, Plan, Shard, epochs
from mnist_lib.data.split import Split
from mnist_lib.errors import DivergedError
from mnist_lib.models import Model, Weights
from mnist_lib.result import Accuracy
from mnist_lib.scratch import Optimizer, softmax_cross_entropy

# Evaluation pads to this many images a replica: one shape for every split, so one compilation.
EVALUATION_BATCH_SIZE = 1_000

Tensors = list[tf.Tensor]


class Totals(NamedTuple):
    """Sums over the images of some steps; they add up over steps, chunks and replicas."""

    loss: tf.Tensor  # [] float32
    correct: tf.Tensor  # [] int32
    seen: tf.Tensor  # [] int32
    finite_steps: tf.Tensor  # [] int32: steps whose loss is finite; once it is not, no later one is


@dataclass(frozen=True)
class Epoch:
    """What an epoch of training came to."""

    number: int  # counted from 1
    loss: float  # mean over its images, each as it was trained on
    train: Accuracy
    seconds: float


class Trainer:
    """A model and an optimizer on the devices of a strategy, with the variables that training changes.

    Args:
        model: which function to learn.
        optimizer: how to follow the gradients.
        strategy: the devices; one replica each.
    """

    def __init__(self, model: Model, optimizer: Optimizer, strategy: tf.distribute.MirroredStrategy) -> None:
        self._model, self._optimizer, self._strategy = model, optimizer, strategy
        self.replicas: int = strategy.num_replicas_in_sync
        example = model.initial_weights(seed=0)
        with strategy.scope():
            self._trainable = [_replicated_variable(value) for value in example.trainable]
            self._slots = [_replicated_variable(value) for value in optimizer.initial_slots(example.trainable)]
            self._state = [_replicated_variable(value) for value in example.state]
        run_chunk = self._run_chunk_on_one if self.replicas == 1 else self._run_chunk_on_several
        self._run_chunk = tf.function(run_chunk)

    def start(self, seed: int) -> None:
        """Back to the beginning, with the initial weights of that seed."""
        weights = self._model.initial_weights(seed)
        self._assign(weights.trainable, self._optimizer.initial_slots(weights.trainable), weights.state)

    def compile(self, split: Split, plan: Plan) -> None:
        """Compiles by running no step, so that the time of the first epoch is that of training."""
        chunk: Chunk = next(iter(epochs(split, plan, seed=0, first=1, last=1)))
        self.train_chunk(chunk._replace(steps=tf.constant(0)), learning_rate=0.0)

    @property
    def weights(self) -> Weights:
        """As they are now; later training does not change what was read."""
        return Weights([tf.identity(v) for v in self._trainable], [tf.identity(v) for v in self._state])

    def train(
        self, split: Split, plan: Plan, *, seed: int, learning_rate: float, last: int, first: int = 1
    ) -> Iterator[Epoch]:
        """Trains from epoch `first` to `last`, and yields after each. `plan` is for `replicas` of them.

        Raises:
            DivergedError: naming epoch and step of the first loss that is not finite.
        """
        chunks = iter(epochs(split, plan, seed, first, last))
        for number in range(first, last + 1):
            begin = time.perf_counter()
            parts = [self.train_chunk(next(chunks), learning_rate) for _ in range(plan.chunks)]
            # Added in Python: whole numbers exactly, the loss in double precision.
            loss, correct, seen, finite_steps = (
                sum(total.numpy().item() for total in column) for column in zip(*parts, strict=True)
            )
            if finite_steps < plan.steps:
                raise DivergedError(
                    f"loss is not a finite number in epoch {number}, step {finite_steps + 1} of {plan.steps}"
                    f"; try a --learning-rate below {learning_rate:g}"
                )
            yield Epoch(number, loss / seen, Accuracy(correct, seen), time.perf_counter() - begin)

    def train_chunk(self, chunk: Chunk, learning_rate: float) -> Totals:
        """Trains the steps of one chunk -> their sums over all replicas."""
        rate = tf.constant(learning_rate, tf.float32)
        totals: Totals = self._run_chunk(chunk.steps, self._distributed(chunk.shards), rate)
        return totals

    def probabilities(self, weights: Weights, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """images: [n, height, width, 1] uint8 -> [n, classes] float32, each image computed once; the rest is padding.

        Raises:
            DivergedError: a probability is not a finite number.
        """
        share, replicas = EVALUATION_BATCH_SIZE, self.replicas
        batches = []
        for begin in range(0, len(images), share * replicas):
            batch = images[begin : begin + share * replicas]
            padded = np.pad(batch, [(0, share * replicas - len(batch)), (0, 0), (0, 0), (0, 0)])
            shares = self._predict(weights, self._distributed(tf.split(padded, replicas)))
            batches.append(np.concatenate(shares)[: len(batch)])
        probabilities: NDArray[np.float32] = np.concatenate(batches)
        if not np.isfinite(probabilities).all():
            raise DivergedError("probabilities are not finite numbers; try a lower --learning-rate")
        return probabilities

    def _distributed(self, parts: Sequence[Any]) -> Any:
        """One part for each replica."""
        return self._strategy.experimental_distribute_values_from_function(
            lambda context: parts[context.replica_id_in_sync_group]
        )

    def _assign(self, trainable: Tensors, slots: Tensors, state: Tensors) -> None:
        new, held = [*trainable, *slots, *state], [*self._trainable, *self._slots, *self._state]
        for variable, value in zip(held, new, strict=True):
            variable.assign(value)

    # What follows is traced by TensorFlow. "On one", "on several": replicas.

    def _run_chunk_on_one(self, steps: tf.Tensor, shard: Any, learning_rate: tf.Tensor) -> Totals:
        def replica(shard: Shard) -> Totals:
            *values, totals = self._train_steps(*self._values(), steps, shard, learning_rate)
            self._assign(*values)
            return totals

        totals: Totals = self._strategy.run(replica, args=(shard,))
        return totals

    def _run_chunk_on_several(self, steps: tf.Tensor, shards: Any, learning_rate: tf.Tensor) -> Totals:
        def replica(shard: Shard, step: tf.Tensor) -> Totals:
            trainable, slots, state = self._values()
            flat, state, totals = self._flat_gradients(trainable, state, *(part[step] for part in shard))
            flat = tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, flat)
            trainable, slots = self._update(trainable, slots, flat, learning_rate)
            self._assign(trainable, slots, state)
            return totals

        totals = _no_totals()
        for step in tf.range(steps):
            parts = self._strategy.run(replica, args=(shards, step))
            # The loss of a step is finite when every replica's is.
            sums = [self._strategy.reduce(tf.distribute.ReduceOp.SUM, part, axis=None) for part in parts]
            sums[-1] //= self.replicas
            totals = Totals(*(total + part for total, part in zip(totals, sums, strict=True)))
        return totals

    def _values(self) -> tuple[Tensors, Tensors, Tensors]:
        """Of the variables, on the device of the replica that asks."""
        groups = (self._trainable, self._slots, self._state)
        trainable, slots, state = ([tf.convert_to_tensor(variable) for variable in group] for group in groups)
        return trainable, slots, state

    @tf.function(jit_compile=True)
    def _train_steps(
        self,
        trainable: Tensors,
        slots: Tensors,
        state: Tensors,
        steps: tf.Tensor,
        shard: Shard,
        learning_rate: tf.Tensor,
    ) -> tuple[Tensors, Tensors, Tensors, Totals]:
        def body(step: tf.Tensor, trainable: Tensors, slots: Tensors, state: Tensors, totals: Totals) -> Any:
            gradients, state, part = self._gradients(trainable, state, *(part[step] for part in shard))
            trainable, slots = self._optimizer.update(trainable, slots, gradients, learning_rate)
            return step + 1, trainable, slots, state, Totals(*(a + b for a, b in zip(totals, part, strict=True)))

        start = (tf.constant(0), trainable, slots, state, _no_totals())
        _, trainable, slots, state, totals = tf.while_loop(lambda step, *_: step < steps, body, start)
        return trainable, slots, state, totals

    @tf.function(jit_compile=True)
    def _flat_gradients(
        self, trainable: Tensors, state: Tensors, images: tf.Tensor, labels: tf.Tensor, weights: tf.Tensor
    ) -> tuple[tf.Tensor, Tensors, Totals]:
        gradients, state, totals = self._gradients(trainable, state, images, labels, weights)
        return tf.concat([tf.reshape(gradient, [-1]) for gradient in gradients], axis=0), state, totals

    @tf.function(jit_compile=True)
    def _update(
        self, trainable: Tensors, slots: Tensors, flat: tf.Tensor, learning_rate: tf.Tensor
    ) -> tuple[Tensors, Tensors]:
        parts = tf.split(flat, [value.shape.num_elements() for value in trainable])
        gradients = [tf.reshape(part, value.shape) for part, value in zip(parts, trainable, strict=True)]
        return self._optimizer.update(trainable, slots, gradients, learning_rate)

    def _gradients(
        self, trainable: Tensors, state: Tensors, images: tf.Tensor, labels: tf.Tensor, weights: tf.Tensor
    ) -> tuple[Tensors, Tensors, Totals]:
        """Of this replica's share of the loss of the global batch: they add up over replicas."""
        with tf.GradientTape() as tape:
            tape.watch(trainable)
            logits, state = self._model.logits(Weights(trainable, state), images, training=True)
            losses = softmax_cross_entropy(logits, labels)  # [replica batch]
            loss = tf.reduce_sum(losses * weights)
        real = weights > 0
        correct = real & (tf.argmax(logits, axis=1, output_type=tf.int32) == tf.cast(labels, tf.int32))
        totals = Totals(
            loss=tf.reduce_sum(tf.where(real, losses, 0.0)),
            correct=tf.math.count_nonzero(correct, dtype=tf.int32),
            seen=tf.math.count_nonzero(real, dtype=tf.int32),
            finite_steps=tf.cast(tf.math.is_finite(loss), tf.int32),
        )
        return tape.gradient(loss, trainable), state, totals

    @tf.function
    def _predict(self, weights: Weights, images: Any) -> tuple[tf.Tensor, ...]:
        """images: [EVALUATION_BATCH_SIZE, height, width, 1] for each replica -> the probabilities of each."""
        shares: tuple[tf.Tensor, ...] = self._strategy.experimental_local_results(
            self._strategy.run(self._softmax, args=(weights, images))
        )
        return shares

    @tf.function(jit_compile=True)
    def _softmax(self, weights: Weights, images: tf.Tensor) -> tf.Tensor:
        return tf.nn.softmax(self._model.logits(weights, images, training=False)[0])


def accuracy_of(probabilities: NDArray[np.float32], labels: NDArray[np.uint8]) -> Accuracy:
    """probabilities: [n, classes]; labels: [n]. The prediction is the most probable class, the lower one of a tie."""
    return Accuracy(int((probabilities.argmax(axis=1) == labels).sum()), len(labels))


def _no_totals() -> Totals:
    return Totals(tf.constant(0.0), tf.constant(0), tf.constant(0), tf.constant(0))


def _replicated_variable(value: tf.Tensor) -> tf.Variable:
    # ON_READ: each replica assigns its own copy, without a word to the others; the copies are equal, since the
    # gradients were reduced before. Read from outside, it is the first replica's.
    return tf.Variable(
        value,
        trainable=False,  # to TensorFlow, which has no say in the training here
        synchronization=tf.VariableSynchronization.ON_READ,
        aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
    )
